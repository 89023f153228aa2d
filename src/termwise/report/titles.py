"""What the figure of a single result shows, in a sentence computed from its data.

These are the titles of paper figures and of notebook cards; those of the page, which shows several networks, are in
the modules of `termwise.report.figures`.  A title claims a change or a difference only where intervals leave no doubt
of it; else it says that there is nothing to see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from termwise.degree.spectrum import LADDER, DegreeSpectrum
from termwise.degree.tiles import DepthDegrees, beyond
from termwise.deletion import Curve
from termwise.profile import DepthProfile
from termwise.report.intervals import between, direction, ends, moved, share_between, trend
from termwise.report.strings import fixed, listing, say, signed, word
from termwise.report.tables import degree_label
from termwise.timeline import Timeline
from termwise.verdict import LEARNED, SEEDS, SHARE, decided, learned, order, share_trend, times_learned
from termwise.verdict.decision import interval

Row = dict[str, Any]
_MIDDLE = (0.1, 0.5, 0.9)
_SEEN = 0.005  # steps: a smaller move is printed as none
_ROUNDING = 1e-12  # sums of shares may miss a level by this much


def spectrum(profile: DepthProfile) -> str:
    """Where the middle 80 % of the input-born norm lies, and the mean path length."""
    if len(profile.depths) == 1:
        return say("paper.plain", depth=profile.depths[0])
    low, _, high = quantiles(profile)
    key = "paper.spectrum.one" if low == high else "paper.spectrum"
    return say(key, low=low, high=high, mean=between(*profile.mean_depth, places=2))


def quantiles(profile: DepthProfile) -> tuple[int, int, int]:
    """The depths up to which 10, 50 and 90 % of the norm share lie."""
    held = profile.share.where(origin="input")["norm_share"].cumsum()
    places = np.minimum(np.searchsorted(held, np.array(_MIDDLE) - _ROUNDING), len(held) - 1)
    low, middle, high = (profile.depths[place] for place in places)
    return low, middle, high


def triptych(profile: DepthProfile) -> str:
    """Whether the mean path length by size is that by number."""
    if len(profile.depths) == 1:
        return say("paper.plain", depth=profile.depths[0])
    total = sum(profile.paths.values())
    paths = sum(depth * count for depth, count in profile.paths.items()) / total
    mean = profile.mean_depth
    kind = "shorter" if mean.high < paths else "longer" if mean.low > paths else "same"
    return say(f"paper.triptych.{kind}", mean=between(*mean, places=2), paths=fixed(paths, 2))


def truncation(profile: DepthProfile) -> str:
    """From which depth on 99 % of the accuracy is kept."""
    if profile.effective_depth is None:
        return say("paper.truncated.loss")
    whole = 1.0 if profile.accuracy is None else profile.accuracy
    row = profile.truncated.where(depth=profile.effective_depth).rows()[0]
    if profile.effective_depth == profile.depths[-1]:
        return say("paper.truncated.all")
    kept = between(row["head_accuracy"], row["head_accuracy_low"], row["head_accuracy_high"], places=3)
    return say("paper.truncated", depth=profile.effective_depth, kept=kept, whole=fixed(whole, 3))


def heat_map(timeline: Timeline) -> str:
    """How the median depth and the loss move from the first to the last record."""
    first, last = _ends(timeline)
    if len(timeline.steps) < 2:
        return say("heat.title.one")
    loss = direction(first["loss"], last["loss"])
    if first["depth_p50"] is None or last["depth_p50"] is None or loss is None:
        return say("heat.title.none")
    moved = last["depth_p50"] - first["depth_p50"]
    kind = "stays" if abs(moved) < 1 else "falls" if moved < 0 else "rises"
    shown = {"first": fixed(first["depth_p50"], 0), "last": fixed(last["depth_p50"], 0)}
    return say(f"paper.heat.{kind}", loss=say(f"heat.loss.{loss}"), **shown)


def mean_depth(timeline: Timeline) -> str:
    """How the mean path length moves from the first to the last record."""
    first, last = _ends(timeline)
    if len(timeline.steps) < 2:
        return say("heat.title.one")
    kind = trend(ends(first, "mean_depth"), ends(last, "mean_depth"))
    return say(f"paper.mean.{kind}", first=mean_of(first), last=mean_of(last))


def mean_depths(timelines: Mapping[str, Timeline]) -> str:
    """How the mean path length of each network moves."""
    moves = []
    for name, timeline in timelines.items():
        first, last = _ends(timeline)
        kind = trend(ends(first, "mean_depth"), ends(last, "mean_depth"))
        moves.append((kind, fixed(first["mean_depth"], 1), fixed(last["mean_depth"], 1), name))
    return say("mean.title", moves=moved("mean", moves))


def mean_depth_of_seeds(timelines: Sequence[Timeline]) -> str:
    """By how much the mean path length rises over the training, by the rule of the verdicts (H1, share)."""
    rises = [share_trend(timeline) for timeline in timelines]
    verdict = decided(SHARE, rises)
    if len(timelines) < SEEDS:
        return say(
            "paper.mean.seeds.few", change=signed(fixed(verdict.estimate, 2)), seeds=seeds(len(timelines)), least=SEEDS
        )
    kind = {"holds": "rises", "fails": "falls"}.get(verdict.verdict, "undecided")
    shown = (verdict.estimate, verdict.low, verdict.high)
    if max(abs(verdict.low), abs(verdict.high)) < _SEEN:
        kind = "undecided"
    if kind == "falls":
        shown = (-verdict.estimate, -verdict.high, -verdict.low)
    change = between(*shown, places=2)
    return say(f"paper.mean.seeds.{kind}", change=change, seeds=len(timelines))


def time_learned(timelines: Sequence[Timeline]) -> str:
    """Kendall's tau between depth and time learned, by the rule of the verdicts (H1, learned)."""
    times = [times_learned(timeline) for timeline in timelines]
    orders = [order(each) for each in times]
    known = [value for value in orders if value is not None]
    if not known:
        return say("paper.learned.none")
    if len(timelines) < SEEDS:
        mean = signed(fixed(sum(known) / len(known), 2))
        return say("paper.learned.few", tau=mean, seeds=seeds(len(known)), least=SEEDS)
    verdict = learned(times) if len(known) == len(orders) else decided(LEARNED, orders)
    tau = between(*(float(np.mean(known)), *interval(known)), places=2)
    return say(f"paper.learned.{verdict.verdict}", tau=tau, seeds=len(known))


def degrees(spectrum: DegreeSpectrum) -> str:
    """The largest share, the mean degree, and whether the estimator warns."""
    rows = [row for row in spectrum.spectrum.rows() if row["share"] is not None]
    if not rows:
        return say("paper.degrees.none")
    most = max(rows, key=lambda row: row["share"])
    share, degree = share_between(most, "share"), degree_label(most["lowest"], most["highest"])
    gained = spectrum.method == LADDER
    title = say("paper.degrees.gained" if gained else "paper.degrees", share=share, degree=degree)
    if spectrum.mean_degree is not None:
        title = say("paper.degrees.mean", title=title, mean=between(*spectrum.mean_degree, places=2))
    kinds = dict.fromkeys(warning.partition(":")[0] for warning in spectrum.warnings)
    told = listing([word("warning", kind) for kind in kinds])
    return say("paper.degrees.warned", title=title, kinds=told) if kinds else title


def degree_course(timeline: Timeline) -> str:
    """How the share of the lowest degree moves from the first to the last record that has shares."""
    rows = [] if timeline.degrees is None else timeline.degrees.rows()
    rows = [row for row in rows if row["lowest"] > 0 and row["share"] is not None]
    if not rows:
        return say("paper.degrees.none")
    own = [row for row in rows if row["lowest"] == rows[0]["lowest"]]
    if len(own) < 2:
        return say("heat.title.one")
    label = degree_label(own[0]["lowest"], own[0]["highest"])
    shown = {"first": share_between(own[0], "share"), "last": share_between(own[-1], "share")}
    kind = trend(ends(own[0], "share"), ends(own[-1], "share"))
    return say(f"paper.gained.{kind}" if gains(timeline) else f"paper.course.{kind}", degree=label, **shown)


def gains(timeline: Timeline) -> bool:
    """Whether shares by degree are gains of held-out R^2, and no parts of a variance."""
    return any(moment.degrees is not None and moment.degrees.method == LADDER for moment in timeline.moments)


def tiles(found: DepthDegrees) -> str:
    """Whether a term loses more of its lowest frequencies with depth than in the comparators, and by how much."""
    rows = [row for row in found.trend.rows() if row["excess"] is not None]
    if not rows:
        return say("paper.tiles.none")
    points = [between(*(100 * row[f"excess{end}"] for end in ("", "_low", "_high")), places=1) for row in rows]
    names = [row["comparator"] for row in rows]
    return say(f"paper.tiles.{beyond(rows)}", comparators=comparators(names), points=listing(points))


def comparators(names: Sequence[str]) -> str:
    """What terms are compared with, in words; names that are not known as they are."""
    return listing([word("tiles.by", name) for name in names])


def lesion(curve: Curve) -> str:
    """The accuracy with half of the blocks removed (or after the most exchanges), beside that of the whole network."""
    rows = curve.summary.rows()
    reordered = curve.kind == "reordering"
    name = "swaps" if reordered else "removed"
    whole = next((row for row in rows if row[name] == 0), None)
    rest = [row for row in rows if row[name] > 0]
    if whole is None or not rest:
        return say("paper.reordered.none") if reordered else say("paper.lesion.none", what=removable(curve))
    half = rest[-1][name] if reordered else (rest[0]["removed"] + rest[0]["kept"]) / 2
    row = min(rest, key=lambda row: abs(row[name] - half))
    low, high = row["accuracy_low"], row["accuracy_high"]
    still = row["accuracy"] >= whole["accuracy"] if high is None else high >= whole["accuracy"]
    accuracy = between(row["accuracy"], low, high, places=2)
    told = {"count": row[name], "accuracy": accuracy, "whole": fixed(whole["accuracy"], 2)}
    if reordered:
        return say("paper.reordered.still" if still else "paper.reordered", **told)
    told |= {"all": row["removed"] + row["kept"], "what": removable(curve)}
    return say("paper.lesion.still" if still else "paper.lesion", **told)


def removable(curve: Curve) -> str:
    """What a curve of deletion removed: blocks or layers; curves of earlier versions do not say which."""
    return unit_name(curve.metadata["unit"]) if "unit" in curve.metadata else say("paper.lesion.parts")


def unit_name(unit: str) -> str:
    """A unit of depth in the language that is spoken; names of modules as they are."""
    return word("unit", unit)


def seeds(count: int) -> str:
    """How many seeds, in words."""
    return say("paper.learned.seed") if count == 1 else say("paper.learned.seeds", count=count)


def _ends(timeline: Timeline) -> tuple[Row, Row]:
    rows = timeline.table.rows()
    return rows[0], rows[-1]


def mean_of(row: Row) -> str:
    """The mean path length of a record, with its interval."""
    return between(row["mean_depth"], *ends(row, "mean_depth"), places=2)
