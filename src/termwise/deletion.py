"""Deletion and reordering curves: what the network can do without, and how much the order of its blocks matters.

After A. Veit, M. Wilber, S. Belongie, *Residual Networks Behave Like Ensembles of Relatively Shallow Networks*, 2016
(arXiv 1605.06431), sections 4.1 to 4.3: k blocks, drawn at random, are deleted from a trained network, or its blocks
are shuffled, and the error is measured.  The control is the same with the layers of a network without shortcuts.

A curve says what the network that is left does; it was trained with all blocks, so it says how redundant they are, and
not what a network of that depth could have learned.  Batch-norm statistics are those of the whole network unless they
are estimated anew for each network that is left: the rows say which.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from termwise.batches import batches
from termwise.blocks import Block
from termwise.causal import Joins
from termwise.errors import DataError, ModelError, UsageError
from termwise.expand import Output, call, locate, pick_output
from termwise.pinning import bare, home, pinned
from termwise.profile import IGNORED, classes_last
from termwise.recorder import live_norms, reestimate, reestimated
from termwise.records import Record, Table, read_record, write_record
from termwise.steps import BLOCKS
from termwise.verdict.decision import t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AS_TRAINED, REESTIMATED = "as trained", "re-estimated"
_WEIGHTS = (nn.Linear, nn.modules.conv._ConvNd)


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """What is left of a network when it is cut up; print it, or take its tables.

    Attributes:
        kind: "deletion" or "reordering".
        summary: a row for each number of blocks that were removed (or swaps): the means over the draws with 95 %
            t-intervals over them (missing where all choices were measured, or only one), and the worst.
        draws: a row for each draw.
        metadata: what was cut up, how many samples it was measured on, the seed; of a deletion in `unit` whether blocks
            or layers were removed.
    """

    kind: str
    summary: Table
    draws: Table
    metadata: dict[str, Any]

    def __str__(self) -> str:
        """The summary as aligned text."""
        return repr(self.summary)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the accuracy by what was removed: `termwise.figures.lesion`."""
        from termwise.figures import lesion

        return lesion(self, ax=ax)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as one file."""
        return write_record(path, Record(self.kind, self.metadata, {"summary": self.summary, "draws": self.draws}, {}))

    @staticmethod
    def load(path: str | os.PathLike[str], kind: str) -> Curve:
        """Read what `save` wrote.

        Raises:
            RecordError: when it is missing, corrupt, or of another kind.
        """
        record = read_record(path, kind)
        return Curve(kind, record.tables["summary"], record.tables["draws"], record.metadata)


def deletion(
    model: nn.Module,
    data: Any,
    *,
    removed: Sequence[int] | None = None,
    draws: int = 20,
    layers: Sequence[Sequence[str]] | None = None,
    calibration: Tensor | None = None,
    output: Output = None,
    batch_size: int = 256,
    seed: int = 0,
) -> Curve:
    """Accuracy and loss without k blocks, drawn at random, for every k in `removed`.

    The column `kept` of the result says how many blocks are left, so that the curve, read from its other end, is that
    of the networks of k random blocks alone.

    Args:
        model: an nn.Module that is called as model(x); run in evaluation mode and left as found.
        data: inputs with class numbers, in any form that `termwise.profile` takes.
        removed: how many to remove; by default 0, 1, 2, 3, 4, 6, 8, 12, ... and all.
        draws: choices of k blocks, each at most once; all there are, where there are no more.
        layers: remove these instead of residual blocks: groups of names of modules, each passed by its input (see
            `plain_layers`): the control for networks without shortcuts.
        calibration: inputs on which the batch-norm statistics of each network that is left are estimated anew, on a
            copy; None leaves them as they are.
        output: which tensor of the model's result, as in `termwise.expand`.
        batch_size: samples at once, where `data` comes as tensors.
        seed: of the draws.

    Raises:
        UsageError: when there is nothing to remove, or not so much.
        DataError: when the data are empty or have no class numbers.
        ModelError: see `termwise.causal.lesion`; when a layer changes the shape of its input or does not run.
    """
    trials = _Trials(model, data, calibration, output, batch_size)
    if layers is None:
        joins = Joins(trials.network, trials.example, output=output)
        names: list[str] = [block.name for block in joins.blocks]
        cut: Callable[[Sequence[int]], contextlib.AbstractContextManager[Any]] = joins.without
    else:
        groups = [tuple(group) for group in layers]
        names = ["+".join(group) for group in groups]
        cut = lambda chosen: _bypassed(trials.network, [groups[i] for i in chosen])  # noqa: E731
    counts = _grid(len(names)) if removed is None else sorted(set(removed))
    if not names or not counts or counts[0] < 0 or counts[-1] > len(names) or draws < 1:
        raise UsageError(
            f"deletion: cannot remove {list(counts)} of {len(names)} {'blocks' if layers is None else 'layers'} in "
            f"{draws} draws. Of a network without residual blocks name the layers: "
            "layers=termwise.deletion.plain_layers(model, x)."
        )
    rng = np.random.default_rng(seed)
    rows = []
    with pinned(trials.network):
        for k in counts:
            for i, chosen in enumerate(_choices(len(names), k, draws, rng)):
                accuracy, loss = trials.measure(cut(chosen))
                gone = " ".join(map(str, chosen))
                rows.append(
                    {"removed": k, "kept": len(names) - k, "draw": i, "gone": gone, "accuracy": accuracy, "loss": loss}
                )
    every = {k: math.comb(len(names), k) for k in counts}
    about = {"removable": names, "unit": "blocks" if layers is None else "layers", "seed": seed}
    return trials.curve("deletion", ("removed", "kept"), rows, every, about)


def reordering(
    model: nn.Module,
    data: Any,
    *,
    swaps: Sequence[int] = (0, 1, 2, 4, 8, 16),
    draws: int = 20,
    calibration: Tensor | None = None,
    output: Output = None,
    batch_size: int = 256,
    seed: int = 0,
) -> Curve:
    """Accuracy and loss when the modules that hold residual blocks are run in another order.

    What is shuffled are members of an nn.Sequential or nn.ModuleList, of equal type, equal shapes of their weights,
    inputs and outputs, that hold a residual block each.  `tau` is Kendall's rank correlation between the order of the
    code and the shuffled one, over all pairs that could be exchanged: 1 in order, -1 in reverse.

    Args:
        model: as for `deletion`.
        data: as for `deletion`.
        swaps: how many random exchanges of two blocks of equal shape make a shuffled order.
        draws: shuffled orders for each number of swaps.
        calibration: as for `deletion`.
        output: as for `deletion`.
        batch_size: as for `deletion`.
        seed: of the draws.

    Raises:
        UsageError: when no two blocks can be exchanged.
        ModelError: when the model does not run its blocks in the order in which their container holds them.
        DataError: when the data are empty or have no class numbers.
    """
    trials = _Trials(model, data, calibration, output, batch_size)
    blocks = locate(BLOCKS, trials.network, trials.example, output=output).blocks or ()
    groups = _exchangeable(trials.network, blocks, trials.example)
    if not groups or draws < 1 or min(swaps, default=-1) < 0:
        raise UsageError(
            "reordering: no two blocks of this model are members of a Sequential or ModuleList and of equal shape, so "
            "none can take the place of another; or there are no draws or swaps."
        )
    rng = np.random.default_rng(seed)
    rows = []
    with pinned(trials.network):
        for count in sorted(set(swaps)):
            for i in range(draws if count else 1):
                orders = _shuffled([len(group) for group in groups], count, rng)
                accuracy, loss = trials.measure(_reordered(trials.network, groups, orders))
                rows.append({"swaps": count, "draw": i, "tau": _tau(orders), "accuracy": accuracy, "loss": loss})
    names = [name for group in groups for name in group]
    return trials.curve("reordering", ("swaps",), rows, {0: 1}, {"exchangeable": names, "seed": seed})


def plain_layers(model: nn.Module, example: Any) -> tuple[tuple[str, ...], ...]:
    """The layers of a model's nn.Sequential containers that can be left out because they keep the shape.

    A layer is a convolution or linear module with the modules behind it, up to where the shape changes or the next one
    begins: its norm and its nonlinearity.
    """
    shapes = _shapes(model, example)
    layers = []
    for prefix, container in model.named_modules():
        if not isinstance(container, nn.Sequential):
            continue
        names = [f"{prefix}.{name}" if prefix else name for name, _ in container.named_children()]
        for i, name in enumerate(names):
            if isinstance(model.get_submodule(name), _WEIGHTS) and name in shapes:
                before, _ = shapes[name]
                behind = itertools.takewhile(
                    lambda n: not isinstance(model.get_submodule(n), _WEIGHTS) and n in shapes, names[i + 1 :]
                )
                kept = [n for n in (name, *itertools.takewhile(lambda n: shapes[n][1] == before, behind))]  # noqa: B023
                if shapes[name][1] == before:
                    layers.append(tuple(kept))
    return tuple(layers)


class _Trials:
    """A network to be cut up, the data to measure it on, and what was measured."""

    def __init__(
        self, model: nn.Module, data: Any, calibration: Tensor | None, output: Output, batch_size: int
    ) -> None:
        if not isinstance(model, nn.Module) or bare(model) is not model:
            raise UsageError("give the plain nn.Module that is called as model(x), not a function or a wrapper of it.")
        self._data = [*batches(data, batch_size)]
        self._calibration, self._output = calibration, output
        self.network = model if calibration is None else reestimated(model, calibration)
        norms = () if calibration is None else live_norms(model)
        self._norms = [self.network.get_submodule(name) for name in norms]
        self.statistics = AS_TRAINED if calibration is None else REESTIMATED
        inputs, _ = self._data[0]
        self.example = to_home(example_of(inputs), self.network)
        self._samples = 0

    def measure(self, altered: contextlib.AbstractContextManager[Any]) -> tuple[float, float]:
        """Accuracy and mean loss in nats of the network as altered, its statistics estimated anew where wanted."""
        with altered:
            if self._calibration is not None:
                reestimate(self.network, self._norms, self._calibration)
            right, loss = [], []
            for inputs, targets in self._data:
                y = pick_output(call(self.network, to_home(inputs, self.network)), self._output)
                for parts, values in zip((right, loss), per_sample(y, targets), strict=True):
                    parts.append(values)
        self._samples = sum(map(len, right))
        return float(np.concatenate(right).mean()), float(np.concatenate(loss).mean())

    def curve(
        self,
        kind: str,
        keys: tuple[str, ...],
        rows: list[dict[str, Any]],
        every: dict[int, int],
        metadata: dict[str, Any],
    ) -> Curve:
        """The curve of some draws; `every` says of how many choices there are for a value of the first key."""
        summary = []
        for value in dict.fromkeys(row[keys[0]] for row in rows):
            mine = [row for row in rows if row[keys[0]] == value]
            exhaustive = every.get(value) == len(mine)
            line: dict[str, Any] = {key: mine[0][key] for key in keys}
            line |= {"draws": len(mine), "exhaustive": exhaustive}
            if kind == "reordering":
                line["tau"] = float(np.mean([row["tau"] for row in mine]))
            for name in ("accuracy", "loss"):
                values = np.array([row[name] for row in mine])
                low, high = (math.nan, math.nan) if exhaustive else t_interval(values)
                line |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
                line[f"{name}_worst"] = float(values.min() if name == "accuracy" else values.max())
            summary.append(line | {"statistics": self.statistics})
        units = {"loss": "nats", "loss_low": "nats", "loss_high": "nats", "loss_worst": "nats"}
        draws = [row | {"statistics": self.statistics} for row in rows]
        metadata = {**metadata, "samples": self._samples, "statistics": self.statistics}
        return Curve(kind, _table(summary, units), _table(draws, units), metadata)


def _table(rows: list[dict[str, Any]], units: dict[str, str]) -> Table:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Table(columns, {name: unit for name, unit in units.items() if name in columns})


def _grid(count: int) -> list[int]:
    """0, 1, 2, 3, 4, 6, 8, 12, 16, 24, ... and all."""
    return sorted({0, count, *(n for power in range(1, 20) for n in (2**power // 2, 3 * 2**power // 4) if n < count)})


def _choices(count: int, k: int, draws: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """Subsets of size k: all where there are no more than `draws`, else so many different ones at random."""
    if math.comb(count, k) <= draws:
        yield from itertools.combinations(range(count), k)
        return
    seen: set[tuple[int, ...]] = set()
    while len(seen) < draws:
        subset = tuple(sorted(rng.choice(count, k, replace=False).tolist()))
        if subset not in seen:
            seen.add(subset)
            yield subset


def example_of(inputs: Any) -> Any:
    """What the blocks are looked for on: the first sample, or all of a batch whose tensors are not of one length."""
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if any(not tensor.dim() for tensor in tensors) or len({len(tensor) for tensor in tensors}) != 1:
        return inputs
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[:1], inputs)


def to_home(inputs: Any, network: nn.Module) -> Any:
    """The inputs on the device of the network."""
    device = home(network)
    return inputs if device is None else pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), inputs)


def per_sample(y: Tensor, targets: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Whether each sample (of a sequence, each target) is classified rightly, and its loss in nats."""
    if targets is None or targets.is_floating_point():
        raise DataError("the data have no class numbers: accuracy and loss need integer targets beside the inputs.")
    _, logits, labels = classes_last(y[None], y, targets.to(y.device))
    logits, labels = logits.double().flatten(0, 1), labels.flatten()
    logits, labels = logits[labels != IGNORED], labels[labels != IGNORED]
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return (logits.argmax(dim=1) == labels).double().cpu().numpy(), loss.cpu().numpy()


# Layers of networks without shortcuts.


@contextlib.contextmanager
def _bypassed(model: nn.Module, groups: Sequence[Sequence[str]]) -> Iterator[None]:
    """Each module of the groups returns what it was given."""
    gone = {id(model.get_submodule(name)): name for group in groups for name in group}

    def passed(module: nn.Module, args: Any, output: Any) -> Any:
        if id(module) not in gone:
            return None
        if not isinstance(output, Tensor) or not args or args[0].shape != output.shape:
            raise ModelError(f"'{gone[id(module)]}' cannot be left out: its output is not of the shape of its input.")
        return args[0]

    hook = register_module_forward_hook(passed)
    try:
        yield
    finally:
        hook.remove()


def _shapes(model: nn.Module, example: Any) -> dict[str, tuple[torch.Size, torch.Size]]:
    """The shapes of input and output of each module that maps a tensor to a tensor, in the order of the runs."""
    names = {id(module): name for name, module in model.named_modules()}
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if id(module) in names and args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            shapes[names[id(module)]] = args[0].shape, output.shape

    hook = register_module_forward_hook(note)
    try:
        with pinned(model):
            call(model, example)
    finally:
        hook.remove()
    return shapes


# Another order of the blocks.


def _exchangeable(model: nn.Module, blocks: Sequence[Block], example: Any) -> list[list[str]]:
    """The members of containers that hold blocks and are of equal shape, by shape, each in the order of its runs."""
    shapes = _shapes(model, example)
    holders = {holder for block in blocks if (holder := _holder(model, block.name, blocks)) is not None}
    groups: dict[Any, list[str]] = {}
    for name in shapes:  # a module is entered when it returns; of the members of containers, that is their order
        if name in holders:
            module = model.get_submodule(name)
            kinds = tuple(type(inner) for inner in module.modules())
            weights = tuple((key, tuple(value.shape)) for key, value in module.state_dict().items())
            groups.setdefault((kinds, weights, shapes[name]), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _holder(model: nn.Module, name: str, blocks: Sequence[Block]) -> str | None:
    """The innermost member of a container that holds a block and of which another member holds one, too."""
    while name:
        parent, _, _ = name.rpartition(".")
        if isinstance(model.get_submodule(parent), (nn.Sequential, nn.ModuleList)):
            beside = [b.name for b in blocks if b.name.startswith(f"{parent}." if parent else "")]
            if any(not f"{other}.".startswith(f"{name}.") for other in beside):
                return name
        name = parent
    return None


def _shuffled(sizes: Sequence[int], swaps: int, rng: np.random.Generator) -> list[list[int]]:
    """The order of each group after random exchanges of two of its members, any pair of all groups being as likely."""
    orders = [[*range(size)] for size in sizes]
    pairs = [(g, i, j) for g, size in enumerate(sizes) for i in range(size) for j in range(i)]
    for choice in rng.integers(len(pairs), size=swaps):
        g, i, j = pairs[choice]
        orders[g][i], orders[g][j] = orders[g][j], orders[g][i]
    return orders


def _tau(orders: Sequence[Sequence[int]]) -> float:
    signs = [1 if order[i] > order[j] else -1 for order in orders for i in range(len(order)) for j in range(i)]
    return sum(signs) / len(signs)


@contextlib.contextmanager
def _reordered(model: nn.Module, groups: Sequence[Sequence[str]], orders: Sequence[Sequence[int]]) -> Iterator[None]:
    """Each group's modules in another order; afterwards each in its place."""
    modules = {name: model.get_submodule(name) for group in groups for name in group}
    taken = {
        group[place]: modules[group[member]]
        for group, order in zip(groups, orders, strict=True)
        for place, member in enumerate(order)
    }
    hooks = _order_checked(model, [[taken[name] for name in group] for group in groups])
    try:
        _put(model, taken)
        yield
    finally:
        _put(model, modules)
        for hook in hooks:
            hook.remove()


def _put(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        parent, _, member = name.rpartition(".")
        setattr(model.get_submodule(parent), member, module)


def _order_checked(model: nn.Module, expected: Sequence[Sequence[nn.Module]]) -> list[Any]:
    """Hooks that refuse a run in which the modules of a group do not come in the expected order."""
    group_of = {id(module): g for g, group in enumerate(expected) for module in group}
    run: list[list[nn.Module]] = [[] for _ in expected]

    def enter(module: nn.Module, args: Any) -> None:
        if module is model:
            for group in run:
                group.clear()
        elif id(module) in group_of:
            run[group_of[id(module)]].append(module)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if module is model and any(
            len(ours) != len(theirs) or any(a is not b for a, b in zip(ours, theirs, strict=True))
            for ours, theirs in zip(run, expected, strict=True)
        ):
            raise ModelError(
                "reordering: the model does not run the members of its containers in their order, each once, so its "
                "blocks cannot be shuffled there."
            )

    return [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
