"""Where the axes of a chart begin and end, and where their ticks lie.

Panels of one chart that measure the same, which is said by the label of the axis, have the same ends.  A number is
drawn on one of three scales: linear, logarithmic, or side by side (ordinal).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from termwise.charts import Axis, Chart, Plot
from termwise.report.charts import Spec
from termwise.report.results import Row, shown
from termwise.report.tables import rounded

Role = Literal["x", "y"]
FULL = 200  # whole numbers up to so many are all given their place, also those without a row


@dataclass(frozen=True)
class Ends:
    """An axis of a panel.

    Attributes:
        label: what it is, with its unit.
        kind: "linear", "log" or "ordinal".
        domain: first and last, or everything that stands side by side, in its order.
        ticks: where numbers are written; none of an ordinal axis.
        smallest: of a logarithmic axis that zero has a place on: the smallest number beside it.
        cut: whether the ends of an interval lie beyond.
    """

    label: str
    kind: str
    domain: tuple[Any, ...]
    ticks: tuple[float, ...] = ()
    smallest: float | None = None
    cut: bool = False

    @property
    def names(self) -> bool:
        """Whether names stand side by side."""
        return self.kind == "ordinal" and any(isinstance(value, str) for value in self.domain)

    @property
    def format(self) -> str:
        """Of the numbers at its ticks, in d3's words."""
        if self.kind != "linear" or len(self.ticks) < 2:
            return "~g"
        most, step = max(map(abs, self.ticks)), self.ticks[1] - self.ticks[0]
        if most >= 1e5:
            return "~s"
        return "~e" if most < 1e-3 else f",.{_places(step)}f"

    @property
    def written(self) -> int:
        """The most characters that a number at a tick has."""
        form = self.format
        if form.startswith(","):
            return max(len(f"{tick:{form}}") for tick in self.ticks)
        return max((min(len(f"{tick:g}"), 6) for tick in self.ticks), default=0)

    def scale(self) -> Spec:
        """The scale, as Vega-Lite has it."""
        if self.kind == "ordinal":
            return {"domain": [rounded(value) for value in self.domain]}
        kind: Spec = {"type": self.kind} if self.kind == "log" else {"type": self.kind, "zero": False}
        if self.smallest is not None:
            kind = {"type": "symlog", "constant": rounded(self.smallest), "zero": False}
        return {**kind, "domain": [rounded(end) for end in self.domain], "nice": False}


def all_ends(chart: Chart, tables: Mapping[str, Sequence[Row]]) -> list[dict[Role, Ends]]:
    """The axes of every panel."""
    pairs = [(plot, shown(plot, tables[plot.table])) for plot in chart.plots]
    roles: tuple[Role, Role] = ("x", "y")
    return [{role: _ends(plot, role, _alike(plot, role, pairs)) for role in roles} for plot, _ in pairs]


def known(values: Iterable[Any]) -> list[float]:
    """The numbers that are there and finite."""
    return [value for value in values if value is not None and math.isfinite(value)]


def _axis(plot: Plot, role: Role) -> Axis:
    return plot.x if role == "x" else plot.y


def _kind(plot: Plot, role: Role) -> str:
    """Bars and tiles stand side by side, whatever their numbers are."""
    side_by_side = plot.kind == "tiles" or (plot.kind == "bars" and role == "x")
    return "ordinal" if side_by_side else _axis(plot, role).scale


Pairs = Sequence[tuple[Plot, Sequence[Row]]]


def _alike(plot: Plot, role: Role, pairs: Pairs) -> Pairs:
    def what(each: Plot) -> tuple[str, str]:
        return str(_axis(each, role).label), _kind(each, role)

    return [(other, rows) for other, rows in pairs if what(other) == what(plot)]


def _ends(plot: Plot, role: Role, alike: Pairs) -> Ends:
    axis, kind = _axis(plot, role), _kind(plot, role)
    values = [row[_axis(each, role).column] for each, rows in alike for row in rows]
    if kind == "ordinal":
        full = axis.scale == "linear"
        order = _order(values, full=full)
        # Upwards, as on any vertical axis; names read downwards.
        upwards = role == "y" and not any(isinstance(value, str) for value in order)
        return Ends(str(axis.label), kind, tuple(reversed(order) if upwards else order))
    own = known(values)
    beyond: list[float] = []
    if role == "y":
        own += [mark.at for each, _ in alike for mark in each.marks]
        own += [0.0] * any(each.kind == "bars" for each, _ in alike)
        beyond = known(row[end] for each, rows in alike for row in rows for end in each.interval or ())
    return (_log if kind == "log" else _linear)(axis, own, beyond, role)


def _order(values: Sequence[Any], *, full: bool) -> list[Any]:
    there = list(dict.fromkeys(value for value in values if value is not None))
    if any(isinstance(value, str) for value in there):
        return there
    there = sorted(there)
    whole = full and there and all(float(value).is_integer() for value in there)
    if whole and there[-1] - there[0] <= FULL:
        return list(range(int(there[0]), int(there[-1]) + 1))
    return there


def _linear(axis: Axis, own: Sequence[float], beyond: Sequence[float], role: Role) -> Ends:
    low, high = (min(own), max(own)) if own else (0.0, 1.0)
    span = high - low or abs(high) / 10 or 1.0
    # An interval of few seeds may be so wide that nothing else could be seen: it is cut.
    bottom, top = max(min([low, *beyond]), low - span), min(max([high, *beyond]), high + span)
    if 0 < bottom < 0.3 * top and role == "y":
        bottom = 0.0
    if bottom == top:
        bottom, top = low - span / 2, high + span / 2
    whole = all(float(value).is_integer() for value in own)
    step = nice_step((axis.high or top) - (axis.low or bottom), whole=whole and role == "x")
    if role == "y":
        bottom, top = _down(bottom, step), -_down(-top, step)
    else:
        margin = 0.02 * (top - bottom)
        bottom, top = bottom - margin, top + margin
    bottom, top = bottom if axis.low is None else axis.low, top if axis.high is None else axis.high
    count = math.floor((top - bottom) / step + 1e-9) + 1
    first = -_down(-bottom, step)
    ticks = tuple(t for t in (round(first + i * step, 12) + 0.0 for i in range(count + 1)) if t <= top + 1e-9 * step)
    cut = any(not bottom <= end <= top for end in beyond)
    return Ends(str(axis.label), "linear", (bottom, top), ticks, cut=cut)


def _down(value: float, step: float) -> float:
    """The next multiple of the step at or below; rounding is no reason to go one further."""
    return round(math.floor(value / step + 1e-9) * step, 12)


def nice_step(span: float, *, whole: bool = False, most: int = 5) -> float:
    """The least of 1, 2, 5 times a power of ten that divides a span into at most so many parts."""
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= most * 1.0001)
    return max(step, 1.0) if whole else step


def _places(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _log(axis: Axis, own: Sequence[float], beyond: Sequence[float], role: Role) -> Ends:
    positive = [value for value in own if value > 0] or [1.0]
    least, most = min(positive), max(positive)
    reach = max(most / least, 10.0)
    low = max(min([least, *(end for end in beyond if end > 0)]), least / reach)
    high = min(max([most, *beyond]), most * reach)
    margin = max(high / low, 2.0) ** 0.04
    zero = any(value == 0 for value in own)
    bottom, top = (0.0 if zero else low / margin), high * margin
    bottom, top = bottom if axis.low is None else axis.low, top if axis.high is None else axis.high
    ticks = _log_ticks(max(bottom, least if zero else 0.0), top)
    cut = any(not bottom <= end <= top for end in beyond)
    return Ends(str(axis.label), "log", (bottom, top), (0.0,) * zero + ticks, smallest=least if zero else None, cut=cut)


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Powers of ten, at most seven; with others between them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = math.log10(high / low)
    factors = (1, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 2 else (1,)
    stride = max(1, math.ceil(decades / 7))
    powers = [k for k in range(first, last + 1) if k % stride == 0]
    return tuple(float(f"{f}e{k}") for k in powers for f in factors if low <= float(f"{f}e{k}") <= high)
