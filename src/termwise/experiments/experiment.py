"""An experiment: a question, what is measured for one seed, and what follows from all of them.

`measure` is called once a seed, in a process with one thread, and gives rows; `conclude` sees the rows of all seeds and
gives what was found.  Between the two stand files: a seed that was measured is never measured again, so that an
experiment that was stopped goes on, and several processes can share its seeds.  The rows are the same bit by bit,
whoever measures them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from termwise.charts import Chart, charts_of
from termwise.errors import RecordError, RunError, UsageError
from termwise.experiments.common import columns
from termwise.loop import threads
from termwise.records import Record, Table, read_record, write_record
from termwise.sentences import Sentence

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
Progress = Callable[[str], Any]

_KIND, _SEED = "experiment", "experiment-seed"


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


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A question, and how it is answered.

    Attributes:
        name: as on the command line.
        question: in one sentence.
        protocol: a frozen dataclass of all that determines the result beside the seed, with a static method `quick`
            that makes the smallest one.
        measure: of a seed, a protocol and what `prepare` gave, tables as rows; told to report its progress.
        conclude: from the tables of all seeds (each row has its `seed`) and the protocol.
        prepare: what all seeds need and none may choose for itself, such as a learning rate.
    """

    name: str
    question: Sentence
    protocol: Any
    measure: Callable[[int, Any, Rows, Progress], Rows]
    conclude: Callable[[Rows, Any], Conclusion]
    prepare: Callable[[Any, Progress], Rows] | None = None


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
    progress: Progress = lambda line: None,
) -> Result:
    """Measure every seed, and conclude.

    Args:
        experiment: from `termwise.experiments.find`.
        seeds: of initial weights, order of samples, and draws.
        protocol: by default the whole one.
        directory: where each seed is kept as soon as it is measured, and looked for before.
        jobs: processes that share the seeds.
        progress: told what is going on, a line at a time.

    Raises:
        UsageError: when there is no seed, or one twice, or no process.
        RunError: when the directory holds seeds of another protocol or version.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"{experiment.name}: seeds {list(seeds)}: give at least one, and each once.")
    if jobs < 1:
        raise UsageError(f"{experiment.name}: jobs={jobs}: give at least 1.")
    protocol = experiment.protocol() if protocol is None else protocol
    kept = _Kept(experiment, protocol, None if directory is None else Path(directory))
    prepared = kept.get("prepared", lambda: _prepare(experiment, protocol, progress))
    measured: dict[int, Mapping[str, Table]] = {}
    for seed in seeds:
        if (there := kept.read(f"seed-{seed}")) is not None:
            progress(f"seed {seed}: measured before")
            measured[seed] = there
    missing = [seed for seed in seeds if seed not in measured]
    for seed, rows in _measured(experiment, missing, protocol, _rows(prepared), jobs, progress):
        measured[seed] = kept.write(f"seed-{seed}", rows)
    return _concluded(experiment, protocol, {seed: measured[seed] for seed in seeds}, prepared)


def _prepare(experiment: Experiment, protocol: Any, progress: Progress) -> Rows:
    if experiment.prepare is None:
        return {}
    with threads(1):
        return experiment.prepare(protocol, progress)


def _measured(
    experiment: Experiment, seeds: Sequence[int], protocol: Any, prepared: Rows, jobs: int, progress: Progress
) -> Iterator[tuple[int, Rows]]:
    """The rows of each seed, in whatever order they are done."""
    if min(jobs, len(seeds)) <= 1:
        for seed in seeds:
            with threads(1):
                rows = experiment.measure(seed, protocol, prepared, lambda line, n=seed: progress(f"seed {n}: {line}"))
            yield seed, rows
        return
    # A fresh process: a forked one would inherit threads that do not run in it.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(jobs, len(seeds)), context) as pool:
        running = {pool.submit(_one, experiment.name, seed, protocol, prepared): seed for seed in seeds}
        try:
            for future in concurrent.futures.as_completed(running):
                progress(f"seed {running[future]}: measured")
                yield running[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _one(name: str, seed: int, protocol: Any, prepared: Rows) -> Rows:
    """One seed, in a process of its own."""
    from termwise.experiments import find

    with threads(1):
        return find(name).measure(seed, protocol, prepared, lambda line: None)


class _Kept:
    """The files that a directory holds of an experiment; without a directory, nothing is kept."""

    def __init__(self, experiment: Experiment, protocol: Any, directory: Path | None) -> None:
        self._name = experiment.name
        self._settings = {"protocol": msgspec.to_builtins(protocol), "version": version("termwise")}
        self._directory = directory
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def get(self, what: str, make: Callable[[], Rows]) -> Mapping[str, Table]:
        """From the file, else made and kept."""
        there = self.read(what)
        return self.write(what, make()) if there is None else there

    def read(self, what: str) -> Mapping[str, Table] | None:
        """The tables of a file, if it is there."""
        if self._directory is None or not self._path(what).exists():
            return None
        record = read_record(self._path(what), _SEED)
        if record.metadata != self._settings:
            raise RunError(
                f"{self._path(what)}: measured with other settings or another version ({record.metadata}) than now "
                f"({self._settings}). Choose another directory, or delete this one."
            )
        return record.tables

    def write(self, what: str, rows: Rows) -> Mapping[str, Table]:
        """Keep rows as tables."""
        tables = {name: Table(columns(each)) for name, each in rows.items() if each}
        if self._directory is not None:
            write_record(self._path(what), Record(_SEED, self._settings, tables, {}))
        return tables

    def _path(self, what: str) -> Path:
        assert self._directory is not None
        return self._directory / f"{self._name}-{what}.termwise"


def _rows(tables: Mapping[str, Table]) -> dict[str, list[dict[str, Any]]]:
    return {name: table.rows() for name, table in tables.items()}


def _concluded(
    experiment: Experiment, protocol: Any, measured: Mapping[int, Mapping[str, Table]], prepared: Mapping[str, Table]
) -> Result:
    rows = _rows(prepared)
    for seed, tables in measured.items():
        for name, each in _rows(tables).items():
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
            "protocol": msgspec.to_builtins(protocol),
            "quick": protocol == experiment.protocol.quick(),
            "seeds": list(measured),
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
