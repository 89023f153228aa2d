"""What really happens when paths are taken away: the network is run without some of its residual branches.

Nothing is frozen here: all that comes after a missing branch, its gates among it, sees what it would see if the branch
had been cut out of the code.

`lesion` cuts where the branch joins.  The blocks are found in one run on a Series, which also notes the calls of
PyTorch's Python functions in which they join (`torch.add`, `torch.cat`, ...) and which of the tensors given to each is
the branch.  Under the lesion these calls are counted again and that tensor is replaced by zeros, above autograd: so the
gradients are those of the network without the branch, and the model runs at its own speed, on any batch, in either
mode.  Every call is checked against the first run, in order, with the module that makes it: a program that goes another
way is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from termwise.blocks import Block, Place, find_blocks
from termwise.errors import ModelError, UsageError
from termwise.expand import Forward, Output, follow, locate
from termwise.graph import Graph
from termwise.pinning import bare
from termwise.program import Program
from termwise.series import Born, Series
from termwise.steps import BLOCKS, Unit

_SHOWN = 60  # blocks that an error message lists


def without(
    model: Any, x: Any, blocks: Iterable[int | str | Block], *, output: Output = None, forward: Forward = None
) -> Tensor:
    """The output of `model` at `x` without some of its residual branches.

    Args:
        model: an nn.Module or callable; run in evaluation mode and left as found.
        x: its input, as in `termwise.expand`.
        blocks: which to leave out: their numbers, counted from 0 in the order of the program, their names, or the
            blocks that `termwise.support` lists.
        output: which tensor of the model's result, as in `termwise.expand`.
        forward: how to call the model, as in `termwise.expand`.

    Returns:
        The output, of its usual shape.

    Raises:
        UsageError: when there is no such block.
        ModelError: when the program goes another way without them.
        DataError, RuleError: see `termwise.expand`.
    """
    found = locate(BLOCKS, model, x, output=output, forward=forward)
    known = found.blocks or ()
    removed = [place for i in chosen(blocks, known) for place in known[i].places]
    program = Program(bare(model), Unit("nothing"), removed=removed)
    result = follow(program, model, x, output, forward)
    if program.route != found.route:
        raise ModelError(
            "without: the model's control flow depends on its values, and goes another way when the blocks are gone; "
            "what is left cannot be told from what was removed."
        )
    return result.value if isinstance(result, Series) else result


@contextlib.contextmanager
def lesion(
    model: nn.Module, blocks: Iterable[int | str | Block], *, example: Any, output: Output = None
) -> Iterator[tuple[Block, ...]]:
    """Inside of this context the model, called as usual, runs without some of its residual branches.

    Whatever passes the branch (its shortcut, of a concatenation the other channels) is kept; what the branch would have
    brought is zero.  The model may be called as often as wanted, with any batch, with or without gradients, in
    evaluation or training mode; statistics that it updates while it runs are those of the lesioned network.  Nothing is
    left on it.

    Args:
        model: an nn.Module that is called as model(x); not inside of torch.compile, DataParallel or a distributed
            wrapper.
        blocks: which to leave out: their numbers, counted from 0 in the order of the program, their names, or the
            blocks that `termwise.support` lists.
        example: an input of one sample or more, as in `termwise.expand`, on which the blocks are looked for.
        output: which tensor of the model's result the blocks must reach, as in `termwise.expand`.

    Yields:
        The blocks that are left out.

    Raises:
        UsageError: when there is no such block, or the model is no plain module.
        ModelError: when a block joins where it cannot be taken away from; and at a call of the model that goes another
            way than on the example, or that runs a part of it alone.
        DataError, RuleError: see `termwise.expand`.
    """
    joins = Joins(model, example, output=output)
    removed = chosen(blocks, joins.blocks)
    with joins.without(removed):
        yield tuple(joins.blocks[i] for i in removed)


def chosen(blocks: Iterable[int | str | Block], known: Sequence[Block]) -> tuple[int, ...]:
    """The numbers of blocks that are given by number, by name or as they are; ascending, each once.

    Raises:
        UsageError: listing the blocks, when one of them is none.
    """
    return tuple(sorted({_number(block, known) for block in blocks}))


def _number(block: int | str | Block, known: Sequence[Block]) -> int:
    if isinstance(block, int) and not isinstance(block, bool) and 0 <= block < len(known):
        return block
    if isinstance(block, (str, Block)):
        alike = [i for i, one in enumerate(known) if block in (one, one.name)]
        if len(alike) == 1:
            return alike[0]
        if alike:
            raise UsageError(f"{block!r} is the name of {len(alike)} blocks, {alike}: give their numbers.")
    if not known:
        raise UsageError(f"{block!r}: the model has no residual branches, so there is none to leave out.")
    listed = ", ".join(f"{i} '{one.name}'" for i, one in enumerate(known[:_SHOWN]))
    more = f", and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    raise UsageError(f"{block!r} is none of the {len(known)} blocks of this model: {listed}{more}.")


Change = Callable[[int, Tensor], Tensor]


class Joins:
    """Where the residual branches of a model join, as calls of PyTorch's Python functions.

    Attributes:
        blocks: all residual branches, in the order in which they join.
    """

    def __init__(self, model: nn.Module, example: Any, *, output: Output = None) -> None:
        """Look for the blocks of `model` on an example; see `lesion`."""
        if not isinstance(model, nn.Module):
            raise UsageError(f"expected an nn.Module, not a {type(model).__name__}: termwise.causal.without takes any.")
        if bare(model) is not model:
            raise UsageError(
                f"the model is inside of a {type(model).__name__}: give, and call, the module inside (model.module, or "
                "the one that was given to torch.compile)."
            )
        self._model = model
        graph = Graph()
        program = Program(model, Unit("nothing"), graph=graph)
        watch = _Watch(model, program)
        with watch.installed():
            series = follow(program, model, example, output, None)
        self.blocks = find_blocks(graph, series.born) if isinstance(series, Series) else ()
        self._calls = _located(watch.calls, graph, self.blocks)

    def without(self, removed: Iterable[int]) -> contextlib.AbstractContextManager[None]:
        """Run the model without the blocks of these numbers."""
        gone = frozenset(removed)
        return self.changed({number: lambda _, branch: torch.zeros_like(branch) for number in gone})

    def changed(self, changes: Mapping[int, Change]) -> contextlib.AbstractContextManager[None]:
        """Run the model with branches replaced.

        Args:
            changes: by the number of the block, a function of the place (0 where the block joins first, and so on) and
                of what the branch brings there; what it returns, of the same shape, joins instead.
        """
        return _Changed(self._model, self._calls, changes, self.blocks).installed()


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call of a Python function that was given several tensors.

    Attributes:
        function: the function.
        module: which module called it.
        born: of each tensor, the operator calls that it was the result of.
        operators: the numbers of the operator calls that it made: the first, and the one behind the last.
        branches: which of the tensors are branches: its place among them, the number of the block, and how many places
            of that block came before.
    """

    function: Any
    module: str
    born: tuple[Born, ...]
    operators: tuple[int, int]
    branches: tuple[tuple[int, int, int], ...] = ()

    def alike(self, other: _Call) -> bool:
        return (self.function, self.module, len(self.born)) == (other.function, other.module, len(other.born))


class _Inside(TorchFunctionMode):
    """A mode that is active while a model runs, and knows which module of it does; nothing is left on the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._root = model
        self._names = {id(module): name for name, module in model.named_modules()}
        self._modules: list[int] = []

    @property
    def module(self) -> str:
        return self._names[self._modules[-1]]

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.callback(register_module_forward_pre_hook(self._enter).remove)
            stack.callback(register_module_forward_hook(self._leave, always_call=True).remove)
            yield

    def _enter(self, module: nn.Module, args: Any) -> None:
        if id(module) not in self._names:
            return
        if not self._modules:
            if module is not self._root:
                raise ModelError(
                    f"module '{self._names[id(module)]}' runs by itself, outside of a call of the model, where its "
                    "blocks are not known. Call the model as a whole; gradient checkpointing runs parts of it again in "
                    "the backward pass: switch it off."
                )
            self.begin()
            self.__enter__()
        self._modules.append(id(module))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._modules or self._modules[-1] != id(module):
            return
        self._modules.pop()
        if not self._modules:
            self.__exit__(None, None, None)
            if output is not None:  # else an error is on its way
                self.end()

    def begin(self) -> None:
        """The model is called."""

    def end(self) -> None:
        """The model has returned."""


class _Watch(_Inside):
    """Notes the calls of a run on a Series."""

    def __init__(self, model: nn.Module, program: Program) -> None:
        super().__init__(model)
        self._program = program
        self.calls: list[_Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = _tensors(args, kwargs)
        born = tuple(self._born(tensor) for tensor in tensors)
        before = self._program.calls
        out = func(*args, **(kwargs or {}))
        if len(tensors) > 1:
            self.calls.append(_Call(func, self.module, born, (before + 1, self._program.calls + 1)))
        return out

    def _born(self, tensor: Tensor) -> Born:
        # A plain buffer may have been written into.
        series = tensor if isinstance(tensor, Series) else self._program.series_of(tensor)
        return series.born if isinstance(series, Series) else ()


class _Changed(_Inside):
    """Runs the model with some of its branches replaced."""

    def __init__(
        self, model: nn.Module, calls: Sequence[_Call], changes: Mapping[int, Change], blocks: Sequence[Block]
    ) -> None:
        super().__init__(model)
        self._expected, self._changes, self._blocks = calls, changes, blocks
        self._functions = {call.function for call in calls}
        self._seen = 0

    def begin(self) -> None:
        self._seen = 0

    def end(self) -> None:
        if self._seen < len(self._expected):
            raise _another_way(self._expected[self._seen], "did not come to")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        if func not in self._functions:
            return func(*args, **keywords)
        leaves, structure = pytree.tree_flatten((args, keywords))
        at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        if len(at) < 2:
            return func(*args, **keywords)
        call = _Call(func, self.module, ((),) * len(at), (0, 0))
        if self._seen == len(self._expected):
            raise _another_way(call, "went on to")
        expected = self._expected[self._seen]
        if not expected.alike(call):
            raise _another_way(expected, "did not come to")
        self._seen += 1
        for operand, block, place in expected.branches:
            if block in self._changes:
                leaves[at[operand]] = self._replaced(func, at[operand], block, place, leaves[at[operand]])
        args, keywords = pytree.tree_unflatten(leaves, structure)
        return func(*args, **keywords)

    def _replaced(self, func: Any, at: int, block: int, place: int, branch: Tensor) -> Tensor:
        new = self._changes[block](place, branch)
        if new.shape != branch.shape:
            raise UsageError(
                f"block {block} '{self._blocks[block].name}' brings {tuple(branch.shape)}, not {tuple(new.shape)}."
            )
        # What writes into the branch itself returns it to whoever holds it.
        return branch.copy_(new) if at == 0 and _writes(func) else new


def _another_way(call: _Call, how: str) -> ModelError:
    name = getattr(call.function, "__name__", str(call.function))
    where = f"module '{call.module}'" if call.module else "the model itself"
    return ModelError(
        f"the model goes another way than on the example: it {how} {name}(...) of {len(call.born)} tensors in {where}, "
        "so where its blocks join is not known. What its control flow depends on (values, the mode, the shape of the "
        "batch, compiled parts) must be as for the example."
    )


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]


def _writes(function: Any) -> bool:
    """Whether a function writes into its first argument: add_, +=."""
    name = getattr(function, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name in ("__iadd__", "__isub__")


def _located(calls: Sequence[_Call], graph: Graph, blocks: Sequence[Block]) -> list[_Call]:
    """The calls of the functions in which blocks join, in order, with the branches among their tensors.

    Raises:
        ModelError: when a branch is not among the tensors that a Python function was given.
    """
    branches: dict[int, list[tuple[int, int, int]]] = {}
    for number, block in enumerate(blocks):
        for before, place in enumerate(block.places):
            i, operand = _tensor_of(place, calls, graph, block)
            branches.setdefault(i, []).append((operand, number, before))
    functions = {calls[i].function for i in branches}
    return [
        dataclasses.replace(call, branches=tuple(branches.get(i, ())))
        for i, call in enumerate(calls)
        if call.function in functions
    ]


def _tensor_of(place: Place, calls: Sequence[_Call], graph: Graph, block: Block) -> tuple[int, int]:
    """The call in which a branch joins, and which of its tensors the branch is."""
    for i, call in enumerate(calls):
        first, end = call.operators
        if not first <= place.call < end:
            continue
        inputs = [(operand, _before(born, first, graph)) for operand, born in graph.nodes[place.call].inputs]
        born = dict(inputs)[place.operand]
        # Slices of one result are born of the same call: they are told apart by their order.
        alike = [operand for operand, other in inputs if other == born]
        given = [j for j, other in enumerate(call.born) if other == born]
        turned = "rsub" in getattr(call.function, "__name__", "")
        if len(given) == len(alike) and not (turned and len(given) > 1):
            return i, given[alike.index(place.operand)]
    raise ModelError(
        f"block '{block.name}' joins inside of an operator, from where it cannot be taken away at full speed. "
        "termwise.causal.without(model, x, blocks) can."
    )


def _before(born: Born, first: int, graph: Graph) -> Born:
    """What a value was before the views that the function itself took of it."""
    while len(born) == 1 and born[0] >= first and (node := graph.nodes[born[0]]).is_view:
        ((_, born),) = node.inputs
    return born
