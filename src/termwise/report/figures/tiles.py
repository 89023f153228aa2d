"""Depth beside degree: how fast the terms of each depth vary over the inputs when the training is over.

What varies along a circle of inputs at frequency m is at least of degree m.  Terms get rougher with depth in any
network, because gates multiply; so the title is of what is beyond two comparators, gates of other inputs and the first
weights (`termwise.degree.tiles.DepthDegrees`).
"""

from __future__ import annotations

import json
from itertools import pairwise

from termwise.degree.tiles import beyond
from termwise.report.charts import Figure, Panel, Spec, column_name, complete, depth_ticks, equal, tooltip, y_axis
from termwise.report.figures.common import Row, behind, names, some, warnings
from termwise.report.reading import Run
from termwise.report.strings import clauses, fixed, percent, prose, say, signed
from termwise.report.tables import Tables, rounded
from termwise.report.titles import comparators

GAP, MARGIN = 0.25, 1.5  # between the tiles and the bars beside them, and these, in widths of a tile
ABOVE = 0.28  # the bars above, in heights of all tiles
COLUMNS = ["network", "depth", "frequency", "joint", "share", "weight", "weight_low", "weight_high"]


def build(run: Run, tables: Tables) -> Figure | None:
    """Whether deep terms are rough terms. Reads `tiles` and `trends`; None where degrees were not recorded."""
    found = [_terms(tables, index) for index in range(len(run.summary.networks))]
    if not any(found):
        return None
    embedded = tables.finished.embedded()["tiles"]
    bands = dict(zip(embedded["band"], embedded["frequency"], strict=True))
    most = max(row["weight"] * row["share"] for own in found for row in own)
    panels = []
    for index, (network, own) in enumerate(zip(run.summary.networks, found, strict=True)):
        if own:
            words = alternative(network.name, own)
            panels.append(
                Panel(network.name, detail(tables, index), words, complete(_spec(index, own, bands, most), words))
            )
    key = [
        ("ramp tile", say("key.tiles", most=percent(most).replace(" ", "\u00a0"))),
        ("bar tile-3", say("key.tiles.margin")),
    ]
    shown = behind("tiles", COLUMNS, comparator="own", part="input")
    return Figure("tiles", title(run, tables), reading(tables), panels, key, shown)


def _terms(tables: Tables, index: int) -> list[Row]:
    """The rows of one network's own terms that vary at all."""
    rows = tables.finished.of("tiles", network=index, comparator="own", part="input")
    return [row for row in rows if None not in (row["weight"], row["share"])]


def title(run: Run, tables: Tables) -> str:
    """Whether deeper terms of each network are rougher than the comparators that all networks have make them."""
    known: dict[str, dict[str, Row]] = {}
    for index, name in enumerate(names(run)):
        trends = [row for row in tables.finished.of("trends", network=index) if row["excess"] is not None]
        if trends:
            known[name] = {row["comparator"]: row for row in trends}
    common = [each for each in next(iter(known.values()), {}) if all(each in own for own in known.values())]
    if not common:
        return say("tiles.title.none")
    kinds: dict[str, list[str]] = {}
    for name, own in known.items():
        kinds.setdefault(beyond([own[each] for each in common]), []).append(name)
    said = clauses([say(f"tiles.clause.{kind}", networks=some(found)) for kind, found in kinds.items()])
    return say("tiles.title", comparators=comparators(common), clauses=said)


def detail(tables: Tables, index: int) -> str:
    """The excess over each comparator, in points a step."""
    told = []
    for row in tables.finished.of("trends", network=index):
        key = f"tiles.over.{row['comparator']}" if row["comparator"] in ("shuffled", "initial") else "tiles.over.other"
        if row["excess"] is not None:
            ends = {end: signed(fixed(100 * row[name], 2)) for end, name in _ENDS.items() if row[name] is not None}
            if len(ends) == len(_ENDS):
                told.append(say("tiles.excess", **ends, over=say(key, comparator=row["comparator"])))
    return say("tiles.detail", excesses=clauses(told)) if told else ""


_ENDS = {"value": "excess", "low": "excess_low", "high": "excess_high"}


def reading(tables: Tables) -> str:
    """How to read the figure, and of what the estimator warned."""
    kinds = dict.fromkeys(k for row in tables.finished.of("trends") for k in row["warnings"].split(", ") if k)
    told = say("tiles.warned", kinds=warnings(kinds)) if kinds else ""
    return prose(say("tiles.read"), told)


def alternative(network: str, own: list[Row]) -> str:
    """In words: the heaviest terms, and how much of them is at the lowest frequencies."""
    first = [row for row in own if row["lowest"] == own[0]["lowest"]]
    heavy = sorted(sorted(first, key=lambda row: -row["weight"])[:3], key=lambda row: row["depth"])
    told = [
        say("tiles.alt.term", depth=row["depth"], weight=percent(row["weight"]), share=percent(row["share"]))
        for row in heavy
    ]
    return say("tiles.alt", network=network, terms=clauses(told))


def _spec(index: int, own: list[Row], bands: dict[int, str], most: float) -> Spec:
    depths = sorted({row["depth"] for row in own})
    between = min((b - a for a, b in pairwise(depths)), default=1)
    low, high, count = depths[0] - between / 2, depths[-1] + between / 2, len(bands)
    height = high - low
    x = {
        "type": "quantitative",
        "scale": {"domain": [0, count + GAP + MARGIN], "nice": False},
        "axis": _bands_axis(bands),
    }
    ticks = depths if len(depths) <= 12 else depth_ticks(depths[0], depths[-1])
    axis = y_axis(say("heat.depth"), values=ticks, grid=False, format="d")
    domain = [low, high + (0.06 + ABOVE) * height]
    y = {"type": "quantitative", "scale": {"domain": [rounded(v) for v in domain], "nice": False, "zero": False}}
    y["axis"] = axis
    terms = [equal(network=index), equal(comparator="own"), equal(part="input"), {"filter": "isValid(datum.joint)"}]
    layers = [_cells(x, y, between, most), *_right(x, y, own, between, count), _above(x, y, own, high, height)]
    return {"width": "fill", "height": 270, "data": {"name": "tiles"}, "transform": terms, "layer": layers}


def _bands_axis(bands: dict[int, str]) -> Spec:
    """The name of each band in the middle below its tiles."""
    words = "".join(f"datum.value == {band + 0.5} ? {json.dumps(name)} : " for band, name in bands.items())
    values = [band + 0.5 for band in bands]
    return {
        **{"values": values, "labelExpr": f"{words}''", "grid": False, "domain": False, "ticks": False},
        **{"title": say("tiles.axis.frequency"), "titleAnchor": "start"},
    }


def _cells(x: Spec, y: Spec, between: float, most: float) -> Spec:
    numbers = [(name, name, ".4f") for name in ("joint", "share", "weight")]
    frequency = {"field": "frequency", "title": column_name("frequency"), "type": "nominal"}
    tips = [*tooltip(("depth", "depth", "d")), frequency, *tooltip(*numbers)]
    scale = {"domain": [0, rounded(most)], "range": [f"tile-{i}" for i in range(5)]}
    edges = {"x0": "datum.band + 0.02", "x1": "datum.band + 0.98"}
    edges |= {"y0": f"datum.depth - {0.48 * between}", "y1": f"datum.depth + {0.48 * between}"}
    return {
        "transform": [{"calculate": place, "as": name} for name, place in edges.items()],
        "mark": {"type": "rect", "style": "cell"},
        "encoding": {
            **_box(x, y),
            "color": {"field": "joint", "type": "quantitative", "legend": None, "scale": scale},
            "tooltip": tips,
        },
    }


def _box(x: Spec, y: Spec) -> Spec:
    return {"x": {**x, "field": "x0"}, "x2": {"field": "x1"}, "y": {**y, "field": "y0"}, "y2": {"field": "y1"}}


def _right(x: Spec, y: Spec, own: list[Row], between: float, count: int) -> list[Spec]:
    """How much of the energy each depth has: a bar right of its tiles, with its interval."""
    most = max(max(row["weight"], row["weight_high"] or 0.0) for row in own)
    scale, start = MARGIN / most, count + GAP
    edges = {"x0": str(start), "x1": f"{start} + {scale} * datum.weight"}
    edges |= {"y0": f"datum.depth - {0.36 * between}", "y1": f"datum.depth + {0.36 * between}"}
    edges |= {"w0": f"{start} + {scale} * datum.weight_low", "w1": f"{start} + {scale} * datum.weight_high"}
    once = [equal(band=0), *({"calculate": place, "as": name} for name, place in edges.items())]
    ends = {"x": {**x, "field": "w0"}, "x2": {"field": "w1"}, "y": {**y, "field": "depth"}}
    tips = tooltip(("depth", "depth", "d"), *((name, name, ".4f") for name in ("weight", "weight_low", "weight_high")))
    bar = {"mark": {"type": "rect", "style": "tile-bar"}, "encoding": {**_box(x, y), "tooltip": tips}}
    return [{"transform": once, "layer": [bar, {"mark": {"type": "rule", "style": "whisker"}, "encoding": ends}]}]


def _above(x: Spec, y: Spec, own: list[Row], high: float, height: float) -> Spec:
    """How much of the energy each band has, over all terms: a bar above its tiles."""
    sums: dict[int, float] = {}
    for row in own:
        sums[row["lowest"]] = sums.get(row["lowest"], 0.0) + row["weight"] * row["share"]
    start, scale = high + 0.06 * height, ABOVE * height / max(sums.values())
    edges = {"x0": "datum.band + 0.14", "x1": "datum.band + 0.86"}
    edges |= {"y0": str(rounded(start)), "y1": f"{start} + {scale} * datum.total"}
    total = {"aggregate": [{"op": "sum", "field": "joint", "as": "total"}], "groupby": ["band", "frequency"]}
    frequency = {"field": "frequency", "title": column_name("frequency"), "type": "nominal"}
    return {
        "transform": [total, *({"calculate": place, "as": name} for name, place in edges.items())],
        "mark": {"type": "rect", "style": "tile-bar"},
        "encoding": {**_box(x, y), "tooltip": [frequency, *tooltip(("total", "joint", ".4f"))]},
    }
