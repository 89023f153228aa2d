"""How the norm is spread over depth while the network learns."""

from __future__ import annotations

from termwise.report.charts import (
    Figure,
    Panel,
    Spec,
    complete,
    depth_ticks,
    equal,
    gap,
    lit,
    step_x,
    target,
    tooltip,
    y_axis,
)
from termwise.report.figures.common import behind, names, rows
from termwise.report.intervals import direction, moved
from termwise.report.reading import Run
from termwise.report.strings import fixed, integer, number, say
from termwise.report.tables import Tables, rounded


def build(run: Run, tables: Tables) -> Figure:
    """When which depths carry the output. Reads `spectrum` (norm_share) and `steps` (loss, quantiles)."""
    shares = zip(tables.spectrum["origin"], tables.spectrum["norm_share"], strict=True)
    most = max([share or 0.0 for origin, share in shares if origin == "input"] or [1.0])
    losses = [loss for loss in tables.steps["loss"] if loss is not None] or [1.0]
    panels = []
    for index, network in enumerate(run.summary.networks):
        words = alternative(run, tables, index)
        views = [_loss_view(tables, index, max(losses)), _heat_view(tables, index, most)]
        spec = {
            "vconcat": views,
            "spacing": 34,
            "bounds": "flush",
            "resolve": {"scale": {"x": "independent"}},
        }
        panels.append(Panel(network.name, "", words, complete(spec, words, keys=["step", "depth"])))
    key = [("ramp", say("heat.ramp", most=number(most, 2))), ("median", say("key.median"))]
    key.append(("quantile", say("key.quantiles")))
    columns = ["network", "step", "depth", "norm_share", "norm_share_low", "norm_share_high"]
    return Figure(
        "heat",
        title(run, tables),
        say("heat.read"),
        panels,
        key,
        behind("spectrum", columns, origin="input"),
    )


def title(run: Run, tables: Tables) -> str:
    """How the median depth and the loss move from the first to the last record."""
    moves, losses = [], set()
    for index, name in enumerate(names(run)):
        own = rows(tables.steps, network=index)
        if len(own) < 2:
            return say("heat.title.one")
        first, last = own[0]["depth_p50"], own[-1]["depth_p50"]
        loss = direction(own[0]["loss"], own[-1]["loss"])
        if first is None or last is None or loss is None:
            return say("heat.title.none")
        kind = "stays" if abs(last - first) < 1 else "falls" if last < first else "rises"
        moves.append((kind, fixed(first, 0), fixed(last, 0), name))
        losses.add(loss)
    loss = say(f"heat.loss.{losses.pop() if len(losses) == 1 else 'mixed'}")
    return say("heat.title.move", loss=loss, moves=moved("heat.move", moves))


def alternative(run: Run, tables: Tables, index: int) -> str:
    """In words: how one network's depths and loss move over training."""
    own = rows(tables.steps, network=index)
    first, last = own[0], own[-1]
    return say(
        "heat.alt",
        network=names(run)[index],
        first=integer(first["step"]),
        last=integer(last["step"]),
        loss_first=number(first["loss"]),
        loss_last=number(last["loss"]),
        p50_first=fixed(first["depth_p50"], 0),
        p50_last=fixed(last["depth_p50"], 0),
        p10=fixed(last["depth_p10"], 0),
        p90=fixed(last["depth_p90"], 0),
    )


def _loss_view(tables: Tables, index: int, most: float) -> Spec:
    scale = {"domain": [0, rounded(1.05 * most)], "nice": False}
    y = {"type": "quantitative", "scale": scale, "axis": y_axis(say("heat.loss"), tickCount=3)}
    # Channels without a field: what all marks share, which add their fields to it.
    shared = {"x": step_x(tables, labels=False), "y": y}
    tip = tooltip(("step", "step", ",d"), ("loss", "loss", ".4f"), ("accuracy", "accuracy", ".3f"))
    line = {
        "transform": [equal(network=index)],
        "mark": {"type": "line", "style": "loss", "point": {"style": "loss-point"}},
        "encoding": {"x": {"field": "at"}, "y": {"field": "loss"}, "tooltip": tip},
    }
    over = {"transform": [equal(network=index)], "layer": [target("step", {}, tip)]}
    layers = [*gap(tables), line, over, lit("step", "x", {}, tables)]
    return {"width": "fill", "height": 64, "encoding": shared, "data": {"name": "steps"}, "layer": layers}


def _heat_view(tables: Tables, index: int, most: float) -> Spec:
    low = min(v for v in tables.spectrum["bottom"] if v is not None)
    high = max(v for v in tables.spectrum["top"] if v is not None)
    axis = y_axis(say("heat.depth"), values=depth_ticks(*tables.depths), grid=False, format="d")
    y = {"type": "quantitative", "scale": {"domain": [low, high], "nice": False, "zero": False}, "axis": axis}
    shared = {"x": step_x(tables), "y": y}
    tips = tooltip(("step", "step", ",d"), ("depth", "depth", "d"), ("norm_share", "norm_share", ".4f"))
    scale = {"domain": [0, rounded(most)]}
    cells = {
        "data": {"name": "spectrum"},
        "transform": [equal(network=index), equal(origin="input")],
        "mark": {"type": "rect", "style": "cell"},
        "encoding": {
            "x": {"field": "left"},
            "x2": {"field": "right"},
            "y": {"field": "bottom"},
            "y2": {"field": "top"},
            "color": {"field": "norm_share", "type": "quantitative", "legend": None, "scale": scale},
            "tooltip": tips,
        },
    }
    lines = []
    for name, style in (("depth_p10", "quantile"), ("depth_p90", "quantile"), ("depth_p50", "median")):
        encoding = {"x": {"field": "at"}, "y": {"field": name}}
        lines += [{"mark": {"type": "line", "style": look}, "encoding": encoding} for look in ("halo", style)]
    over = {"data": {"name": "steps"}, "transform": [equal(network=index)], "layer": lines}
    here = [lit("step", "x", {}, tables), lit("depth", "y", {}, tables)]
    return {"width": "fill", "height": 280, "encoding": shared, "layer": [cells, over, *here]}
