"""The kinds of plots, as layers of a Vega-Lite specification, without colours and without data.

Columns go by the ids under which they are embedded, so that no name is ever part of a specification's language.  A
colour is the name of one in the style sheet, or a place on one of its ramps; the page's theme looks it up.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from termwise.charts import Plot
from termwise.report.charts import GUTTER, Spec, title_above
from termwise.report.results import Row
from termwise.report.scales import Ends, known
from termwise.report.strings import say
from termwise.report.tables import rounded

LINE, CHARACTER = 22, 6.3  # of a name, in characters; the width of one, in pixels
LINES, LINE_HEIGHT = 3, 12  # of a name; in pixels
WRITTEN = 24  # up to so many bars and points have their number beside them
COLUMNS = 8  # and tiles, where no more stand beside each other
ABOVE = 13  # pixels between the labels of lines across


@dataclass(frozen=True)
class Drawing:
    """A panel that is being drawn.

    Attributes:
        plot: what it is.
        ids: of the columns of its table.
        rows: that it shows.
        x: the plot's horizontal axis.
        y: its vertical one.
        palette: the scale of the colours of its series.
        order: the series that it has.
        gutter: pixels left of it.
        tones: of tiles, the scale of their colours.
    """

    plot: Plot
    ids: dict[str, str]
    rows: list[Row]
    x: Ends
    y: Ends
    palette: Spec
    order: list[Any]
    gutter: float
    tones: Spec

    @property
    def turned(self) -> bool:
        """Whether names stand on the vertical axis, and what is measured on the horizontal one."""
        return turned(self.plot, self.x)

    def across(self, encoding: Spec) -> Spec:
        """An encoding with the channels of this panel: those of a turned one change places."""
        swap = {"x": "y", "y": "x", "x2": "y2", "y2": "x2", "xOffset": "yOffset"} if self.turned else {}
        return {swap.get(channel, channel): definition for channel, definition in encoding.items()}

    def at(self, **more: Any) -> Spec:
        """The place of a row along the names (or x), with what else is given."""
        encoding = {"x": {"field": self.ids[self.plot.x.column], **self._channel("x")}, **more}
        if self.plot.kind in ("bars", "points") and self.x.kind == "ordinal" and len(self.order) > 1:
            assert self.plot.series is not None
            scale = {"domain": self.order}
            encoding["xOffset"] = {"field": self.ids[self.plot.series], "type": "nominal", "scale": scale}
        return self.across(encoding)

    def measured(self, column: str | None = None) -> Spec:
        """The channel of what is measured, for its own column or another one."""
        name = self.ids[self.plot.y.column] if column is None else column
        return {"field": name, **self._channel("y")}

    @property
    def color(self) -> Spec:
        """By series; one colour where there are none."""
        if self.plot.series is None:
            return {"datum": "", "type": "nominal", "scale": {"domain": [""], "range": ["network-0"]}, "legend": None}
        return {
            "field": self.ids[self.plot.series],
            "type": "nominal",
            "scale": self.palette,
            "legend": None,
        }

    @property
    def tooltip(self) -> list[Spec]:
        """Everything that a row says."""
        plot = self.plot
        names = [plot.x.column, plot.series, plot.y.column, *(plot.interval or ()), plot.value]
        return [self._tip(name) for name in dict.fromkeys(names) if name is not None]

    def _tip(self, name: str) -> Spec:
        values = [row[name] for row in self.rows]
        head: Spec = {"field": self.ids[name], "title": heading(name, list(self.ids))}
        if any(isinstance(value, str) for value in values):
            return {**head, "type": "nominal"}
        whole = all(float(value).is_integer() for value in known(values))
        return {**head, "type": "quantitative", "format": ",d" if whole else ".4~g"}

    def _channel(self, role: str) -> Spec:
        ends, upright = (self.x, not self.turned) if role == "x" else (self.y, self.turned)
        axis = self._horizontal(ends) if upright else self._vertical(ends)
        if ends.kind == "ordinal":
            apart = {"tiles": {"padding": 0.04}, "bars": {"paddingInner": 0.25, "paddingOuter": 0.15}}
            scale = {**ends.scale(), **apart.get(self.plot.kind, {})}
            return {"type": "ordinal", "sort": None, "scale": scale, "axis": axis}
        scale = ends.scale()
        if role == "y" and self.turned and self.numbered and ends.kind == "linear":
            scale["domain"] = self._roomy(*scale["domain"])
        return {"type": "quantitative", "scale": scale, "axis": axis}

    def _roomy(self, low: float, high: float) -> list[float]:
        """The ends of an axis with room for numbers beside what is drawn, where it is not said where it ends."""
        room, axis = 0.16 * (high - low), self.plot.y
        negative = any(value < 0 for value in known(row[axis.column] for row in self.rows))
        left = room if negative and axis.low is None else 0.0
        return [rounded(low - left), rounded(high + (room if axis.high is None else 0.0))]

    @property
    def numbered(self) -> bool:
        """Whether every bar, point or tile has its number beside it."""
        if self.plot.kind == "tiles":
            return len(self.x.domain) <= COLUMNS
        return self.turned and len(self.rows) <= WRITTEN

    def _horizontal(self, ends: Ends) -> Spec:
        axis: Spec = {"title": ends.label, "grid": self.turned, "labelOverlap": "greedy", **self._labels(ends)}
        if self.turned:
            axis |= {"domain": False, "ticks": False, "labelPadding": 6}
        if ends.names and sum(len(name) + 2 for name in ends.domain) * CHARACTER > 290:
            axis |= {"labelAngle": -35, "labelAlign": "right", "labelLimit": 120, "labelOverlap": False}
        elif ends.kind == "ordinal":
            axis |= {"labelAngle": 0, "labelOverlap": True}
        return axis

    def _vertical(self, ends: Ends) -> Spec:
        lifted = ABOVE * len(stacked(self)) if self.turned else 0
        title = title_above(ends.label, self.gutter, -11 - lifted)
        axis: Spec = {**title, "domain": False, "ticks": False, "labelPadding": 6, **self._labels(ends)}
        if ends.kind == "ordinal":
            axis |= {"grid": False}
        if ends.names:
            axis |= {
                "labelExpr": "wrapped[indexof(names, datum.value)]",
                "labelLimit": self.gutter,
                "labelLineHeight": LINE_HEIGHT,
            }
        return axis

    def _labels(self, ends: Ends) -> Spec:
        if ends.kind == "ordinal":
            return {}
        words = {"values": [rounded(tick) for tick in ends.ticks], "format": ends.format}
        if ends.kind == "log":
            words["labelExpr"] = "format(datum.value, datum.value >= 1e4 ? '~s' : datum.value < 1e-3 ? '~e' : '~g')"
        if ends.kind == "log" or ends.format == "~e":
            words["labelExpr"] = f"datum.value == 0 ? '0' : {words.get('labelExpr', 'datum.label')}"
        return words


def turned(plot: Plot, x: Ends) -> bool:
    """Bars and points over names are turned on their side."""
    return plot.kind in ("bars", "points") and x.names


def wrapped(name: str) -> list[str]:
    """A name in lines, not too many."""
    return textwrap.wrap(name, LINE, max_lines=LINES, placeholder=" …") or [""]


def gutter(plot: Plot, x: Ends, y: Ends) -> float:
    """The room that the vertical axis needs."""
    vertical = x if turned(plot, x) else y
    if vertical.kind == "ordinal":
        longest = max((len(line) for name in vertical.domain for line in wrapped(str(name))), default=0)
        return max(GUTTER, 10 + CHARACTER * longest)
    return max(GUTTER, 10 + CHARACTER * vertical.written)


def heading(column: str, columns: Sequence[str]) -> str:
    """A column's name for readers; the ends of an interval stand right of its value, so theirs are short."""
    value, _, end = column.rpartition("_")
    return say(f"column.{end}") if end in ("low", "high") and value in columns else column.replace("_", " ")


def form(values: Sequence[float]) -> str:
    """How numbers are written beside each other, in d3's words."""
    if all(float(value).is_integer() for value in values):
        return ",d"
    most = max(map(abs, values))
    places = (0 if most >= 100 else 1 if most >= 10 else 2 if most >= 1 else 3) if most >= 0.01 else None
    return ".2~e" if places is None else f",.{places}f"


def layers(drawing: Drawing) -> list[Spec]:
    """Everything in a panel, the lowest first."""
    kinds = {"lines": _lines, "points": _points, "bars": _bars, "tiles": _tiles}
    bounds = [_bound(drawing, mark.at) for mark in drawing.plot.marks]
    return [*bounds, *kinds[drawing.plot.kind](drawing), *_bound_labels(drawing)]


def height(drawing: Drawing) -> int:
    """Of the plot without its axes, in pixels."""
    if drawing.turned:
        lines = max((len(wrapped(name)) for name in drawing.x.domain), default=1)
        own = max(14 * max(1, len(drawing.order)) + 12, LINE_HEIGHT * lines + 10)
        return max(60, len(drawing.x.domain) * own)
    if drawing.plot.kind == "tiles":
        count = max(1, len(drawing.y.domain))
        return round(count * min(34, max(18, 300 / count)))
    return 240


def _interval(drawing: Drawing) -> tuple[list[Spec], str, str] | None:
    """The ends of the interval: what is to be computed, and the two columns; on a log axis none is below its end."""
    if drawing.plot.interval is None:
        return None
    low, high = (drawing.ids[name] for name in drawing.plot.interval)
    if drawing.y.kind != "log":
        return [], low, high
    floor = rounded(drawing.y.domain[0])
    return [{"calculate": f"isValid(datum.{low}) ? max(datum.{low}, {floor}) : null", "as": "low"}], "low", high


def _clipped(drawing: Drawing) -> bool:
    return drawing.plot.y.low is not None or drawing.plot.y.high is not None


def _whiskers(drawing: Drawing, style: str, **more: Any) -> list[Spec]:
    interval = _interval(drawing)
    if interval is None:
        return []
    transform, low, high = interval
    ends = drawing.across({"y": drawing.measured(low), "y2": {"field": high}})
    known_ends = {"and": [{"field": name, "valid": True} for name in (low, high)]}
    mark = {"type": "rule", "style": style, "clip": True}
    encoding = {**drawing.at(), **ends, **more}
    return [{"transform": [*transform, {"filter": known_ends}], "mark": mark, "encoding": encoding}]


def _lines(drawing: Drawing) -> list[Spec]:
    plot = drawing.plot
    bands: list[Spec] = []
    if (interval := _interval(drawing)) is not None:
        transform, low, high = interval
        ends = {"y": drawing.measured(low), "y2": {"field": high}}
        mark = {"type": "area", "style": "series-band", "clip": True}
        encoding = {**drawing.at(**ends), "color": drawing.color}
        bands.append({"transform": transform, "mark": mark, "encoding": encoding})
    many = len({row[plot.x.column] for row in drawing.rows}) > 40
    point = {"style": "series-dot" if many else "series-point"}
    mark = {"type": "line", "style": "series", "point": point, "clip": _clipped(drawing)}
    encoding = {**drawing.at(y=drawing.measured()), "color": drawing.color, "tooltip": drawing.tooltip}
    if len(drawing.palette["domain"]) > 6 and plot.colours == "category":
        # Six colours, then the same six dashed.
        dashes = [[1, 0] if i % 12 < 6 else [5, 3] for i in range(len(drawing.palette["domain"]))]
        scale = {"domain": drawing.palette["domain"], "range": dashes}
        encoding["strokeDash"] = {**drawing.color, "scale": scale}
    return [*bands, {"mark": mark, "encoding": encoding}]


def _points(drawing: Drawing) -> list[Spec]:
    mark = {"type": "point", "style": "series-mark", "clip": _clipped(drawing)}
    encoding = {**drawing.at(y=drawing.measured()), "color": drawing.color, "tooltip": drawing.tooltip}
    whiskers = _whiskers(drawing, "series-whisker", color=drawing.color)
    return [*whiskers, {"mark": mark, "encoding": encoding}, *_numbers(drawing)]


def _bars(drawing: Drawing) -> list[Spec]:
    mark = {"type": "bar", "style": "series-bar", "clip": True}
    ends = {"y": {**drawing.measured(), "stack": None}, "y2": {"datum": 0}}
    encoding = {**drawing.at(**ends), "color": drawing.color, "tooltip": drawing.tooltip}
    return [{"mark": mark, "encoding": encoding}, *_whiskers(drawing, "whisker"), *_numbers(drawing)]


def _numbers(drawing: Drawing) -> list[Spec]:
    """The number beside each bar or point of a turned plot, beyond all that belongs to it: left of what is negative."""
    values = known(row[drawing.plot.y.column] for row in drawing.rows)
    if not drawing.numbered or not values:
        return []
    value = drawing.ids[drawing.plot.y.column]
    low, high = (drawing.ids[name] for name in drawing.plot.interval or (drawing.plot.y.column,) * 2)
    text = {"field": value, "type": "quantitative", "format": form(values)}
    found: list[Spec] = []
    for test, furthest, end, align, dx in ((">=", "max", high, "left", 6), ("<", "min", low, "right", -6)):
        own = {"filter": f"isValid(datum.{value}) && datum.{value} {test} 0"}
        beyond = f"isValid(datum.{end}) ? {furthest}(datum.{value}, datum.{end}) : datum.{value}"
        mark = {"type": "text", "style": "number", "align": align, "baseline": "middle", "dx": dx}
        encoding = {**drawing.at(y=drawing.measured("beyond")), "text": text}
        found.append({"transform": [own, {"calculate": beyond, "as": "beyond"}], "mark": mark, "encoding": encoding})
    return found


def _tiles(drawing: Drawing) -> list[Spec]:
    plot = drawing.plot
    assert plot.value is not None
    value = drawing.ids[plot.value]
    place = drawing.at(y=drawing.measured())
    color = {"field": value, "type": "quantitative", "scale": drawing.tones, "legend": None}
    there: list[Spec] = [{"filter": {"field": value, "valid": True}}]
    tile = {
        "mark": {"type": "rect", "style": "cell"},
        "encoding": {**place, "color": color, "tooltip": drawing.tooltip},
    }
    found: list[Spec] = [{"transform": there, **tile}]
    values = known(row[plot.value] for row in drawing.rows)
    if not drawing.numbered or not values:
        return found
    low, high = drawing.tones["domain"][0], drawing.tones["domain"][-1]
    split = low < 0
    # The ramp's strong end, both of them where it has two: from where, in either theme, both colours stand out alike.
    strong = f"abs(datum.{value}) > {0.73 * high}" if split else f"datum.{value} > {low + 0.59 * (high - low)}"
    text = {"field": value, "type": "quantitative", "format": form(values)}
    for style, test in (("on-strong", strong), ("on-weak", f"!({strong})")):
        mark = {"type": "text", "style": style, "baseline": "middle"}
        found.append({"transform": [*there, {"filter": test}], "mark": mark, "encoding": {**place, "text": text}})
    return found


# Lines across.


def _bound(drawing: Drawing, at: float) -> Spec:
    place = drawing.across({"y": drawing.measured("at")})
    mark = {"type": "rule", "style": "bound"}
    return {"data": {"values": [{"at": rounded(at)}]}, "mark": mark, "encoding": place}


def _fraction(ends: Ends, value: float) -> float:
    """How far along an axis a value lies."""
    low, high = ends.domain
    if ends.kind == "log":
        shift = ends.smallest or 0.0
        low, high, value = (math.log(max(end + shift, 1e-300)) for end in (low, high, value))
    return (value - low) / (high - low)


def stacked(drawing: Drawing) -> list[list[tuple[float, str]]]:
    """The labels of a turned plot's lines, in as many rows above it as keep them from each other."""
    lines: list[list[tuple[float, str]]] = []
    taken: list[float] = []
    for mark in sorted(drawing.plot.marks, key=lambda mark: mark.at):
        start = _fraction(drawing.y, mark.at) * 250
        row = next((i for i, end in enumerate(taken) if end <= start), len(taken))
        if row == len(taken):
            taken.append(0.0)
            lines.append([])
        taken[row] = start + CHARACTER * len(str(mark.label)) + 8
        lines[row].append((mark.at, str(mark.label)))
    return lines


def _bound_labels(drawing: Drawing) -> list[Spec]:
    if drawing.turned:
        found = []
        for row, labels in enumerate(stacked(drawing)):
            for at, label in labels:
                align = "right" if _fraction(drawing.y, at) > 0.6 else "left"
                mark = {"type": "text", "align": align, "baseline": "bottom"}
                found.append((at, label, {**mark, "dy": -4 - ABOVE * row}, {"y": {"value": 0}}))
    else:
        found = [
            (at, label, {"type": "text", "align": "right", "baseline": "bottom" if above else "top", "dy": dy}, None)
            for at, label, above, dy in _beside(drawing)
        ]
    return [spec for each in found for spec in _bound_label(drawing, *each)]


def _beside(drawing: Drawing) -> list[tuple[float, str, bool, int]]:
    """The labels of upright lines: above theirs, below where there is no room."""
    tall, found, last = height(drawing), [], -100.0
    for mark in sorted(drawing.plot.marks, key=lambda mark: -mark.at):
        top = (1 - _fraction(drawing.y, mark.at)) * tall
        above = top >= 14 and top - last >= 16
        found.append((mark.at, str(mark.label), above, -3 if above else 4))
        last = top if above else top + 16
    return found


def _bound_label(drawing: Drawing, at: float, label: str, mark: Spec, place: Spec | None) -> list[Spec]:
    where = drawing.across({"y": drawing.measured("at")}) | (place or {"x": {"value": "width"}})
    data = {"values": [{"at": rounded(at), "label": label}]}
    encoding = {**where, "text": {"field": "label"}}
    return [{"data": data, "mark": {**mark, "style": style}, "encoding": encoding} for style in ("label-halo", "label")]
