"""Which depths the output is made of, beside how many paths there are of each."""

from __future__ import annotations

import json

from termwise.report.charts import (
    AT_THIS_RECORD,
    Figure,
    Panel,
    Spec,
    complete,
    depth_ticks,
    equal,
    lit,
    target,
    tooltip,
    y_axis,
)
from termwise.report.figures.common import Row, behind, names, rows
from termwise.report.intervals import MANY
from termwise.report.reading import Run
from termwise.report.strings import clauses, fixed, integer, listing, number, percent, say
from termwise.report.tables import Tables, rounded

# Of the share axis: a constant's bar is cut here, so that its number fits above it; by depth the bars are neighbours,
# and their numbers stand upright.
CUT, CUT_BY_DEPTH = 0.92, 0.84


def build(run: Run, tables: Tables) -> Figure:
    """Which depths the output is made of at one record. Reads `spectrum` (norm_share) and `paths`."""
    ceiling, clipped = _ceiling(tables)
    panels = []
    for index, network in enumerate(run.summary.networks):
        words = alternative(run, tables, index)
        spec = _spec(tables, index, ceiling)
        counts = [int(paths) for paths in (row["paths"] for row in rows(tables.paths, network=index))]
        told = say("panel.paths.one") if sum(counts) == 1 else say("panel.paths.count", paths=integer(sum(counts)))
        key = "panel.paths" if network.shortest < network.longest else "panel.paths.same"
        detail = say(key, count=told, shortest=network.shortest, longest=network.longest)
        top = complete(spec, words, at=len(tables.axis.steps) - 1, keys=["depth"])
        panels.append(Panel(network.name, detail, words, top))
    constant = "key.constant.off" if clipped else "key.constant"
    key = [("input", say("key.input")), ("constant", say(constant)), ("paths", say("key.paths"))]
    return Figure(
        "spectrum",
        title(run, tables),
        say("spectrum.read"),
        panels,
        key,
        behind("spectrum", ["network", "step", "origin", "depth", "norm_share", "norm_share_low", "norm_share_high"]),
        slider=True,
    )


def title(run: Run, tables: Tables) -> str:
    """Where the middle 80 % of the input-born norm lies at the last record."""
    ranges, ends = [], []
    for index, name in enumerate(names(run)):
        last = rows(tables.steps, network=index)[-1]
        low, high = last["depth_p10"], last["depth_p90"]
        ends += [end for end in (low, high) if end is not None]
        key = "spectrum.range.one" if low == high else "spectrum.range"
        ranges.append(say(key, low=fixed(low, 0), high=fixed(high, 0), network=name))
    if all(network.shortest == network.longest for network in run.summary.networks):
        return say("spectrum.title.plain", networks=listing(names(run)))
    if len(ranges) > MANY:
        return say("spectrum.title.many", low=fixed(min(ends), 0), high=fixed(max(ends), 0), count=len(ranges))
    return say("spectrum.title", ranges=clauses(ranges))


def alternative(run: Run, tables: Tables, index: int) -> str:
    """In words: the spectrum of one network at its last record."""
    step = rows(tables.steps, network=index)[-1]["step"]
    terms = rows(tables.spectrum, network=index, step=step, origin="input")
    paths = rows(tables.paths, network=index)
    most = max(terms, key=lambda row: row["norm_share"] or 0.0)
    mode = max(paths, key=lambda row: row["path_share"])
    return say(
        "spectrum.alt",
        network=names(run)[index],
        step=say("control.step.value", step=integer(step)),
        count=len(terms),
        shortest=terms[0]["depth"],
        longest=terms[-1]["depth"],
        share=percent(most["norm_share"]),
        depth=most["depth"],
        paths=percent(mode["path_share"]),
        mode=mode["depth"],
        constants=_constants(rows(tables.spectrum, network=index, step=step, origin="constant")),
    ).strip()


def _constants(found: list[Row]) -> str:
    total = sum(row["norm_share"] or 0.0 for row in found)
    return say("spectrum.alt.constants", share=number(total)) if found else ""


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


def _spec(tables: Tables, index: int, ceiling: float) -> Spec:
    low, high = tables.depths
    apart = _apart(tables)
    # By depth, a constant's bar stands right of the input-born one of the same depth.
    born, beside = ((-0.42, 0.06), (0.1, 0.42)) if tables.constants_by_depth else ((-0.36, 0.36), (-0.36, 0.36))
    x = _depth_x(low, high, apart)
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
                target("depth", x, _tips()),
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
    layers.append(lit("depth", "x", x, tables))
    own = [equal(network=index), {"filter": AT_THIS_RECORD}]
    return {"width": "fill", "height": 230, "data": {"name": "spectrum"}, "transform": own, "layer": layers}


def _apart(tables: Tables) -> dict[str, int]:
    """Where the parts without a depth stand, right of the deepest term: constants when pooled, what was frozen."""
    low, high = tables.depths
    rows = set(zip(tables.spectrum["origin"], tables.spectrum["depth"], strict=True))
    found = [origin for origin in ("constant", "frozen") if (origin, None) in rows]
    return {origin: high + (i + 1) * max(3, (high - low) // 12) for i, origin in enumerate(found)}


def _depth_x(low: int, high: int, apart: dict[str, int]) -> Spec:
    labels = (f"datum.value == {at} ? {json.dumps(say(f'spectrum.{origin}'))} : " for origin, at in apart.items())
    ticks = [*depth_ticks(low, high), *apart.values()]
    label = f"{''.join(labels)}datum.label"
    axis = {"values": ticks, "labelExpr": label, "grid": False, "title": say("depth.axis"), "format": "d"}
    end = max(apart.values()) + 0.9 if apart else high + 0.7
    scale = {"domain": [low - 0.7, end], "nice": False, "zero": False}
    return {"type": "quantitative", "scale": scale, "axis": axis}


def _bars(x: Spec, y: Spec) -> Spec:
    top, bottom = {**y, "field": "norm_share"}, {"datum": 0}
    return {"x": {**x, "field": "x0"}, "x2": {"field": "x1"}, "y": top, "y2": bottom, "tooltip": _tips()}


def _tips() -> list[Spec]:
    shares = ((name, name, ".4f") for name in ("norm_share", "norm_share_low", "norm_share_high"))
    return tooltip(("depth", "depth", "d"), *shares)


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
