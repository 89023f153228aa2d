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
_ANY_WHOLE, _ROUTE, _COUNT = "a whole number or nothing", "numbers of blocks or nothing", "a count in digits or nothing"
_CELLS: Mapping[str, Any] = {
    _WHOLE: lambda cell: isinstance(cell, int) and cell >= 0,
    _ANY_WHOLE: lambda cell: cell is None or (isinstance(cell, int) and cell >= 0),
    _NUMBER: lambda cell: isinstance(cell, (int, float)),
    _SHARE: lambda cell: cell is None or isinstance(cell, (int, float)),
    _TEXT: lambda cell: isinstance(cell, str),
    _ROUTE: lambda cell: cell is None or (isinstance(cell, str) and bool(re.fullmatch(r"(\d+( \d+)*)?", cell))),
    _COUNT: lambda cell: cell is None or (isinstance(cell, str) and bool(re.fullmatch(r"\d+", cell))),
}


def _shares(*names: str) -> dict[str, str]:
    return {f"{name}{end}": _SHARE for name in names for end in ("", "_low", "_high")}


TABLES: dict[str, dict[str, str]] = {
    "lesions": {
        **{"network": _TEXT, "removed": _WHOLE, "kept": _WHOLE, "draw": _WHOLE, "gone": _ROUTE},
        **{"accuracy": _NUMBER, "loss": _SHARE, "draws": _WHOLE, "exhaustive": _WHOLE, **_shares("mean_accuracy")},
    },
    "routes": {
        **{"network": _TEXT, "origin": _TEXT, "through": _ROUTE, "length": _ANY_WHOLE, "paths": _COUNT},
        **_shares("norm_share", "aligned_share"),
    },
    "tiles": {
        **{"network": _TEXT, "comparator": _TEXT, "part": _TEXT, "depth": _ANY_WHOLE, "lowest": _WHOLE},
        **{"highest": _ANY_WHOLE, "energy": _SHARE, "share": _SHARE, **_shares("weight")},
    },
    "trends": {"network": _TEXT, "comparator": _TEXT, "terms": _WHOLE, **_shares("excess"), "warnings": _TEXT},
}
"""The columns that the page reads of each table, and what their cells hold."""

EMBEDDED: dict[str, tuple[str, ...]] = {
    "lesions": (
        *("network", "removed", "draw", "gone", "accuracy", "loss"),
        *("mean_accuracy", "mean_accuracy_low", "mean_accuracy_high"),
    ),
    "routes": (
        *("network", "origin", "route", "length", "paths", "norm_share", "norm_share_low", "norm_share_high"),
        *("aligned_share", "aligned_share_low", "aligned_share_high"),
    ),
    "tiles": (
        *("network", "comparator", "part", "depth", "band", "frequency", "joint", "share"),
        *("weight", "weight_low", "weight_high"),
    ),
}
"""The columns that figures draw or show in a table."""


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
        lesions = [row | {"gone": _route(row["gone"])} for row in self.of("lesions")]
        routes = [row | {"route": _route(row["through"])} for row in self.of("routes", origin="input")]
        tiles = self.of("tiles", comparator="own", part="input")
        bands = [*dict.fromkeys((row["lowest"], row["highest"]) for row in tiles)]
        for row in tiles:
            band, pair = (row["lowest"], row["highest"]), (row["weight"], row["share"])
            joint = None if None in pair else row["weight"] * row["share"]
            row |= {"band": bands.index(band), "frequency": band_name(*band), "joint": joint}
        found = {"lesions": lesions, "routes": routes, "tiles": tiles}
        return {
            name: {column: [row[column] for row in rows] for column in EMBEDDED[name]}
            for name, rows in found.items()
            if rows
        }


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
    if lacking := _lacking(path.stem, columns):
        raise RecordError(f"{path}: {lacking}. Run the same command again to have it written anew.")
    return {**columns, "network": [index[name] for name in columns["network"]]}


def _lacking(table: str, columns: Columns) -> str:
    """What the figure of a table cannot do without, and does not find; empty where all is there."""
    if table == "lesions":
        found: dict[str, set[int]] = {}
        for network, removed in zip(columns["network"], columns["removed"], strict=True):
            found.setdefault(network, set()).add(removed)
        short = [network for network, counts in found.items() if not {0, 1} <= counts]
        return f"{short[0]} has no row with 0 or none with 1 block removed" if short else ""
    about, part, needed = {
        "routes": ("origin", "input", ("through", "length", "paths")),
        "tiles": ("part", "input", ("depth",)),
    }.get(table, ("network", None, ()))
    for name in needed:
        if any(cell is None for kind, cell in zip(columns[about], columns[name], strict=True) if kind == part):
            return f"a row of the input has no {name}"
    return ""


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
