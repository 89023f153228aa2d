"""The depth spectrum at some records, one ridge above the other, from the first at the back to the last in front."""

from __future__ import annotations

from termwise.report.charts import Figure, Panel, Spec, complete, depth_ticks, equal, lit, tooltip, y_axis
from termwise.report.figures.common import Row, behind, names, path_ends, rows, split
from termwise.report.intervals import moved
from termwise.report.reading import Run
from termwise.report.strings import clauses, compact, fixed, integer, number, prose, say
from termwise.report.tables import Tables, rounded

MOST = 15  # ridges of a network
ROW = 21  # pixels from one ridge to the next
REACH = 2.8  # the highest ridge, in units of that distance


def build(run: Run, tables: Tables) -> Figure | None:
    """How the spectrum changes its shape. Reads `spectrum` and `steps` (mean_depth); None of a single record.

    Networks whose paths are all of one length are left out.
    """
    own = split(run)
    if len(tables.axis.steps) < 2 or not own:
        return None
    terms = (row for index in own for row in rows(tables.spectrum, network=index, origin="input"))
    most = max(row["norm_share"] or 0.0 for row in terms) or 1.0
    chosen = {index: tables.axis.evenly(_recorded(tables, index), MOST) for index in own}
    shared = path_ends(run, tables), max(len(steps) for steps in chosen.values()), most
    panels = []
    for index in own:
        words = alternative(run, tables, index)
        spec = complete(_spec(tables, index, chosen[index], *shared), words, keys=["depth", "-step"])
        panels.append(Panel(names(run)[index], "", words, spec))
    columns = ["network", "step", "depth", "norm_share", "norm_share_low", "norm_share_high"]
    key = [("ramp", say("ridge.ramp")), ("dot tail", say("key.mean.norm"))]
    shown = behind("spectrum", columns, origin="input")
    return Figure("ridgeline", title(run, tables), reading(tables, chosen), panels, key, shown)


def _recorded(tables: Tables, index: int) -> list[int]:
    """The recorded steps of a network, ascending."""
    return [row["step"] for row in rows(tables.steps, network=index)]


def title(run: Run, tables: Tables) -> str:
    """Where the peak of each network's spectrum is at the first and the last record, and whether it moved."""
    moves = []
    for index in split(run):
        steps = _recorded(tables, index)
        ends = [peak(rows(tables.spectrum, network=index, origin="input", step=step)) for step in (steps[0], steps[-1])]
        if None in ends:
            return say("ridge.title.none")
        (first, early), (last, late) = (end for end in ends if end)
        kind = "falls" if late[-1] < early[0] else "rises" if late[0] > early[-1] else "stays"
        moves.append((kind, _place(first, early), _place(last, late), names(run)[index]))
    return say("ridge.title.move", moves=moved("ridge", moves))


def peak(terms: list[Row]) -> tuple[int, list[int]] | None:
    """The depth of the largest share, and all depths, ascending, that the intervals of the shares leave in question.

    Those are the ones whose upper end reaches the largest of the lower ends. None where no share is known.
    """
    known = [row for row in terms if row["norm_share"] is not None]
    if not known:
        return None

    def end(row: Row, which: str) -> float:
        value = row[f"norm_share_{which}"]
        return row["norm_share"] if value is None else value

    sure = max(end(row, "low") for row in known)
    top = max(known, key=lambda row: row["norm_share"])
    return top["depth"], sorted({row["depth"] for row in known if end(row, "high") >= sure} | {top["depth"]})


def _place(depth: int, among: list[int]) -> str:
    return say("ridge.peak" if len(among) > 1 else "ridge.peak.sure", depth=depth, low=among[0], high=among[-1])


def reading(tables: Tables, chosen: dict[int, list[int]]) -> str:
    """How to read the figure, and whether all records are drawn."""
    left = any(len(_recorded(tables, index)) > len(steps) for index, steps in chosen.items())
    return prose(say("ridge.read"), say("ridge.read.some") if left else "")


def alternative(run: Run, tables: Tables, index: int) -> str:
    """In words: the peak of one network's spectrum, and its height, at the first and the last record."""
    steps, words = _recorded(tables, index), []
    for step in dict.fromkeys((steps[0], steps[-1])):
        terms = rows(tables.spectrum, network=index, origin="input", step=step)
        top = max(terms, key=lambda row: row["norm_share"] or 0.0)
        share = number(top["norm_share"], 2)
        words.append(say("ridge.alt.peak", step=integer(step), depth=top["depth"], share=share))
    mean = [fixed(row["mean_depth"], 1) for row in rows(tables.steps, network=index)]
    return say("ridge.alt", network=names(run)[index], peaks=clauses(words), first=mean[0], last=mean[-1])


def _spec(tables: Tables, index: int, own: list[int], depths: tuple[int, int], count: int, most: float) -> Spec:
    """The ridges of the records `own` of a network, of which no network has more than `count`."""
    low, high = depths
    axis = {"values": depth_ticks(low, high), "title": say("depth.axis"), "format": "d", "grid": False}
    scale = {"domain": [low - 0.7, high + 0.7], "nice": False, "zero": False}
    x = {"type": "quantitative", "scale": scale, "axis": axis}
    labels = [compact(step) for step in reversed(own)]
    axis = y_axis(say("ridge.axis"), values=list(range(len(own))), labelExpr=f"{labels}[datum.value]", grid=False)
    domain = [-0.1, rounded(count - 1 + 1.06 * REACH)]
    y = {"type": "quantitative", "scale": {"domain": domain, "nice": False, "zero": False}, "axis": axis}
    base = f"{len(own) - 1} - indexof({own}, datum.step)"
    height = f"datum.base + {REACH} * datum.norm_share / {rounded(most)}"
    places = [equal(network=index), {"filter": {"field": "step", "oneOf": own}}, {"calculate": base, "as": "base"}]
    ridges = {
        "data": {"name": "spectrum"},
        "transform": [*places, equal(origin="input"), {"calculate": height, "as": "height"}],
        "layer": _ridges(count),
    }
    dot = {"x": {"field": "mean_depth"}, "y": {"field": "base"}}
    means = {
        "data": {"name": "steps"},
        "transform": places,
        "layer": [
            {"mark": {"type": "line", "style": "ridge-means"}, "encoding": {**dot, "order": {"field": "base"}}},
            {"mark": {"type": "point", "style": "ridge-mean"}, "encoding": dot},
        ],
    }
    return {
        "width": "fill",
        "height": max(ROW * (domain[1] - domain[0]), 200),
        # Channels without a field: what all marks share, which add their fields to it.
        "encoding": {"x": x, "y": y},
        "layer": [ridges, means, lit("depth", "x", {}, tables), _row_lit(own)],
    }


def _ridges(count: int) -> list[Spec]:
    """Records are groups of one mark, so that each ridge covers those behind it."""
    numbers = ("norm_share", "norm_share_low", "norm_share_high")
    tips = tooltip(("step", "step", ",d"), ("depth", "depth", "d"), *((name, name, ".4f") for name in numbers))
    top = {"x": {"field": "depth"}, "y": {"field": "height"}, "detail": {"field": "step"}}
    stops = [rounded((count - 1) * part / 3) for part in (3, 2, 1, 0)]
    scale = {"domain": stops, "range": [f"ramp-{i}" for i in (1, 2, 3, 4)]}
    fade = {"field": "base", "type": "quantitative", "legend": None, "scale": scale}
    area = {"mark": {"type": "area", "style": "ridge"}, "encoding": {**top, "y2": {"field": "base"}, "fill": fade}}
    # What can be pointed at: the row of a record, around a depth.
    cell = {"x": {"field": "bottom"}, "x2": {"field": "top"}, "y": {"field": "base"}, "y2": {"field": "above"}}
    cells = {
        "transform": [{"calculate": "datum.base + 1", "as": "above"}],
        "mark": {"type": "rect", "style": "target"},
        "encoding": {**cell, "tooltip": tips},
    }
    return [area, cells]


def _row_lit(own: list[int]) -> Spec:
    """A rule along the ridge of the step where the reader is, or of the last one before it that is drawn."""
    values = [
        {"step": step, "until": until, "base": len(own) - 1 - i}
        for i, (step, until) in enumerate(zip(own, [*own[1:], None], strict=True))
    ]
    here = "isValid(stepAt) && datum.step <= stepAt && (!isValid(datum.until) || stepAt < datum.until)"
    return {
        "data": {"values": values},
        "transform": [{"filter": here}],
        "mark": {"type": "rule", "style": "lit"},
        "encoding": {"y": {"field": "base"}},
    }
