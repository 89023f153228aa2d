"""A network fitted to a known function on inputs that can all be run, and what it has learned of it over the steps.

The descent is full-batch, on half of the mean square over the inputs, E (f - g)^2 / 2: nothing is sampled, so what a
degree has learned is exact, and all that differs between two seeds is the first weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from termwise.charts import Axis, Plot
from termwise.degree import DegreeSpectrum, degrees
from termwise.degree.course import DegreeCourse
from termwise.degree.functions import ConstantOutputError
from termwise.degree.walsh import all_inputs
from termwise.errors import ModelError
from termwise.recorder import log_spaced
from termwise.sentences import Sentence, say

RATIO = 2**0.25  # between one recorded step and the next
LEARNED = 0.9  # of its coefficient, from which on a degree counts as learned
Target = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class OnTheCube:
    """A network of one hidden layer on the cube, and how it is fitted; `quick` is a job of seconds, and shows nothing.

    Attributes:
        inputs: dimensions of the cube, all 2^inputs points of which are run.  With ten a target of seven leaves three
            that the network has to find out to be of no account, and an exact transform still costs milliseconds.
        width: hidden units.
        rate: of Adam.
        steps: updates, each of the whole cube.
    """

    inputs: int = 10
    width: int = 512
    rate: float = 2e-3
    steps: int = 600

    @staticmethod
    def quick() -> OnTheCube:
        """The same job, as small as it can be."""
        return OnTheCube(inputs=7, width=16, steps=8)


def fit(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    optimiser: torch.optim.Optimizer,
    steps: int,
    record: Callable[[int], Any],
    ratio: float = RATIO,
) -> None:
    """Descend, and call `record` with the number of updates that were made, at those of a schedule and at the last.

    Args:
        model: outputs of shape (N, 1).
        inputs: all of them, (N, ...).
        targets: (N,).
        optimiser: of the model's parameters.
        steps: updates.
        record: may run the model, and must leave it as found.
        ratio: of the schedule `log_spaced`.

    Raises:
        ModelError: when the loss is not finite.
    """
    due = log_spaced(ratio)
    for n in range(steps + 1):
        if due(n) or n == steps:
            record(n)
        if n == steps:
            return
        optimiser.zero_grad()
        loss = (model(inputs).squeeze(1) - targets).square().mean() / 2
        if not bool(torch.isfinite(loss)):
            raise ModelError(f"the loss is {loss.item()} after {n} updates: the step is too large for this network.")
        loss.backward()
        optimiser.step()


def course(model: nn.Module, target: Target, protocol: OnTheCube) -> DegreeCourse:
    """Fit a target on the whole cube, and measure all degrees exactly at every recorded step."""
    cube = all_inputs(protocol.inputs)
    recorded: list[int] = []
    spectra: list[DegreeSpectrum | None] = []

    def record(n: int) -> None:
        recorded.append(n)
        try:
            spectra.append(degrees(model, cube.shape[1:], inputs="boolean", target=target, batch_size=len(cube)))
        except ConstantOutputError:  # a last layer of zeros
            spectra.append(None)

    fit(model, cube, target(cube), torch.optim.Adam(model.parameters(), lr=protocol.rate), protocol.steps, record)
    return DegreeCourse(recorded, spectra)


def by_degree(found: DegreeCourse) -> list[dict[str, Any]]:
    """A row for each step and degree above 0: its energy, share of the variance, and what is learned of the target."""
    names = ("energy", "share", "learned")
    return [
        {"step": row["step"], "degree": row["lowest"], **{name: row[name] for name in names}}
        for row in found.table().rows()
        if row["lowest"] > 0
    ]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A number over the steps of one training, where it was recorded."""

    steps: np.ndarray
    values: np.ndarray

    @staticmethod
    def of(rows: Sequence[Mapping[str, Any]], column: str, **where: Any) -> Curve:
        """A column of those rows that have these values; what is missing is not a number."""
        chosen = [row for row in rows if all(row[name] == value for name, value in where.items())]
        values = [math.nan if row[column] is None else row[column] for row in chosen]
        return Curve(np.array([row["step"] for row in chosen], dtype=float), np.array(values, dtype=float))

    def reaches(self, level: float = LEARNED) -> float:
        """The step at which it first is at a level; not a number where it never is.

        Between two records it is interpolated linearly in log(step + 1), as they are spaced.
        """
        above = np.flatnonzero(self.values >= level)
        if not len(above):
            return math.nan
        first = int(above[0])
        if not first:
            return float(self.steps[0])
        ends = slice(first - 1, first + 1)
        return float(np.expm1(np.interp(level, self.values[ends], np.log1p(self.steps[ends]))))

    def at(self, step: float) -> float:
        """Its value at a step, interpolated in the same way; not a number where the step is none."""
        if not math.isfinite(step):
            return math.nan
        return float(np.interp(np.log1p(step), np.log1p(self.steps), self.values))


READING = say(
    "Lines are means over seeds, bands 95 % intervals. 1 is what the target has; {level:g} counts as learned.",
    level=LEARNED,
)


def learned_plot(where: Mapping[str, Any], heading: Sentence, series: str = "degree") -> Plot:
    """What is learned of each degree over the steps, of a table `by_step`; to be read by `READING`."""
    return Plot(
        "by_step",
        "lines",
        Axis("step", say("step"), scale="log"),
        Axis("learned", say("learned, of the target's coefficient")),
        series=series,
        interval=("learned_low", "learned_high"),
        where=where,
        heading=heading,
        colours="degree",
    )
