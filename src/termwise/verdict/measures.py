"""The one number that a seed has for each endpoint, from what was recorded of it.

Signs are chosen so that each claim of the paper says *above 0*.  None stands for a number that the seed does not have.

With `constants` the paths that begin at a constant (a bias, the shift of a norm) are counted with those that begin at
the input: depth k then has y_k + c_k.  That needs `Recorder(..., constants="by_depth")`; else the answer is None.
Late biases are short paths, so that constants alone can look like shallow first: the input-born numbers are primary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from termwise.credit import LEAST, time_learned
from termwise.degree.tiles import INITIAL, SHUFFLED, DepthDegrees
from termwise.moments import mean_depth_with_constants
from termwise.timeline import Timeline
from termwise.verdict.decision import tau

FEWEST = 6  # terms with a time learned, for an order of them
HALF = 0.5  # of a term's final credit: when it counts as learned

Times = Mapping[int, float | None]
"""When the terms of each depth were learned."""


def mean_depths(timeline: Timeline, *, constants: bool = False) -> np.ndarray:
    """The mean depth under the norm share at each record, in steps of depth, shape (R,); NaN where it is not known.

    A network of paths of one length has none that could change: NaN.
    """
    if len(_depths(timeline, _counted(constants))) < 2:
        return np.full(len(timeline.steps), math.nan)
    if not constants:
        return timeline.table["mean_depth"]
    counted = [mean_depth_with_constants(profile) for profile in timeline.profiles]
    return np.array([math.nan if value is None else value for value in counted])


def share_trend(timeline: Timeline, *, constants: bool = False) -> float | None:
    """H1, *share*: by how many steps the mean depth rises over the training.

    It is the slope of a line, fitted by least squares over log(step + 1), times what log(step + 1) grows by from the
    first record to the last: all records count, on the scale on which they are made.  Shallow first says that it rises.
    """
    scale, depths = np.log1p(timeline.steps), mean_depths(timeline, constants=constants)
    if len(scale) < 2 or not np.isfinite(depths).all():
        return None
    return float(np.polyfit(scale, depths, 1)[0] * (scale[-1] - scale[0]))


def times_learned(timeline: Timeline, *, constants: bool = False) -> dict[int, float | None]:
    """H1, *learned*: the step at which half of the final loss credit of each depth is in.

    None for depths with less than 2 % of sum |C|, and for those that pass the half more than once; empty without
    credit.  With constants the credits of a depth are added first, which they may be.
    """
    table = timeline.time_learned
    if table is None or (constants and not _placed(timeline)):
        return {}
    if not constants:
        return {int(row["depth"]): row["time_50"] for row in table.where(origin="input").rows()}
    curves: dict[int | None, np.ndarray] = {}
    for origin, depth in timeline.moments[0].parts:
        own = timeline.spectrum.where(origin=origin, depth=depth)["credit_cumulative"]
        curves[depth] = curves.get(depth, 0.0) + own
    whole = sum(abs(curve[-1]) for curve in curves.values())
    return {
        depth: time_learned(timeline.steps, curve, [HALF])[0] if abs(curve[-1]) >= LEAST * whole else None
        for depth, curve in curves.items()
        if depth is not None  # what is born of frozen values has no depth
    }


def order(times: Times) -> float | None:
    """H1, *learned*: Kendall's tau_b between depth and time learned; None of fewer than 6 terms that have a time.

    Shallow first says that it is above 0.
    """
    known = [(depth, time) for depth, time in times.items() if time is not None]
    if len(known) < FEWEST:
        return None
    found = tau(*np.array(known).T)
    return None if math.isnan(found) else found  # all learned at once: no order


def steps_saved(shorter: float, longer: float) -> float | None:
    """H1, *causal*: log2 of the steps to a loss by longer paths over those by shorter ones.

    In doublings: 1 where training by the longer half of the gradient's paths takes twice as long.  None where a loss
    was not reached (infinitely many steps).  Shallow first says that it is above 0.
    """
    return math.log2(longer / shorter) if math.isfinite(longer) and math.isfinite(shorter) else None


def shallow_effect(timeline: Timeline, record: int = -1, *, constants: bool = False) -> float | None:
    """H2: the accuracy of the shallow half of the terms less that of the deep half, at a record.

    The halves are those of the list of depths, in their order; of an odd number the middle one is in both.  All
    constants are in both, or with `constants` each in the half of its depth.  Of two players one is worth more than
    the other, in Shapley's sense, by what it reaches alone less what the other does: so much more of its accuracy does
    the network owe to the shallow terms.  The claim says a *great* effect, and no bound; to be greater than that of the
    deep half is the least that it can mean.

    Args:
        timeline: of a network with classes.
        record: its place in the timeline; 0 is the comparator, at the first weights.
        constants: see above.
    """
    placed = _counted(constants)
    depths, moment = _depths(timeline, placed), timeline.moments[record]
    if len(depths) < 2 or moment.targets is None or (constants and not _placed(timeline)):
        return None
    half = (len(depths) + 1) // 2
    shallow, deep = depths[half - 1], depths[-half]  # the last of the one half, the first of the other

    def accuracy(low: float, high: float) -> float:
        held = [d is None or origin not in placed or low <= d <= high for origin, d in moment.parts]
        return float((moment.terms[held].sum(axis=0, dtype=np.float64).argmax(axis=1) == moment.targets).mean())

    return accuracy(-math.inf, shallow) - accuracy(deep, math.inf)


def smaller_excess(found: DepthDegrees) -> float | None:
    """H3: by how much more a term loses of its lowest frequencies with each step of depth than in either comparator.

    The smaller of the two excesses, over the network's first weights and over gates of other inputs; None without both.
    """
    excess = {line["comparator"]: line["excess"] for line in found.trend.rows()}
    both = [excess.get(name) for name in (INITIAL, SHUFFLED)]
    known = [value for value in both if value is not None]
    return min(known) if len(known) == len(both) else None


At = Literal["step", "loss"]
"""Where two networks are compared."""


class Course(NamedTuple):
    """How a network got shallower or deeper while its loss fell, at the steps on record.

    Attributes:
        steps: ascending, (R,).
        losses: on the probe, in nats, (R,).
        depths: the mean depth, in steps of depth, (R,).
    """

    steps: Sequence[int]
    losses: np.ndarray
    depths: np.ndarray


def course(timeline: Timeline, *, constants: bool = False) -> Course:
    """The course of a timeline."""
    return Course(timeline.steps, timeline.table["loss"], mean_depths(timeline, constants=constants))


def shallower(first: Course, second: Course, *, at: At) -> float | None:
    """H4: by how many steps of depth the mean depth of the second network is below that of the first.

    Args:
        first: the ResNet.
        second: the DenseNet, with as many parameters, recorded in the same unit on the same probe.
        at: "step", the last one that both have on record; or "loss", the lowest that both have reached on the probe.
            There each mean depth is taken where the loss is first reached, on a line between the records around it.
    """
    both = (first, second)
    if at == "step":
        last = max(set(first.steps) & set(second.steps))
        ends = [each.depths[list(each.steps).index(last)] for each in both]
    else:
        reached = max(each.losses.min() for each in both)
        ends = [_first_at(reached, each.losses, each.depths) for each in both]
    difference = float(ends[0] - ends[1])
    return difference if math.isfinite(difference) else None


def _first_at(level: float, losses: np.ndarray, values: np.ndarray) -> float:
    """The value where a loss is first at or below a level, linear between the records."""
    place = int(np.flatnonzero(losses <= level)[0])
    if not place:
        return values[0]
    part = (losses[place - 1] - level) / (losses[place - 1] - losses[place])
    return values[place - 1] + part * (values[place] - values[place - 1])


def _counted(constants: bool) -> tuple[str, ...]:
    """The origins whose depths count."""
    return ("input", "constant") if constants else ("input",)


def _depths(timeline: Timeline, origins: Sequence[str]) -> list[int]:
    """Of the parts of these origins, ascending, each once."""
    return sorted({depth for origin, depth in timeline.moments[0].parts if origin in origins and depth is not None})


def _placed(timeline: Timeline) -> bool:
    """Whether every constant has a depth."""
    return ("constant", None) not in timeline.moments[0].parts
