"""What was measured when the trainings of a run were over: the tables of `termwise.ending`, validated, as figures want.

Each of them may be absent: runs of earlier versions have none, networks without residual blocks no lesions and no
routes, and tiles are there only beside degrees.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from termwise.errors import RecordError
from termwise.records import RunSummary, read_parquet

Columns = dict[str, list[Any]]

_WHOLE, _NUMBER, _SHARE, _TEXT = "a whole number", "a number", "a number or nothing", "text"
_ANY_WHOLE, _ROUTE = "a whole number or nothing", "numbers of blocks or nothing"
_CELLS: Mapping[str, Any] = {
    _WHOLE: lambda cell: isinstance(cell, int) and cell >= 0,
    _ANY_WHOLE: lambda cell: cell is None or (isinstance(cell, int) and cell >= 0),
    _NUMBER: lambda cell: isinstance(cell, (int, float)),
    _SHARE: lambda cell: cell is None or isinstance(cell, (int, float)),
    _TEXT: lambda cell: isinstance(cell, str),
    _ROUTE: lambda cell: cell is None or (isinstance(cell, str) and bool(re.fullmatch(r"(\d+( \d+)*)?", cell))),
}


def _shares(*names: str) -> dict[str, str]:
    return {f"{name}{end}": _SHARE for name in names for end in ("", "_low", "_high")}


TABLES: dict[str, dict[str, str]] = {
    "lesions": {
        **{"network": _TEXT, "removed": _WHOLE, "kept": _WHOLE, "draw": _WHOLE, "gone": _ROUTE},
        **{"accuracy": _NUMBER, "loss": _SHARE, "draws": _WHOLE, "exhaustive": _WHOLE, **_shares("mean_accuracy")},
    },
    "routes": {
        **{"network": _TEXT, "origin": _TEXT, "through": _ROUTE, "length": _ANY_WHOLE, "paths": _ROUTE},
        **_shares("norm_share", "aligned_share"),
    },
    "tiles": {
        **{"network": _TEXT, "comparator": _TEXT, "part": _TEXT, "depth": _ANY_WHOLE, "lowest": _WHOLE},
        **{"highest": _ANY_WHOLE, "energy": _SHARE, "share": _SHARE, **_shares("weight")},
    },
    "trends": {"network": _TEXT, "comparator": _TEXT, "terms": _WHOLE, **_shares("excess"), "warnings": _TEXT},
}
"""The columns that the page reads of each table, and what their cells hold."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """The tables by name; in them `network` is an index into the networks of the summary."""

    tables: Mapping[str, Columns] = dataclasses.field(default_factory=dict)

    def of(self, name: str, **where: object) -> list[dict[str, Any]]:
        """The rows of a table in which every named column has that value; none where there is no such table."""
        table = self.tables.get(name, {})
        count = len(next(iter(table.values()), []))
        rows = ({column: values[i] for column, values in table.items()} for i in range(count))
        return [row for row in rows if all(row[column] == value for column, value in where.items())]

    def embedded(self) -> dict[str, Columns]:
        """What the page embeds: the rows that figures show, with the columns that place or name them."""
        found = {}
        lesions, routes, tiles = (self.tables.get(name) for name in ("lesions", "routes", "tiles"))
        if lesions:
            found["lesions"] = {**lesions, "gone": [_route(gone) for gone in lesions["gone"]]}
        if routes:
            found["routes"] = {**routes, "route": [_route(through) for through in routes["through"]]}
        if tiles:
            bands = [*dict.fromkeys(zip(tiles["lowest"], tiles["highest"], strict=True))]
            pairs = zip(tiles["weight"], tiles["share"], strict=True)
            found["tiles"] = {
                **tiles,
                "band": [bands.index(band) for band in zip(tiles["lowest"], tiles["highest"], strict=True)],
                "frequency": [band_name(*band) for band in zip(tiles["lowest"], tiles["highest"], strict=True)],
                "joint": [None if None in pair else pair[0] * pair[1] for pair in pairs],
            }
        return found


def _route(through: str | None) -> str | None:
    """Numbers of blocks as the page writes them, counted from 1; a dash for none."""
    return None if through is None else " → ".join(str(int(i) + 1) for i in through.split()) or "–"


def band_name(lowest: int, highest: int | None) -> str:
    """A band of frequencies, in any language."""
    return f"{lowest}+" if highest is None else str(lowest) if lowest == highest else f"{lowest}–{highest}"


def read_finished(directory: Path, summary: RunSummary) -> Finished:
    """The tables that are there.

    Raises:
        RecordError: one is corrupt, lacks a column, or holds what is no such number or a network that is not there.
    """
    paths = {name: directory / "tables" / f"{name}.parquet" for name in TABLES}
    return Finished({name: _read(path, TABLES[name], summary) for name, path in paths.items() if path.exists()})


def _read(path: Path, cells: Mapping[str, str], summary: RunSummary) -> Columns:
    table = read_parquet(path).to_arrow()
    missing = [name for name in cells if name not in table.column_names]
    if missing:
        raise RecordError(f"{path}: no column {', '.join(missing)}. It was written by another version: run it again.")
    columns: Columns = {}
    for name, kind in cells.items():
        columns[name] = [_finite(cell) for cell in table.column(name).to_pylist()]
        for cell in columns[name]:
            if not _CELLS[kind](cell):
                raise RecordError(
                    f"{path}: column {name} holds {cell!r}, expected {kind}. Run the same command again to have it "
                    "written anew."
                )
    index = {network.name: i for i, network in enumerate(summary.networks)}
    unknown = sorted(set(columns["network"]) - set(index))
    if unknown:
        raise RecordError(f"{path}: not the networks of summary.json ({', '.join(unknown)}). Run it again.")
    return {**columns, "network": [index[name] for name in columns["network"]]}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def stacked(found: Sequence[Finished], offsets: Sequence[int]) -> Finished:
    """The tables of several runs one under the other, in which the networks are counted on."""
    tables: dict[str, Columns] = {}
    for each, offset in zip(found, offsets, strict=True):
        for name, columns in each.tables.items():
            whole = tables.setdefault(name, {column: [] for column in TABLES[name]})
            for column, values in columns.items():
                whole[column] += [value + offset for value in values] if column == "network" else values
    return Finished(tables)
