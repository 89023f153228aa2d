"""What a network would give without some of its members, its gates held as they are: predicted, not run.

Let the gates (values of ReLU, statistics of norms, attention patterns, ...) stay at their values in the whole network.
From the output of a member on, what it adds to its input goes on linearly, so a set S of members has a share r_S of
every later value: what would be missing there without S.  One run on a `Series` has a row for each set:

    at the input             r_S = 0
    an operator              its rule for the rows, without constants
    a member b in S          r_S(out) = out - in + r_S(in): its input goes on in its place, less what was missing there

and y - r_S is the output without S.  For members that add branches to what they are given, and do nothing else, it is
the sum of all terms by paths through no branch of S, what is born of constants in these branches gone with them: as a
function of which members are there it is multilinear, f(m) = sum over T of prod_{b in T} m_b y_T, so that its value at
each corner needs all y_T, and one row holds what all those do together that have a block of S.

The loss of y - r_S is that of these logits, so it is exact for frozen gates, and not linear in r_S.  Cost: a row is a
pass through all that comes after its first member, so the n members of a network, each by itself, take about n / 2
passes beside the plain one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry

from termwise.deletion import to_home
from termwise.expand import Output, follow
from termwise.program import Program
from termwise.pruning.losses import Losses, losses_of
from termwise.rules import Call
from termwise.rules.registry import Event, leaves_of, plain
from termwise.series import Origin, Part, Series
from termwise.steps import Unit
from termwise.walks import Walk

_LARGEST = 2**28  # bytes that the rows of one value may take


class _Shares(Walk):
    """Only the rows of sets: nothing of the input or of constants by themselves."""

    def arrive(self, series: Series, event: Event | None) -> None:
        """Forget what is no set's; their parts are of depth 1 and more."""
        series.keep(tuple(part for part in series.parts if part.origin is Origin.INPUT and part.depth))


class Shares(Program):
    """A run with a row for each set of members: what would be missing without them.

    Args:
        model: the network.
        sets: of names of members.

    Attributes:
        work: the FLOPs of the rows, in those of the plain pass.
    """

    def __init__(self, model: nn.Module, sets: Sequence[Sequence[str]]) -> None:
        super().__init__(model, Unit("nothing"), walk=_Shares())
        self._of: dict[str, list[Part]] = {}
        for k, names in enumerate(sets):
            for name in names:
                self._of.setdefault(name, []).append(Part(Origin.INPUT, k + 1))
        self._members = {id(model.get_submodule(name)): name for name in self._of}
        self._given: list[tuple[Tensor, Tensor, tuple[Part, ...]]] = []
        self._row_flops = 0

    @property
    def work(self) -> float:
        """The rows' FLOPs over those of the values."""
        return self._row_flops / self.flops if self.flops else 0.0

    def _account(self, call: Call, out: Any) -> int:
        operands = [leaf for leaf in leaves_of(call.args, call.kwargs) if isinstance(leaf, Series)]
        flops = flop_registry[call.func.overloadpacket](*plain(call.args), **plain(call.kwargs), out_val=plain(out))
        self.flops += flops
        self._row_flops += flops * max(len(operand.parts) for operand in operands)
        return flops

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        super()._enter_module(module, args)
        if id(module) in self._members:
            series = self.series_of(args[0])
            assert isinstance(series, Series)
            # What the member writes into its input must not reach what is kept of it.
            self._given.append((series.value.clone(), series.rows, series.parts))

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> Any:
        replaced = super()._leave_module(module, args, output)
        if id(module) not in self._members or output is None:
            return replaced
        leaves, structure = pytree.tree_flatten(output)
        at = next(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        leaves[at] = self._left_out(self.series_of(leaves[at]), self._of[self._members[id(module)]])
        return pytree.tree_unflatten(leaves, structure)

    def _left_out(self, out: Any, own: Sequence[Part]) -> Series:
        """The output of a member, with what would be missing of it without the member in the rows of its sets."""
        value, rows, parts = self._given.pop()
        before = dict(zip(parts, rows, strict=True))
        after = dict(zip(out.parts, out.rows, strict=True))
        for part in own:
            after[part] = out.value - value + before.get(part, 0)
        labels = tuple(sorted(after))
        series = Series(out.value, torch.stack([after[part] for part in labels]), labels, out.paths, gate=out.gate)
        series.born = out.born
        series.part_from(out)
        return self.own(series)


def shares(
    model: nn.Module, x: Any, sets: Sequence[Sequence[str]], *, output: Output = None
) -> tuple[Tensor, Tensor, float]:
    """The output of a network, and what would be missing of it without each of some sets of members.

    Returns:
        The output y (N, ...), the shares r_S (sets, N, ...), and what it cost, in passes of the network.

    Raises:
        ModelError, DataError, RuleError: see `termwise.expand`.
    """
    program = Shares(model, sets)
    found = follow(program, model, x, output, None)
    if not isinstance(found, Series):
        return found, found.new_zeros(len(sets), *found.shape), 1.0
    rows = found.value.new_zeros(len(sets), *found.value.shape)
    for part, row in zip(found.parts, found.rows, strict=True):
        rows[part.depth - 1] = row
    return found.value, rows, 1.0 + program.work


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Losses of sets by frozen gates, over a data set.

    Attributes:
        whole: of the network as it is.
        sets: of each set: what is left without it.
        passes: what it cost, in passes of the network over the data.
    """

    whole: Losses
    sets: Losses
    passes: float


def predict(
    model: nn.Module,
    data: Iterable[tuple[Any, Tensor]],
    sets: Sequence[Sequence[str]],
    *,
    output: Output = None,
    largest: int = 1,
    scale: float = 1.0,
) -> Prediction:
    """The loss without each of some sets of members, by frozen gates.

    Args:
        model: the network; left as found.
        data: batches of inputs and targets.
        sets: of names of members; those that are to be compared in one run.
        output: which tensor of the model's result.
        largest: numbers in the largest value of one sample; it says how many samples go into one run.
        scale: what squared errors are multiplied with.
    """
    whole: list[Losses] = []
    found: list[Losses] = []
    cost, samples = 0.0, 0
    for inputs, targets in data:
        for x, t in _pieces(inputs, targets, len(sets), largest):
            y, rows, passes = shares(model, to_home(x, model), sets, output=output)
            whole.append(losses_of(y[None], y, t, scale))
            found.append(losses_of((y - row for row in rows), y, t, scale))
            cost, samples = cost + passes * len(y), samples + len(y)
    return Prediction(Losses.joined(whole), Losses.joined(found), cost / samples)


def _pieces(inputs: Any, targets: Tensor, sets: int, largest: int) -> Iterator[tuple[Any, Tensor]]:
    """A batch in pieces whose rows the memory holds; one that cannot be cut is one piece."""
    size = max(1, min(64, _LARGEST // (4 * (sets + 1) * largest)))
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if any(not tensor.dim() or len(tensor) != len(targets) for tensor in tensors):
        yield inputs, targets
        return
    for start in range(0, len(targets), size):
        stop = start + size
        cut = pytree.tree_map_only(Tensor, lambda tensor: tensor[start:stop], inputs)  # noqa: B023
        yield cut, targets[start:stop]
