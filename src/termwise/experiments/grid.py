"""The grid of jobs of one experiment or several: who does which, what is kept of them, and what follows."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from termwise.errors import RunError, UsageError
from termwise.experiments.common import columns
from termwise.experiments.experiment import Experiment, Job, Progress, Result, Rows, find
from termwise.experiments.fleet import Executor, dealt
from termwise.loop import threads
from termwise.records import Record, Table, read_record, write_record

_JOB = "experiment-job"


@dataclasses.dataclass(frozen=True)
class Part:
    """One experiment of those that are run together.

    Attributes:
        experiment: from `termwise.experiments.find`.
        seeds: of initial weights, order of samples, and draws.
        protocol: the whole one, or another.
        cost: of one of its jobs beside those of other parts, for the estimate of the time that is left.
    """

    experiment: Experiment
    seeds: Sequence[int]
    protocol: Any
    cost: float = 1.0

    @property
    def jobs(self) -> list[tuple[int, str]]:
        """Seed and cell of each."""
        return [(seed, cell) for seed in self.seeds for cell in self.experiment.cells(self.protocol)]


def run(
    experiment: Experiment,
    seeds: Sequence[int] = range(5),
    protocol: Any = None,
    *,
    directory: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    executor: Executor = "local",
    options: Mapping[str, str] | None = None,
    progress: Progress = lambda line: None,
) -> Result:
    """Do every job, and conclude.

    Args:
        experiment: from `termwise.experiments.find`.
        seeds: of initial weights, order of samples, and draws.
        protocol: by default the whole one.
        directory: where each job keeps what it found, and is looked for before; a cluster must see it.
        jobs: so many at once.
        executor: "local" or "slurm" (`termwise.experiments.fleet`).
        options: of a cluster's scheduler.
        progress: told what is going on, a line at a time.

    Raises:
        UsageError: when there is no seed, or one twice, or no job at once.
        RunError: when the directory holds jobs of another protocol or version, or the cluster fails.
    """
    part = Part(experiment, seeds, experiment.protocol() if protocol is None else protocol)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary if directory is None else directory)
        (result,) = run_all([part], place, jobs=jobs, executor=executor, options=options, progress=progress)
        return result


def run_all(
    parts: Sequence[Part],
    directory: Path,
    *,
    jobs: int = 1,
    executor: Executor = "local",
    options: Mapping[str, str] | None = None,
    progress: Progress = lambda line: None,
) -> Iterator[Result]:
    """Do the jobs of several experiments as one grid, and conclude from each as soon as its last job is done.

    Args:
        parts: each of another experiment.
        directory: where each job keeps what it found, and is looked for before; a cluster must see it.
        jobs: see `run`.
        executor: see `run`.
        options: see `run`.
        progress: told what is going on, a line at a time, and how long it will take.

    Raises:
        UsageError, RunError: see `run`.
    """
    for part in parts:
        if not part.seeds or len(set(part.seeds)) < len(part.seeds):
            name = part.experiment.name
            raise UsageError(f"{name}: seeds {list(part.seeds)}: give at least one, and each once.")
    kept = {part.experiment.name: Kept(part.experiment, part.protocol, directory) for part in parts}
    todo = []
    for part in parts:
        own = kept[part.experiment.name]
        todo += [_Task(part, *each, alone=len(parts) == 1) for each in part.jobs if own.missing(_name(*each))]
    total = sum(len(part.jobs) for part in parts)
    if len(todo) < total:
        progress(f"{total - len(todo)} of {total} jobs are done already")
    left = {part.experiment.name: sum(task.part is part for task in todo) for part in parts}
    finished = {part.experiment.name: part for part in parts if not left[part.experiment.name]}
    yield from (_concluded(part, kept[name]) for name, part in finished.items())
    # The longest first: a short one at the end keeps few others waiting.
    todo.sort(key=lambda task: -task.part.cost)
    start, whole, done = time.monotonic(), sum(task.part.cost for task in todo), 0.0
    for count, task in enumerate(_done(todo, kept, directory, jobs, executor, options, progress), 1):
        done += task.part.cost
        seconds = (time.monotonic() - start) * (whole - done) / done
        about = f"; about {_duration(seconds)} left" if count < len(todo) else ""
        progress(f"{task}: done, {count} of {len(todo)}{about}")
        name = task.part.experiment.name
        left[name] -= 1
        if not left[name]:
            yield _concluded(task.part, kept[name])


@dataclasses.dataclass(frozen=True)
class _Task:
    """A job that is to be done; as text, what it is called."""

    part: Part
    seed: int
    cell: str
    alone: bool

    def __str__(self) -> str:
        parts = ([] if self.alone else [self.part.experiment.name]) + [f"seed {self.seed}"]
        return ", ".join(parts + ([self.cell] if self.cell else []))


def _done(
    todo: Sequence[_Task],
    kept: Mapping[str, Kept],
    directory: Path,
    jobs: int,
    executor: Executor,
    options: Mapping[str, str] | None,
    progress: Progress,
) -> Iterator[_Task]:
    """Each task as it is done: here, where there is but one at a time, or by others."""
    if executor == "local" and min(jobs, len(todo)) == 1:
        for task in todo:
            kept[task.part.experiment.name].do(
                task.seed, task.cell, lambda line, task=task: progress(f"{task}: {line}")
            )
            yield task
    elif todo:
        arguments = [(t.part.experiment.name, t.seed, t.cell, t.part.protocol, str(directory)) for t in todo]
        folder = directory / "cluster"
        for place, _ in dealt(_job, arguments, executor=executor, jobs=jobs, folder=folder, options=options):
            yield todo[place]


def _job(name: str, seed: int, cell: str, protocol: Any, directory: str) -> str:
    """One job, in a process of its own; the name of its file."""
    return Kept(find(name), protocol, Path(directory)).do(seed, cell, lambda line: None)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _as_saved(protocol: Any) -> Any:
    """As it is read back from a file, where a tuple is a list."""
    return msgspec.json.decode(msgspec.json.encode(protocol))


def _name(seed: int, cell: str) -> str:
    return f"seed-{seed}" + (f"-{cell}" if cell else "")


class Kept:
    """The files of an experiment in a directory."""

    def __init__(self, experiment: Experiment, protocol: Any, directory: Path) -> None:
        self._experiment, self._protocol = experiment, protocol
        self._settings = {"protocol": _as_saved(protocol), "version": version("termwise")}
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def do(self, seed: int, cell: str, progress: Progress) -> str:
        """Do a job, keep what it found, and throw away what it kept meanwhile."""
        scratch = self.directory / f"{self._experiment.name}-{_name(seed, cell)}"
        scratch.mkdir(exist_ok=True)
        with threads(1):
            rows = self._experiment.measure(Job(seed, cell, self._protocol, scratch, progress))
        path = self.write(_name(seed, cell), rows)
        shutil.rmtree(scratch)
        return path.name

    def rows(self, jobs: Sequence[tuple[int, str]]) -> Rows:
        """What all jobs found."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for seed, cell in jobs:
            for name, table in self.read(_name(seed, cell)).items():
                rows.setdefault(name, []).extend({"seed": seed, **row} for row in table.rows())
        return rows

    def missing(self, what: str) -> bool:
        """Whether there is no such file; one of other settings is refused here, before hours are spent on the rest."""
        if not self._path(what).exists():
            return True
        self.read(what)
        return False

    def read(self, what: str) -> Mapping[str, Table]:
        """The tables of a file."""
        record = read_record(self._path(what), _JOB)
        if record.metadata != self._settings:
            raise RunError(
                f"{self._path(what)}: measured with other settings or another version ({record.metadata}) than now "
                f"({self._settings}). Choose another directory, or delete this one."
            )
        return record.tables

    def write(self, what: str, rows: Rows) -> Path:
        """Keep rows as tables."""
        tables = {name: Table(columns(each)) for name, each in rows.items() if each}
        return write_record(self._path(what), Record(_JOB, self._settings, tables, {}))

    def _path(self, what: str) -> Path:
        return self.directory / f"{self._experiment.name}-{what}.termwise"


def _concluded(part: Part, kept: Kept) -> Result:
    experiment, protocol = part.experiment, part.protocol
    rows = kept.rows(part.jobs)
    conclusion = experiment.conclude(rows, protocol)
    summaries = {name: Table(columns(each)) for name, each in conclusion.tables.items() if each}
    return Result(
        name=experiment.name,
        question=experiment.question,
        found=Table(columns(conclusion.found)),
        tables={name: Table(columns(each)) for name, each in rows.items()} | summaries,
        notes=conclusion.notes,
        charts=conclusion.charts,
        beside=conclusion.beside,
        settings={
            "protocol": _as_saved(protocol),
            "quick": protocol == experiment.protocol.quick(),
            "seeds": list(part.seeds),
            "versions": versions(),
        },
    )


def versions() -> dict[str, str]:
    """What a result was made with."""
    return {"termwise": version("termwise"), "torch": version("torch"), "python": platform.python_version()}
