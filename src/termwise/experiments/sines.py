"""Does a network learn low frequencies first, and does it still with hats in place of ReLUs?

The target is a sum of sines of equal amplitude, sin(pi k x) for k = 1, 2, 3, 4 on [-1, 1), the network one of 512 units
in one hidden layer.  What is learned of a frequency is the part of its coefficient that the network has, on all points
of an even grid.  Rahaman et al. 2019 (arXiv 1806.08734) find that ReLU networks learn low frequencies first.  Hong,
Siegel, Tan, Xu 2022 (arXiv 2208.04924) explain it by the kernel of ReLUs with kinks spread over the interval, whose
eigenvalues fall like a power of the frequency, while that of narrow hats (the basis of linear finite elements) is
flat over all frequencies that are slow against a hat; so hats should remove the order.

Only the activation differs.  Unit i computes s(w (x - t_i)) or s(w (t_i - x)), with kinks t_i uniform over [-1, 1) and
w = 32 at first: the hat, 1 - |u| for |u| < 1, is then a sixteenth of the interval [-1, 1) at its foot, an eighth of the
shortest wave, and 16 of them cover each point.  (A wide hat is a low-pass filter, and would bring an order of its own.
To a ReLU the size of w is only a scale.)  Output weights begin at zero, so that nothing has to be unlearned.  All of
them are trained by plain gradient descent on all points, with a step of 1 over the largest eigenvalue of the tangent
kernel at first weights: no rate is chosen by hand, and Adam, which rescales directions, does not interfere.

Fixed before any run: Kendall's tau_b between frequency and the step at which 0.9 of it is learned is 0.8 or more for
the ReLU and at most 0.5 for the hat; the highest frequency is learned 2 x later than the lowest, or more, by the ReLU,
and at most 2 x later by the hat.  The second pair is there because tau tells the order alone: it would be 1 for
frequencies that are learned a percent of the time apart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from termwise.charts import Axis, Chart, Plot
from termwise.degree.targets import sines
from termwise.experiments.common import over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.fitting import READING, Curve, fit, learned_plot
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say
from termwise.verdict.decision import Expected, tau

RELU, HAT = "relu", "hat"
TITLES = {RELU: "ReLU", HAT: "hat"}
LATER = 2.0
ORDER = {RELU: Expected("0.8 or more", low=0.8), HAT: Expected("at most 0.5", high=0.5)}
DISTANCE = {RELU: Expected(f"{LATER:g} or more", low=LATER), HAT: Expected(f"at most {LATER:g}", high=LATER)}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is fitted, and for how long; `quick` is a job of seconds, and shows nothing.

    Attributes:
        frequencies: k of sin(pi k x), in periods of the interval.
        points: of the grid.
        width: hidden units.
        slope: of the first weights.
        relu_steps: updates of the network with ReLUs.
        hat_steps: updates of the one with hats.
    """

    frequencies: tuple[int, ...] = (1, 2, 3, 4)
    points: int = 128
    width: int = 512
    slope: float = 32.0
    relu_steps: int = 80_000
    hat_steps: int = 2_000

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(points=32, width=32, slope=8.0, relu_steps=16, hat_steps=16)


class Hat(nn.Module):
    """1 - |u| where that is positive, else 0: the linear B-spline."""

    def forward(self, u: Tensor) -> Tensor:
        """Element by element."""
        return torch.relu(1 - u.abs())


def network(activation: nn.Module, width: int, slope: float) -> nn.Sequential:
    """One hidden layer on [-1, 1): kinks uniform, slopes of either sign, output weights of zero."""
    inner, outer = nn.Linear(1, width), nn.Linear(width, 1, bias=False)
    with torch.no_grad():
        inner.weight.copy_(slope * (2.0 * torch.randint(2, (width, 1)) - 1))
        inner.bias.copy_(inner.weight[:, 0] * (2 * torch.rand(width) - 1))
        outer.weight.zero_()
    return nn.Sequential(inner, activation, outer)


def largest_eigenvalue(model: nn.Sequential, x: Tensor) -> float:
    """Of the tangent kernel over the points x, as a mean over them.

    While output weights are zero the output has a slope in these alone, which is what the hidden units say.
    """
    with torch.no_grad():
        hidden = model[:-1](x).double()
    return float(torch.linalg.matrix_norm(hidden, 2) ** 2 / len(x))


def measure(job: Job) -> Rows:
    """Fit one network, and look at each frequency at every recorded step."""
    protocol, seed, name = job.protocol, job.seed, job.cell
    x = torch.arange(protocol.points)[:, None] * 2 / protocol.points - 1
    waves = torch.cat([sines({math.pi * k: 1.0})(x)[:, None] for k in protocol.frequencies], dim=1)
    with owned_random(seed):
        model = network({RELU: nn.ReLU, HAT: Hat}[name](), protocol.width, protocol.slope)
    job.progress(f"fitting with {TITLES[name]}")
    rows: list[dict[str, Any]] = []

    def record(n: int) -> None:
        with torch.no_grad():
            learned = (waves.T @ model(x))[:, 0] / (waves**2).sum(dim=0)
        pairs = zip(protocol.frequencies, learned.tolist(), strict=True)
        rows.extend({"activation": name, "step": n, "frequency": k, "learned": value} for k, value in pairs)

    optimiser = torch.optim.SGD(model.parameters(), lr=1 / largest_eigenvalue(model, x))
    steps = {RELU: protocol.relu_steps, HAT: protocol.hat_steps}[name]
    fit(model, x, waves.sum(dim=1), optimiser, steps, record)
    return {"learned": rows}


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The order of the frequencies, and how far apart they are."""
    times = times_of(rows["learned"])
    found = []
    for name, title in TITLES.items():
        seeds = dict.fromkeys(each["seed"] for each in times)
        own = [[e["time"] for e in times if (e["activation"], e["seed"]) == (title, seed)] for seed in seeds]
        taus = [tau(protocol.frequencies, each) for each in own]
        distances = [each[-1] / each[0] for each in own]
        found.append(row(f"tau of frequency and time learned, {title}", taus, ORDER[name]))
        found.append(row(f"time of the highest frequency over that of the lowest, {title}", distances, DISTANCE[name]))
    tables = {
        "times": times,
        "by_step": over_seeds(rows["learned"], ["activation", "frequency", "step"], ["learned"]),
        "by_frequency": over_seeds(times, ["activation", "frequency"], ["time"]),
    }
    return Conclusion(found, _notes(found, times), tables, (_learned(found), _times(found)))


def times_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each activation, seed and frequency: the step at which it is learned."""
    names = ("activation", "seed", "frequency")
    keys = dict.fromkeys(tuple(each[name] for name in names) for each in rows)
    chosen = [dict(zip(names, key, strict=True)) for key in keys]
    return [
        {**each, "activation": TITLES[each["activation"]], "time": Curve.of(rows, "learned", **each).reaches()}
        for each in chosen
    ]


def _notes(found: Sequence[Mapping[str, Any]], times: Sequence[Mapping[str, Any]]) -> tuple[Sentence, ...]:
    """Where a frequency was not learned in time; where hats are still in order, by how little."""
    missing = [each for each in times if math.isnan(each["time"])]
    *_, order, distance = found
    notes = []
    if missing:
        template = "{count} of {all} frequencies, over networks and seeds, were not learned within the training."
        notes.append(say(template, count=len(missing), all=len(times)))
    if order["found"] > 0.5 and distance["verdict"] == "holds":
        template = (
            "With hats an order is left (tau {tau:.2f}), but hardly a distance: the highest frequency is learned "
            "{distance:.2f} x later than the lowest."
        )
        notes.append(say(template, tau=order["found"], distance=distance["found"]))
    return tuple(notes)


def _learned(found: Sequence[Mapping[str, Any]]) -> Chart:
    _, relu, _, hat = found
    template = (
        "ReLUs learn the highest frequency {relu:.0f} x later than the lowest, hats {hat:.1f} x"
        if relu["verdict"] == hat["verdict"] == "holds"
        else "What is learned of each frequency, with ReLUs and with hats"
    )
    plots = tuple(learned_plot({"activation": name}, say(title), "frequency") for name, title in TITLES.items())
    return Chart("learned", say(template, relu=relu["found"], hat=hat["found"]), READING, plots)


def _times(found: Sequence[Mapping[str, Any]]) -> Chart:
    relu, _, hat, _ = found
    template = (
        "Low frequencies come first with ReLUs (tau {relu:.2f}); hats remove the order (tau {hat:.2f})"
        if relu["verdict"] == hat["verdict"] == "holds"
        else "When each frequency is learned, with ReLUs and with hats"
    )
    plot = Plot(
        "by_frequency",
        "points",
        Axis("frequency", say("frequency, periods of the interval"), scale="ordinal"),
        Axis("time", say("step at which 0.9 of it is learned"), scale="log"),
        series="activation",
        interval=("time_low", "time_high"),
    )
    reading = say("Points are means over seeds, whiskers 95 % intervals.")
    return Chart("times", say(template, relu=relu["found"], hat=hat["found"]), reading, (plot,))


EXPERIMENT = Experiment(
    "sines",
    say("Does a network learn low frequencies first, and does it still with hats in place of ReLUs?"),
    Protocol,
    measure,
    conclude,
    cells=lambda protocol: (RELU, HAT),
)
