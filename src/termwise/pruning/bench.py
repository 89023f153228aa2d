"""The network that is pruned, on a bench: a copy, some of its members out, its statistics estimated anew, measured.

Members are taken out by putting in the place of each a module that returns what it is given, so that they cost nothing
and any of them can be put back.  The model that was given is not touched.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from termwise.batches import batches
from termwise.deletion import example_of, to_home
from termwise.errors import DataError, ModelError, TermwiseError, UsageError, first_line
from termwise.expand import Output, call, pick_output
from termwise.pinning import bare, pinned
from termwise.pruning.frozen import Prediction, predict
from termwise.pruning.losses import Losses, losses_of
from termwise.pruning.members import Member, Members, find_members, put, selected, without_members
from termwise.recorder import live_norms, reestimate
from termwise.seeds import untouched_random

_PAIRS = 11  # of passes, of which a latency takes the fastest

Data = list[tuple[Any, Tensor]]


class Bench:
    """A network some of whose members are out.

    Attributes:
        network: the copy that is run.
        members: what can be taken out, and what cannot.
        gone: the members that are out.
        data: batches of inputs and targets that choices are made on.
        test: those that the result is measured on.
        scale: what squared errors are multiplied with.
        relative: whether there were no targets, so that the loss is the squared distance to the whole network's output,
            relative to that output.
        passes: of the network over the data, so far, that went into choices.
        checks: those that went into predicting and measuring what was chosen.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        *,
        test: Any = None,
        blocks: Sequence[str] | None = None,
        calibration: Any = None,
        output: Output = None,
        batch_size: int = 256,
    ) -> None:
        if not isinstance(model, nn.Module) or bare(model) is not model:
            raise UsageError("prune: give the plain nn.Module that is called as model(x), not a function or a wrapper.")
        self.output = output
        self.network = _copy(model)
        self._norms = live_norms(model)
        self.network.eval()
        pairs = [*batches(data, batch_size)]
        tests = pairs if test is None else [*batches(test, batch_size)]
        self.example = to_home(example_of(pairs[0][0]), self.network)
        found = find_members(self.network, self.example, output=output)
        if not found.free:
            raise UsageError(_nothing(found))
        self.members = selected(found, blocks)
        self.gone: tuple[Member, ...] = ()
        self._held = {member: self.network.get_submodule(member.name) for member in self.members.free}
        without = {targets is None for _, targets in (*pairs, *tests)}
        if len(without) > 1:
            raise DataError("prune: some batches have targets and others have none. Give them with all, or with none.")
        self.relative = without == {True}
        self.scale = 1.0
        self.data = self._targeted(pairs)
        self.test = self.data if test is None else self._targeted(tests)
        self.has_test = test is not None
        self.calibration = self._calibrating(calibration)
        self._statistics = {
            name: value.clone() for name, value in self.network.state_dict().items() if self._is_statistic(name)
        }
        self.passes = self.checks = 0.0

    def _targeted(self, pairs: Sequence[tuple[Any, Tensor | None]]) -> Data:
        if not self.relative:
            return [(inputs, targets) for inputs, targets in pairs if targets is not None]
        outputs = [self.run(inputs) for inputs, _ in pairs]
        square = sum(float(y.double().square().sum()) for y in outputs) / sum(y.numel() for y in outputs)
        if not square:
            raise ModelError("prune: the output is zero on all of the data, so there is nothing to stay close to.")
        self.scale = 1 / square
        return [(inputs, y) for (inputs, _), y in zip(pairs, outputs, strict=True)]

    def _calibrating(self, calibration: Any) -> Tensor | None:
        if calibration is False or not self._norms:
            return None
        if isinstance(calibration, Tensor):
            return calibration
        if calibration is not None:
            raise UsageError(
                f"calibration={calibration!r}: expected a tensor of inputs, None for those of the data, or False."
            )
        inputs = [x for x, _ in self.data]
        if not all(isinstance(x, Tensor) for x in inputs):
            raise DataError("prune: batch-norm statistics need inputs as a tensor: give calibration=, or False.")
        return torch.cat(inputs)

    def _is_statistic(self, name: str) -> bool:
        return name.rpartition(".")[0] in self._norms

    # What is run.

    def run(self, inputs: Any) -> Tensor:
        """The output for a batch."""
        with pinned(self.network):
            return pick_output(call(self.network, to_home(inputs, self.network)), self.output)

    def measure(self, data: Data, more: Sequence[Member] = ()) -> Losses:
        """The losses of the network as it is now; `more`: members that are out besides."""
        gone = ", ".join(member.name for member in (*self.gone, *more))
        found = []
        for inputs, targets in data:
            try:
                y = self.run(inputs)
            except TermwiseError:
                raise
            except Exception as error:
                if not gone:
                    raise
                raise ModelError(
                    f"prune: without {gone} the model fails, whose own code counts on them ({first_line(error)}). "
                    "Name others with blocks=."
                ) from error
            if not bool(torch.isfinite(y).all()):
                raise ModelError(f"prune: without {gone or 'nothing'} the output is not finite.")
            found.append(losses_of([y], y, targets, self.scale))
        return Losses.joined(found)

    def trial(self, member: Member) -> float:
        """The mean loss without one member more; a pass."""
        self.passes += 1
        with without_members(self.network, [member]):
            return float(self.measure(self.data, [member]).mean()[0])

    def predicted(self, members: Sequence[Member], part: int = 0, parts: int = 1) -> np.ndarray:
        """The mean loss without each of some members, by frozen gates, of the network as it is now.

        Args:
            members: which.
            part: which part of the data it is looked for on: every so manieth sample, from this one on.
            parts: how many parts there are.
        """
        data = [cut for pair in self.data for cut in every(pair, part % parts, parts)]
        found = self.foreseen([[member] for member in members], data)
        self.passes += found.passes * sum(len(t) for _, t in data) / sum(len(t) for _, t in self.data)
        return found.sets.mean()

    def foreseen(self, sets: Sequence[Sequence[Member]], data: Data) -> Prediction:
        """The losses without each of some sets of members, by frozen gates, of the network as it is now."""
        names = [[member.name for member in members] for members in sets]
        return predict(self.network, data, names, output=self.output, largest=self.members.largest, scale=self.scale)

    # What is taken out.

    @property
    def left(self) -> tuple[Member, ...]:
        """The members that can still go, in order."""
        return tuple(member for member in self.members.free if member not in self.gone)

    def take_out(self, members: Collection[Member]) -> None:
        """Have these members out, and no others."""
        for member in self.members.free:
            put(self.network, member.name, self._held[member])
        self.gone = tuple(member for member in self.members.free if member in members)
        for member in self.gone:
            put(self.network, member.name, member.bypass(self._held[member]))

    def reestimate(self) -> None:
        """Estimate the statistics of the batch norms that are left anew, where that is wanted."""
        if self.calibration is None:
            return
        self.reset()  # a member that comes back has its own
        modules = dict(self.network.named_modules())
        reestimate(self.network, [modules[name] for name in self._norms if name in modules], self.calibration)

    def reset(self) -> None:
        """Give the batch norms that are there the statistics that they had at first."""
        state = self.network.state_dict()
        for name, value in self._statistics.items():
            if name in state:
                state[name].copy_(value)

    def whole_again(self) -> nn.Module:
        """The network with all members in it, its statistics as they are now."""
        gone = self.gone
        self.take_out(())
        self.gone = gone
        return self.network

    # What it costs.

    def flops(self) -> int:
        """Floating-point operations for the example, by convolutions and matrix products."""
        with FlopCounterMode(display=False) as counter:
            self.run(self.example)
        return counter.get_total_flops()

    def parameters(self) -> int:
        """How many numbers the network has learned, those of members that are out left out."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def latency(self) -> float:
        """The time of a pass over the first batch of the data, as a fraction of that of the whole network.

        Of passes that take turns the fastest of each: what is slower was slowed down by other work on the machine.
        Kernels are those that the model has when it is called, not those that a measured loss is pinned to.
        """
        gone, x = self.gone, to_home(self.data[0][0], self.network)
        if not gone:
            return 1.0
        try:
            with torch.no_grad(), untouched_random():
                pairs = [[self._seconds(members, x) for members in ((), gone)] for _ in range(_PAIRS)]
        finally:
            self.take_out(gone)
        whole, now = (min(seconds) for seconds in zip(*pairs, strict=True))
        return now / whole

    def _seconds(self, members: Collection[Member], x: Any) -> float:
        self.take_out(members)
        start = time.perf_counter()
        call(self.network, x)
        _wait(x)
        return time.perf_counter() - start


def every(pair: tuple[Any, Tensor], first: int, stride: int) -> Data:
    """Every so manieth sample of a batch, from one on: nothing where there is none, all where it cannot be cut."""
    inputs, targets = pair
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if stride == 1 or any(not tensor.dim() or len(tensor) != len(targets) for tensor in tensors):
        return [pair]
    cut = slice(first, None, stride)
    if not len(targets[cut]):
        return []
    return [(pytree.tree_map_only(Tensor, lambda tensor: tensor[cut], inputs), targets[cut])]


def _wait(x: Any) -> None:
    tensors = [leaf for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor)]
    if any(tensor.is_cuda for tensor in tensors):
        torch.cuda.synchronize()


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(f"prune: the model cannot be copied ({error}); keep no computed tensors on it.") from error


def _nothing(found: Members) -> str:
    if not found.fixed:
        return "prune: the model has no residual blocks, so there is nothing that the network could do without."
    told = "; ".join(f"'{name}': {reason}" for name, reason in found.fixed.items())
    return f"prune: none of the blocks of this model can be taken out. {told}."


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: numbers that it has learned.
        flops: for the example.
        latency: of a pass over the first batch of the data, as a fraction of the whole network's; None where nobody
            asked.
    """

    parameters: int
    flops: int
    latency: float | None


def cost_of(bench: Bench, *, timed: bool) -> Cost:
    """What the network on the bench costs now."""
    return Cost(bench.parameters(), bench.flops(), bench.latency() if timed else None)
