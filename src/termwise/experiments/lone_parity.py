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
unlearn.  Beside it stands that the parity is learned in the end (0.9 or more), and the same share when a tenth of it is
learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from termwise import nets
from termwise.charts import Axis, Chart, Plot
from termwise.degree.targets import parity
from termwise.experiments.common import Expected, over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.fitting import LEARNED, Curve, OnTheCube, by_degree, course, learned_plot
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say

DEGREE = 4
EARLY, HALF = 0.1, 0.5
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
    curves = [curves_of(rows["degrees"], seed) for seed in dict.fromkeys(each["seed"] for each in rows["degrees"])]
    found = [
        row("share of degrees 1 to 3 when half of the parity is learned", _shares(curves, HALF), CLAIM),
        row("share of degrees 1 to 3 when a tenth of the parity is learned", _shares(curves, EARLY)),
        row("learned of the parity in the end", [learned.values[-1] for learned, _ in curves], EXPECTED),
        row("step at which half of the parity is learned", [learned.reaches(HALF) for learned, _ in curves]),
    ]
    there = [each for each in rows["degrees"] if each["share"] is not None]  # at first the network is zero
    own = [each for each in rows["degrees"] if each["degree"] == DEGREE]
    tables = {
        "by_step": over_seeds(own, ["degree", "step"], ["learned"]),
        "shares": over_seeds(there, ["degree", "step"], ["share"]),
    }
    return Conclusion(found, _notes(found), tables, (_chart(found),))


def curves_of(rows: Sequence[Mapping[str, Any]], seed: int) -> tuple[Curve, Curve]:
    """What is learned of the parity, and the share of lower degrees, over the steps of a seed."""
    learned = Curve.of(rows, "learned", seed=seed, degree=DEGREE)
    lower = [Curve.of(rows, "share", seed=seed, degree=k) for k in range(1, DEGREE)]
    return learned, Curve(learned.steps, np.sum([each.values for each in lower], axis=0))


def _shares(curves: Sequence[tuple[Curve, Curve]], level: float) -> list[float]:
    return [lower.at(learned.reaches(level)) for learned, lower in curves]


def _notes(found: Sequence[Mapping[str, Any]]) -> tuple[Sentence, ...]:
    """Where the claim fails: what there is instead, and what there is early on."""
    half, early, *_ = found
    if half["verdict"] != "fails":
        return ()
    return (
        say(
            "The claim fails: half-way, degrees 1 to 3 have {half:.1%} of the variance of what was learned, for there "
            "is nothing of them in the target. When a tenth is learned they have {early:.1%}.",
            half=half["found"],
            early=early["found"],
        ),
    )


def _chart(found: Sequence[Mapping[str, Any]]) -> Chart:
    half, *_ = found
    template = {
        "fails": "Half-way to a lone parity of degree 4, lower degrees have {half:.1%} of what was learned",
        "holds": "Half-way to a lone parity of degree 4, lower degrees have most of what was learned, {half:.1%}",
    }.get(half["verdict"], "What is learned of a lone parity of degree 4, and of which degrees the network is")
    shares = Plot(
        "shares",
        "lines",
        Axis("step", say("step"), scale="log"),
        Axis("share", say("share of the network's variance"), low=0.0, high=1.0),
        series="degree",
        interval=("share_low", "share_high"),
        heading=say("the degrees of the network"),
        colours="degree",
    )
    reading = say("Lines are means over seeds, bands 95 % intervals; 1 is what the target has.")
    plots = (learned_plot(heading=say("the parity")), shares)
    return Chart("learned", say(template, half=half["found"]), reading, plots)


EXPERIMENT = Experiment(
    "lone-parity",
    say("Are low degrees learned first when the target has none?"),
    OnTheCube,
    measure,
    conclude,
)
