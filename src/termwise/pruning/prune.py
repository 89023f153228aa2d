"""prune(): a network without the blocks that it can do without, predicted, then measured.

After each step of a method the blocks it names are out of a copy of the network; the loss is measured as it is, then
again with batch-norm statistics that are estimated anew, and the method goes on from there.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from termwise.errors import UsageError
from termwise.expand import Output
from termwise.profile import Estimate, check_replicates
from termwise.pruning.bench import Bench, Cost, cost_of
from termwise.pruning.healing import Healing, Lessons, heal
from termwise.pruning.losses import Losses
from termwise.pruning.methods import Method, find_method
from termwise.pruning.plan import Plan
from termwise.pruning.removal import removed
from termwise.records import Table
from termwise.verdict.decision import t_interval

_SLACK = 1e-9  # for fractions that are not written exactly, such as 0.1


@torch.inference_mode(False)  # else what is returned could never be trained
def prune(
    model: nn.Module,
    data: Any,
    *,
    keep: float | None = None,
    flops: float | None = None,
    latency: float | None = None,
    loss: float | None = None,
    method: str = "expansion",
    blocks: Sequence[str] | None = None,
    test: Any = None,
    calibration: Any = None,
    healing: Healing | None = None,
    output: Output = None,
    batch_size: int = 256,
    draws: int = 5,
    replicates: int = 200,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """Take blocks out of a network, those first that it does without best; one of the four targets says how many.

    A block is a module that holds residual branches, is a member of an nn.Sequential or nn.ModuleList, and has an
    output of the shape of its input, which goes on in its place; blocks that change the shape, are shared, or hold tied
    weights stay, and the result says so.

    Args:
        model: an nn.Module that is called as model(x); run in evaluation mode and left as found.
        data: what blocks are chosen on, in any form that `termwise.profile` takes.  Integer targets are classes, the
            loss cross-entropy in nats; floating-point ones the output's shape, the loss the squared error; without
            targets it is the squared distance to the output of the whole network, relative to that output.
        keep: this fraction of all blocks, those that cannot go among them, and no more.
        flops: at most this fraction of the operations in convolutions and matrix products.
        latency: at most this fraction of the time of a pass, measured here and now.
        loss: as few blocks as this loss allows, after batch-norm statistics were estimated anew.
        method: "expansion" (the loss that frozen gates predict), or a rival: "block-influence", "angular",
            "magnitude", "last", "random", "exhaustive" (see `termwise.pruning.methods`).
        blocks: names of the blocks that may go; by default all that can.
        test: what the result is measured on; by default the data.  Losses on the data that blocks were chosen on are
            too good; `loss=` is held against the losses that are measured.
        calibration: inputs from which batch-norm statistics are estimated anew after each step; by default those of the
            data.  False: the statistics as they are.
        healing: a short training of the result; by default none.
        output: which tensor of the model's result, as in `termwise.expand`.
        batch_size: samples at once, where the data come as tensors.
        draws: of "random": orders of which the table has the means; the model is that of the first.
        replicates: of the bootstrap for intervals.
        seed: of the bootstrap and of "random".
        progress: is told how many blocks are out, after each step.

    Returns:
        The Plan: `plan.model`, and the table of steps.

    Raises:
        UsageError: when not exactly one target is given, when it cannot be met (saying what can), when there is nothing
            to take out, or a named block cannot go.
        ModelError: when the model cannot be followed (quantised, scripted, ...), or counts on its blocks elsewhere.
        DataError, RuleError: see `termwise.expand`.
    """
    target = _target(keep, flops, latency, loss)
    choose = find_method(method)
    check_replicates(replicates)
    if seed < 0:
        raise UsageError(f"prune: seed={seed}: expected 0 or more.")
    lessons = None if healing is None else Lessons(healing, model)
    bench = Bench(model, data, test=test, blocks=blocks, calibration=calibration, output=output, batch_size=batch_size)
    timed = target.name == "latency"
    whole = cost_of(bench, timed=timed)
    target.check(bench, whole)
    course = _Course(bench, whole, timed, replicates, seed)
    course.note("", None, bench.measure(bench.test), None)
    _walk(course, choose, target, progress)
    table = course.table() if method != "random" else _averaged(course, choose, draws)
    gone = course.settle()
    expected = bench.run(bench.example)
    shortened, identity = removed(bench.whole_again(), gone, bench.example, expected, output=output)
    healed, accuracy = _healed(bench, shortened, model, lessons, output, replicates, seed)
    return Plan(
        model=shortened,
        table=table,
        removed=tuple(member.name for member in gone),
        kept=tuple(member.name for member in bench.members.free if member not in gone),
        fixed=bench.members.fixed,
        method=method,
        target=str(target),
        healed=healed,
        healed_accuracy=accuracy,
        metadata={
            "identity": identity,
            "samples": len(course.rows[0].after.counts),
            "unit": table.units["loss"],
            "seed": seed,
            "held_out": bench.has_test,
        },
    )


# What is asked for.


@dataclasses.dataclass(frozen=True)
class _Target:
    """One of the four targets."""

    name: str
    value: float

    def __str__(self) -> str:
        return f"{self.name}={self.value:g}"

    def check(self, bench: Bench, whole: Cost) -> None:
        """Refuse what cannot be met, before anything is chosen."""
        can, count = len(bench.members.free), bench.members.count
        told = "".join(
            f" '{name}' stays: {reason}." for name, reason in itertools.islice(bench.members.fixed.items(), 3)
        )
        if self.name == "keep":
            if self.out(count) > can:
                raise UsageError(
                    f"{self}: of {count} blocks {can} can go, so at least keep={_down((count - can) / count)}.{told}"
                )
            if not self.out(count):
                raise UsageError(
                    f"{self}: that is all {count} blocks. keep={_down((count - 1) / count)} takes one out."
                )
            return
        if self.name == "loss":
            return
        bench.take_out(bench.members.free)
        least = self.fraction(cost_of(bench, timed=self.name == "latency"), whole)
        bench.take_out(())
        if self.name == "flops" and least == 1:
            raise UsageError(
                f"{self}: the {can} blocks that can go hold no convolution or matrix product that PyTorch counts. "
                "Give keep= or latency= instead."
            )
        if least > self.value:
            raise self.missed(least, can, told)

    def missed(self, least: float, can: int, told: str = "") -> UsageError:
        """What can be met instead."""
        return UsageError(
            f"{self}: without all of the {can} blocks that can go it is {_up(least)} of the whole network's; ask for "
            f"that or more.{told}"
        )

    def out(self, count: int) -> int:
        """Of so many blocks, how many are to go (for "keep")."""
        return math.floor((1 - self.value) * count + _SLACK)

    def fraction(self, cost: Cost, whole: Cost) -> float:
        """What is left of the FLOPs or of the latency."""
        if self.name == "flops":
            return cost.flops / whole.flops if whole.flops else 1.0
        assert cost.latency is not None
        return cost.latency

    def reached(self, bench: Bench, cost: Cost, whole: Cost) -> bool:
        """Whether enough is out."""
        if self.name == "keep":
            return len(bench.gone) >= self.out(bench.members.count)
        return self.name != "loss" and self.fraction(cost, whole) <= self.value


def _down(fraction: float) -> str:
    """In three digits, none of them rounded up: what a message says can be had must be had when it is typed."""
    return f"{math.floor(fraction * 1000 + _SLACK) / 1000:g}"


def _up(fraction: float) -> str:
    """In three digits, none of them rounded down."""
    return f"{math.ceil(fraction * 1000 - _SLACK) / 1000:g}"


def _target(keep: float | None, flops: float | None, latency: float | None, loss: float | None) -> _Target:
    named = {"keep": keep, "flops": flops, "latency": latency, "loss": loss}
    given = [_Target(name, value) for name, value in named.items() if value is not None]
    if len(given) != 1:
        raise UsageError(
            f"prune: {len(given) or 'no'} targets are given; give exactly one: keep=0.75 (of the blocks), flops=0.75, "
            "latency=0.75, or loss=0.5."
        )
    (target,) = given
    top = math.inf if target.name == "loss" else 1
    if not 0 < target.value < top:
        raise UsageError(
            f"prune: {target}: expected {'a loss above 0' if target.name == 'loss' else 'a fraction between 0 and 1'}."
        )
    return target


# The steps.


@dataclasses.dataclass
class _Row:
    """What is known of a step."""

    block: str
    gone: tuple[Any, ...]
    predicted: float | None
    before: Losses
    after: Losses
    cost: Cost
    passes: float
    checks: float


class _Course:
    """The steps so far."""

    def __init__(self, bench: Bench, whole: Cost, timed: bool, replicates: int, seed: int) -> None:
        self.bench, self.whole, self.timed = bench, whole, timed
        self._replicates, self.seed = replicates, seed
        self.rows: list[_Row] = []
        self._states: list[dict[str, Any]] = []

    def note(self, block: str, predicted: float | None, before: Losses, after: Losses | None) -> _Row:
        """Another step: what is out now."""
        cost = self.whole if not self.rows else cost_of(self.bench, timed=self.timed)
        after = before if after is None else after
        row = _Row(block, self.bench.gone, predicted, before, after, cost, self.bench.passes, self.bench.checks)
        self.rows.append(row)
        return row

    def settle(self) -> tuple[Any, ...]:
        """Bring the bench to the last step that stands, and say what is out there."""
        gone = self.rows[-1].gone
        self.bench.take_out(gone)
        self.bench.reestimate()
        return gone

    def table(self) -> Table:
        """The steps as a table."""
        names = {member: i for i, member in enumerate(self.bench.members.free)}
        rows = []
        for number, row in enumerate(self.rows):
            before, after = (losses.interval(self._replicates, self.seed) for losses in (row.before, row.after))
            line: dict[str, Any] = {"step": number, "block": row.block}
            line |= {"gone": " ".join(str(names[member]) for member in row.gone), "predicted": row.predicted}
            line |= {"measured": before.value, "measured_low": before.low, "measured_high": before.high}
            line |= {"loss": after.value, "loss_low": after.low, "loss_high": after.high}
            if row.after.right is not None:
                line["accuracy"] = row.after.accuracy()
            line |= {"parameters": row.cost.parameters, "flops": row.cost.flops / max(self.whole.flops, 1)}
            if row.cost.latency is not None:
                line["latency"] = row.cost.latency
            rows.append(line | {"passes": row.passes, "checks": row.checks})
        unit = "squared error" if self.bench.data[0][1].is_floating_point() else "nats"
        unit = "of the output" if self.bench.relative else unit
        losses = [f"{name}{end}" for name in ("measured", "loss") for end in ("", "_low", "_high")]
        units = dict.fromkeys(["predicted", *losses], unit) | {"flops": "of all", "latency": "of all"}
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return Table(columns, {name: value for name, value in units.items() if name in columns})


def foreseen(bench: Bench, gone: Sequence[Any]) -> float | None:
    """The loss without these members, by frozen gates of the network as it is; None where others come back."""
    fresh = [member for member in gone if member not in bench.gone]
    if not set(bench.gone) <= set(gone):
        return None
    found = bench.foreseen([fresh], bench.test)
    bench.checks += found.passes
    return float(found.sets.mean()[0])


def step(bench: Bench, gone: Sequence[Any]) -> tuple[Losses, Losses | None]:
    """Take these members out; the losses before and after the statistics were estimated anew (None: they never are)."""
    bench.take_out(gone)
    before = bench.measure(bench.test)
    bench.checks += 1
    if bench.calibration is None:
        return before, None
    bench.reestimate()
    bench.checks += 1
    return before, bench.measure(bench.test)


def _walk(course: _Course, choose: Method, target: _Target, progress: Callable[[int], None] | None) -> None:
    bench = course.bench
    if target.name == "loss" and float(course.rows[0].after.mean()[0]) > target.value:
        raise UsageError(f"{target}: the whole network has {float(course.rows[0].after.mean()[0]):.4g} already.")
    for gone in choose(bench, course.seed):
        fresh = [member.name for member in gone if member not in bench.gone]
        predicted = foreseen(bench, gone)
        before, after = step(bench, gone)
        now = float((before if after is None else after).mean()[0])
        if target.name == "loss" and now > target.value:
            if len(course.rows) == 1:
                raise UsageError(
                    f"{target}: without {', '.join(fresh)}, the first to go, it is {now:.4g}, and "
                    f"{float(course.rows[0].after.mean()[0]):.4g} with all blocks: nothing can go."
                )
            return
        row = course.note(", ".join(fresh), predicted, before, after)
        if progress is not None:
            progress(len(bench.gone))
        if target.reached(bench, row.cost, course.whole):
            return
    if target.name == "latency":  # measured now, and not as it was when the target was looked at
        raise target.missed(target.fraction(course.rows[-1].cost, course.whole), len(bench.members.free))


def _averaged(course: _Course, choose: Method, draws: int) -> Table:
    """The table of a random order, its losses the means over several, with t-intervals."""
    if draws < 2:
        raise UsageError(f"draws={draws}: an interval over random orders needs at least 2.")
    bench, first = course.bench, course.table()
    curves = [[_figures(row.predicted, row.before, row.after) for row in course.rows]]
    for draw in range(1, draws):
        bench.take_out(())
        bench.reset()
        curve = curves[0][:1]
        for gone in itertools.islice(choose(bench, course.seed + draw), len(course.rows) - 1):
            predicted = foreseen(bench, gone)
            before, after = step(bench, gone)
            curve.append(_figures(predicted, before, before if after is None else after))
        curves.append(curve)
    columns = {name: first.to_arrow()[name].to_pylist() for name in first.columns}
    for i, name in enumerate(("predicted", "measured", "loss", "accuracy")):
        if name in columns:
            values = np.array([[row[i] for row in curve] for curve in curves])[:, 1:]
            columns[name][1:] = values.mean(axis=0).tolist()
            if f"{name}_low" in columns:
                bounds = [t_interval(column) for column in values.T]
                for end, side in (("_low", 0), ("_high", 1)):
                    columns[f"{name}{end}"][1:] = [float(bound[side]) for bound in bounds]
    return Table(columns, first.units)


def _figures(predicted: float | None, before: Losses, after: Losses) -> tuple[float, ...]:
    """The predicted loss, both measured ones, and the accuracy; NaN for what there is not."""
    losses = float(before.mean()[0]), float(after.mean()[0])
    return (*(math.nan if one is None else one for one in (predicted, *losses, after.accuracy())),)


def _healed(
    bench: Bench,
    shortened: nn.Module,
    teacher: nn.Module,
    lessons: Lessons | None,
    output: Output,
    replicates: int,
    seed: int,
) -> tuple[Estimate | None, float | None]:
    if lessons is None:
        return None, None
    heal(shortened, teacher, lessons, output)
    bench.network = shortened
    losses = bench.measure(bench.test)
    return losses.interval(replicates, seed), losses.accuracy()
