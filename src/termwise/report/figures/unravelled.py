"""The unravelled view: a network drawn as the paths that it is a sum of, from the input to the output.

After A. Veit, M. Wilber, S. Belongie, *Residual Networks Behave Like Ensembles of Relatively Shallow Networks*, 2016
(arXiv 1605.06431), figure 1.  The network is drawn as a stream that parts at the input and joins at the output.  Where
its routes are known (at most 4 residual blocks) a branch of it is one route, through the blocks that it passes; else a
branch is all paths of one length, or of a few lengths, and carries a bead for each step.  How wide a branch is is its
share of the norm of what is born of the input.

It is SVG without scripts: which branch is lit is for the style sheet to say (`:hover`, `:focus`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from termwise.report.charts import Figure, Shown
from termwise.report.figures.common import Row, names, rows
from termwise.report.intervals import MANY
from termwise.report.markup import Html, element
from termwise.report.reading import Run
from termwise.report.strings import clauses, in_percent, integer, listing, percent, prose, say
from termwise.report.tables import Tables

WIDTH = 480.0
BARS = (26.0, 454.0)  # where the stream begins and ends
LANES = (116.0, 364.0)  # between these it runs in its branches, side by side
TOP = 26.0  # above them: the names of the blocks, of input and output
MOST = 20  # branches; of a deeper network neighbouring lengths share one
BEADS = 40  # on one branch; more could not be counted
TONES = 6  # of the ramp of depth in the style sheet
COLUMNS = ["network", "route", "length", "paths", "norm_share", "norm_share_low", "norm_share_high"]
ALIGNED = ["aligned_share", "aligned_share_low", "aligned_share_high"]
LENGTHS = ["network", "depth", "norm_share", "norm_share_low", "norm_share_high"]


@dataclass(frozen=True)
class Branch:
    """One branch of the stream.

    Attributes:
        name: which paths it is, in words.
        numbers: its share and more, in words.
        share: of the norm.
        tone: its place on the ramp of depth.
        stations: the places of the blocks that it passes, of all there are.
        beads: how many steps its paths have, where it is one length.
        several: whether it is more than one length.
    """

    name: str
    numbers: str
    share: float
    tone: int
    stations: tuple[int, ...] = ()
    beads: int = 0
    several: bool = False

    @property
    def label(self) -> str:
        """All of it, for those who cannot see the drawing."""
        return say("unravelled.branch", name=self.name, numbers=self.numbers)


def build(run: Run, tables: Tables) -> Figure | None:
    """The network as its paths. Reads `routes`, or `spectrum` at the last record; None where there is nothing to part.

    Networks whose paths are all one, or of one length, are left out.
    """
    drawings, said, every = [], [], []
    by_route: list[dict[str, object]] = []
    by_length: list[dict[str, object]] = []
    for index, name in enumerate(names(run)):
        routes = tables.finished.of("routes", network=index, origin="input")
        found = routes or _last(tables, index)
        if len(found) < 2 or not sum(row["norm_share"] or 0.0 for row in found):
            continue
        branches = _routes(found) if routes else _lengths(found)
        blocks = 1 + max((place for branch in branches for place in branch.stations), default=-1)
        drawings.append(_panel(name, _detail(found, blocks), draw(name, branches, blocks)))
        every += branches
        said.append(_clause(name, found, routes=bool(routes)))
        own = {"network": index, "origin": "input"}
        if routes:
            by_route.append(own)
        else:
            by_length.append(own | {"step": found[0]["step"]})
    if not drawings:
        return None
    title = say("unravelled.title", clauses=clauses(said)) if len(said) <= MANY else say("unravelled.title.many")
    kind = "both" if by_route and by_length else "routes" if by_route else "lengths"
    key = [("ramp depth", say("key.unravelled"))]
    shown = _shown(by_route, by_length)
    return Figure("unravelled", title, _reading(kind, every), [], key, shown, drawings=tuple(drawings))


def _reading(kind: str, branches: Sequence[Branch]) -> str:
    """How to read the figure; of beads and of lengths that share a branch only where there are such."""
    beads = say("unravelled.read.beads", most=BEADS) if any(branch.beads for branch in branches) else ""
    grouped = say("unravelled.read.grouped", most=MOST) if any(branch.several for branch in branches) else ""
    return prose(say(f"unravelled.read.{kind}"), grouped, beads)


def _shown(by_route: list[dict[str, object]], by_length: list[dict[str, object]]) -> tuple[Shown, ...]:
    """The rows of the routes, of the lengths, or of both under names that tell them apart."""
    several = bool(by_route and by_length)
    both = (
        Shown("routes", [*COLUMNS, *ALIGNED], tuple(by_route), "routes" if several else ""),
        Shown("spectrum", LENGTHS, tuple(by_length), "lengths" if several else ""),
    )
    return tuple(each for each in both if each.where)


def _last(tables: Tables, index: int) -> list[Row]:
    """The terms of one network at its last record, each with its number of paths."""
    step = rows(tables.steps, network=index)[-1]["step"]
    counted = {row["depth"]: row["paths"] for row in rows(tables.paths, network=index)}
    found = rows(tables.spectrum, network=index, step=step, origin="input")
    return [row | {"paths": counted[row["depth"]]} for row in found]


def _clause(name: str, found: list[Row], *, routes: bool) -> str:
    """Which path, or which length, has the largest share; none where another's interval reaches that of the largest."""
    first, *others = sorted(found, key=lambda row: -(row["norm_share"] or 0.0))
    low, highs = first["norm_share_low"], [row["norm_share_high"] for row in others]
    stands_out = low is not None and all(high is not None and high < low for high in highs)
    words = {"network": name, "share": in_percent(first["norm_share"])}
    if routes:
        blocks = _through(_places(first))
        return say("unravelled.clause.route" if stands_out else "unravelled.clause.route.none", **words, blocks=blocks)
    key = "unravelled.clause.length" if stands_out else "unravelled.clause.length.none"
    return say(key, **words, length=first["depth"])


def _detail(found: list[Row], blocks: int) -> str:
    if not blocks:
        return _counted(found)
    return say("unravelled.detail.routes", paths=_counted(found), blocks=blocks)


def _counted(found: list[Row]) -> str:
    """How many paths these are."""
    paths = sum(int(row["paths"]) for row in found)
    return say("panel.paths.one") if paths == 1 else say("panel.paths.count", paths=integer(paths))


def _places(route: Row) -> tuple[int, ...]:
    return tuple(int(i) for i in route["through"].split())


def _through(places: Sequence[int]) -> str:
    """The blocks of a path, counted from 1."""
    if not places:
        return say("unravelled.through.none")
    key = "unravelled.through.one" if len(places) == 1 else "unravelled.through"
    return say(key, blocks=listing([str(place + 1) for place in places]))


def _routes(found: list[Row]) -> list[Branch]:
    longest = max(row["length"] for row in found)
    branches = []
    for row in found:
        numbers = [_share(row), say("unravelled.aligned", share=in_percent(row["aligned_share"]))]
        name = say("unravelled.path", blocks=_through(_places(row)))
        tone = _tone(row["length"], longest + 1)
        branches.append(Branch(name, clauses(numbers), row["norm_share"] or 0.0, tone, _places(row)))
    return branches


def _lengths(found: list[Row]) -> list[Branch]:
    """One branch for each length; where there are many, for neighbours together."""
    size = -(-len(found) // MOST)
    groups = [found[i : i + size] for i in range(0, len(found), size)]
    branches = []
    for place, group in enumerate(groups):
        first, last = group[0]["depth"], group[-1]["depth"]
        share = sum(row["norm_share"] or 0.0 for row in group)
        counted = _counted(group)
        one = first == last
        name = say("unravelled.length", length=first) if one else say("unravelled.lengths", first=first, last=last)
        told = _share(group[0]) if one else say("unravelled.share.plain", share=percent(share))
        tone, beads = _tone(place, len(groups)), first if one and first <= BEADS else 0
        branches.append(Branch(name, clauses([told, counted]), share, tone, beads=beads, several=not one))
    return branches


def _tone(place: int, count: int) -> int:
    return round(place * (TONES - 1) / max(count - 1, 1))


def _share(row: Row) -> str:
    low, high = row["norm_share_low"], row["norm_share_high"]
    if low is None or high is None:
        return say("unravelled.share.plain", share=percent(row["norm_share"]))
    return say("unravelled.share", share=in_percent(row["norm_share"]), low=in_percent(low), high=in_percent(high))


# The drawing ------------------------------------------------------------------------------------------------


def _panel(name: str, detail: str, drawing: Html) -> Html:
    return element(
        "div", element("h3", name), element("p", detail, class_="detail"), drawing, class_="panel unravelled"
    )


def draw(name: str, branches: Sequence[Branch], blocks: int) -> Html:
    """The stream of one network, a branch below the other, the shortest at the top."""
    total = sum(branch.share for branch in branches)
    whole = 130.0 if blocks else 150.0
    widths = [whole * branch.share / total for branch in branches]
    rooms = [max(width + 4, 20.0) for width in widths] if blocks else [width + 10 for width in widths]
    height = max(sum(rooms), whole)
    tops = accumulate(rooms, initial=TOP + (height - sum(rooms)) / 2)
    starts = accumulate(widths, initial=TOP + (height - whole) / 2)
    ribbons = [
        _branch(branch, width, start, (top, room), blocks, TOP + height)
        for branch, width, start, (top, room) in zip(
            branches, widths, starts, zip(tops, rooms, strict=False), strict=False
        )
    ]
    middle = TOP + height / 2
    hint = element("text", say("unravelled.hint"), x=_n(WIDTH / 2), y=_n(TOP + height + 24), class_="hint")
    parts = [*_ground(blocks, height), *ribbons, *_ends(middle, whole), hint]
    words = say("unravelled.alt", network=name, count=len(branches))
    box = f"0 0 {_n(WIDTH)} {_n(TOP + height + 48)}"
    return element("svg", *parts, viewBox=box, role="group", aria_label=words)


def _ground(blocks: int, height: float) -> list[Html]:
    """A column for each block, with its name above."""
    found = []
    for place in range(blocks):
        x = _station(place, blocks)
        words = element("text", say("unravelled.block", number=place + 1), x=_n(x), y=_n(TOP - 12), class_="name")
        found += [
            element("rect", x=_n(x - 13), y=_n(TOP - 4), width=26, height=_n(height + 8), rx=13, class_="block"),
            words,
        ]
    return found


def _station(place: int, blocks: int) -> float:
    left, right = LANES[0] + 14, LANES[1] - 62
    return (left + right) / 2 if blocks == 1 else left + place * (right - left) / (blocks - 1)


def _ends(middle: float, whole: float) -> list[Html]:
    """Input and output: a bar each, and its name along it."""
    found = []
    for x, key, side in ((BARS[0], "input", -1), (BARS[1], "output", 1)):
        bar = {"x": _n(x - 2.5), "y": _n(middle - whole / 2 - 3), "width": 5, "height": _n(whole + 6), "rx": 2.5}
        at = {"x": _n(x + 14 * side), "y": _n(middle)}
        turned = f"rotate(-90 {at['x']} {at['y']})"
        words = element("text", say(f"unravelled.{key}"), **at, dy="0.35em", transform=turned, class_="terminal")
        found += [element("rect", **bar, class_="end"), words]
    return found


def _branch(branch: Branch, width: float, start: float, room: tuple[float, float], blocks: int, bottom: float) -> Html:
    """A ribbon, what it passes, its number, and what is told when it is lit."""
    top, height = room
    y = top + height / 2
    hit = element("rect", x=_n(LANES[0]), y=_n(top), width=_n(LANES[1] - LANES[0]), height=_n(height), class_="hit")
    shape = element("path", d=_ribbon(start, y - width / 2, max(width, 1.2)), class_="ribbon")
    number = _number(branch, y) if height >= 16 else []
    told = [
        element("text", words, x=_n(WIDTH / 2), y=_n(bottom + 22 + 18 * line), class_=f"told {look}")
        for line, (words, look) in enumerate(((branch.name, "which"), (branch.numbers, "much")))
    ]
    drawn = element("g", shape, *_marks(branch, width, y, blocks), *number, class_="flow")
    about = {"tabindex": 0, "role": "img", "aria_label": branch.label}
    return element("g", hit, drawn, *told, class_=f"branch is-depth-{branch.tone}", **about)


def _number(branch: Branch, y: float) -> list[Html]:
    """Its share, on a ground of its own."""
    x, wide = LANES[1] - 24, 44
    ground = element("rect", x=_n(x - wide / 2), y=_n(y - 8), width=wide, height=16, rx=8, class_="ground")
    return [ground, element("text", percent(branch.share), x=_n(x), y=_n(y), dy="0.35em", class_="number")]


def _marks(branch: Branch, width: float, y: float, blocks: int) -> list[Html]:
    """The blocks that it passes, or a bead for each step."""
    if blocks:
        size = min(max(width / 2 + 2, 5.5), 12.0)
        return [
            element("circle", cx=_n(_station(place, blocks)), cy=_n(y), r=_n(size), class_="station")
            for place in branch.stations
        ]
    left, right = LANES[0] + 4, LANES[1] - 52
    places = [left + (i + 0.5) * (right - left) / branch.beads for i in range(branch.beads)]
    look = "bead" if width >= 6 else "bead thin"
    return [element("circle", cx=_n(x), cy=_n(y), r=2, class_=look) for x in places]


def _ribbon(start: float, lane: float, width: float) -> str:
    """From its place at the input to its lane, along it, and to the same place at the output."""
    (left, right), (begin, end) = BARS, LANES

    def bend(start: float, stop: float, from_y: float, to_y: float) -> str:
        middle = (start + stop) / 2
        return "C" + " ".join(map(_n, (middle, from_y, middle, to_y, stop, to_y)))

    below, beside = start + width, lane + width
    there = f"{bend(left, begin, start, lane)}H{_n(end)}{bend(end, right, lane, start)}"
    back = f"{bend(right, end, below, beside)}H{_n(begin)}{bend(begin, left, beside, below)}"
    return f"M{_n(left)} {_n(start)}{there}V{_n(below)}{back}Z"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
