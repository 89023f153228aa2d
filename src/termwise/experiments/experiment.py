"""An experiment: a question, what is measured for one seed, and what follows from all of them.

`measure` does one job of the grid, of one seed and, where an experiment has several, one cell (a network, say), in a
process with one thread, and gives rows; `conclude` sees the rows of all jobs and gives what was found.  Between the two
stand files: a job that is done is never done again, so that an experiment that was stopped goes on, and several
processes, or a cluster, can share its jobs.  The rows are the same bit by bit, whoever does them, in whatever order.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from termwise.charts import Chart, charts_of
from termwise.errors import RecordError, UsageError
from termwise.records import Record, Table, read_record, write_record
from termwise.sentences import Sentence

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
Progress = Callable[[str], Any]

_KIND = "experiment"


@dataclasses.dataclass(frozen=True)
class Job:
    """One job of the grid.

    Attributes:
        seed: of all that is random in it.
        cell: which of the experiment's cells; "" where it has but one.
        protocol: of the experiment.
        directory: of this job alone: what is kept here is found again when the job was stopped and goes on.
        progress: told what is going on, a line at a time.
    """

    seed: int
    cell: str
    protocol: Any
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
        cells: of a protocol, the parts of a seed that can be measured apart; names that may stand in file names.
    """

    name: str
    question: Sentence
    protocol: Any
    measure: Callable[[Job], Rows]
    conclude: Callable[[Rows, Any], Conclusion]
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


def find(name: str) -> Experiment:
    """The experiment of a name, as on the command line.

    Raises:
        UsageError: when there is none.
    """
    from termwise.experiments import NAMES

    if name not in NAMES:
        raise UsageError(f"experiment {name!r} is unknown; there are {', '.join(NAMES)}.")
    return import_module(f"termwise.experiments.{name.replace('-', '_')}").EXPERIMENT
