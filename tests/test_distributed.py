"""Several processes, really started: the results of one, or an error in all of them; never a part, never a hang."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed

import several_processes
from termwise import DepthProfile, profile
from termwise.cli import main
from termwise.distributed import own_device
from termwise.errors import UsageError

HERE = Path(__file__).parent


def environment(**more: object) -> dict[str, str]:
    """One thread, as in the tests: more of them round otherwise."""
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return os.environ | fixed | {name: str(value) for name, value in more.items()}


def start(work: str, directory: Path, size: int) -> list[tuple[int, str]]:
    """The exit codes of so many processes, and what they say to stderr."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": size}
    command = [sys.executable, str(HERE / "several_processes.py"), work, str(directory)]
    processes = [
        subprocess.Popen(command, env=environment(RANK=rank, **meeting), stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    try:
        errors = [process.communicate(timeout=180)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def all_found(work: str, directory: Path, size: int) -> list[dict[str, Any]]:
    for code, error in start(work, directory, size):
        assert code == 0, error
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(size)]


# Profiles.


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What three processes found, and where."""
    directory = tmp_path_factory.mktemp("profiled")
    return directory, all_found("profiling", directory, 3)


def test_every_process_has_the_bits_of_one_alone(profiled: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    directory, _ = profiled
    for name, alone in several_processes.profiles(None).items():
        alone.save(tmp_path / name)
        for rank in range(3):
            assert (directory / f"{name}-{rank}.termwise").read_bytes() == (tmp_path / name).read_bytes(), (name, rank)


def test_each_sample_counts_once(profiled: tuple[Path, list[dict[str, Any]]]) -> None:
    directory, _ = profiled
    found = DepthProfile.load(directory / "uneven-2.termwise")
    assert found.samples == 45
    # From a single expansion of all samples, by plain means.
    model, (x, y) = several_processes.network(), several_processes.digits_like(45)
    model.eval()
    logits = model(x).detach().double()
    assert found.accuracy == pytest.approx(float((logits.argmax(1) == y).double().mean()), rel=1e-12)
    log_sum = np.log(np.exp(logits.numpy()).sum(axis=1))
    assert found.loss == pytest.approx(np.mean(log_sum - logits.numpy()[np.arange(45), y.numpy()]), rel=1e-6)


def test_a_process_that_runs_out_goes_on_by_itself_and_all_can_be_replayed(
    profiled: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    directory, _ = profiled
    found = DepthProfile.load(directory / "halved-0.termwise")
    # Batches 1 and 4 of the six are those of process 1.
    assert found.chunk == ((0, 8), (8, 4), (16, 8), (32, 4), (40, 8))
    assert "45 samples, at most 8, then 4 at a time" in str(found)
    model, data = several_processes.Tight(8), several_processes.digits_like(45)
    profile(model, data, batch_size=8, chunk=found.chunk, replicates=50).save(tmp_path / "again")
    for rank in range(3):
        assert (directory / f"halved-{rank}.termwise").read_bytes() == (tmp_path / "again").read_bytes()


def test_the_processes_choose_one_chunk_by_the_memory_that_they_share(
    profiled: tuple[Path, list[dict[str, Any]]],
) -> None:
    # Alone 8 of at most 9 samples; a third of it each holds 2; and the least that any can hold is for all.
    assert [found["chosen"][1:] for found in profiled[1]] == [[2, 1]] * 3
    assert [found["chosen"][0] for found in profiled[1]] == [8, 8, 8]


def test_without_a_group_each_process_profiles_its_own(profiled: tuple[Path, list[dict[str, Any]]]) -> None:
    assert [found["alone"] for found in profiled[1]] == [45, 44, 43]


@pytest.mark.parametrize(
    ("case", "kind", "message"),
    [
        ("bad data", "DataError", "the input holds 192 values that are NaN"),
        ("bad for one", "DataError", "the input holds 192 values that are NaN"),
        ("empty for one", "DataError", "the data set is empty: it gave no batch"),
        ("sampled", "DataError", "batch 0 of process 1 is not that of process 0. Give every process all of the data"),
        ("shuffled", "DataError", "batch 0 of process 1 is not that of process 0"),
        ("shorter", "DataError", "batch 5 of process 1 is not that of process 0"),
        ("other weights", "UsageError", "process 1 is not like process 0; they differ in 'conv.weight'"),
        ("other seed", "UsageError", "process 1 is not like process 0; they differ in the options"),
        ("other chunk", "UsageError", "process 1 is not like process 0; they differ in the options"),
    ],
)
def test_what_one_refuses_all_refuse(
    profiled: tuple[Path, list[dict[str, Any]]], case: str, kind: str, message: str
) -> None:
    first, *others = [found[case] for found in profiled[1]]
    assert others == [first, first]
    assert first[0] == kind and message in first[1]


def test_an_error_of_the_model_is_raised_where_it_is_and_told_to_the_others(
    profiled: tuple[Path, list[dict[str, Any]]],
) -> None:
    first, second, third = [found["error"] for found in profiled[1]]
    assert second == ["RuntimeError", "out of luck"]
    assert first == third == ["RunError", "process 1 of 3 failed with RuntimeError: out of luck"]


def test_a_process_outside_of_the_group_is_refused(profiled: tuple[Path, list[dict[str, Any]]]) -> None:
    first, (kind, message), third = [found["in two of three"] for found in profiled[1]]
    assert first == third == []
    assert kind == "UsageError" and "this process is not in that process group" in message


def test_a_group_that_does_not_speak_by_gloo_is_refused() -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(UsageError, match=r"its backend is fake.*new_group\(backend=\"gloo\"\)"):
            profile(torch.nn.Linear(2, 2), torch.ones(3, 2), group=torch.distributed.group.WORLD)
    finally:
        torch.distributed.destroy_process_group()


def test_after_a_refusal_they_go_on_together(profiled: tuple[Path, list[dict[str, Any]]]) -> None:
    directory, _ = profiled
    for rank in range(3):
        again, before = (directory / f"{name}-{rank}.termwise" for name in ("again", "uneven"))
        assert again.read_bytes() == before.read_bytes()


# Recorders.


def test_a_recorder_in_two_processes_records_what_one_does(tmp_path: Path) -> None:
    alone = several_processes.trained(tmp_path / "alone", None)
    alone.timeline.save(tmp_path / "alone.termwise")
    found = all_found("recording", tmp_path, 2)
    assert found[0] == found[1]
    for rank in range(2):
        assert (tmp_path / f"timeline-{rank}.termwise").read_bytes() == (tmp_path / "alone.termwise").read_bytes()
    # Process 0 alone writes; a second training of the same kind finds everything on record.
    written = sorted((tmp_path / "alone").iterdir())
    assert len(written) > 8
    assert found[0]["written"] == [path.name for path in written]
    assert all((tmp_path / "records" / path.name).read_bytes() == path.read_bytes() for path in written)
    assert found[0]["recorded"] == list(alone.recorded)
    # Two clocks that disagree: that of process 0 counts.
    assert found[0]["within a budget"] == several_processes.watched(0.3, None)
    assert len(several_processes.watched(5.0, None)) < len(found[0]["within a budget"])
    assert found[0]["other budget"][0] == "UsageError" and "they differ in budget" in found[0]["other budget"][1]
    assert found[0]["moody"] == [True, False, True, False]
    assert found[0]["one statistic"]
    for case, kind, message in (
        ("kept", "UsageError", "'norm.running_mean'"),
        ("other step", "UsageError", "they differ in step"),
        ("other probe", "UsageError", "they differ in probe"),
        ("bad probe", "DataError", "50 inputs but 49 targets"),
    ):
        assert found[0][case][0] == kind and message in found[0][case][1], found[0][case]


# What is lost.


def test_a_lost_process_is_named_and_ends_the_others(tmp_path: Path) -> None:
    begun = time.monotonic()
    ended = start("losing:1", tmp_path, 3)
    assert time.monotonic() - begun < 120
    assert [code for code, _ in ended] == [1, 7, 1]
    for rank in (0, 2):
        assert "RunError: lost, of 3 processes: process 1 (its connection is closed)" in ended[rank][1]
    waited = [json.loads((tmp_path / f"hung-{rank}.json").read_text()) for rank in range(3)]
    assert waited[0][0][0] == waited[2][0][0] == "RunError"
    assert "process 1 (no answer within the timeout)" in waited[0][0][1]
    assert "process 0" in waited[2][0][1]
    assert waited[0][1] < 4 and waited[2][1] < 4


def test_without_the_first_process_the_others_end_too(tmp_path: Path) -> None:
    ended = start("losing:0", tmp_path, 2)
    assert [code for code, _ in ended] == [7, 1]
    assert "RunError: lost, of 2 processes: process 0 (its connection is closed)" in ended[1][1]


# The command.

MODEL = """
import os, torch
from termwise import nets

def build():
    torch.manual_seed(0)
    return nets.mlp([12, 8, 3])

calls = []

class Dying(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = build()

    def forward(self, x):
        calls.append(x)
        if os.environ.get("RANK") == "1" and len(calls) == 2:
            os.kill(os.getpid(), 9)
        return self.net(x)
"""


def torchrun(size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), "-m", "termwise"]
    return subprocess.run(
        [sys.executable, *launcher, *arguments], env=environment(), capture_output=True, text=True, timeout=180
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    inputs = np.random.default_rng(0).normal(size=(400, 12)).astype("float32")
    np.savez(tmp_path / "d.npz", inputs=inputs, targets=np.arange(400) % 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_under_torchrun_says_what_it_says_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["profile", "model.py:build", "--data", "d.npz", "--samples", "70", "--save"]
    main([*command, "one.termwise"])
    several = torchrun(2, *command, "two.termwise")
    assert several.returncode == 0, several.stderr
    assert several.stdout == capsys.readouterr().out.replace("one.termwise", "two.termwise")
    assert (here / "one.termwise").read_bytes() == (here / "two.termwise").read_bytes()
    assert DepthProfile.load(here / "two.termwise").samples == 70


def test_a_killed_worker_ends_the_command_and_nothing_is_saved(here: Path) -> None:
    several = torchrun(2, "profile", "model.py:Dying", "--data", "d.npz", "--save", "dead.termwise")
    assert several.returncode != 0
    assert "exitcode  : -9" in several.stderr and several.stdout == ""
    assert not list(here.glob("dead*"))


def test_a_refusal_under_torchrun_is_said_once(here: Path) -> None:
    several = torchrun(2, "profile", "model.py:build", "--data", "d.npz", "--unit", "nonsense", "--save", "x.termwise")
    assert several.returncode != 0 and several.stdout == ""
    assert several.stderr.count("termwise: unit: the model has no module called 'nonsense'") == 1
    assert "Traceback" not in several.stderr.partition("ChildFailedError")[0].partition("torch/distributed")[0]
    assert not list(here.glob("x*"))


def test_the_processes_of_a_machine_take_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_device("cuda") == "cuda"
    for name, value in {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert [own_device(name) for name in ("cpu", "cuda", "cuda:0")] == ["cpu", "cuda:1", "cuda:0"]


def test_other_commands_are_not_for_several_processes(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit) as ended:
        main(["train", "mlp-12-8-3", "--data", "d.npz", "--directory", "r"])
    assert ended.value.code == 2
    assert "a training is the work of one process" in capsys.readouterr().err
    assert not (here / "r").exists()
