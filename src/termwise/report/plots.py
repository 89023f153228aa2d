"""From a chart, which is data only, to a figure of the page: specifications, key, text alternatives, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from termwise.charts import Chart, Plot
from termwise.report.alternatives import alternative
from termwise.report.charts import Figure, Panel, Shown, Spec, complete
from termwise.report.layers import Drawing, gutter, heading, height, layers, wrapped
from termwise.report.markup import slug
from termwise.report.results import Row, Study, plain, shown
from termwise.report.scales import all_ends, known
from termwise.report.strings import number, say, signed
from termwise.report.tables import Columns, rounded

STOPS = 6  # of a ramp, and the number of colours for categories
DEGREES = 7  # that have a colour of their own
Orders = Mapping[str, list[Any]]


@dataclass
class Embedded:
    """The tables that the page carries, each once, and the ids of their columns.

    Attributes:
        tables: by id, columns by id.
        headings: of each column id, for readers.
        names: of each column id, for the first line of a download.
    """

    tables: dict[str, Columns] = field(default_factory=dict)
    headings: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def add(self, rows: Sequence[Row]) -> tuple[str, dict[str, str]]:
        """Take a table in; returns its id, and those of its columns."""
        columns = list(rows[0]) if rows else []
        ids = {name: f"c{len(self.names) + i}" for i, name in enumerate(columns)}
        table = f"t{len(self.tables)}"
        self.tables[table] = {ids[name]: [_embeddable(row[name]) for row in rows] for name in columns}
        self.headings |= {ids[name]: heading(name, columns) for name in columns}
        self.names |= {ids[name]: name for name in columns}
        return table, ids


def _embeddable(value: Any) -> Any:
    """JSON has no infinite numbers."""
    return str(value) if value in (float("inf"), float("-inf")) else rounded(value)


def figures(study: Study, embedded: Embedded) -> list[Figure]:
    """The figures of an experiment; the tables that they read are taken in."""
    read = dict.fromkeys(plot.table for chart in study.result.charts for plot in chart.plots)
    places = {name: embedded.add(study.tables[name]) for name in read}
    orders = _orders(study)
    return [_figure(study, chart, places, orders) for chart in study.result.charts]


def _orders(study: Study) -> Orders:
    """Of each column that tells series apart, all that it tells apart: a name has one colour in all charts."""
    orders: dict[str, list[Any]] = {}
    for chart in study.result.charts:
        for plot in chart.plots:
            if plot.series is not None:
                orders.setdefault(plot.series, []).extend(_series(plot, shown(plot, study.tables[plot.table])))
    return {name: _sorted(dict.fromkeys(values)) for name, values in orders.items()}


def _series(plot: Plot, rows: Sequence[Row]) -> list[Any]:
    if plot.series is None:
        return []
    return _sorted(dict.fromkeys(row[plot.series] for row in rows if row[plot.series] is not None))


def _sorted(values: Mapping[Any, None]) -> list[Any]:
    """Numbers from the least on, names as they come."""
    return [*values] if any(isinstance(value, str) for value in values) else sorted(values)


def _figure(study: Study, chart: Chart, places: Mapping[str, tuple[str, dict[str, str]]], orders: Orders) -> Figure:
    pairs = list(zip(chart.plots, all_ends(chart, study.tables), strict=True))
    wide = max(gutter(plot, ends["x"], ends["y"]) for plot, ends in pairs)
    panels: list[Panel] = []
    key: dict[tuple[str, str], tuple[str, str]] = {}  # by words and colour: a line and a dot of it are told once
    for plot, ends in pairs:
        rows = shown(plot, study.tables[plot.table])
        series = _series(plot, rows)
        palette = _palette(plot, orders[plot.series]) if plot.series is not None else {"domain": [""]}
        tones = _tones(chart, plot, study)
        table, ids = places[plot.table]
        drawing = Drawing(plot, ids, rows, ends["x"], ends["y"], palette, series, wide, tones)
        panels.append(_panel(drawing, table))
        for words, style in _key(plot, series, palette, tones):
            key.setdefault((words, style.partition(" ")[2]), (style, words))
    return Figure(
        slug(f"{study.result.name}-{chart.name}"),
        str(chart.title),
        str(chart.reading),
        panels,
        [*key.values()],
        shown=_shown(chart, places),
    )


def _shown(chart: Chart, places: Mapping[str, tuple[str, dict[str, str]]]) -> tuple[Shown, ...]:
    """The tables behind a chart, with those rows that one of its panels shows."""
    found = []
    for name in dict.fromkeys(plot.table for plot in chart.plots):
        table, ids = places[name]
        where = [
            {ids[column]: rounded(plain(value)) for column, value in plot.where.items()}
            for plot in chart.plots
            if plot.table == name
        ]
        found.append(Shown(table, list(ids.values()), tuple(where), name))
    return tuple(found)


def _panel(drawing: Drawing, table: str) -> Panel:
    plot = drawing.plot
    words = alternative(plot, drawing.rows, drawing.x, drawing.y)
    where = [
        {"filter": {"field": drawing.ids[column], "equal": rounded(plain(value))}}
        for column, value in plot.where.items()
    ]
    data: Spec = {"data": {"name": table}, "transform": where}
    spec: Spec = {"width": "fill", "height": height(drawing), **data, "layer": layers(drawing)}
    names = [name for ends in (drawing.x, drawing.y) if ends.names for name in ends.domain]
    spec["params"] = [
        {"name": "names", "value": names},
        {"name": "wrapped", "value": [wrapped(name) for name in names]},
    ]
    cut = say("plot.cut") if drawing.y.cut else ""
    title = "" if plot.heading is None else str(plot.heading)
    return Panel(title, cut, words, {**complete(spec, words), "usermeta": {"gutter": drawing.gutter}})


# Colours.


def _palette(plot: Plot, order: list[Any]) -> Spec:
    """A scale from series to colours, by the names that the style sheet gives these."""
    if plot.colours == "category":
        return {"domain": order, "range": [f"network-{i % STOPS}" for i in range(len(order))]}
    if plot.colours == "degree" and all(isinstance(value, int) and 0 <= value < DEGREES for value in order):
        return {"domain": order, "range": [f"degree-{value}" for value in order]}
    if len(order) > STOPS:
        return {"domain": order, "range": {"ramp": plot.colours, "count": len(order)}}
    return {"domain": order, "range": [f"{plot.colours}-{stop}" for stop in _spread(len(order))]}


def _spread(count: int) -> list[int]:
    """So many stops of a ramp, as far from each other as may be."""
    return [STOPS - 2] if count == 1 else [round(i * (STOPS - 1) / (count - 1)) for i in range(count)]


def _tones(chart: Chart, plot: Plot, study: Study) -> Spec:
    """A scale from what tiles show to colours, the same in all panels; of two signs, with zero in its middle."""
    alike = [each for each in chart.plots if each.value is not None and each.value == plot.value]
    values = known(row[each.value] for each in alike for row in shown(each, study.tables[each.table]) if each.value)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low < 0 < high:
        low, high = -max(-low, high), max(-low, high)
    elif low == high:
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    ramp = "split" if low < 0 < high else "ramp"
    ends = [rounded(low + i * (high - low) / 4) for i in range(5)]
    return {"type": "linear", "domain": ends, "range": [f"{ramp}-{i}" for i in range(5)], "interpolate": "rgb"}


def _key(plot: Plot, series: list[Any], palette: Spec, tones: Spec) -> list[tuple[str, str]]:
    """What the colours mean: words, and the style of the sample beside them."""
    if plot.kind == "tiles":
        assert plot.value is not None
        low, high = (signed(number(float(tones["domain"][i]))) for i in (0, -1))
        ramp = tones["range"][0].rpartition("-")[0]
        return [(say("plot.key.tones", value=heading(plot.value, []), low=low, high=high), f"ramp {ramp}")]
    if plot.series is None or not series:
        return []
    name = heading(plot.series, [])
    if isinstance(palette["range"], dict):
        words = say("plot.key.tones", value=name, low=_named(series[0]), high=_named(series[-1]))
        return [(words, f"ramp {palette['range']['ramp']}")]
    shape = {"lines": "line", "points": "dot", "bars": "bar"}[plot.kind]
    colours = dict(zip(palette["domain"], palette["range"], strict=True))
    found = []
    for value in series:
        dashed = plot.kind == "lines" and plot.colours == "category" and palette["domain"].index(value) % 12 >= 6
        words = value if isinstance(value, str) else say("plot.key.number", name=name, value=_named(value))
        found.append((words, f"{'dashes' if dashed else shape} {colours[value]}"))
    return found


def _named(value: Any) -> str:
    return value if isinstance(value, str) else signed(f"{value:,}" if isinstance(value, int) else number(value))
