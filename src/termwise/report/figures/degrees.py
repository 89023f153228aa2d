"""Which degrees in the input are learned, and when."""

from __future__ import annotations

from termwise.report.charts import Figure, Panel, Spec, complete, equal, gap, lit, step_x, target, tooltip, y_axis
from termwise.report.figures.common import Row, behind, names, rows, warnings
from termwise.report.intervals import between, ends, moved, share_between, trend
from termwise.report.reading import MEAN_DEGREE, Columns, Run
from termwise.report.strings import integer, listing, percent, prose, say
from termwise.report.tables import Tables, rounded


def build(run: Run, tables: Tables) -> Figure | None:
    """Which degrees in the input are learned when. Reads `degrees` (share); None where degrees were not recorded."""
    table = tables.degrees
    if table is None:
        return None
    panels = []
    top = max([0.0, *(v for name in ("share", "share_high") for v in table[name] if v is not None)]) or 1.0
    for index, network in enumerate(run.summary.networks):
        words = alternative(run, table, index)
        spec = complete(_spec(tables, index, min(top, 1.05)), words, keys=["step"])
        panels.append(Panel(network.name, detail(table, index), words, spec))
    labels = tables.degree_labels
    key = [(_style(i, len(labels)), say("key.degree", degree=label)) for i, label in enumerate(labels)]
    columns = ["network", "step", "degree", "share", "share_low", "share_high", *MEAN_DEGREE, "warnings"]
    return Figure("degrees", title(run, table), reading(table), panels, key, behind("degrees", columns))


def _ends(table: Columns, index: int) -> tuple[list[Row], list[Row]]:
    """The rows of one network at its first and last record at which there are shares; empty where there is none."""
    own = [row for row in rows(table, network=index) if row["share"] is not None]
    if not own:
        return [], []
    first, last = min(row["step"] for row in own), max(row["step"] for row in own)
    return [row for row in own if row["step"] == first], [row for row in own if row["step"] == last]


def title(run: Run, table: Columns) -> str:
    """How the share of the lowest degree moves from the first to the last record, with its intervals."""
    moves = []
    for index, name in enumerate(names(run)):
        first, last = _ends(table, index)
        if not first:
            return say("degrees.title.none")
        if first[0]["step"] == last[0]["step"]:
            return say("heat.title.one")
        shares = [share_between(end, "share") for end in (first[0], last[0])]
        moves.append((trend(ends(first[0], "share"), ends(last[0], "share")), *shares, name))
    return say("degrees.title.move", degree=table["degree"][0], moves=moved("degrees", moves))


def detail(table: Columns, index: int) -> str:
    """The mean degree of one network at its first and last record, where it is known at both."""
    records = [end[0] for end in _ends(table, index) if end]
    if not records or any(row["mean_degree"] is None for row in records):
        return say("degrees.mean.none")
    shown = [between(row["mean_degree"], *ends(row, "mean_degree"), places=2) for row in records]
    return say("degrees.mean", first=shown[0], last=shown[1])


def reading(table: Columns) -> str:
    """How to read the figure, and at how many records the estimator warned of what."""
    records: dict[tuple[int, int], str] = {}
    for network, step, words in zip(table["network"], table["step"], table["warnings"], strict=True):
        records[network, step] = words or ""
    warned = [text for text in records.values() if text]
    kinds = dict.fromkeys(kind for text in warned for kind in text.split(", "))
    told = say("degrees.warned", count=len(warned), all=len(records), kinds=warnings(kinds)) if warned else ""
    return prose(say("degrees.read"), told)


def alternative(run: Run, table: Columns, index: int) -> str:
    """In words: the shares of one network by degree at its first and last record."""
    first, last = _ends(table, index)
    if not first:
        return say("degrees.alt.none", network=names(run)[index])
    return say(
        "degrees.alt",
        network=names(run)[index],
        start=integer(first[0]["step"]),
        first=listing([say("degrees.alt.share", degree=row["degree"], share=percent(row["share"])) for row in first]),
        end=integer(last[0]["step"]),
        last=listing([say("degrees.alt.share", degree=row["degree"], share=percent(row["share"])) for row in last]),
    )


def _style(place: int, count: int) -> str:
    """One of the seven styles that a degree group is drawn in; more groups share them, in order."""
    return f"degree-{round(place * 6 / max(count - 1, 6))}"


def _spec(tables: Tables, index: int, top: float) -> Spec:
    # Small shares are what differs between networks: on the scale of square roots they can be seen, and 0 has a place.
    ticks = [tick for tick in (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1) if tick <= top]
    y = {
        "type": "quantitative",
        "scale": {"type": "sqrt", "domain": [0, rounded(top)], "nice": False, "clamp": True},
        "axis": y_axis(say("degrees.axis"), values=ticks, format="~%"),
    }
    # Channels without a field: what all marks share, which add their fields to it.
    shared = {"x": step_x(tables), "y": y}
    x = {"field": "at"}
    shares = ((name, name, ".4f") for name in ("share", "share_low", "share_high"))
    text = {"field": "degree", "title": say("column.degree"), "type": "nominal"}
    tips = [text, *tooltip(("step", "step", ",d"), *shares)]
    labels = tables.degree_labels
    bands, lines = [], []
    for place, _ in enumerate(labels):
        own, style = [equal(order=place)], _style(place, len(labels))
        band = {"x": x, "y": {"field": "share_low"}, "y2": {"field": "share_high"}}
        bands.append({"transform": own, "mark": {"type": "area", "style": f"{style}-band"}, "encoding": band})
        mark = {"type": "line", "style": style, "point": {"style": f"{style}-point"}}
        line = {"x": x, "y": {"field": "share"}, "tooltip": tips}
        lines.append({"transform": own, "mark": mark, "encoding": line})
        name = {"type": "text", "style": f"{style}-name", "align": "left", "baseline": "middle", "dx": 6}
        beside = {"x": x, "y": {"field": "label_at"}, "text": {"field": "degree"}}
        at_end = [*own, {"filter": "isValid(datum.label_at)"}]
        lines.append({"transform": at_end, "mark": name, "encoding": beside})
    own = {"data": {"name": "degrees"}, "transform": [equal(network=index)], "layer": [*bands, *lines]}
    records: Spec = {"data": {"name": "steps"}, "transform": [equal(network=index)]}
    here = [{**records, "layer": [target("step", {})]}, lit("step", "x", {}, tables)]
    return {"width": "fill", "height": 280, "encoding": shared, "layer": [*gap(tables), *here, own]}
