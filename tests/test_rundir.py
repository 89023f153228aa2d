"""The run directory: what a rerun must match, who may write, what a kill leaves, what must not be believed."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from termwise.errors import RunError
from termwise.rundir import Manifest, RunDirectory, read_manifest, read_state, slugs, write_state

CONFIG: dict[str, Any] = {
    "seed": 0,
    "networks": [{"name": "ResNet-20", "arguments": {"depth": 20}}],
    "training": {"epochs": 15, "optimiser": {"learning_rate": 0.1}},
}

HOLD = """
import sys
from termwise.rundir import Manifest, RunDirectory
with RunDirectory(sys.argv[1], Manifest("a", "t", "0", "2", "d", "p", {})):
    print("held", flush=True)
    sys.stdin.read()
"""


def manifest(**changed: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "a run",
        "created": "2026-03-02T10:20:30Z",
        "termwise": "0.1.0",
        "torch": "2.15.0",
        "data_sha256": "d",
        "probe_sha256": "p",
        "config": CONFIG,
    }
    return Manifest(**{**fields, **changed})


def with_config(**changed: Any) -> Manifest:
    return manifest(config={**CONFIG, **changed})


# --- the manifest ---


def test_the_same_settings_resume(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run", manifest()) as first:
        assert first.manifest.created == "2026-03-02T10:20:30Z"
    with RunDirectory(tmp_path / "run", manifest(created="later", name="renamed")) as second:
        assert second.manifest.created == "2026-03-02T10:20:30Z"
        assert second.manifest.name == "a run"
    assert read_manifest(tmp_path / "run") == manifest()


def test_other_settings_are_refused_with_every_difference(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, manifest()):
        pass
    before = (tmp_path / "manifest.json").read_bytes()
    other = with_config(
        seed=1,
        networks=[{"name": "ResNet-20", "arguments": {"depth": 56}}, {"name": "Plain-8"}],
        training={"epochs": 15, "optimiser": {"learning_rate": 0.2}},
    )
    other.torch = "2.16.0"
    with pytest.raises(RunError) as refusal, RunDirectory(tmp_path, other):
        pass
    assert str(refusal.value).splitlines()[1:-1] == [
        "  torch: '2.15.0' there, '2.16.0' now",
        "  config.seed: 0 there, 1 now",
        "  config.networks[0].arguments.depth: 20 there, 56 now",
        "  config.training.optimiser.learning_rate: 0.1 there, 0.2 now",
        "  config.networks[1].name: absent there, 'Plain-8' now",
    ]
    assert "another directory, or the same settings" in str(refusal.value)
    assert (tmp_path / "manifest.json").read_bytes() == before
    with RunDirectory(tmp_path, manifest()):  # the refusal has let go of the lock
        pass


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a readable manifest"),
        (b'{"format": "termwise-manifest", "version": 1, "na', "not a readable manifest"),
        (b"[1, 2]", "not a readable manifest"),
        (b'{"version": 1, "name": "x"}', "not a readable manifest"),
        (b"\xff\xfe\x00", "not a readable manifest"),
        (b'{"version": 99, "anything": true}', "format version 99.*Upgrade"),
    ],
)
def test_a_bad_manifest_is_refused_and_kept(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunError, match=reason), RunDirectory(tmp_path, manifest()):
        pass
    assert (tmp_path / "manifest.json").read_bytes() == content


def test_a_manifest_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="missing"):
        read_manifest(tmp_path)


def test_a_folder_of_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match=r"thesis\.tex.*no run directory"), RunDirectory(tmp_path, manifest()):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_cannot_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"), RunDirectory(tmp_path / "file", manifest()):
        pass


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.abc.part").write_text("{")  # killed before there was a manifest
    with RunDirectory(tmp_path, manifest()) as run:
        records = run.network("resnet-20") / "records"
        records.mkdir(parents=True)
        for name in (".step-00000001.termwise.x.part", "step-00000000.termwise"):
            (records / name).write_text("half")
        (tmp_path / ".report.html.x.part").write_text("being written by another command")
    with RunDirectory(tmp_path, manifest()):
        assert [entry.name for entry in records.iterdir()] == ["step-00000000.termwise"]
        assert (tmp_path / ".report.html.x.part").exists()
        assert not (tmp_path / ".manifest.json.abc.part").exists()


# --- the lock ---


def holding(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_learns_who_is_writing_and_a_killed_one_does_not_block(tmp_path: Path) -> None:
    mine = Manifest("a", "t", "0", "2", "d", "p", {})
    with holding(tmp_path) as process:
        try:
            with pytest.raises(RunError) as refusal, RunDirectory(tmp_path, mine):
                pass
        finally:
            process.send_signal(signal.SIGKILL)
    message = str(refusal.value)
    assert f"process {process.pid} on {os.uname().nodename}, since 20" in message
    assert "another directory" in message
    assert json.loads((tmp_path / "lock").read_text())["pid"] == process.pid  # it could not tidy up
    with RunDirectory(tmp_path, mine):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "lock").read_text() == ""


def test_two_writers_in_one_process(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, manifest()):
        with pytest.raises(RunError, match=f"process {os.getpid()}"), RunDirectory(tmp_path, manifest()):
            pass
        # The one that was refused has not taken the lock away.
        with pytest.raises(RunError, match="being written"), RunDirectory(tmp_path, manifest()):
            pass


def test_a_lock_that_says_nothing_readable(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, manifest()):
        (tmp_path / "lock").write_bytes(b"\xff{")
        with pytest.raises(RunError, match="another process"), RunDirectory(tmp_path, manifest()):
            pass


# --- names ---


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ResNet-20", "DenseNet-22"], ["resnet-20", "densenet-22"]),
        (["a b", "a-b", "A_B"], ["a-b", "a-b-2", "a-b-3"]),
        (["a", "a-2", "A"], ["a", "a-2", "a-3"]),
        (["../../etc/passwd", "/", "..", ""], ["etc-passwd", "network", "network-2", "network-3"]),
        (["<script>alert(1)</script>", "残差网络", "CON\0\n"], ["script-alert-1-script", "network", "con"]),
        (["x" * 300], ["x" * 60]),
    ],
)
def test_slugs(names: list[str], expected: list[str]) -> None:
    assert slugs(names) == expected
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug) for slug in slugs(names))


def test_a_name_is_plain_text(tmp_path: Path) -> None:
    name = '<script>alert("x")</script>/../../escape'
    with RunDirectory(tmp_path / "run", manifest(name=name)):
        assert read_manifest(tmp_path / "run").name == name
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert made == ["run", "run/lock", "run/manifest.json"]


# --- the resume state ---


class Bomb:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "networks" / "a" / "state.pt"
    assert read_state(path) is None
    write_state(path, {"step": 3, "model": {"weight": torch.arange(3.0)}, "random": (3, (1, 2), None)})
    state = read_state(path)
    assert state is not None and state["step"] == 3 and state["random"] == (3, (1, 2), None)
    assert torch.equal(state["model"]["weight"], torch.arange(3.0))


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.99])
def test_half_a_state_is_refused(tmp_path: Path, cut: float) -> None:
    path = write_state(tmp_path / "state.pt", {"step": 3, "model": {"weight": torch.ones(100)}})
    content = path.read_bytes()
    path.write_bytes(content[: int(cut if cut > 1 else cut * len(content))])
    with pytest.raises(RunError, match=r"state\.pt: not a readable resume state .* Delete this file"):
        read_state(path)


def test_a_state_is_never_executed(tmp_path: Path) -> None:
    bomb = Bomb(tmp_path / "exploded")
    torch.save({"format": "termwise-state", "version": 1, "model": bomb}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(bomb, protocol=2))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(RunError, match="not a readable resume state"):
            read_state(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_a_state_of_something_else_or_of_a_newer_version(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "state.pt")
    with pytest.raises(RunError, match="something else"):
        read_state(tmp_path / "state.pt")
    torch.save({"format": "termwise-state", "version": 99}, tmp_path / "state.pt")
    with pytest.raises(RunError, match=r"version 99.*Upgrade"):
        read_state(tmp_path / "state.pt")
