"""What the experiments share: how they train, and what they decide.

An experiment gives one number a seed for each of its quantities.  The interval is a 95 % t-interval over seeds; what
was expected holds (fails) where the whole interval is on its side (the other), and with fewer than 5 seeds it is
undecided.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from termwise.data import DataSet
from termwise.deletion import t_interval
from termwise.loop import Training, train_network
from termwise.seeds import owned_random

SEEDS = 5  # from which on anything is decided


@dataclasses.dataclass(frozen=True)
class Expected:
    """What is expected of a number: that it lies between two bounds, both included.

    Attributes:
        words: how it is printed.
    """

    words: str
    low: float = -math.inf
    high: float = math.inf

    def verdict(self, values: Sequence[float] | np.ndarray) -> str:
        """Whether it holds, fails, or is undecided, of one number a seed."""
        low, high = _interval(values)
        if len(values) < SEEDS or math.isnan(low):
            return "undecided"
        if self.low <= low and high <= self.high:
            return "holds"
        return "fails" if high < self.low or low > self.high else "undecided"


def _interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Over seeds; missing where something was never reached."""
    array = np.asarray(values, dtype=float)
    return t_interval(array) if np.isfinite(array).all() else (math.nan, math.nan)


def row(what: str, values: Sequence[float] | np.ndarray, expected: Expected | None = None) -> dict[str, Any]:
    """A line of what was found: the mean over seeds and its interval, beside what was expected."""
    low, high = _interval(values)
    return {
        "quantity": what,
        "found": float(np.mean(values)),
        "low": low,
        "high": high,
        "expected": "" if expected is None else expected.words,
        "verdict": "" if expected is None else expected.verdict(values),
    }


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows that all have the same names, as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def by_quantity(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Rows of quantity, seed and value as the values of each quantity; what is missing is not a number."""
    values: dict[str, list[float]] = {}
    for each in rows:
        values.setdefault(each["quantity"], []).append(math.nan if each["value"] is None else each["value"])
    return values


def over_seeds(
    rows: Sequence[Mapping[str, Any]], by: Sequence[str], values: Sequence[str] = ("value",)
) -> list[dict[str, Any]]:
    """A row for each choice of the columns `by`: of each value the mean over its rows, one a seed, and the interval.

    The interval's ends are named as the value is, with `_low` and `_high`; of fewer than two seeds they are missing.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for each in rows:
        groups.setdefault(tuple(each[name] for name in by), []).append(each)
    lines = []
    for key, group in groups.items():
        line = dict(zip(by, key, strict=True))
        for name in values:
            array = np.array([each[name] for each in group], dtype=float)
            low, high = _interval(array)
            line |= {name: float(array.mean()), f"{name}_low": _known(low), f"{name}_high": _known(high)}
        lines.append(line)
    return lines


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def trained(
    make: Callable[[], nn.Module], data: DataSet | tuple[Tensor, Tensor], settings: Training, seed: int
) -> nn.Module:
    """A network from its first weights to the end of its training, in evaluation mode."""
    with owned_random(seed):
        model = make()
    train_network(model, data, Nobody(), settings=settings, seed=seed)
    return model.eval()


class Nobody:
    """Records nothing."""

    seconds = 0.0
    recorded: Collection[int] = ()

    def step(self, n: int, **scalars: Any) -> bool:
        """Nothing is due."""
        return False

    def finish(self, n: int, **scalars: Any) -> None:
        """Nothing is kept."""
        return None
