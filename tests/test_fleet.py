"""Jobs on this machine and, through submitit's own processes, on what stands for a cluster."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from termwise.errors import RunError, UsageError
from termwise.experiments import find, fleet, run
from termwise.experiments.fleet import dealt
from termwise.experiments.grid import Part, run_all


def first_waits(place: int, folder: str) -> str:
    """The first ends when it is told to; each leaves a file with the number of its process."""
    deadline = time.monotonic() + 60
    while place == 0 and not (Path(folder) / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    path = Path(folder) / f"{place}.txt"
    path.write_text(str(os.getpid()))
    return path.name


def broken(place: int) -> str:
    raise ValueError(f"job {place} cannot")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes of submitit's own in the place of a cluster; they are meant to outlive who started them."""
    from submitit.local import local

    start, started = local.start_controller, []

    def starting(*arguments: Any, **options: Any) -> Any:
        started.append(start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(fleet, "_CLUSTER", "local")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent.parent), *sys.path]))
    monkeypatch.setattr(fleet, "_POLL", 0.05)
    monkeypatch.setattr(local, "start_controller", starting)
    yield
    for process in started:
        process.wait(60)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_results_come_as_they_are_done_each_with_its_place(executor: Any, tmp_path: Path) -> None:
    written, private = tmp_path / "written", tmp_path / "private"
    written.mkdir()
    arguments = [(place, str(written)) for place in range(3)]
    results = dealt(first_waits, arguments, executor=executor, jobs=3, folder=private)
    assert sorted([next(results), next(results)]) == [(1, "1.txt"), (2, "2.txt")]
    (written / "go").touch()
    assert list(results) == [(0, "0.txt")]
    processes = {path.read_text() for path in written.glob("*.txt")}
    assert str(os.getpid()) not in processes
    if executor == "slurm":
        assert stat.S_IMODE(private.stat().st_mode) == 0o700


@pytest.mark.usefixtures("cluster")
def test_a_job_that_fails_says_where_its_output_is(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ended without a result .*cannot.*goes on") as caught:
        list(dealt(broken, [(0,)], executor="slurm", folder=tmp_path))
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(ValueError, match="job 0 cannot"):
        list(dealt(broken, [(0,)], folder=tmp_path))


def test_without_a_cluster_its_executor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="executor='local'"):
        list(dealt(broken, [(0,)], executor="slurm", folder=tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "cloud"}, "'local' or 'slurm'"),
        ({"jobs": 0}, "at least 1"),
        ({"options": {"partition": "gpu"}}, "partition"),
    ],
)
def test_what_means_nothing_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        dealt(broken, [(0,)], folder=tmp_path, **options)


@pytest.mark.usefixtures("cluster")
def test_an_experiment_finds_the_same_wherever_it_runs(tmp_path: Path) -> None:
    experiment = find("init-length")
    protocol = experiment.protocol.quick()
    alone = run(experiment, range(2), protocol)
    lines: list[str] = []
    spread = run(experiment, range(2), protocol, directory=tmp_path, jobs=2, executor="slurm", progress=lines.append)
    assert str(spread) == str(alone)
    assert spread.tables["values"].rows() == alone.tables["values"].rows()
    assert sorted(line.partition(";")[0].partition(":")[0] for line in lines) == ["seed 0", "seed 1"]
    assert lines[-1].endswith("done, 2 of 2")


@pytest.mark.usefixtures("cluster")
def test_several_experiments_are_one_grid_wherever_they_run(tmp_path: Path) -> None:
    parts = [Part(find(name), [0], find(name).protocol.quick()) for name in ("init-length", "four-depths")]
    here = {result.name: str(result) for result in run_all(parts, tmp_path / "here")}
    there = {
        result.name: str(result)
        for result in run_all(list(reversed(parts)), tmp_path / "there", jobs=2, executor="slurm")
    }
    assert there == here
    assert stat.S_IMODE((tmp_path / "there" / "cluster").stat().st_mode) == 0o700
