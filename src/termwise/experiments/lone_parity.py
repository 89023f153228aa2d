"""Are low degrees learned first when the target has none?

A claim that must fail.  The target is a parity alone, x1 x2 x3 x4, of degree 4; the network is that of `boolean-order`,
512 ReLUs in one hidden layer without biases, trained by Adam on the whole cube.  "Low degree first", taken as what
networks do of themselves, would have it that such a network too is first of low degree, and that the parity comes out
of that: half-way to it, most of what it has learned would be of lower degree.  But nothing of low degree lowers the
loss, so nothing of it should be there to be learned first; where low degrees do come first (`boolean-order`), it is
because the target has them.

The number of a seed is the share of degrees 1 to 3 in the variance of what the network has learned, at the step where
half of the parity's coefficient is.  The claim, fixed before any run: more than half.  Output weights begin at zero, so
that all of the network's function is learned: random ones would give it low degrees at first, which it would have to
unlearn.  Beside it stands that the parity is learned in the end (0.9 or more); the same share when a tenth and a
hundredth of it is learned; and the most energy that degrees 1 to 3 have at any step, the parity's being 1.  The last
tells how much the early shares are of: a network of finite width moves along other degrees than its target's too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from termwise import nets
from termwise.charts import Axis, Chart, Plot
from termwise.degree.targets import parity
from termwise.experiments.common import over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.fitting import LEARNED, Curve, OnTheCube, by_degree, course
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say
from termwise.verdict.decision import Expected

DEGREE = 4
CLAIM = Expected("more than 0.5, if low degrees come first", low=0.5)
EXPECTED = Expected(f"{LEARNED:g} or more", low=LEARNED)


def measure(job: Job) -> Rows:
    """Fit the network, and look at all degrees at every recorded step."""
    protocol = job.protocol
    job.progress("fitting")
    with owned_random(job.seed):
        model = nets.mlp([protocol.inputs, protocol.width, 1], bias=False)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    return {"degrees": by_degree(course(model, parity(range(DEGREE)), protocol))}


def conclude(rows: Rows, protocol: OnTheCube) -> Conclusion:
    """How much of what is learned half-way is of lower degree than the target."""
    seeds = dict.fromkeys(each["seed"] for each in rows["degrees"])
    learned = [Curve.of(rows["degrees"], "learned", seed=seed, degree=DEGREE) for seed in seeds]
    shares = [lower(rows["degrees"], "share", seed) for seed in seeds]
    energies = [lower(rows["degrees"], "energy", seed) for seed in seeds]

    def early(level: float) -> list[float]:
        return [share.at(curve.reaches(level)) for curve, share in zip(learned, shares, strict=True)]

    found = [
        row("share of degrees 1 to 3 when half of the parity is learned", early(0.5), CLAIM),
        row("learned of the parity in the end", [curve.values[-1] for curve in learned], EXPECTED),
        row("share of degrees 1 to 3 when a tenth of the parity is learned", early(0.1)),
        row("share of degrees 1 to 3 when a hundredth of the parity is learned", early(0.01)),
        row("most energy of degrees 1 to 3 at any step", [each.values.max() for each in energies]),
        row("step at which half of the parity is learned", [curve.reaches(0.5) for curve in learned]),
    ]
    shown = [each for each in rows["degrees"] if each["degree"] <= DEGREE]
    there = [each for each in shown if each["share"] is not None]  # at first the network is zero
    tables = {
        "energies": over_seeds(shown, ["degree", "step"], ["energy"]),
        "shares": over_seeds(there, ["degree", "step"], ["share"]),
    }
    return Conclusion(found, _notes(found), tables, (_chart(found),))


def lower(rows: Sequence[Mapping[str, Any]], column: str, seed: int) -> Curve:
    """Of a seed the sum of a column over the degrees below the parity's, without degree 0, over the steps."""
    each = [Curve.of(rows, column, seed=seed, degree=k) for k in range(1, DEGREE)]
    return Curve(each[0].steps, np.sum([curve.values for curve in each], axis=0))


def _notes(found: Sequence[Mapping[str, Any]]) -> tuple[Sentence, ...]:
    """Where the claim fails: what there is instead, and what there is early on."""
    half, _, _, hundredth, most, _ = found
    if half["verdict"] != "fails":
        return ()
    template = (
        "The claim fails: half-way, degrees 1 to 3 have {half:.1%} of the variance of what was learned. When a "
        "hundredth of the parity is learned they have {early:.0%}, but of little: their energy is {most:.2g} of the "
        "parity's at most, in the mean over seeds."
    )
    return (say(template, half=half["found"], early=hundredth["found"], most=most["found"]),)


def _chart(found: Sequence[Mapping[str, Any]]) -> Chart:
    half, *_ = found
    template = {
        "fails": "Half-way to a lone parity of degree 4, lower degrees have {half:.1%} of what was learned",
        "holds": "Half-way to a lone parity of degree 4, lower degrees have most of what was learned, {half:.1%}",
    }.get(half["verdict"], "Of which degrees a network is while it learns a lone parity of degree 4")
    headings = {
        ("energies", "energy"): "the energy of each degree; the target has 1 of degree 4",
        ("shares", "share"): "its share of the network's variance",
    }
    plots = tuple(
        Plot(
            table,
            "lines",
            Axis("step", say("step"), scale="log"),
            Axis(column, say(column), low=0.0),
            series="degree",
            interval=(f"{column}_low", f"{column}_high"),
            heading=say(heading),
            colours="degree",
        )
        for (table, column), heading in headings.items()
    )
    reading = say("Lines are means over seeds, bands 95 % intervals. At step 0 the network is zero and has no shares.")
    return Chart("degrees", say(template, half=half["found"]), reading, plots)


EXPERIMENT = Experiment(
    "lone-parity",
    say("Are low degrees learned first when the target has none?"),
    OnTheCube,
    measure,
    conclude,
)
