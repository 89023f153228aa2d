"""The mean path length over training, all networks in one plot."""

from __future__ import annotations

from termwise.report.charts import Figure, Panel, Spec, complete, gap, lit, step_x, target, tooltip, y_axis
from termwise.report.figures.common import behind, names, rows
from termwise.report.intervals import moved, trend
from termwise.report.reading import Run
from termwise.report.strings import fixed, integer, prose, say
from termwise.report.tables import Tables, rounded

DASHES = [[1, 0], [8, 4], [8, 3, 2, 3], [3, 3], [12, 4], [12, 3, 2, 3, 2, 3]]  # also in the style sheet, for the key


def build(run: Run, tables: Tables) -> Figure:
    """Whether the mean path length falls or rises. Reads `steps` (mean_depth, mean_depth_constants)."""
    words = alternative(run, tables)
    measures = ["mean_depth", "mean_depth_low", "mean_depth_high", "mean_depth_constants"]
    columns = ["network", "step", "loss", "accuracy", "depth_p10", "depth_p50", "depth_p90", *measures]
    key = [(f"network-{i % 6}", name) for i, name in enumerate(names(run))]
    if any(value is not None for value in tables.steps["mean_depth_constants"]):
        key.append(("dotted", say("key.constants.dotted")))
    spec = complete(_spec(run, tables, measures), words, keys=["step"])
    panels = [Panel("", "", words, spec)]
    return Figure("mean", title(run), say("mean.read"), panels, key, behind("steps", columns))


def title(run: Run) -> str:
    """How each network's mean path length moves, and which of two networks ends shorter."""
    moves = [
        (trend(*n.mean_depth_interval), fixed(n.mean_depth[0], 1), fixed(n.mean_depth[1], 1), n.name)
        for n in run.summary.networks
    ]
    title = say("mean.title", moves=moved("mean", moves))
    if len(run.summary.networks) == 2:
        one, other = sorted(run.summary.networks, key=lambda n: n.mean_depth[1])
        if one.mean_depth_interval[1][1] < other.mean_depth_interval[1][0]:
            title += say("mean.shorter", network=one.name)
    return title


def alternative(run: Run, tables: Tables) -> str:
    """In words: the mean path length of every network at its first and last record."""
    parts = []
    for index, name in enumerate(names(run)):
        own = rows(tables.steps, network=index)
        first, last = own[0], own[-1]
        parts.append(
            say(
                "mean.alt",
                network=name,
                first=fixed(first["mean_depth"], 1),
                last=fixed(last["mean_depth"], 1),
                start=integer(first["step"]),
                end=integer(last["step"]),
            )
        )
        if first["mean_depth_constants"] is not None and last["mean_depth_constants"] is not None:
            ends = {
                "first": fixed(first["mean_depth_constants"], 1),
                "last": fixed(last["mean_depth_constants"], 1),
            }
            parts.append(say("mean.alt.constants", **ends))
    return prose(*parts)


def _spec(run: Run, tables: Tables, measures: list[str]) -> Spec:
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
    # Six colours, and each with dashes of its own: the lines are told apart in black and white as well.
    dashes = [DASHES[i % len(DASHES)] for i in palette["domain"]]
    dash = {**color, "scale": {**palette, "range": dashes}}
    common = {"x": {**step_x(tables), "field": "at"}, "color": color}
    tips = tooltip(("step", "step", ",d"), *((name, name, ".3f") for name in measures))
    band = {**common, "y": {**y, "field": "mean_depth_low"}, "y2": {"field": "mean_depth_high"}}
    line = {**common, "strokeDash": dash, "y": {**y, "field": "mean_depth"}, "tooltip": tips}
    dotted = {**common, "y": {**y, "field": "mean_depth_constants"}}
    layers: list[Spec] = [
        *gap(tables),
        target("step", step_x(tables)),
        lit("step", "x", step_x(tables), tables),
        {"mark": {"type": "area", "style": "mean-band"}, "encoding": band},
        {"mark": {"type": "line", "style": "mean", "point": {"style": "mean-point"}}, "encoding": line},
        {"mark": {"type": "line", "style": "mean-constants"}, "encoding": dotted},
    ]
    return {"width": "fill", "height": 300, "data": {"name": "steps"}, "layer": layers}
