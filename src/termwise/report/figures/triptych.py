"""How many paths there are of each length, how much one of them carries, and what this comes to.

After Veit, Wilber, Belongie 2016 (arXiv 1605.06431), figure 6, with two differences. The size of a path is the norm of
the sum over all paths of its length, divided by their number; there it is the mean norm of single paths, which cannot
see that paths cancel. And it is of the output, there of the gradient.
"""

from __future__ import annotations

import math
from fractions import Fraction

from termwise.report.charts import (
    AT_THIS_RECORD,
    Figure,
    Panel,
    Shown,
    Spec,
    complete,
    depth_ticks,
    equal,
    lit,
    target,
    tooltip,
    y_axis,
)
from termwise.report.figures.common import Row, names, path_ends, rows, split
from termwise.report.intervals import MANY
from termwise.report.reading import Run
from termwise.report.strings import clauses, fixed, integer, listing, number, say
from termwise.report.tables import Tables, rounded

Ends = tuple[float, float]


def build(run: Run, tables: Tables) -> Figure | None:
    """Whether the output's norm lies on paths as long as most are. Reads `paths`, `spectrum`, `steps` (mean_depth).

    Networks whose paths are all of one length are left out.
    """
    own = split(run)
    if not own:
        return None
    scales = path_ends(run, tables), *_scales(tables, own)
    panels = []
    for index in own:
        words = alternative(run, tables, index)
        spec = complete(_spec(tables, index, *scales), words, at=len(tables.axis.steps) - 1, keys=["depth"])
        panels.append(Panel(names(run)[index], "", words, spec))
    shares = ["network", "step", "depth", "log10_path_norm", "norm_share", "norm_share_low", "norm_share_high"]
    shown = (
        Shown("spectrum", shares, ({"origin": "input"},), "norms"),
        Shown("paths", ["network", "depth", "paths", "log10_paths"], name="paths"),
    )
    key = [("mean-paths", say("key.mean.paths")), ("mean-norm", say("key.mean.norm"))]
    return Figure("triptych", title(run, tables), say("triptych.read"), panels, key, shown, slider=True)


def title(run: Run, tables: Tables) -> str:
    """Whether the paths that carry the norm at the last record are shorter or longer than the average one."""
    found: dict[str, list[str]] = {}
    for index in split(run):
        name = names(run)[index]
        whole = mean_length(rows(tables.paths, network=index))
        last = rows(tables.steps, network=index)[-1]
        value, low, high = (last[f"mean_depth{end}"] for end in ("", "_low", "_high"))
        if None in (whole, value, low, high):
            return say("triptych.title.none")
        kind = "shorter" if high < whole else "longer" if low > whole else "same"
        ends = {"value": fixed(value, 1), "low": fixed(low, 1), "high": fixed(high, 1)}
        clause = say("triptych.clause", paths=fixed(whole, 1), network=name, **ends)
        found.setdefault(kind, []).append(clause)
    many = sum(map(len, found.values())) > MANY
    said = [
        say(f"triptych.{kind}.count", count=len(own)) if many else say(f"triptych.{kind}", clauses=listing(own))
        for kind, own in found.items()
    ]
    return say("triptych.title", said=clauses(said))


def mean_length(paths: list[Row]) -> float | None:
    """The mean length of all paths from the input, of any number of them; None where there is none."""
    counts = [(row["depth"], int(row["paths"])) for row in paths]
    total = sum(count for _, count in counts)
    return float(Fraction(sum(depth * count for depth, count in counts), total)) if total else None


def alternative(run: Run, tables: Tables, index: int) -> str:
    """In words: the three plots of one network at its last record."""
    step = rows(tables.steps, network=index)[-1]["step"]
    terms = rows(tables.spectrum, network=index, step=step, origin="input")
    paths = rows(tables.paths, network=index)
    mode = max(paths, key=lambda row: row["path_share"])
    sizes = [row for row in terms if row["log10_path_norm"] is not None]
    largest = max(terms, key=lambda row: row["norm_share"] or 0.0)
    ends = [say("triptych.alt.size", size=_power(row["log10_path_norm"]), depth=row["depth"]) for row in sizes]
    return say(
        "triptych.alt",
        network=names(run)[index],
        step=say("control.step.value", step=integer(step)),
        paths=integer(int(mode["paths"])),
        mode=mode["depth"],
        sizes=listing(ends if len(ends) < 3 else [ends[0], ends[-1]]) or say("none"),
        share=number(largest["norm_share"], 2),
        depth=largest["depth"],
    )


def _power(exponent: float) -> str:
    """10 to that power, of any size."""
    return number(10**exponent, 2) if abs(exponent) < 300 else f"10^{exponent:.0f}"


def _scales(tables: Tables, own: list[int]) -> tuple[float, Ends, float]:
    """Over these networks and all records: the most paths and the ends of a path's size, as log10; the most share."""
    counts = [row["log10_paths"] or 0.0 for index in own for row in rows(tables.paths, network=index)]
    terms = [row for index in own for row in rows(tables.spectrum, network=index, origin="input")]
    sizes = [row["log10_path_norm"] for row in terms if row["log10_path_norm"] is not None] or [0.0]
    shares = [max(row["norm_share"] or 0.0, row["norm_share_high"] or 0.0) for row in terms]
    low, high = math.floor(min(sizes)), math.ceil(max(sizes))
    return max(counts) or 1.0, (low, max(high, low + 1)), max(shares) or 1.0


def _spec(tables: Tables, index: int, depths: tuple[int, int], counts: float, sizes: Ends, most: float) -> Spec:
    """Three plots above each other, on the same depths; across them the mean length of the paths and of the norm."""
    own = [equal(network=index), {"filter": AT_THIS_RECORD}]
    guides = _guides(own, mean_length(rows(tables.paths, network=index)))
    born = [*own, equal(origin="input")]
    plots = [
        ("paths", 78, (0.0, 1.08 * counts), "paths", own),
        ("size", 92, sizes, "spectrum", born),
        ("share", 92, (0.0, 1.06 * most), "spectrum", born),
    ]
    views = []
    for name, height, ends, source, chosen in plots:
        title = say(f"triptych.{name}")
        axis = y_axis(title, tickCount=3) if name == "share" else y_axis(title, **_powers(*ends))
        scale = {"domain": [rounded(end) for end in ends], "nice": False, "zero": False}
        y = {"type": "quantitative", "scale": scale, "axis": axis}
        marks = {"data": {"name": source}, "transform": chosen, "layer": MARKS[name]()}
        # Channels without a field: what all marks of a plot share, which add their fields to it.
        shared = {"x": _depth_x(*depths, labels=name == "share"), "y": y}
        layers = [marks, *guides, lit("depth", "x", {}, tables)]
        views.append({"width": "fill", "height": height, "encoding": shared, "layer": layers})
    return {"vconcat": views, "spacing": 36, "bounds": "flush"}


def _guides(own: list[Spec], whole: float | None) -> list[Spec]:
    norm = {"data": {"name": "steps"}, "transform": own, "mark": {"type": "rule", "style": "mean-norm"}}
    paths = {"data": {"values": [{}]}, "mark": {"type": "rule", "style": "mean-paths"}}
    guides = [{**norm, "encoding": {"x": {"field": "mean_depth"}}}]
    return guides if whole is None else [{**paths, "encoding": {"x": {"datum": rounded(whole)}}}, *guides]


def _count_marks() -> list[Spec]:
    text = {"field": "paths", "title": say("column.paths"), "type": "nominal"}
    encoding = {"x": {"field": "depth"}, "y": {"field": "log10_paths"}}
    area = {"mark": {"type": "area", "style": "paths", "line": {"style": "paths-line"}}, "encoding": encoding}
    tips = [*tooltip(("depth", "depth", "d")), text]
    return [area, {"mark": {"type": "point", "style": "count-point"}, "encoding": encoding}, target("depth", {}, tips)]


def _size_marks() -> list[Spec]:
    encoding = {"x": {"field": "depth"}, "y": {"field": "log10_path_norm"}}
    tips = tooltip(("depth", "depth", "d"), ("size", "path_norm", ".2e"))
    ends = [
        {"filter": "datum.norm_share_low > 0 && isValid(datum.log10_path_norm)"},
        *(
            {"calculate": f"datum.log10_path_norm + log(datum.norm_share_{end} / datum.norm_share) / LN10", "as": end}
            for end in ("low", "high")
        ),
    ]
    whisker = {"x": {"field": "depth"}, "y": {"field": "low"}, "y2": {"field": "high"}}
    return [
        {"mark": {"type": "line", "style": "size"}, "encoding": encoding},
        {"transform": ends, "mark": {"type": "rule", "style": "whisker"}, "encoding": whisker},
        {"mark": {"type": "point", "style": "size-point"}, "encoding": encoding},
        {
            "transform": [{"calculate": "pow(10, datum.log10_path_norm)", "as": "size"}],
            "layer": [target("depth", {}, tips)],
        },
    ]


def _share_marks() -> list[Spec]:
    edges = [{"calculate": f"datum.depth {side} 0.36", "as": name} for side, name in (("-", "x0"), ("+", "x1"))]
    numbers = ("norm_share", "norm_share_low", "norm_share_high")
    tips = tooltip(("depth", "depth", "d"), *((name, name, ".4f") for name in numbers))
    bar = {"x": {"field": "x0"}, "x2": {"field": "x1"}, "y": {"field": "norm_share"}, "y2": {"datum": 0}}
    whisker = {"x": {"field": "depth"}, "y": {"field": numbers[1]}, "y2": {"field": numbers[2]}}
    return [
        {"transform": edges, "mark": {"type": "rect", "style": "input"}, "encoding": bar},
        {"mark": {"type": "rule", "style": "whisker"}, "encoding": whisker},
        target("depth", {}, tips),
    ]


MARKS = {"paths": _count_marks, "size": _size_marks, "share": _share_marks}


def _depth_x(low: int, high: int, *, labels: bool) -> Spec:
    axis: Spec = {"values": depth_ticks(low, high), "grid": False, "format": "d"}
    axis |= {"title": say("depth.axis")} if labels else {"labels": False, "ticks": False, "title": None}
    scale = {"domain": [low - 0.7, high + 0.7], "nice": False, "zero": False}
    return {"type": "quantitative", "scale": scale, "axis": axis}


def _powers(low: float, high: float) -> Spec:
    """The labels of an axis over logarithms: at most five whole powers of ten, multiples of a round number."""
    stride = next((s for s in (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500) if high - low <= 4 * s), 1000)
    ticks = [power for power in range(math.ceil(low), math.floor(high) + 1) if power % stride == 0]
    words = "".join(f"datum.value == {tick} ? '{_label(tick)}' : " for tick in ticks)
    return {"values": ticks, "labelExpr": f"{words}''"}


def _label(power: int) -> str:
    plain = {0: "1", 1: "10"}.get(power)
    return plain or "10" + "".join("⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".index(sign)] for sign in str(power))
