"""What the figures are made of: panels, axes, tooltips, filters; no figure here.

Depth and step axes, their ticks and the place of step 0 are the same in every figure, so they are built once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from termwise.report.markup import Html
from termwise.report.strings import say
from termwise.report.tables import Tables, rounded

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
AT_THIS_RECORD = "datum.first <= at && at <= datum.last"
GUTTER = 38  # pixels left of every plot, so that plots above each other line up


@dataclass(frozen=True)
class Panel:
    """One plot of a figure: its heading, a line below it, its text alternative, its specification."""

    heading: str
    detail: str
    alternative: str
    spec: Spec


@dataclass(frozen=True)
class Shown:
    """An embedded table that "show as table" and the download take their rows from.

    Attributes:
        source: the table.
        columns: those of its columns that are shown, by id.
        where: the values that columns must have, for a table that holds more than the figure; any of these will do.
        name: what it is called, where a figure has several; a sentence `table.NAME` says it in the reader's language.
    """

    source: str
    columns: list[str]
    where: tuple[dict[str, Any], ...] = ({},)
    name: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure: its finding, how to read it, panels, key (style, words), and the tables behind it.

    Attributes:
        shown: the tables behind it.
        slider: whether the reader chooses the recorded step (the parameter `at`, a position among the steps).
        drawings: panels that are drawn already, in place of those that the page's script draws.
    """

    slug: str
    title: str
    reading: str
    panels: list[Panel]
    key: list[tuple[str, str]]
    shown: tuple[Shown, ...]
    slider: bool = False
    drawings: tuple[Html, ...] = ()


def equal(**where: object) -> Spec:
    """A filter by value, written as a predicate so that no name ever becomes part of an expression."""
    (name, value), *_ = where.items()
    return {"filter": {"field": name, "equal": value}}


def title_above(text: str, gutter: float = GUTTER, lift: float = -11) -> Spec:
    """An axis title that lies flat above its axis, where it can be read without turning the head."""
    return {
        "title": text,
        "titleAngle": 0,
        "titleAlign": "left",
        "titleAnchor": "start",
        "titleBaseline": "bottom",
        "titleX": 4 - gutter,
        "titleY": lift,
        "minExtent": gutter,
        "maxExtent": gutter,
    }


def y_axis(text: str, **more: object) -> Spec:
    """A vertical axis without line or ticks, as wide as every other one."""
    return {**title_above(text), "domain": False, "ticks": False, "labelPadding": 6, **more}


def depth_ticks(low: int, high: int) -> list[int]:
    """At most a dozen depths to label, multiples of a round number."""
    span = high - low
    stride = next((s for s in (1, 2, 5, 10, 20, 50, 100) if span <= 12 * s), 200)
    return [k for k in range(low, high + 1) if k % stride == 0]


def step_x(tables: Tables, *, labels: bool = True) -> Spec:
    """The step axis: logarithmic, step 0 left of a gap, its label 0."""
    axis = tables.axis
    zero = rounded(axis.zero_below)
    words = f"datum.value < {zero} ? '0' : format(datum.value, datum.value < 1e4 ? ',' : '~s')"
    ticks = [rounded(tick) for tick in axis.ticks]
    drawn: Spec = {"values": ticks, "labelExpr": words, "grid": False, "labelOverlap": "greedy"}
    return {
        "type": "quantitative",
        "scale": {"type": "log", "domain": [rounded(v) for v in axis.domain], "nice": False},
        "axis": {**drawn, "title": say("step.axis")} if labels else {**drawn, "labels": False, "title": None},
    }


def gap(tables: Tables) -> list[Spec]:
    """The break in the step axis between step 0 and the rest."""
    if tables.axis.gap is None:
        return []
    mark = {"type": "rule", "style": "gap"}
    encoding = {"x": {"datum": rounded(tables.axis.gap), "type": "quantitative"}}
    return [{"data": {"values": [{}]}, "mark": mark, "encoding": encoding}]


def column_name(column: str) -> str:
    """A table column's heading; the ends of an interval stand right of its value, so theirs are short."""
    return say(f"column.{column.rpartition('_')[2]}" if column.endswith(("_low", "_high")) else f"column.{column}")


def tooltip(*fields: tuple[str, str, str]) -> list[Spec]:
    """Tooltip channels: (field, column whose heading it gets, d3 format)."""
    return [
        {"field": name, "title": column_name(key), "type": "quantitative", "format": form} for name, key, form in fields
    ]


Place = Literal["depth", "step"]


def lit(which: Place, channel: str, scale: Spec, tables: Tables) -> Spec:
    """A rule across the plot at the depth, or the step, where the reader is, in this figure or in another one."""
    zero = rounded(tables.axis.zero)
    place = {"depth": "depthAt", "step": f"stepAt === 0 ? {zero} : stepAt"}[which]
    return {
        "data": {"values": [{}]},
        "transform": [{"calculate": place, "as": "place"}, {"filter": "isValid(datum.place)"}],
        "mark": {"type": "rule", "style": "lit", "clip": True},
        "encoding": {channel: {**scale, "field": "place"}},
    }


def target(which: Place, x: Spec, tips: list[Spec] | None = None) -> Spec:
    """What can be pointed at: for each row the whole height of the plot around its depth, or its record."""
    ends = {"depth": ("datum.depth - 0.5", "datum.depth + 0.5"), "step": ("datum.left", "datum.right")}[which]
    around = [{"calculate": end, "as": name} for end, name in zip(ends, ("from", "to"), strict=True)]
    encoding: Spec = {"x": {**x, "field": "from"}, "x2": {"field": "to"}}
    mark = {"type": "rect", "style": "target", "clip": True}
    return {"transform": around, "mark": mark, "encoding": encoding | ({} if tips is None else {"tooltip": tips})}


def complete(
    spec: Spec, alternative: str, *, at: int | None = None, keys: Sequence[Place | Literal["-step"]] = ()
) -> Spec:
    """What every specification carries.

    Args:
        spec: all else.
        alternative: what it shows, in words.
        at: the place among the steps of the record that is shown, where the reader chooses it.
        keys: what lies along x, and along y, where `lit` marks it; arrow keys move along it. With a minus it grows
            downwards.
    """
    padding = {"left": 2, "right": 10, "top": 4, "bottom": 2}
    head: Spec = {"$schema": SCHEMA, "description": alternative, "padding": padding}
    params = [] if at is None else [{"name": "at", "value": at}]
    params += [{"name": f"{name.removeprefix('-')}At", "value": None} for name in keys]
    if params:
        head["params"] = params
    if keys:
        head["usermeta"] = {"keys": list(keys)}
    return {**head, **spec}
