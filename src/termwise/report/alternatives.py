"""What a panel shows, in words: for those who do not see it, computed from the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from termwise.charts import Plot
from termwise.report.results import Row
from termwise.report.scales import Ends, known
from termwise.report.strings import number, prose, say, signed

FEW = 8  # up to so many values are all said


def alternative(plot: Plot, rows: Sequence[Row], x: Ends, y: Ends) -> str:
    """Every series of a panel with its first, last, least and greatest value, and the lines across."""
    head = [] if plot.heading is None else [say("plot.alt.heading", heading=plot.heading)]
    body = [_tiles(plot, rows, x, y)] if plot.kind == "tiles" else _all_series(plot, rows, x, y)
    marks = [say("plot.alt.mark", at=_text(float(mark.at)), label=mark.label) for mark in plot.marks]
    return prose(*head, *body, *marks)


def _all_series(plot: Plot, rows: Sequence[Row], x: Ends, y: Ends) -> list[str]:
    names = [None] if plot.series is None else list(dict.fromkeys(row[plot.series] for row in rows))
    said = [say("plot.alt.axes", y=y.label, x=x.label)]
    for name in names:
        own = [row for row in rows if plot.series is None or row[plot.series] == name]
        words = _one(plot, own, x)
        said.append(words if name is None else say("plot.alt.series", name=_text(name), words=words))
    return said


def _one(plot: Plot, rows: Sequence[Row], x: Ends) -> str:
    there = [row for row in rows if known([row[plot.y.column]]) and row[plot.x.column] is not None]
    if x.kind != "ordinal":
        there.sort(key=lambda row: row[plot.x.column])
    missing = len(rows) - len(there)
    lost = [say("plot.alt.missing", count=missing)] if missing else []
    if not there:
        return say("plot.alt.none")
    if x.kind == "ordinal" and len(there) <= FEW:
        said = say("plot.alt.all", values=say("clause.comma").join(_value(plot, row) for row in there))
        return prose(said, *lost)

    def size(row: Row) -> float:
        return row[plot.y.column]

    ends = {"first": there[0], "last": there[-1], "least": min(there, key=size), "most": max(there, key=size)}
    return prose(say("plot.alt.line", **{name: _value(plot, row) for name, row in ends.items()}), *lost)


def _value(plot: Plot, row: Row) -> str:
    low, high = (row[name] for name in plot.interval) if plot.interval else (None, None)
    words = {"y": _text(row[plot.y.column]), "x": _text(row[plot.x.column])}
    if low is None or high is None:
        return say("plot.alt.value", **words)
    return say("plot.alt.interval", low=_text(low), high=_text(high), **words)


def _tiles(plot: Plot, rows: Sequence[Row], x: Ends, y: Ends) -> str:
    assert plot.value is not None
    value = plot.value
    there = [row for row in rows if known([row[value]])]
    words: dict[str, Any] = {"value": plot.value.replace("_", " "), "x": x.label, "y": y.label, "count": len(there)}
    if not there:
        return say("plot.alt.tiles.none", **words)
    for name, choose in (("least", min), ("most", max)):
        row = choose(there, key=lambda row: row[value])
        at = {"x": _text(row[plot.x.column]), "y": _text(row[plot.y.column])}
        words[name] = say("plot.alt.tile", value=_text(row[plot.value]), **at)
    return say("plot.alt.tiles", **words)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return signed(f"{value:,}" if isinstance(value, int) else number(value))
