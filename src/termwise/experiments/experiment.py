"""An experiment: a question, what is measured for one seed, and what follows from all of them.

`measure` does one job of the grid, of one seed and, where an experiment has several, one cell (a network, say), in a
process with one thread, and gives rows; `conclude` sees the rows of all jobs and gives what was found.  Between the two
stand files: a job that is done is never done again, so that an experiment that was stopped goes on, and several
processes, or a cluster, can share its jobs.  The rows are the same bit by bit, whoever does them, in whatever order.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from termwise.charts import Chart, charts_of
from termwise.errors import RecordError, RunError, UsageError
from termwise.experiments.common import columns
from termwise.experiments.fleet import Executor, dealt
from termwise.loop import threads
from termwise.records import Record, Table, read_record, write_record
from termwise.sentences import Sentence

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
Progress = Callable[[str], Any]

_KIND, _JOB = "experiment", "experiment-job"
_PREPARED = "prepared"


@dataclasses.dataclass(frozen=True)
class Job:
    """One job of the grid.

    Attributes:
        seed: of all that is random in it.
        cell: which of the experiment's cells; "" where it has but one.
        protocol: of the experiment.
        prepared: what `prepare` gave.
        directory: of this job alone: what is kept here is found again when the job was stopped and goes on.
        progress: told what is going on, a line at a time.
    """

    seed: int
    cell: str
    protocol: Any
    prepared: Rows
    directory: Path
    progress: Progress


@dataclasses.dataclass(frozen=True)
class Conclusion:
    """What follows from the rows of all seeds.

    Attributes:
        found: a row for each quantity, beside what was expected (`termwise.experiments.common.row`).
        notes: what else there is to say: the reason where something was missed.
        tables: summaries over seeds, which the charts read.
        charts: the figures.
        beside: the name of the table that is printed first, of what is to be seen side by side.
    """

    found: Sequence[Mapping[str, Any]]
    notes: tuple[Sentence, ...] = ()
    tables: Rows = dataclasses.field(default_factory=dict)
    charts: tuple[Chart, ...] = ()
    beside: str | None = None


def _whole(protocol: Any) -> tuple[str, ...]:
    """The cells of an experiment that has but one."""
    return ("",)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A question, and how it is answered.

    Attributes:
        name: as on the command line.
        question: in one sentence.
        protocol: a frozen dataclass of all that determines the result beside the seed, with a static method `quick`
            that makes the smallest one.
        measure: does a job, and gives tables as rows.
        conclude: from the tables of all jobs (each row has its `seed`) and the protocol.
        prepare: what all jobs need and none may choose for itself, such as a learning rate.
        cells: of a protocol, the parts of a seed that can be measured apart; names that may stand in file names.
    """

    name: str
    question: Sentence
    protocol: Any
    measure: Callable[[Job], Rows]
    conclude: Callable[[Rows, Any], Conclusion]
    prepare: Callable[[Any, Progress], Rows] | None = None
    cells: Callable[[Any], Sequence[str]] = _whole


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What was found beside what was expected; print it.

    Attributes:
        name: of the experiment.
        question: that it answers.
        found: a row for each quantity.
        tables: what it was computed from, seed by seed, and summaries over seeds.
        notes: what else there is to say: the reason where something was missed.
        charts: the figures.
        beside: the name of the table that is to be seen first.
        settings: protocol, seeds and versions.
    """

    name: str
    question: Sentence
    found: Table
    tables: Mapping[str, Table]
    notes: tuple[Sentence, ...]
    charts: tuple[Chart, ...]
    beside: str | None
    settings: Mapping[str, Any]

    @property
    def quick(self) -> bool:
        """Whether it was a job of seconds, whose numbers show nothing."""
        return bool(self.settings["quick"])

    def __str__(self) -> str:
        """The tables as aligned text, and the notes below them."""
        first = [] if self.beside is None else [repr(self.tables[self.beside]), ""]
        return "\n".join([*first, repr(self.found), *map(str, self.notes)])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as one file; `Result.load` gives it back."""
        fields = ("name", "question", "notes", "charts", "beside", "settings")
        metadata = {name: msgspec.to_builtins(getattr(self, name)) for name in fields}
        return write_record(path, Record(_KIND, metadata, {"found": self.found, **self.tables}, {}))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Result:
        """Read a saved result.

        Raises:
            RecordError: when the file is no such record, corrupt, or of a newer version.
        """
        record = read_record(path, _KIND)
        tables, metadata = dict(record.tables), dict(record.metadata)
        try:
            return Result(
                name=str(metadata["name"]),
                question=msgspec.convert(metadata["question"], Sentence),
                found=tables.pop("found"),
                tables=tables,
                notes=msgspec.convert(metadata["notes"], tuple[Sentence, ...]),
                charts=charts_of(metadata["charts"], str(path)),
                beside=metadata["beside"],
                settings=msgspec.convert(metadata["settings"], dict[str, Any]),
            )
        except (KeyError, msgspec.ValidationError) as error:
            raise RecordError(f"{path}: no result of an experiment is in it ({error}). Run it again.") from error


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
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"{experiment.name}: seeds {list(seeds)}: give at least one, and each once.")
    protocol = experiment.protocol() if protocol is None else protocol
    with tempfile.TemporaryDirectory() as temporary:
        kept = _Kept(experiment, protocol, Path(temporary if directory is None else directory))
        if kept.missing(_PREPARED) and experiment.prepare is not None:
            with threads(1):
                kept.write(_PREPARED, experiment.prepare(protocol, progress))
        grid = [(seed, cell) for seed in seeds for cell in experiment.cells(protocol)]
        todo = [each for each in grid if kept.missing(_name(*each))]
        if len(todo) < len(grid):
            progress(f"{len(grid) - len(todo)} of {len(grid)} jobs are done already")
        if executor == "local" and min(jobs, len(todo)) == 1:
            for seed, cell in todo:
                kept.do(seed, cell, progress)
        elif todo:
            arguments = [(experiment.name, seed, cell, protocol, str(kept.directory)) for seed, cell in todo]
            folder = kept.directory / "cluster"
            done = dealt(_job, arguments, executor=executor, jobs=jobs, folder=folder, options=options)
            _watch(done, todo, progress)
        return _concluded(experiment, protocol, seeds, kept)


def _watch(done: Iterator[tuple[int, str]], todo: Sequence[tuple[int, str]], progress: Progress) -> None:
    """Tell of every job that is done, and of the time that is left."""
    start = time.monotonic()
    for count, (place, _) in enumerate(done, 1):
        left = (time.monotonic() - start) * (len(todo) - count) / count
        about = f"; about {_duration(left)} left" if left else ""
        progress(f"{_words(*todo[place])}: done, {count} of {len(todo)}{about}")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _as_saved(protocol: Any) -> Any:
    """As it is read back from a file, where a tuple is a list."""
    return msgspec.json.decode(msgspec.json.encode(protocol))


def _name(seed: int, cell: str) -> str:
    return f"seed-{seed}" + (f"-{cell}" if cell else "")


def _words(seed: int, cell: str) -> str:
    return f"seed {seed}" + (f", {cell}" if cell else "")


def _job(name: str, seed: int, cell: str, protocol: Any, directory: str) -> str:
    """One job, in a process of its own; the name of its file."""
    return _Kept(find(name), protocol, Path(directory)).do(seed, cell, lambda line: None)


class _Kept:
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
        prepared = {} if self.missing(_PREPARED) else _rows(self.read(_PREPARED))

        def told(line: str) -> None:
            progress(f"{_words(seed, cell)}: {line}")

        with threads(1):
            rows = self._experiment.measure(Job(seed, cell, self._protocol, prepared, scratch, told))
        path = self.write(_name(seed, cell), rows)
        shutil.rmtree(scratch)
        return path.name

    def missing(self, what: str) -> bool:
        """Whether there is no such file."""
        return not self._path(what).exists()

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


def _rows(tables: Mapping[str, Table]) -> dict[str, list[dict[str, Any]]]:
    return {name: table.rows() for name, table in tables.items()}


def _concluded(experiment: Experiment, protocol: Any, seeds: Sequence[int], kept: _Kept) -> Result:
    rows = {} if kept.missing(_PREPARED) else _rows(kept.read(_PREPARED))
    for seed in seeds:
        for cell in experiment.cells(protocol):
            for name, each in _rows(kept.read(_name(seed, cell))).items():
                rows.setdefault(name, []).extend({"seed": seed, **row} for row in each)
    conclusion = experiment.conclude(rows, protocol)
    versions = {"termwise": version("termwise"), "torch": version("torch"), "python": platform.python_version()}
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
            "seeds": list(seeds),
            "versions": versions,
        },
    )


def find(name: str) -> Experiment:
    """The experiment of a name, as on the command line.

    Raises:
        UsageError: when there is none.
    """
    from termwise.experiments import NAMES

    if name not in NAMES:
        raise UsageError(f"experiment {name!r} is unknown; there are {', '.join(NAMES)}.")
    return import_module(f"termwise.experiments.{name.replace('-', '_')}").EXPERIMENT
