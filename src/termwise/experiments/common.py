"""What the experiments share: how they train, and what they decide.

An experiment gives one number a seed for each of its quantities; what these decide is said by one rule for all,
`termwise.verdict.decision.Expected`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from termwise.data import DataSet, load
from termwise.errors import ClosureWarning
from termwise.loop import Training, train_network
from termwise.recorder import Recorder
from termwise.seeds import owned_random
from termwise.timeline import Timeline
from termwise.verdict.claims import ABOVE, Verdict
from termwise.verdict.decision import Expected, interval


@dataclasses.dataclass(frozen=True)
class OnImages:
    """The part of a protocol that says which images; the default ones are part of every installation.

    Attributes:
        data: as `termwise.data.load` takes it.
        size: of the images, in pixels; None leaves them as they are.
        samples: of the training part only the first so many; None takes all.
    """

    data: str = "digits"
    size: int | None = 8
    samples: int | None = None

    def load(self) -> DataSet:
        """The data set."""
        whole = load(self.data, size=self.size)
        part = slice(self.samples)
        return dataclasses.replace(
            whole, train_inputs=whole.train_inputs[part], train_targets=whole.train_targets[part]
        )


def row(what: str, values: Sequence[float | None] | np.ndarray, expected: Expected | None = None) -> dict[str, Any]:
    """A line of what was found: the mean over seeds and its interval, beside what was expected.

    Args:
        what: is measured.
        values: one a seed; None, as a file has it, and NaN are numbers that a seed does not have.
        expected: of them.
    """
    numbers = np.asarray(values, dtype=float)
    low, high = interval(numbers)
    return {
        "quantity": what,
        "found": float(numbers.mean()),
        "low": low,
        "high": high,
        "expected": "" if expected is None else expected.words,
        "verdict": "" if expected is None else expected.verdict(numbers),
    }


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """The same line of a verdict on a claim, or on an endpoint of one, which is decided by the same rule and more."""
    role = "" if verdict.primary else ", exploratory"
    of = f", {verdict.of}" if verdict.of else ""
    return {
        "quantity": f"{verdict.claim} ({verdict.endpoint}){of}{role}",
        "found": verdict.estimate,
        "low": verdict.low,
        "high": verdict.high,
        "expected": ABOVE.words,
        "verdict": verdict.verdict,
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
            low, high = interval(array)
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


@torch.no_grad()
def error(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """The part of the samples that a classifier is wrong on."""
    return float((model(inputs).argmax(dim=1) != targets).double().mean())


CLOSURE = "closure error of the records at worst"


def worst_closure(timeline: Timeline) -> float:
    """Of all records: the parts add up to the whole within so much of it."""
    return max(profile.closure for profile in timeline.profiles)


@contextlib.contextmanager
def closure_reported() -> Iterator[None]:
    """No warning of every record that misses the bound, where the worst closure is among the numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClosureWarning)
        yield


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


class Together:
    """Several recorders of one training, that have the same schedule."""

    def __init__(self, recorders: Mapping[str, Recorder]) -> None:
        self.recorders = recorders

    @property
    def seconds(self) -> float:
        """Time spent inside."""
        return sum(recorder.seconds for recorder in self.recorders.values())

    @property
    def recorded(self) -> Collection[int]:
        """Steps that all have."""
        return next(iter(self.recorders.values())).recorded

    def step(self, n: int, **scalars: Any) -> bool:
        """Record if due."""
        return all([recorder.step(n, **scalars) for recorder in self.recorders.values()])

    def finish(self, n: int, **scalars: Any) -> None:
        """Record the last step."""
        for recorder in self.recorders.values():
            recorder.finish(n, **scalars)
