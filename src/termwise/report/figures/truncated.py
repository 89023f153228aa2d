"""What short and long paths reach by themselves."""

from __future__ import annotations

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
from termwise.report.figures.common import behind, names, rows
from termwise.report.intervals import MANY
from termwise.report.reading import Run
from termwise.report.strings import clauses, fixed, integer, say
from termwise.report.tables import Tables, rounded


def build(run: Run, tables: Tables) -> Figure:
    """What short and long paths can do by themselves. Reads `spectrum` (accuracies) and `steps`."""
    panels = []
    for index, network in enumerate(run.summary.networks):
        words = alternative(run, tables, index)
        spec = _spec(tables, index, 1 / max(run.summary.data.classes, 1))
        top = complete(spec, words, at=len(tables.axis.steps) - 1, keys=["depth"])
        panels.append(Panel(network.name, "", words, top))
    key = [(name, say(f"key.{name}")) for name in ("head", "tail", "alone", "full", "chance")]
    columns = [f"{part}_accuracy{end}" for part in ("head", "tail", "alone") for end in ("", "_low", "_high")]
    return Figure(
        "truncated",
        title(run),
        say("truncated.read"),
        panels,
        key,
        behind("spectrum", ["network", "step", "depth", *columns], origin="input"),
        slider=True,
    )


def title(run: Run) -> str:
    """From which depth on each network keeps 99 % of its accuracy; without class numbers there is no such depth."""
    said = []
    for network in run.summary.networks:
        if network.effective_depth is None:
            continue
        if network.effective_depth >= network.longest:
            said.append(say("truncated.clause.all", network=network.name))
        else:
            said.append(say("truncated.clause", depth=network.effective_depth, network=network.name))
    known = [network.effective_depth for network in run.summary.networks if network.effective_depth is not None]
    if len(known) > MANY:
        count = len(run.summary.networks)
        return say("truncated.title.many", low=min(known), high=max(known), known=len(known), count=count)
    return say("truncated.title", clauses=clauses(said)) if said else say("truncated.title.none")


def alternative(run: Run, tables: Tables, index: int) -> str:
    """In words: the truncated accuracies of one network at its last record."""
    last = rows(tables.steps, network=index)[-1]
    terms = rows(tables.spectrum, network=index, step=last["step"], origin="input")
    best = max(terms, key=lambda row: row["alone_accuracy"] or 0.0)
    middle = terms[len(terms) // 2]
    return say(
        "truncated.alt",
        network=names(run)[index],
        step=say("control.step.value", step=integer(last["step"])),
        full=fixed(last["accuracy"], 3),
        shortest=terms[0]["depth"],
        head=fixed(terms[0]["head_accuracy"], 3),
        middle=middle["depth"],
        half=fixed(middle["head_accuracy"], 3),
        best_depth=best["depth"],
        best=fixed(best["alone_accuracy"], 3),
        chance=fixed(1 / max(run.summary.data.classes, 1), 3),
    )


def _spec(tables: Tables, index: int, chance: float) -> Spec:
    low, high = tables.depths
    axis = {
        "values": depth_ticks(low, high),
        "grid": False,
        "title": say("truncated.axis.depth"),
        "format": "d",
    }
    scale = {"domain": [low - 0.5, high + 0.5], "nice": False, "zero": False}
    y = {
        "type": "quantitative",
        "scale": {"domain": [0, 1], "nice": False},
        "axis": y_axis(say("truncated.axis"), values=[0, 0.2, 0.4, 0.6, 0.8, 1], format=".1f"),
    }
    # Channels without a field: what all marks share, which add their fields to it.
    shared, x = {"x": {"type": "quantitative", "scale": scale, "axis": axis}, "y": y}, {"field": "depth"}
    parts = ("alone", "tail", "head")
    numbers = ((f"{part}_accuracy", f"{part}_accuracy", ".3f") for part in reversed(parts))
    tips = tooltip(("depth", "depth", "d"), *numbers)
    bands, lines = [], []
    for part in parts:
        ends = {"y": {"field": f"{part}_accuracy_low"}, "y2": {"field": f"{part}_accuracy_high"}}
        bands.append({"mark": {"type": "area", "style": f"{part}-band"}, "encoding": {"x": x, **ends}})
        mark = {"type": "line", "style": part, "point": {"style": f"{part}-point"}}
        line = {"x": x, "y": {"field": f"{part}_accuracy"}, "tooltip": tips}
        lines.append({"mark": mark, "encoding": line})
    own = [equal(network=index), {"filter": AT_THIS_RECORD}]
    guess = {"mark": {"type": "rule", "style": "chance"}, "encoding": {"y": {"datum": rounded(chance)}}}
    whole = {"mark": {"type": "rule", "style": "full"}, "encoding": {"y": {"field": "accuracy"}}}
    layers: list[Spec] = [
        {"data": {"values": [{}]}, **guess},
        {
            "data": {"name": "spectrum"},
            "transform": [*own, equal(origin="input")],
            "layer": [*bands, *lines, target("depth", {}, tips)],
        },
        {"data": {"name": "steps"}, "transform": own, **whole},
        lit("depth", "x", {}, tables),
    ]
    return {"width": "fill", "height": 250, "encoding": shared, "layer": layers}
