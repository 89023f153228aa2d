"""The figures, as Vega-Lite specifications without colours and without data.

A mark names a style (`input`, `constant`, `paths`, `head`, ...); the page's theme gives styles their colours:
light, dark or printed. A view names a data source (`steps`, `spectrum`, `paths`); the page fills it with the
embedded table when it draws. `"width": "fill"` stands for the width of the panel. Every panel of a
figure has the same scales.

Each builder's docstring says what the figure diagnoses and which table it reads.
"""

from __future__ import annotations

import json

from termwise.report import findings
from termwise.report.charts import (
    AT_THIS_RECORD,
    Figure,
    Panel,
    Shown,
    Spec,
    complete,
    depth_ticks,
    equal,
    gap,
    step_x,
    tooltip,
    y_axis,
)
from termwise.report.reading import MEAN_DEGREE, Columns, Run
from termwise.report.strings import integer, number, say
from termwise.report.tables import Tables, rounded

# Of the share axis: a constant's bar is cut here, so that its number fits above it; by depth the bars are neighbours,
# and their numbers stand upright.
CUT, CUT_BY_DEPTH = 0.92, 0.84


def build_figures(run: Run, tables: Tables) -> list[Figure]:
    """The page's figures, in its order."""
    by_depth = [spectrum(run, tables), heat_map(run, tables), truncated(run, tables), mean_depth(run, tables)]
    return by_depth if tables.degrees is None else [*by_depth, degrees(run, tables, tables.degrees)]


def spectrum(run: Run, tables: Tables) -> Figure:
    """Which depths the output is made of at one record. Reads `spectrum` (norm_share) and `paths`."""
    ceiling, clipped = _ceiling(tables)
    panels = []
    for index, network in enumerate(run.summary.networks):
        alternative = findings.spectrum_alternative(run, tables, index)
        spec = _spectrum_spec(tables, index, ceiling)
        counts = [int(paths) for paths in (row["paths"] for row in findings.rows(tables.paths, network=index))]
        words = say("panel.paths.one") if sum(counts) == 1 else say("panel.paths.count", paths=integer(sum(counts)))
        key = "panel.paths" if network.shortest < network.longest else "panel.paths.same"
        detail = say(key, count=words, shortest=network.shortest, longest=network.longest)
        top = complete(spec, alternative, at=len(tables.axis.steps) - 1, slug="spectrum")
        panels.append(Panel(network.name, detail, alternative, top))
    constant = "key.constant.off" if clipped else "key.constant"
    key = [("input", say("key.input")), ("constant", say(constant)), ("paths", say("key.paths"))]
    return Figure(
        "spectrum",
        findings.spectrum_title(run, tables),
        say("spectrum.read"),
        panels,
        key,
        _shown("spectrum", ["network", "step", "origin", "depth", "norm_share", "norm_share_low", "norm_share_high"]),
        slider=True,
    )


def _shown(source: str, columns: list[str], **where: str) -> tuple[Shown, ...]:
    """The one table behind a figure; `where` names the rows, where the table holds more than the figure."""
    return (Shown(source, columns, (where,)),)


def _ceiling(tables: Tables) -> tuple[float, bool]:
    """The top of the share axis over all records and networks; whether it cuts off a constant's bar."""
    born: dict[str, list[float]] = {"input": list(tables.paths["path_share"]), "constant": [0.0]}
    columns = (tables.spectrum[name] for name in ("origin", "norm_share", "norm_share_high"))
    for origin, share, high in zip(*columns, strict=True):
        if origin == "input":
            born["input"].append(max(share or 0.0, high or 0.0))
        else:
            born["constant"].append(share or 0.0)
    terms, constants = max(born["input"]), max(born["constant"])
    # One large constant must not flatten the terms: beyond this its bar is cut and its value written.
    top = min(max(terms, constants), 1.25 * terms) or 1.0
    return 1.12 * top, constants > _cut(tables) * 1.12 * top


def _cut(tables: Tables) -> float:
    return CUT_BY_DEPTH if tables.constants_by_depth else CUT


def _spectrum_spec(tables: Tables, index: int, ceiling: float) -> Spec:
    low, high = tables.depths
    apart = _apart(tables)
    # By depth, a constant's bar stands right of the input-born one of the same depth.
    born, beside = ((-0.42, 0.06), (0.1, 0.42)) if tables.constants_by_depth else ((-0.36, 0.36), (-0.36, 0.36))
    x = _spectrum_x(low, high, apart)
    y = {
        "type": "quantitative",
        "scale": {"domain": [0, rounded(ceiling)], "nice": False},
        "axis": y_axis(say("spectrum.axis"), tickCount=4),
    }
    whisker = {
        "x": {**x, "field": "xc"},
        "y": {**y, "field": "norm_share_low"},
        "y2": {"field": "norm_share_high"},
    }
    layers: list[Spec] = [
        _paths_layer(index, x, y),
        {
            "transform": [equal(origin="input"), *_edges("datum.depth", *born)],
            "layer": [
                {"mark": {"type": "rect", "style": "input"}, "encoding": _bars(x, y)},
                {"mark": {"type": "rule", "style": "whisker"}, "encoding": whisker},
            ],
        },
    ]
    if set(tables.spectrum["origin"]) - {"input"}:
        pooled = "".join(f"datum.origin == '{origin}' ? {place} : " for origin, place in apart.items())
        place = f"isValid(datum.depth) ? datum.depth : {pooled}0"
        edges = _edges(place, *beside)
        layers.append(_constants_layer(x, y, _cut(tables) * ceiling, edges, upright=tables.constants_by_depth))
    own = [equal(network=index), {"filter": AT_THIS_RECORD}]
    return {"width": "fill", "height": 230, "data": {"name": "spectrum"}, "transform": own, "layer": layers}


def _apart(tables: Tables) -> dict[str, int]:
    """Where the parts without a depth stand, right of the deepest term: constants when pooled, what was frozen."""
    low, high = tables.depths
    rows = set(zip(tables.spectrum["origin"], tables.spectrum["depth"], strict=True))
    found = [origin for origin in ("constant", "frozen") if (origin, None) in rows]
    return {origin: high + (i + 1) * max(3, (high - low) // 12) for i, origin in enumerate(found)}


def _spectrum_x(low: int, high: int, apart: dict[str, int]) -> Spec:
    names = (f"datum.value == {at} ? {json.dumps(say(f'spectrum.{origin}'))} : " for origin, at in apart.items())
    ticks = [*depth_ticks(low, high), *apart.values()]
    label = f"{''.join(names)}datum.label"
    axis = {"values": ticks, "labelExpr": label, "grid": False, "title": say("depth.axis"), "format": "d"}
    end = max(apart.values()) + 0.9 if apart else high + 0.7
    scale = {"domain": [low - 0.7, end], "nice": False, "zero": False}
    return {"type": "quantitative", "scale": scale, "axis": axis}


def _bars(x: Spec, y: Spec) -> Spec:
    numbers = (("norm_share", "norm_share", ".4f"), ("norm_share_low", "norm_share_low", ".4f"))
    tips = tooltip(("depth", "depth", "d"), *numbers, ("norm_share_high", "norm_share_high", ".4f"))
    top, bottom = {**y, "field": "norm_share"}, {"datum": 0}
    return {"x": {**x, "field": "x0"}, "x2": {"field": "x1"}, "y": top, "y2": bottom, "tooltip": tips}


def _paths_layer(index: int, x: Spec, y: Spec) -> Spec:
    return {
        "data": {"name": "paths"},
        "transform": [equal(network=index)],
        "mark": {"type": "area", "style": "paths", "line": {"style": "paths-line"}},
        "encoding": {"x": {**x, "field": "depth"}, "y": {**y, "field": "path_share"}},
    }


def _constants_layer(x: Spec, y: Spec, most: float, edges: list[Spec], *, upright: bool) -> Spec:
    """Bars of the constants and of what was frozen; a number is written over those without a depth and those cut."""
    arrow = "→" if upright else "↑"  # it turns with the text
    words = f"format(datum.norm_share, '.2f') + (datum.height < datum.norm_share ? ' {arrow}' : '')"
    turned = {"angle": 270, "align": "left", "baseline": "middle", "dx": 4} if upright else {"dy": -7}
    transforms = [*edges, {"calculate": f"min(datum.norm_share, {most})", "as": "height"}]
    written = [
        {"filter": "datum.height < datum.norm_share || !isValid(datum.depth)"},
        {"calculate": words, "as": "words"},
    ]
    top = {**y, "field": "height"}
    value = {"x": {**x, "field": "xc"}, "y": top, "text": {"field": "words"}}
    return {
        "transform": [{"filter": {"not": equal(origin="input")["filter"]}}, *transforms],
        "layer": [
            {"mark": {"type": "rect", "style": "constant"}, "encoding": {**_bars(x, y), "y": top}},
            {"transform": written, "mark": {"type": "text", "style": "value", **turned}, "encoding": value},
        ],
    }


def _edges(place: str, left: float, right: float) -> list[Spec]:
    """The horizontal extent of a bar around its depth, and its middle."""
    return [
        {"calculate": f"({place}) + ({left})", "as": "x0"},
        {"calculate": f"({place}) + ({right})", "as": "x1"},
        {"calculate": "(datum.x0 + datum.x1) / 2", "as": "xc"},
    ]


def heat_map(run: Run, tables: Tables) -> Figure:
    """When which depths carry the output. Reads `spectrum` (norm_share) and `steps` (loss, quantiles)."""
    shares = zip(tables.spectrum["origin"], tables.spectrum["norm_share"], strict=True)
    most = max([share or 0.0 for origin, share in shares if origin == "input"] or [1.0])
    losses = [loss for loss in tables.steps["loss"] if loss is not None] or [1.0]
    panels = []
    for index, network in enumerate(run.summary.networks):
        alternative = findings.heat_alternative(run, tables, index)
        views = [_loss_view(tables, index, max(losses)), _heat_view(tables, index, most)]
        spec = {
            "vconcat": views,
            "spacing": 34,
            "bounds": "flush",
            "resolve": {"scale": {"x": "independent"}},
        }
        panels.append(Panel(network.name, "", alternative, complete(spec, alternative)))
    key = [("ramp", say("heat.ramp", most=number(most, 2))), ("median", say("key.median"))]
    key.append(("quantile", say("key.quantiles")))
    columns = ["network", "step", "depth", "norm_share", "norm_share_low", "norm_share_high"]
    title = findings.heat_title(run, tables)
    return Figure("heat", title, say("heat.read"), panels, key, _shown("spectrum", columns, origin="input"))


def _loss_view(tables: Tables, index: int, most: float) -> Spec:
    scale = {"domain": [0, rounded(1.05 * most)], "nice": False}
    y = {
        "field": "loss",
        "type": "quantitative",
        "scale": scale,
        "axis": y_axis(say("heat.loss"), tickCount=3),
    }
    x = step_x(tables, labels=False)
    tip = tooltip(("step", "step", ",d"), ("loss", "loss", ".4f"), ("accuracy", "accuracy", ".3f"))
    line = {
        "transform": [equal(network=index)],
        "mark": {"type": "line", "style": "loss", "point": {"style": "loss-point"}},
        "encoding": {"x": {**x, "field": "at"}, "y": y, "tooltip": tip},
    }
    return {"width": "fill", "height": 64, "data": {"name": "steps"}, "layer": [*gap(tables), line]}


def _heat_view(tables: Tables, index: int, most: float) -> Spec:
    x = step_x(tables)
    low = min(v for v in tables.spectrum["bottom"] if v is not None)
    high = max(v for v in tables.spectrum["top"] if v is not None)
    axis = y_axis(say("heat.depth"), values=depth_ticks(*tables.depths), grid=False, format="d")
    y = {"type": "quantitative", "scale": {"domain": [low, high], "nice": False, "zero": False}, "axis": axis}
    tips = tooltip(("step", "step", ",d"), ("depth", "depth", "d"), ("norm_share", "norm_share", ".4f"))
    scale = {"domain": [0, rounded(most)]}
    cells = {
        "data": {"name": "spectrum"},
        "transform": [equal(network=index), equal(origin="input")],
        "mark": {"type": "rect", "style": "cell"},
        "encoding": {
            "x": {**x, "field": "left"},
            "x2": {"field": "right"},
            "y": {**y, "field": "bottom"},
            "y2": {"field": "top"},
            "color": {"field": "norm_share", "type": "quantitative", "legend": None, "scale": scale},
            "tooltip": tips,
        },
    }
    lines = []
    for name, style in (("depth_p10", "quantile"), ("depth_p90", "quantile"), ("depth_p50", "median")):
        encoding = {"x": {**x, "field": "at"}, "y": {**y, "field": name}}
        lines += [{"mark": {"type": "line", "style": look}, "encoding": encoding} for look in ("halo", style)]
    over = {"data": {"name": "steps"}, "transform": [equal(network=index)], "layer": lines}
    return {"width": "fill", "height": 280, "layer": [cells, over]}


def truncated(run: Run, tables: Tables) -> Figure:
    """What short and long paths can do by themselves. Reads `spectrum` (accuracies) and `steps`."""
    panels = []
    for index, network in enumerate(run.summary.networks):
        alternative = findings.truncated_alternative(run, tables, index)
        spec = _truncated_spec(tables, index, 1 / max(run.summary.data.classes, 1))
        top = complete(spec, alternative, at=len(tables.axis.steps) - 1, slug="truncated")
        panels.append(Panel(network.name, "", alternative, top))
    key = [(name, say(f"key.{name}")) for name in ("head", "tail", "alone", "full", "chance")]
    columns = [f"{part}_accuracy{end}" for part in ("head", "tail", "alone") for end in ("", "_low", "_high")]
    return Figure(
        "truncated",
        findings.truncated_title(run),
        say("truncated.read"),
        panels,
        key,
        _shown("spectrum", ["network", "step", "depth", *columns], origin="input"),
        slider=True,
    )


def _truncated_spec(tables: Tables, index: int, chance: float) -> Spec:
    low, high = tables.depths
    axis = {
        "values": depth_ticks(low, high),
        "grid": False,
        "title": say("truncated.axis.depth"),
        "format": "d",
    }
    scale = {"domain": [low - 0.5, high + 0.5], "nice": False, "zero": False}
    x = {"field": "depth", "type": "quantitative", "scale": scale, "axis": axis}
    y = {
        "type": "quantitative",
        "scale": {"domain": [0, 1], "nice": False},
        "axis": y_axis(say("truncated.axis"), values=[0, 0.2, 0.4, 0.6, 0.8, 1], format=".1f"),
    }
    parts = ("alone", "tail", "head")
    numbers = ((f"{part}_accuracy", f"{part}_accuracy", ".3f") for part in reversed(parts))
    tips = tooltip(("depth", "depth", "d"), *numbers)
    bands, lines = [], []
    for part in parts:
        ends = {"y": {**y, "field": f"{part}_accuracy_low"}, "y2": {"field": f"{part}_accuracy_high"}}
        bands.append({"mark": {"type": "area", "style": f"{part}-band"}, "encoding": {"x": x, **ends}})
        mark = {"type": "line", "style": part, "point": {"style": f"{part}-point"}}
        line = {"x": x, "y": {**y, "field": f"{part}_accuracy"}, "tooltip": tips}
        lines.append({"mark": mark, "encoding": line})
    own = [equal(network=index), {"filter": AT_THIS_RECORD}]
    guess = {"mark": {"type": "rule", "style": "chance"}, "encoding": {"y": {**y, "datum": rounded(chance)}}}
    whole = {"mark": {"type": "rule", "style": "full"}, "encoding": {"y": {**y, "field": "accuracy"}}}
    layers: list[Spec] = [
        {"data": {"values": [{}]}, **guess},
        {"data": {"name": "spectrum"}, "transform": [*own, equal(origin="input")], "layer": [*bands, *lines]},
        {"data": {"name": "steps"}, "transform": own, **whole},
    ]
    return {"width": "fill", "height": 250, "layer": layers}


def mean_depth(run: Run, tables: Tables) -> Figure:
    """Whether the mean path length falls or rises. Reads `steps` (mean_depth, mean_depth_constants)."""
    alternative = findings.mean_alternative(run, tables)
    measures = ["mean_depth", "mean_depth_low", "mean_depth_high", "mean_depth_constants"]
    columns = ["network", "step", "loss", "accuracy", "depth_p10", "depth_p50", "depth_p90", *measures]
    key = [(f"network-{i % 6}", name) for i, name in enumerate(findings.names(run))]
    if any(value is not None for value in tables.steps["mean_depth_constants"]):
        key.append(("dashed", say("key.constants.dashed")))
    spec = complete(_mean_spec(run, tables, measures), alternative)
    panels = [Panel("", "", alternative, spec)]
    return Figure("mean", findings.mean_title(run), say("mean.read"), panels, key, _shown("steps", columns))


def _mean_spec(run: Run, tables: Tables, measures: list[str]) -> Spec:
    values = [v for name in measures for v in tables.steps[name] if v is not None] or [0.0, 1.0]
    margin = max(0.08 * (max(values) - min(values)), 0.25)
    scale = {
        "domain": [rounded(min(values) - margin), rounded(max(values) + margin)],
        "nice": False,
        "zero": False,
    }
    y = {"type": "quantitative", "scale": scale, "axis": y_axis(say("mean.axis"), tickCount=5)}
    palette = {"domain": list(range(len(run.summary.networks)))}
    color: Spec = {"field": "network", "type": "nominal", "legend": None, "scale": palette}
    common = {"x": {**step_x(tables), "field": "at"}, "color": color}
    tips = tooltip(("step", "step", ",d"), *((name, name, ".3f") for name in measures))
    band = {**common, "y": {**y, "field": "mean_depth_low"}, "y2": {"field": "mean_depth_high"}}
    line = {**common, "y": {**y, "field": "mean_depth"}, "tooltip": tips}
    dashed = {**common, "y": {**y, "field": "mean_depth_constants"}}
    layers: list[Spec] = [
        *gap(tables),
        {"mark": {"type": "area", "style": "mean-band"}, "encoding": band},
        {"mark": {"type": "line", "style": "mean", "point": {"style": "mean-point"}}, "encoding": line},
        {"mark": {"type": "line", "style": "mean-constants"}, "encoding": dashed},
    ]
    return {"width": "fill", "height": 300, "data": {"name": "steps"}, "layer": layers}


def degrees(run: Run, tables: Tables, table: Columns) -> Figure:
    """Which degrees in the input are learned when. Reads `degrees` (share), whose rows `table` holds."""
    panels = []
    top = max([0.0, *(v for name in ("share", "share_high") for v in table[name] if v is not None)]) or 1.0
    for index, network in enumerate(run.summary.networks):
        alternative = findings.degrees_alternative(run, table, index)
        spec = complete(_degrees_spec(tables, index, min(top, 1.05)), alternative)
        panels.append(Panel(network.name, findings.degrees_detail(table, index), alternative, spec))
    labels = tables.degree_labels
    key = [(_degree_style(i, len(labels)), say("key.degree", degree=label)) for i, label in enumerate(labels)]
    columns = ["network", "step", "degree", "share", "share_low", "share_high", *MEAN_DEGREE, "warnings"]
    title, reading = findings.degrees_title(run, table), findings.degrees_reading(table)
    return Figure("degrees", title, reading, panels, key, _shown("degrees", columns))


def _degree_style(place: int, count: int) -> str:
    """One of the seven styles that a degree group is drawn in; more groups share them, in order."""
    return f"degree-{round(place * 6 / max(count - 1, 6))}"


def _degrees_spec(tables: Tables, index: int, top: float) -> Spec:
    # Small shares are what differs between networks: on the scale of square roots they can be seen, and 0 has a place.
    ticks = [tick for tick in (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1) if tick <= top]
    y = {
        "type": "quantitative",
        "scale": {"type": "sqrt", "domain": [0, rounded(top)], "nice": False, "clamp": True},
        "axis": y_axis(say("degrees.axis"), values=ticks, format="~%"),
    }
    x = {**step_x(tables), "field": "at"}
    shares = ((name, name, ".4f") for name in ("share", "share_low", "share_high"))
    text = {"field": "degree", "title": say("column.degree"), "type": "nominal"}
    tips = [text, *tooltip(("step", "step", ",d"), *shares)]
    labels = tables.degree_labels
    bands, lines = [], []
    for place, _ in enumerate(labels):
        own, style = [equal(order=place)], _degree_style(place, len(labels))
        ends = {"x": x, "y": {**y, "field": "share_low"}, "y2": {"field": "share_high"}}
        bands.append({"transform": own, "mark": {"type": "area", "style": f"{style}-band"}, "encoding": ends})
        mark = {"type": "line", "style": style, "point": {"style": f"{style}-point"}}
        line = {"x": x, "y": {**y, "field": "share"}, "tooltip": tips}
        lines.append({"transform": own, "mark": mark, "encoding": line})
        name = {"type": "text", "style": f"{style}-name", "align": "left", "baseline": "middle", "dx": 6}
        beside = {"x": x, "y": {**y, "field": "label_at"}, "text": {"field": "degree"}}
        at_end = [*own, {"filter": "isValid(datum.label_at)"}]
        lines.append({"transform": at_end, "mark": name, "encoding": beside})
    own = {"data": {"name": "degrees"}, "transform": [equal(network=index)], "layer": [*bands, *lines]}
    return {"width": "fill", "height": 280, "layer": [*gap(tables), own]}
