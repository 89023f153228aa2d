"""Two processes that train together by gloo: the first records, the other does not wait for it in vain."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from loops_at_hand import Classifier, Net
from termwise import Timeline
from test_integrations import require_same

HERE = Path(__file__).parent
WITHOUT = pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="lightning is not installed")


def together(kind: str, folder: Path) -> list[object]:
    """What the two processes say that they have on record."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-W", "ignore", str(HERE / "loops_in_processes.py"), kind, str(folder)]
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "NODE_RANK": "0"}
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environments = [{**os.environ, **fixed, **meeting, "RANK": str(r), "LOCAL_RANK": str(r)} for r in (0, 1)]
    processes = [subprocess.Popen(command, env=each, stderr=subprocess.PIPE, text=True) for each in environments]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("kind", "model", "part"),
    [("plain", Net(), ""), ("hugging_face", Classifier(), ""), pytest.param("lightning", Net(), "", marks=WITHOUT)],
    ids=["plain", "hugging_face", "lightning"],
)
def test_the_first_of_two_processes_records(kind: str, model: nn.Module, part: str, tmp_path: Path) -> None:
    first, second = together(kind, tmp_path)
    assert first == [0, 1, 8, 16, 24]
    assert isinstance(second, str) and "by the first process" in second
    timeline = Timeline.from_directory(tmp_path / "termwise-records")
    assert list(timeline.steps) == first
    require_same(timeline, tmp_path, model, part)
