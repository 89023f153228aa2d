"""What the network can do without: its accuracy when some of its residual blocks are removed."""

from __future__ import annotations

from termwise.report.charts import Figure, Panel, Spec, column_name, complete, equal, tooltip, y_axis
from termwise.report.figures.common import Row, behind, names
from termwise.report.intervals import MANY
from termwise.report.reading import Run
from termwise.report.strings import clauses, fixed, in_percent, listing, say
from termwise.report.tables import Tables, rounded

COLUMNS = ["network", "removed", "draw", "gone", "accuracy", "loss", "mean_accuracy"]
ENDS = ["mean_accuracy_low", "mean_accuracy_high"]


def build(run: Run, tables: Tables) -> Figure | None:
    """How much redundancy there is among the blocks. Reads `lesions`; None where no network has blocks."""
    found = [tables.finished.of("lesions", network=index) for index in range(len(run.summary.networks))]
    if not any(found):
        return None
    chance = 1 / max(run.summary.data.classes, 1)
    panels = []
    for index, (network, own) in enumerate(zip(run.summary.networks, found, strict=True)):
        if own:
            words = alternative(network.name, own, chance)
            blocks = max(row["removed"] for row in own)
            detail = say("lesions.detail.one" if blocks == 1 else "lesions.detail", count=blocks)
            panels.append(Panel(network.name, detail, words, complete(_spec(index, own, chance), words)))
    key = [("dot alone", say("key.lesion")), ("line accent", say("key.lesion.mean"))]
    key += [(name, say(f"key.{name}")) for name in ("full", "chance")]
    title_ = title([(name, own) for name, own in zip(names(run), found, strict=True) if own], chance)
    return Figure("lesions", title_, say("lesions.read"), panels, key, behind("lesions", [*COLUMNS, *ENDS]))


def title(found: list[tuple[str, list[Row]]], chance: float) -> str:
    """What is left of each network's accuracy when one of its blocks is removed."""
    said, every = [], []
    for name, own in found:
        whole, blocks = _of(own, 0)[0]["accuracy"], max(row["removed"] for row in own)
        single = _of(own, 1)
        if whole <= 1.5 * chance:
            continue  # there is nothing to lose
        kept = [row["accuracy"] / whole for row in single]
        every += kept
        first = single[0]
        words = {"network": name, "blocks": blocks, "kept": in_percent(sum(kept) / len(kept))}
        words |= {"least": in_percent(min(kept)), "most": in_percent(max(kept))}
        if blocks == 1:
            said.append(say("lesions.clause.only", **words))
        elif first["exhaustive"] or None in (first["mean_accuracy_low"], first["mean_accuracy_high"]):
            same = words["least"] == words["most"]
            said.append(say("lesions.clause.same" if same else "lesions.clause", **words))
        else:
            # The interval of a mean may reach beyond what any accuracy can be.
            bounds = {end: min(max(first[f"mean_accuracy_{end}"], 0.0), 1.0) for end in ("low", "high")}
            ends = {end: in_percent(bound / whole) for end, bound in bounds.items()}
            said.append(say("lesions.clause.mean", **words, **ends))
    if len(said) > MANY:
        return say("lesions.title.many", least=in_percent(min(every)), most=in_percent(max(every)), count=len(said))
    return say("lesions.title", clauses=clauses(said)) if said else say("lesions.title.none")


def _of(own: list[Row], removed: int) -> list[Row]:
    return [row for row in own if row["removed"] == removed]


def alternative(network: str, own: list[Row], chance: float) -> str:
    """In words: the mean accuracy of one network by how many of its blocks are removed."""
    means = [row for row in own if row["draw"] == 0]
    told = [
        say("lesions.alt.mean", removed=row["removed"], accuracy=fixed(row["mean_accuracy"], 3), draws=row["draws"])
        for row in means
    ]
    return say("lesions.alt", network=network, means=listing(told), chance=fixed(chance, 3))


def _spec(index: int, own: list[Row], chance: float) -> Spec:
    counts = sorted({row["removed"] for row in own})
    # Each panel is as wide as its network has blocks: the same place is the same part of them.
    x = {
        "field": "removed",
        "type": "quantitative",
        "scale": {"domain": [-0.03 * counts[-1], 1.03 * counts[-1]], "nice": False, "zero": False},
        "axis": {"values": counts, "format": "d", "grid": False, "title": say("lesions.axis.removed")},
    }
    x["axis"] |= {"labelOverlap": "greedy", "labelSeparation": 4}
    y = {
        "type": "quantitative",
        "scale": {"domain": [0, 1], "nice": False},
        "axis": y_axis(say("truncated.axis"), values=[0, 0.2, 0.4, 0.6, 0.8, 1], format=".1f"),
    }
    numbers = (("accuracy", "accuracy", ".3f"), ("mean_accuracy", "mean_accuracy", ".3f"))
    gone = {"field": "gone", "title": column_name("gone"), "type": "nominal"}
    tips = [*tooltip(("removed", "removed", "d")), gone, *tooltip(*numbers)]
    mean = {"x": x, "y": {**y, "field": "mean_accuracy"}}
    ends = {"x": x, "y": {**y, "field": "mean_accuracy_low"}, "y2": {"field": "mean_accuracy_high"}}
    line = {"type": "line", "style": "lesion", "point": {"style": "lesion-point"}}
    dots = {"x": x, "y": {**y, "field": "accuracy"}, "tooltip": tips}
    once = [equal(draw=0)]
    rules = [("chance", chance), ("full", _of(own, 0)[0]["accuracy"])]
    layers: list[Spec] = [
        {"data": {"values": [{}]}, "mark": {"type": "rule", "style": s}, "encoding": {"y": {**y, "datum": rounded(at)}}}
        for s, at in rules
    ]
    layers += [
        {"transform": once, "mark": {"type": "rule", "style": "lesion-whisker", "clip": True}, "encoding": ends},
        {"transform": once, "mark": line, "encoding": mean},
        {"mark": {"type": "point", "style": "lesion-draw"}, "encoding": dots},
    ]
    own_rows = [equal(network=index)]
    return {"width": "fill", "height": 230, "data": {"name": "lesions"}, "transform": own_rows, "layer": layers}
