"""The tables that the page embeds, by columns, and the axes that all its figures share.

Each table is embedded once; what a figure needs beside the measures (where a record lies on the step axis,
which records a slider position shows, how far a heat map's cell reaches) is computed here, so that the
specifications stay declarative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from termwise.report.finished import Finished
from termwise.report.reading import LEARNED, Columns, Run
from termwise.report.strings import say

LABEL = 0.045  # of the height of a figure, what a line of text takes
DIGITS = 6  # significant digits embedded; the parquet tables beside the page have them all


@dataclass(frozen=True)
class StepAxis:
    """A logarithmic axis over the recorded steps, with step 0 in a place of its own left of a gap.

    Attributes:
        steps: the union of the networks' recorded steps, ascending.
        zero: where step 0 is drawn (a positive number below the first positive edge).
        gap: the position of the break between step 0 and the rest; None when step 0 is not recorded.
        domain: first and last position.
        ticks: positions of the labels; the one at `zero` reads 0.
        half_zero: how far the cell of step 0 reaches from `zero` to either side, as a factor.
    """

    steps: list[int]
    zero: float
    gap: float | None
    domain: tuple[float, float]
    ticks: list[float]
    half_zero: float

    @property
    def zero_below(self) -> float:
        """Positions below this one are step 0."""
        return self.gap if self.gap is not None else self.domain[1] if self.steps[-1] == 0 else 0.0

    def at(self, step: int) -> float:
        """Where a step is drawn."""
        return float(step) if step > 0 else self.zero

    def when(self, time: float) -> float:
        """Where a time between two recorded steps is drawn.

        Before the first step after 0 it is interpolated in log(time + 1), as times learned are between records.
        """
        first = next((step for step in self.steps if step > 0), None)
        if first is None or time >= first:
            return max(time, self.zero)
        return self.zero * (first / self.zero) ** (math.log1p(time) / math.log1p(first))

    def evenly(self, steps: list[int], most: int) -> list[int]:
        """At most so many of the steps, the first and the last among them, as evenly on the axis as they allow."""
        if len(steps) <= most:
            return steps
        places = [math.log(self.at(step)) for step in steps]
        wanted = [places[0] + i * (places[-1] - places[0]) / (most - 1) for i in range(most)]
        nearest = (min(range(len(steps)), key=lambda row: abs(places[row] - place)) for place in wanted)
        return [steps[row] for row in sorted(set(nearest))]

    def cell(self, steps: list[int], row: int) -> tuple[float, float]:
        """How far the record `row` of a network's `steps` reaches: half-way, in log, to its neighbours."""
        step = steps[row]
        if step == 0:
            return self.zero / self.half_zero, self.zero * self.half_zero
        below = steps[row - 1] if row and steps[row - 1] > 0 else None
        above = steps[row + 1] if row + 1 < len(steps) else None
        ratio = math.sqrt(above / step) if above else math.sqrt(step / below) if below else math.sqrt(2.0)
        left = math.sqrt(step * below) if below else step / ratio
        return left, step * ratio


def step_axis(per_network: list[list[int]]) -> StepAxis:
    """The axis for some networks' recorded steps."""
    steps = sorted({step for recorded in per_network for step in recorded})
    positive = [step for step in steps if step > 0]
    if not positive:
        return StepAxis(steps, 1.0, None, (0.5, 2.0), [1.0], math.sqrt(2.0))
    bare = StepAxis(steps, 1.0, None, (1.0, 1.0), [], 1.0)
    edges = [bare.cell(own, row) for own in per_network for row, step in enumerate(own) if step > 0]
    low, high = min(left for left, _ in edges), max(right for _, right in edges)
    span = math.log10(high / low)
    ticks = _ticks(positive[0], positive[-1])
    if steps[0] > 0:
        return StepAxis(steps, low, None, (low, high), ticks, 1.0)
    width = min(max(0.06 * span, 0.05), 0.3)  # decades given to step 0's cell, and half as many to the break
    zero = low / 10**width
    start = zero / 10 ** (width / 2)
    return StepAxis(steps, zero, low / 10 ** (width / 4), (start, high), [zero, *ticks], 10 ** (width / 2))


def _ticks(first: int, last: int) -> list[float]:
    """Powers of ten, with 2 and 5 between them where there is room, ending on the last step's side."""
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    factors = (1, 2, 5) if math.log10(last / first) < 2 else (1,)
    return [float(f * 10**d) for d in decades for f in factors if first <= f * 10**d <= last]


@dataclass(frozen=True)
class Tables:
    """The embedded tables (by columns) and the scales common to every figure."""

    steps: Columns
    spectrum: Columns
    paths: Columns
    axis: StepAxis
    depths: tuple[int, int]  # smallest and largest depth of any term shown
    constants_by_depth: bool
    degrees: Columns | None = None  # above 0, each with its label and its place among them
    learned: Columns | None = None  # a row a network and depth from the input: its credit, and when it came
    finished: Finished = field(default_factory=Finished)

    @property
    def degree_labels(self) -> list[str]:
        """The degree groups from degree 1 on, in order."""
        return [] if self.degrees is None else list(dict.fromkeys(self.degrees["degree"]))

    def embedded(self) -> dict[str, Columns]:
        """What goes into the page, rounded to six significant digits."""
        tables = {"steps": self.steps, "spectrum": self.spectrum, "paths": self.paths}
        more = {"degrees": self.degrees, "learned": self.learned}
        tables |= {name: table for name, table in more.items() if table is not None}
        tables |= self.finished.embedded()
        return {name: {key: [rounded(v) for v in values] for key, values in t.items()} for name, t in tables.items()}


def rounded(value: Any) -> Any:
    """A float to six significant digits, whole ones as integers; anything else as it is."""
    if not isinstance(value, float):
        return value
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def build_tables(run: Run) -> Tables:
    """The tables of a run, with the columns that place their rows."""
    count = len(run.summary.networks)
    recorded: list[list[int]] = [[] for _ in range(count)]
    for network, step in zip(run.steps["network"], run.steps["step"], strict=True):
        recorded[network].append(step)
    axis = step_axis(recorded)
    shown = [_shown(own, axis.steps) for own in recorded]
    places = {
        (n, step): (axis.at(step), *axis.cell(own, row), *shown[n][row])
        for n, own in enumerate(recorded)
        for row, step in enumerate(own)
    }
    columns = {}
    for name, table in (("steps", run.steps), ("spectrum", run.spectrum)):
        rows = [places[key] for key in zip(table["network"], table["step"], strict=True)]
        placed = {key: [row[i] for row in rows] for i, key in enumerate(("at", "left", "right", "first", "last"))}
        columns[name] = {**table, **placed}
    spectrum = columns["spectrum"]
    spectrum["bottom"], spectrum["top"] = _cells(spectrum)
    paths = _path_shares(spectrum, len(axis.steps) - 1)
    shares = zip(spectrum["origin"], spectrum["norm_share"], spectrum.pop("paths"), strict=True)
    spectrum["log10_path_norm"] = [_log10_path(share, n) if origin == "input" else None for origin, share, n in shares]
    learned = _learned(spectrum, axis)
    for name in LEARNED:
        spectrum.pop(name, None)
    known = [depth for depth in spectrum["depth"] if depth is not None] or [0]
    born = {depth for depth, origin in zip(spectrum["depth"], spectrum["origin"], strict=True) if origin == "constant"}
    degrees = None if run.degrees is None else _degrees(run.degrees, axis)
    ends, apart = (min(known), max(known)), bool(born - {None})
    return Tables(columns["steps"], spectrum, paths, axis, ends, apart, degrees, learned, run.finished)


def _degrees(table: Columns, axis: StepAxis) -> Columns:
    """The rows above degree 0, which has no share."""
    rows = [row for row, low in enumerate(table["lowest"]) if low > 0]
    kept: Columns = {name: [values[row] for row in rows] for name, values in table.items()}
    kept["degree"] = [degree_label(*group) for group in zip(kept["lowest"], kept["highest"], strict=True)]
    order = {label: i for i, label in enumerate(dict.fromkeys(kept["degree"]))}
    kept["order"] = [order[label] for label in kept["degree"]]
    kept["at"] = [axis.at(step) for step in kept["step"]]
    kept["label_at"] = _label_places(kept)
    return kept


def _label_places(degrees: Columns) -> list[float | None]:
    """Where a degree's name stands beside its last share, on a scale of square roots: apart from its neighbours."""
    places: list[float | None] = [None] * len(degrees["step"])
    apart = LABEL * math.sqrt(max([share for share in degrees["share"] if share is not None and share > 0] or [1.0]))
    for network in set(degrees["network"]):
        own = [row for row, other in enumerate(degrees["network"]) if other == network]
        last = max(degrees["step"][row] for row in own)
        ends = [row for row in own if degrees["step"][row] == last and degrees["share"][row] is not None]
        ends.sort(key=lambda row: (degrees["share"][row], -degrees["order"][row]))
        heights = [math.sqrt(max(degrees["share"][row], 0.0)) for row in ends]
        for row, place in zip(ends, _spread(heights, apart), strict=True):
            places[row] = place**2
    return places


def _spread(heights: list[float], apart: float) -> list[float]:
    """Ascending heights moved as little as keeps each so far from the next: groups that touch stand around their mean.

    No name reaches below 0.
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _lowest(groups[-1], apart) < _lowest(groups[-2], apart) + apart * len(groups[-2]):
            above = groups.pop()
            groups[-1] += above
    return [_lowest(group, apart) + apart * i for group in groups for i in range(len(group))]


def _lowest(group: list[float], apart: float) -> float:
    return max(sum(group) / len(group) - apart * (len(group) - 1) / 2, apart / 2)


def degree_label(lowest: int, highest: int | None) -> str:
    """A degree or a group of them."""
    if highest is None:
        return say("degree.above", low=lowest)
    return str(lowest) if lowest == highest else say("degree.range", low=lowest, high=highest)


def _shown(own: list[int], union: list[int]) -> list[tuple[int, int]]:
    """The slider positions, first and last, at which each record is its network's latest one.

    A network's first record is shown before it, too.
    """
    starts = [union.index(step) for step in own]
    starts[0] = 0
    return [(start, stop - 1) for start, stop in pairwise([*starts, len(union)])]


def _cells(spectrum: Columns) -> tuple[list[float | None], list[float | None]]:
    """Lower and upper edge of a heat map's cell: half-way to the next depth that an input-born path has."""
    bottom: list[float | None] = []
    top: list[float | None] = []
    own: dict[int, list[int]] = {}
    for network, depth, origin in zip(spectrum["network"], spectrum["depth"], spectrum["origin"], strict=True):
        if origin == "input":
            own.setdefault(network, []).append(depth)
    edges: dict[tuple[int, int], tuple[float, float]] = {}
    for network, depths in own.items():
        ladder = sorted(set(depths))
        for i, depth in enumerate(ladder):
            below = (depth - ladder[i - 1]) / 2 if i else None
            above = (ladder[i + 1] - depth) / 2 if i + 1 < len(ladder) else None
            low, high = below or above or 0.5, above or below or 0.5
            edges[network, depth] = depth - low, depth + high
    for network, depth, origin in zip(spectrum["network"], spectrum["depth"], spectrum["origin"], strict=True):
        low, high = edges[network, depth] if origin == "input" else (None, None)
        bottom.append(low)
        top.append(high)
    return bottom, top


def _path_shares(spectrum: Columns, last: int) -> Columns:
    """Paths from the input per network and depth, counted exactly, and their share of the network's paths.

    They are the same at every position of the slider, of which `last` is the last one.
    """
    counts: dict[int, dict[int, int]] = {}
    rows = zip(spectrum["network"], spectrum["depth"], spectrum["origin"], spectrum["paths"], strict=True)
    for network, depth, origin, paths in rows:
        if origin == "input":
            counts.setdefault(network, {})[depth] = int(paths)
    table: Columns = {"network": [], "depth": [], "paths": [], "log10_paths": [], "path_share": []}
    for network, by_depth in counts.items():
        total = sum(by_depth.values())
        for depth in sorted(by_depth):
            table["network"].append(network)
            table["depth"].append(depth)
            table["paths"].append(str(by_depth[depth]))
            table["log10_paths"].append(math.log10(by_depth[depth]) if by_depth[depth] else None)
            table["path_share"].append(by_depth[depth] / total if total else 0.0)
    return table | {"first": [0] * len(table["depth"]), "last": [last] * len(table["depth"])}


def _log10_path(share: float | None, paths: str) -> float | None:
    """log10 of a term's norm share per path, of any number of paths; None of nothing."""
    return math.log10(share) - math.log10(int(paths)) if share and int(paths) else None


def _learned(spectrum: Columns, axis: StepAxis) -> Columns | None:
    """The final loss credit of each input-born term, its part of sum |C| over all parts, and the times that it came at.

    `step` is the network's first record at which half of it was in. None where no term of any network has a time.
    """
    if "time_50" not in spectrum or all(time is None for time in spectrum["time_50"]):
        return None
    steps: dict[int, list[int]] = {}
    for network, step in sorted(set(zip(spectrum["network"], spectrum["step"], strict=True))):
        steps.setdefault(network, []).append(step)
    ends = [i for i, step in enumerate(spectrum["step"]) if step == steps[spectrum["network"][i]][-1]]
    whole = dict.fromkeys(steps, 0.0)
    for i in ends:
        whole[spectrum["network"][i]] += abs(spectrum["credit_cumulative"][i] or 0.0)
    own = [i for i in ends if spectrum["origin"][i] == "input"]
    table = {name: [spectrum[name][i] for i in own] for name in ("network", "depth", *LEARNED)}
    credits = zip(table["network"], table["credit_cumulative"], strict=True)
    table["fraction"] = [None if credit is None else credit / (whole[n] or 1.0) for n, credit in credits]
    halves = zip(table["network"], table["time_50"], strict=True)
    table["step"] = [
        None if half is None else min((step for step in steps[n] if step >= half), default=steps[n][-1])
        for n, half in halves
    ]
    for level in ("10", "50", "90"):
        table[f"at_{level}"] = [None if time is None else axis.when(time) for time in table[f"time_{level}"]]
    return table
