"""Is the lowest degree learned first when the network is an even function?

A claim that must fail.  "Low degree first" would have it that of the target x1 + x2 x3 + x4 x5 x6 x7 degree 1 is
learned before degrees 2 and 4.  A network of one hidden layer without biases and with an even activation, |u| or
cos u, has f(-x) = f(x) whatever its weights: it has no odd degrees, and never learns degree 1, while it learns degrees
2 and 4.  (The network of ReLUs that learns all three in `boolean-order` is this one and a linear part: relu(u) = u / 2
+ |u| / 2.)  So low degree first is no law of networks, but of those whose activation has the degree.

The claim's number is what is learned of degree 1 when degree 2, and when degree 4, has reached 0.9 of the target's
coefficient.  If degree 1 came first it would be 0.9 or more; parity says 0.  Beside it stands that degrees 2 and 4 are
learned in the end (0.9 or more), and, as a control, the same network of |u| with biases, in which nothing is left of
the symmetry: it can learn degree 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from termwise import nets
from termwise.charts import Chart
from termwise.degree.targets import staircase
from termwise.experiments.common import over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.fitting import LEARNED, READING, Curve, OnTheCube, by_degree, course, learned_plot
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say
from termwise.verdict.decision import Expected

DEGREES = (1, 2, 4)
EVEN, CONTROL = ("abs", "cos"), "abs-with-biases"
TITLES = {"abs": "|u|", "cos": "cos u", CONTROL: "|u| with biases"}
CLAIM = Expected(f"{LEARNED:g} or more, if low degrees come first", low=LEARNED)
EXPECTED = Expected(f"{LEARNED:g} or more", low=LEARNED)
NOTHING = 1e-6  # of a coefficient: rounding


class Abs(nn.Module):
    """|u|."""

    def forward(self, u: Tensor) -> Tensor:
        """Element by element."""
        return u.abs()


class Cos(nn.Module):
    """cos u."""

    def forward(self, u: Tensor) -> Tensor:
        """Element by element."""
        return torch.cos(u)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"abs": Abs, "cos": Cos, CONTROL: Abs}


def measure(job: Job) -> Rows:
    """Fit one network, and look at all degrees at every recorded step."""
    protocol, name = job.protocol, job.cell
    job.progress("fitting")
    with owned_random(job.seed):
        sizes = [protocol.inputs, protocol.width, 1]
        model = nets.mlp(sizes, activation=ACTIVATIONS[name], bias=name == CONTROL)
    rows = by_degree(course(model, staircase(*DEGREES), protocol))
    return {"learned": [{"network": name, **each} for each in rows if each["degree"] in DEGREES]}


def conclude(rows: Rows, protocol: OnTheCube) -> Conclusion:
    """What is learned of degree 1 when the others are there, and whether these are."""
    learned = rows["learned"]
    found = []
    for name in EVEN:
        for k in DEGREES[1:]:
            early = [curves[1].at(curves[k].reaches()) for curves in _curves(learned, name)]
            found.append(row(f"learned of degree 1 when degree {k} is at {LEARNED:g}, {TITLES[name]}", early, CLAIM))
        for k in DEGREES[1:]:
            end = [curves[k].values[-1] for curves in _curves(learned, name)]
            found.append(row(f"learned of degree {k} in the end, {TITLES[name]}", end, EXPECTED))
    control = [curves[1].values[-1] for curves in _curves(learned, CONTROL)]
    found.append(row(f"learned of degree 1 in the end, {TITLES[CONTROL]}", control))
    by_step = over_seeds(learned, ["network", "degree", "step"], ["learned"])
    most = max(abs(each["learned"]) for each in learned if each["network"] in EVEN and each["degree"] == 1)
    return Conclusion(found, _notes(most, found[-1]["found"]), {"by_step": by_step}, (_chart(found, most),))


def _curves(rows: Sequence[Mapping[str, Any]], name: str) -> list[dict[int, Curve]]:
    """For each seed, what is learned of each degree over the steps."""
    own = [each for each in rows if each["network"] == name]
    seeds = dict.fromkeys(each["seed"] for each in own)
    return [{k: Curve.of(own, "learned", seed=seed, degree=k) for k in DEGREES} for seed in seeds]


def _notes(most: float, control: float) -> tuple[Sentence, ...]:
    if most > NOTHING:
        return ()
    template = (
        "Degree 1 does not come first because it does not come at all: at no step and in no seed do the networks "
        "without biases have any of it, since they are even functions. With biases the same network learns "
        "{control:.2f} of it."
    )
    return (say(template, control=control),)


def _chart(found: Sequence[Mapping[str, Any]], most: float) -> Chart:
    there = all(line["verdict"] == "holds" for line in found if "in the end" in line["quantity"] and line["expected"])
    template = (
        "An even network learns degrees 2 and 4, and never degree 1 (with biases {control:.2f} of it)"
        if there and most <= NOTHING
        else "What is learned of each degree by networks with an even activation"
    )
    plots = tuple(learned_plot({"network": name}, say(title)) for name, title in TITLES.items())
    return Chart("learned", say(template, control=found[-1]["found"]), READING, plots)


EXPERIMENT = Experiment(
    "even-activation",
    say("Is the lowest degree learned first when the network is an even function?"),
    OnTheCube,
    measure,
    conclude,
    cells=lambda protocol: tuple(TITLES),
)
