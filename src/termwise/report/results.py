"""What the page reads of saved experiments, validated: the results, and the tables that their charts show.

A result that is corrupt, of a newer version, or whose charts ask for what its tables have not, is a `RecordError` that
names the file.  Names inside the files are only ever shown, never used as paths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from termwise.charts import Axis, Chart, Plot
from termwise.errors import RecordError
from termwise.experiments import NAMES, VERDICT, Result
from termwise.records import Table, record_kind
from termwise.report.reading import Run, read_run

FOUND = ("quantity", "found", "low", "high", "expected", "verdict")
VERDICTS = ("holds", "fails", "undecided")
Row = Mapping[str, Any]


class Settings(msgspec.Struct, frozen=True):
    """How a result was made."""

    protocol: dict[str, Any]
    quick: bool
    seeds: list[int]
    versions: dict[str, str]


@dataclass(frozen=True)
class Study:
    """One saved experiment, as the page sees it.

    Attributes:
        path: its file.
        result: what is in it.
        settings: how it was made.
        found: a row for each quantity.
        tables: the rows of those that charts read, and of the one to be seen first; not a number is None.
    """

    path: Path
    result: Result
    settings: Settings
    found: list[Row]
    tables: dict[str, list[Row]]

    @property
    def claims(self) -> list[Row]:
        """The quantities of which something was expected."""
        return [row for row in self.found if row["expected"]]


def read_saved(place: Path) -> Run | list[Study]:
    """What lies in a place: a finished run, or the saved experiments of a directory or a file.

    Raises:
        RecordError: there is neither, or it cannot be read.
    """
    if (place / "summary.json").exists():
        return read_run(place)
    if place.is_file() or has_results(place):
        return read_results(place)
    raise RecordError(
        f"{place}: there is neither a finished run (summary.json) nor the result of an experiment (NAME.termwise) in "
        "it. Give the directory of `termwise train` or of `termwise experiment NAME --directory DIR`."
    )


def has_results(directory: Path) -> bool:
    """Whether a directory holds a saved experiment."""
    return bool(_files(directory))


def read_results(place: Path) -> list[Study]:
    """The saved experiments of a directory, or the one in a file: the claims first, then as the command lists them.

    Raises:
        RecordError: one of them cannot be read, or does not fit together.
    """
    studies = [_study(path) for path in ([place] if place.is_file() else _files(place))]
    known = {name: i for i, name in enumerate((VERDICT, *NAMES))}
    return sorted(studies, key=lambda study: known.get(study.result.name, len(known)))


def _files(directory: Path) -> list[Path]:
    """Beside the results lie the seeds that they were concluded from, and whatever else is kept there."""
    return [path for path in sorted(directory.glob("*.termwise")) if record_kind(path) == "experiment"]


def _study(path: Path) -> Study:
    result = Result.load(path)
    try:
        settings = msgspec.convert(result.settings, Settings)
    except msgspec.ValidationError as error:
        raise _wrong(path, f"its settings cannot be read ({error})") from error
    saved = {"found": result.found, **result.tables}
    read = [plot.table for chart in result.charts for plot in chart.plots]
    wanted: dict[str, None] = dict.fromkeys([*read, *([] if result.beside is None else [result.beside])])
    if missing := [name for name in wanted if name not in saved]:
        raise _wrong(path, f"there is no table {', '.join(map(repr, missing))} in it")
    tables = {name: _rows(saved[name]) for name in wanted}
    for chart in result.charts:
        for plot in chart.plots:
            _check(path, chart, plot, saved[plot.table].columns, tables[plot.table])
    return Study(path, result, settings, _found(path, result.found), tables)


def _rows(table: Table) -> list[Row]:
    return [{name: plain(value) for name, value in row.items()} for row in table.rows()]


def plain(value: Any) -> Any:
    """A cell as the page knows it: a number or a text; None where there is none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isnan(value):
        return None
    # JavaScript has no larger whole numbers.
    return str(value) if isinstance(value, int) and abs(value) > 2**53 else value


def _found(path: Path, table: Table) -> list[Row]:
    if missing := [name for name in FOUND if name not in table.columns]:
        raise _wrong(path, f"what was found has no column {', '.join(missing)}")
    rows = _rows(table)
    for row in rows:
        numbers = all(_is_number(row[name]) for name in ("found", "low", "high"))
        if not numbers or row["verdict"] not in (VERDICTS if row["expected"] else ("",)):
            raise _wrong(path, f"what was found has a row that is none: {dict(row)}")
    return rows


def _check(path: Path, chart: Chart, plot: Plot, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """That a plot asks for columns that are there, and for numbers where it measures them."""
    where = f"chart {chart.name!r}, table {plot.table!r}"
    optional = [name for name in (plot.series, plot.value) if name is not None]
    if missing := {plot.x.column, plot.y.column, *optional, *(plot.interval or ()), *plot.where} - {*columns}:
        raise _wrong(path, f"{where}: there is no column {', '.join(sorted(missing))}")
    axes = [axis for axis in (plot.x, plot.y) if axis.scale != "ordinal"]
    measured = [*(axis.column for axis in axes), *(plot.interval or ()), *([plot.value] if plot.value else [])]
    for name in measured:
        for row in rows:
            if not _is_number(row[name]):
                raise _wrong(path, f"{where}: the column {name} has {row[name]!r} where a number is wanted")
    for axis in axes:
        if axis.scale == "log" and any(value < 0 for value in _numbers(plot, axis, rows)):
            raise _wrong(path, f"{where}: the column {axis.column} has negative numbers, its axis is logarithmic")


def _numbers(plot: Plot, axis: Axis, rows: Sequence[Row]) -> Iterator[float]:
    return (row[axis.column] for row in shown(plot, rows) if row[axis.column] is not None)


def shown(plot: Plot, rows: Sequence[Row]) -> list[Row]:
    """The rows of its table that a plot shows."""
    wanted = {name: plain(value) for name, value in plot.where.items()}
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


def _wrong(path: Path, what: str) -> RecordError:
    return RecordError(f"{path}: {what}. Run the experiment again with this version.")
