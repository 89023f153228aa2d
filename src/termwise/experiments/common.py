"""What the experiments share: how they train, what they decide, and how they show it.

An experiment gives one number a seed for each of its quantities.  The interval is a 95 % t-interval over seeds; what
was expected holds (fails) where the whole interval is on its side (the other), and with fewer than 5 seeds it is
undecided.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from termwise.data import DataSet
from termwise.deletion import t_interval
from termwise.errors import UsageError
from termwise.loop import Training, train_network
from termwise.records import Record, Table, write_record
from termwise.seeds import owned_random

SEEDS = 5  # from which on anything is decided
Progress = Callable[[str], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What was found beside what was expected; print it.

    Attributes:
        name: of the experiment.
        found: a row for each quantity.
        tables: what it was computed from, seed by seed.
        notes: what else there is to say, a sentence each: the reason where something was missed.
        beside: a table to be printed first, of what is to be seen side by side.
    """

    name: str
    found: Table
    tables: Mapping[str, Table]
    notes: tuple[str, ...] = ()
    beside: Table | None = None

    def __str__(self) -> str:
        """The tables as aligned text, and the notes below them."""
        first = [] if self.beside is None else [repr(self.beside), ""]
        return "\n".join([*first, repr(self.found), *self.notes])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as one file."""
        tables = {"found": self.found, **self.tables} | ({} if self.beside is None else {"beside": self.beside})
        return write_record(path, Record(f"experiment-{self.name}", {"notes": list(self.notes)}, tables, {}))


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
    """Rows of quantity, seed and value as the values of each quantity."""
    values: dict[str, list[float]] = {}
    for each in rows:
        values.setdefault(each["quantity"], []).append(each["value"])
    return values


def check_seeds(name: str, seeds: Sequence[int]) -> None:
    """Refuse what is no set of seeds.

    Raises:
        UsageError: when there is no seed, or one twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"{name}: seeds {list(seeds)}: give at least one, and each once.")


def trained(make: Callable[[], nn.Module], data: DataSet, settings: Training, seed: int) -> nn.Module:
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
