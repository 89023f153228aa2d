"""A network fitted to a known function on inputs that can all be run, and what it has learned of it over the steps.

The descent is full-batch, on half of the mean square over the inputs, E (f - g)^2 / 2: nothing is sampled, so what a
degree has learned is exact, and all that differs between two seeds is the first weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from termwise.degree import DegreeSpectrum, degrees
from termwise.degree.course import DegreeCourse
from termwise.degree.functions import ConstantOutputError
from termwise.degree.walsh import all_inputs
from termwise.errors import ModelError
from termwise.recorder import log_spaced

RATIO = 2**0.25  # between one recorded step and the next
Target = Callable[[Tensor], Tensor]


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
            raise ModelError(f"the loss is {float(loss)} after {n} updates: the step is too large for this network.")
        loss.backward()
        optimiser.step()


def on_the_cube(
    model: nn.Module, count: int, target: Target, optimiser: torch.optim.Optimizer, steps: int
) -> DegreeCourse:
    """Fit a target on all 2^count inputs of the cube, and measure all degrees exactly at every recorded step."""
    cube = all_inputs(count)
    recorded: list[int] = []
    spectra: list[DegreeSpectrum | None] = []

    def record(n: int) -> None:
        recorded.append(n)
        try:
            spectra.append(degrees(model, (count,), inputs="boolean", target=target, batch_size=len(cube)))
        except ConstantOutputError:  # a last layer of zeros
            spectra.append(None)

    fit(model, cube, target(cube), optimiser, steps, record)
    return DegreeCourse(recorded, spectra)


def curve(rows: Sequence[Mapping[str, Any]], column: str, **where: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of the rows that have these values: their steps, and a column; what is missing is not a number."""
    chosen = [row for row in rows if all(row[name] == value for name, value in where.items())]
    values = [math.nan if row[column] is None else row[column] for row in chosen]
    return np.array([row["step"] for row in chosen], dtype=float), np.array(values, dtype=float)


def reached(steps: np.ndarray, values: np.ndarray, level: float) -> float:
    """The step at which a curve first is at a level; not a number where it never is.

    Between two records it is interpolated linearly in log(step + 1), as they are spaced.
    """
    above = np.flatnonzero(values >= level)
    if not len(above):
        return math.nan
    last = int(above[0])
    if not last:
        return float(steps[0])
    scale = np.log1p(steps)
    part = (level - values[last - 1]) / (values[last] - values[last - 1])
    return float(np.expm1(scale[last - 1] + part * (scale[last] - scale[last - 1])))


def value_at(steps: np.ndarray, values: np.ndarray, step: float) -> float:
    """A curve's value at a step, interpolated in the same way; not a number where the step is none."""
    return float(np.interp(np.log1p(step), np.log1p(steps), values)) if math.isfinite(step) else math.nan
