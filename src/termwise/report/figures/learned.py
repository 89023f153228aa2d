"""When the terms of each depth were learned, by the loss credit that they got over the training.

The time of a level is the step at which that part of a term's final loss credit was in (`termwise.credit`). Whether
deeper terms come later is Kendall's tau_b between depth and the time of one half, over the terms that have such a time.
It is one number a seed: its interval is over seeds, by the rule of `termwise.verdict`, and one run has none.
"""

from __future__ import annotations

import math
from itertools import pairwise

from termwise.credit import CONVERGED
from termwise.report.charts import Figure, Panel, Spec, complete, depth_ticks, gap, lit, step_x, tooltip, y_axis
from termwise.report.figures.common import behind, names, rows, split
from termwise.report.intervals import MANY
from termwise.report.reading import Columns, Run
from termwise.report.strings import clauses, fixed, integer, listing, number, percent, prose, say, signed
from termwise.report.tables import Tables, rounded
from termwise.verdict.claims import Verdict, learned
from termwise.verdict.decision import SEEDS
from termwise.verdict.measures import FEWEST, Times

Group = tuple[str, tuple[int, ...]]
"""A network, and its places in the summary: one a seed."""
SPREAD = 0.55  # of the distance between two depths, over which the seeds of a network stand


def build(run: Run, tables: Tables) -> Figure | None:
    """What was learned first. Reads `learned`; None where no term has a time.

    Networks whose paths are all of one length are left out.
    """
    table, own = tables.learned, split(run)
    if table is None or not own:
        return None
    alike = run.seeds or tuple((name, (index,)) for index, name in enumerate(names(run)))
    groups = [group for group in alike if set(group[1]) <= set(own)]
    verdicts = {group: verdict(table, group) for group in groups}
    panels = []
    for group in groups:
        words = alternative(table, group, verdicts[group])
        spec = complete(_spec(tables, table, group), words, keys=["step", "depth"])
        panels.append(Panel(group[0], detail(table, group), words, spec))
    key = [("dot accent", say("key.learned.half")), ("learned-span", say("key.learned.span"))]
    halves = zip(table["fraction"], table["time_50"], strict=True)
    if any(half is not None and fraction < 0 for fraction, half in halves):
        key.append(("dot tail", say("key.learned.against")))
    columns = ["network", "depth", "credit_cumulative", "fraction", "time_10", "time_50", "time_90"]
    return Figure("learned", title(groups, verdicts), reading(run, groups), panels, key, behind("learned", columns))


def verdict(table: Columns, group: Group) -> Verdict:
    """Kendall's tau_b of each seed of a network, and what they decide: see `termwise.verdict`."""
    return learned([_times(table, index) for index in group[1]], of=group[0])


def _times(table: Columns, index: int) -> Times:
    return {row["depth"]: row["time_50"] for row in rows(table, network=index)}


def title(groups: list[Group], verdicts: dict[Group, Verdict]) -> str:
    """What the seeds decide of each network; of a single run the number, and that it decides nothing."""
    if all(math.isnan(found.estimate) for found in verdicts.values()):
        return say("learned.title.none", least=FEWEST)
    if len(groups) > MANY:
        return _many(groups, list(verdicts.values()))
    if all(len(seeds) == 1 for _, seeds in groups):
        return say("learned.title.one", taus=clauses([_tau(verdicts[group], group[0]) for group in groups]))
    return say("semicolon").join(_decided(verdicts[group], group[0]) for group in groups)


def _many(groups: list[Group], found: list[Verdict]) -> str:
    """Many networks: how many hold, fail and are undecided; of one run each, between which ends tau lies."""
    if all(len(seeds) == 1 for _, seeds in groups):
        known = [each.estimate for each in found if not math.isnan(each.estimate)]
        ends = {"low": signed(fixed(min(known), 2)), "high": signed(fixed(max(known), 2))}
        return say("learned.title.one", taus=say("learned.tau.many", known=len(known), count=len(found), **ends))
    counts = {kind: sum(each.verdict == kind for each in found) for kind in ("holds", "fails", "undecided")}
    return say("learned.title.many", count=len(found), **counts)


def _tau(found: Verdict, name: str) -> str:
    if math.isnan(found.estimate):
        return say("learned.tau.none", network=name, least=FEWEST)
    return say("learned.tau", network=name, tau=signed(fixed(found.estimate, 2)))


def _decided(found: Verdict, name: str) -> str:
    """A sentence of several seeds; of fewer than the verdicts ask for, or of a seed without an order, a neutral one."""
    if found.seeds == 1 or math.isnan(found.estimate):
        return say("learned.neutral", tau=_tau(found, name))
    values = {"tau": found.estimate, "low": found.low, "high": found.high}
    words = {name: signed(fixed(value, 2)) for name, value in values.items()}
    key = "learned.few" if found.seeds < SEEDS else f"learned.{found.verdict}"
    return say(key, network=name, seeds=found.seeds, least=SEEDS, **words)


def detail(table: Columns, group: Group) -> str:
    """Of how many terms there is a time, and what part of all credit they have."""
    own = [row for index in group[1] for row in rows(table, network=index)]
    known = [row for row in own if row["time_50"] is not None]
    share = sum(abs(row["fraction"] or 0.0) for row in known) / len(group[1])
    return say("learned.detail", known=len(known), all=len(own), share=percent(share))


def reading(run: Run, groups: list[Group]) -> str:
    """How to read the figure, and of which networks the credit depends on how densely they were recorded."""
    worst = {name: max(run.summary.networks[i].credit_drift or 0.0 for i in seeds) for name, seeds in groups}
    loose = [
        say("learned.drift", network=name, drift=percent(drift)) for name, drift in worst.items() if drift > CONVERGED
    ]
    warned = say("learned.warned", networks=listing(loose)) if loose else ""
    return prose(say("learned.read"), warned)


def alternative(table: Columns, group: Group, found: Verdict) -> str:
    """In words: which depth had half of its credit first and last, for each seed, and the order over all depths."""
    words = []
    for index in group[1]:
        known = sorted(
            (row for row in rows(table, network=index) if row["time_50"] is not None), key=lambda row: row["time_50"]
        )
        ends = [say("learned.alt.end", depth=row["depth"], step=_step(row["time_50"])) for row in known]
        words.append(say("learned.alt.seed", first=ends[0], last=ends[-1]) if ends else say("learned.alt.none"))
    tau = say("undefined") if math.isnan(found.estimate) else signed(fixed(found.estimate, 2))
    return say("learned.alt", network=group[0], seeds=prose(*words), tau=tau)


def _step(time: float) -> str:
    return number(time, 2) if time < 100 else integer(round(time))


def _spec(tables: Tables, table: Columns, group: Group) -> Spec:
    known = [d for d, half in zip(table["depth"], table["time_50"], strict=True) if half is not None]
    low, high = min(known), max(known)
    axis = y_axis(say("heat.depth"), values=depth_ticks(low, high), format="d")
    scale = {"domain": [low - 0.8, high + 0.8], "nice": False, "zero": False}
    # Channels without a field: what all marks share, which add their fields to it.
    shared = {"x": step_x(tables), "y": {"type": "quantitative", "scale": scale, "axis": axis}}
    seeds = list(group[1])
    apart = rounded(SPREAD * _distance(table, seeds) / len(seeds))
    middle = (len(seeds) - 1) / 2
    place = f"datum.depth + {apart} * (indexof({seeds}, datum.network) - {middle})"
    spans = {
        "mark": {"type": "rule", "style": "learned-span"},
        "encoding": {"x": {"field": "start"}, "x2": {"field": "end"}, "y": {"field": "place"}},
    }
    own = {
        "data": {"name": "learned"},
        "transform": [
            {"filter": {"field": "network", "oneOf": seeds}},
            {"filter": "isValid(datum.at_50)"},
            {"calculate": place, "as": "place"},
            {"calculate": "abs(datum.fraction)", "as": "much"},
            # An end that is not known is left out: the line begins or ends at its dot.
            {"calculate": "isValid(datum.at_10) ? datum.at_10 : datum.at_50", "as": "start"},
            {"calculate": "isValid(datum.at_90) ? datum.at_90 : datum.at_50", "as": "end"},
        ],
        "layer": [spans, *_dots(table, len(seeds)), _targets(apart / 2)],
    }
    here = [lit("step", "x", {}, tables), lit("depth", "y", {}, tables)]
    return {"width": "fill", "height": 280, "encoding": shared, "layer": [*gap(tables), own, *here]}


def _distance(table: Columns, seeds: list[int]) -> int:
    """The smallest distance between two depths of a network."""
    depths = sorted({row["depth"] for index in seeds for row in rows(table, network=index)})
    return min((above - below for below, above in pairwise(depths)), default=1)


def _dots(table: Columns, seeds: int) -> list[Spec]:
    """One half of the credit, those that raised the loss apart; the area is the share of all credit."""
    most = max(abs(fraction or 0.0) for fraction in table["fraction"]) or 1.0
    scale = {"domain": [0, rounded(most)], "range": [round(area / seeds**0.75) for area in (24, 200)]}
    size = {"field": "much", "type": "quantitative", "legend": None, "scale": scale}
    encoding = {"x": {"field": "at_50"}, "y": {"field": "place"}, "size": size}
    return [
        {"transform": [{"filter": sign}], "mark": {"type": "point", "style": style}, "encoding": encoding}
        for sign, style in (("datum.fraction >= 0", "learned"), ("datum.fraction < 0", "learned-against"))
    ]


def _targets(half: float) -> Spec:
    """What can be pointed at: around a dot, as far as its line reaches."""
    times = ((f"time_{level}", f"time_{level}", ".1f") for level in (10, 50, 90))
    tips = tooltip(("depth", "depth", "d"), *times, ("fraction", "fraction", ".1%"))
    ends = {"x": {"field": "from"}, "x2": {"field": "to"}, "y": {"field": "low"}, "y2": {"field": "high"}}
    places = {
        "from": "min(datum.start, 0.8 * datum.at_50)",
        "to": "max(datum.end, 1.25 * datum.at_50)",
        "low": f"datum.place - {half}",
        "high": f"datum.place + {half}",
    }
    return {
        "transform": [{"calculate": place, "as": name} for name, place in places.items()],
        "mark": {"type": "rect", "style": "target", "clip": True},
        "encoding": {**ends, "tooltip": tips},
    }
