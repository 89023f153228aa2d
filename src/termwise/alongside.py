"""A program followed beside autograd: which node of autograd's graph is which call, and which calls are steps.

The model runs on plain tensors that record their gradients.  Every operator that it calls arrives here, below
autograd, and is run twice: as it is, and on the Series that stand beside its operands, which go to their rules in a
`Program`.  So what counts as a step, and which operands of a join are residual branches, is decided by the very program
that `termwise.expand` follows; and when the call has come back, its result names the node that leads back through it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node as GradNode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from termwise.program import Program, functional_of
from termwise.series import Origin, Series
from termwise.walks import Nothing, Walk

_Key = tuple[StorageWeakRef, int, torch.Size, tuple[int, ...], torch.dtype]
_SWEEP = 256  # calls after which what stands beside tensors that are gone is forgotten


class Followed(Program):
    """A program that notes its steps, and carries terms only where lengths from the input are wanted."""

    def __init__(self, *args: Any, lengths: bool, **kwargs: Any) -> None:
        """As a Program; `lengths` says whether there are terms at all."""
        super().__init__(*args, walk=Walk() if lengths else Nothing(), **kwargs)
        self.steps = 0

    @property
    def module(self) -> str:
        """The path of the module that is being run."""
        return self._inside[-1] if self._inside else ""

    def name_of(self, module: nn.Module) -> str | None:
        """The path of a module; None where it is none of the model's."""
        return self._names.get(id(module))

    def _step(self, series: Series) -> Series:
        self.steps += 1
        return super()._step(series)


@dataclasses.dataclass(eq=False)
class Visit:
    """One call that gradients may flow back through.

    Attributes:
        func: the operator.
        args, kwargs: its operands, a Series for each that is computed from the input; none where they are not kept.
        numbers: the numbers that the program gave to it; several where its rule takes it apart.
        module: the path of the module that called it.
        is_step: whether what flows back through it has one step more.
        edges: for each tensor among the operands, which of the node's edges leads to it; None for indices.
        sources: for each leaf of the operands that has a gradient without being computed from the input, the node that
            it came from and which of its results it is; None where it is a parameter itself.
        node: the node of autograd's graph; None where no gradient flows.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    numbers: range
    module: str
    is_step: bool
    edges: tuple[int | None, ...]
    sources: dict[int, tuple[GradNode, int] | None]
    node: GradNode | None = None


class Alongside(TorchDispatchMode):
    """Runs each operator on plain tensors, and on the Series beside them; the program must be the mode around it."""

    def __init__(self, program: Followed, *, keep: bool) -> None:
        """Follow `program`; with `keep` the operands of every call are kept, which takes the memory of all Series."""
        super().__init__()
        self.visits: list[Visit] = []
        self.hidden: list[Visit] = []  # called where no gradients are recorded, on what has one
        self._program = program
        self._keep = keep
        self._beside: dict[_Key, Series] = {}
        # Memory that the model made and wrote values into: the program has one of its own in its place.
        self._twins: dict[StorageWeakRef, Tensor] = {}
        self._pending: tuple[Visit, list[Tensor], bool, bool] | None = None
        self._calls = 0

    def put(self, tensor: Tensor, series: Tensor) -> None:
        """Let a Series stand beside a tensor."""
        if isinstance(series, Series):
            self._beside[_key(tensor)] = series

    def beside(self, tensor: Tensor) -> Tensor:
        """What stands beside a tensor: a Series, memory that the program wrote into, or the tensor itself."""
        if not self._beside:
            return tensor
        twin = self._twins.get(StorageWeakRef(tensor.untyped_storage()))
        if twin is not None:
            with no_dispatch():
                return twin.view(tensor.dtype).as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        return self._beside.get(_key(tensor), tensor)

    def step(self, tensor: Tensor) -> None:
        """What stands beside a tensor takes a step."""
        series = self.beside(tensor)
        if isinstance(series, Series):
            moved = self._program.own(self._program._step(series))
            moved.born = series.born
            self.put(tensor, moved)

    def settle(self) -> None:
        """Ask the last call's result for its node; autograd has made it when the next call comes, not before."""
        if self._pending is None:
            return
        visit, results, in_place, unrecorded = self._pending
        self._pending = None
        for result in results:
            root = result._base if in_place and result._base is not None else result
            if root.grad_fn is not None:
                visit.node = root.grad_fn
                self.visits.append(visit)
                return
        if unrecorded:
            self.hidden.append(visit)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        self.settle()
        self._forget()
        keywords = dict(kwargs or {})
        given = (args, keywords)
        lifted = pytree.tree_map_only(Tensor, self.beside, given)
        if not any(a is not b for a, b in zip(pytree.tree_leaves(given), pytree.tree_leaves(lifted), strict=True)):
            return func(*args, **keywords)  # the program sees it, and marks what is computed from parameters
        in_place = bool(func._schema.is_mutable) if hasattr(func, "_schema") else False
        operands = self._operands(given, lifted) if self._keep else ((), {})
        kept, sources = self._kept(operands, in_place=in_place), _sources(operands)
        if in_place:
            lifted = self._adopt(args, lifted)
        before, steps = self._program.calls, self._program.steps
        # Where the geometry of the tensor itself is changed, what stands beside its earlier geometry stays.
        beside = functional_of(func) if torch.Tag.inplace_view in getattr(func, "tags", ()) else func
        with torch.no_grad(), _same_chance(func):
            shadow = beside(*lifted[0], **lifted[1])
        with no_dispatch():
            out = func(*args, **keywords)
        numbers = range(before + 1, self._program.calls + 1)
        self._note(out, shadow)
        visit = Visit(
            func,
            args=kept[0],
            kwargs=kept[1],
            numbers=numbers,
            module=self._program.module,
            is_step=self._program.steps > steps,
            edges=_edges(func, *given),
            sources=sources,
        )
        results = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
        tensors = [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor)]
        unrecorded = not torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        self._pending = visit, results, in_place, unrecorded
        return out

    def _adopt(self, args: tuple[Any, ...], lifted: Any) -> Any:
        """Memory of the model's own that is written into gets a twin, which the program writes into instead."""
        target = args[0] if args else None
        if not isinstance(target, Tensor) or isinstance(lifted[0][0], Series):
            return lifted
        storage = target.untyped_storage()
        self._program.about_to_write([target])  # which the program will not see: it writes into the twin
        with no_dispatch():
            self._twins.setdefault(StorageWeakRef(storage), target.detach().new_empty(0).set_(storage).clone())
        return (self.beside(target), *lifted[0][1:]), lifted[1]

    def _operands(self, given: Any, lifted: Any) -> Any:
        """The operands of a call; what lies in written memory and is still computed from parameters alone, plain."""
        leaves, structure = pytree.tree_flatten(given)
        for i, beside in enumerate(pytree.tree_leaves(lifted)):
            if beside is not leaves[i]:
                with no_dispatch():
                    series = self._program.series_of(beside)
                born = {part.origin for part in series.parts} if isinstance(series, Series) else set()
                if born != {Origin.CONSTANT} or not leaves[i].requires_grad:
                    leaves[i] = series
        return pytree.tree_unflatten(leaves, structure)

    def _kept(self, lifted: Any, *, in_place: bool) -> Any:
        """The operands as they are now."""

        def keep(series: Tensor) -> Tensor:
            if not in_place or (series.is_leaf and series.requires_grad):
                return series
            if not isinstance(series, Series):
                return series.detach().clone()
            return Series(series.value.clone(), series.rows, series.parts, series.paths, gate=series.gate)

        with no_dispatch():
            return pytree.tree_map_only(Tensor, keep, lifted)

    def _note(self, out: Any, shadow: Any) -> None:
        tensors, shadows = pytree.tree_leaves(out), pytree.tree_leaves(shadow)
        for tensor, series in zip(tensors, shadows, strict=True):
            if isinstance(series, Series) and StorageWeakRef(tensor.untyped_storage()) not in self._twins:
                # Another name for what has one already (autograd detaches what it saves) is the same.
                self._beside.setdefault(_key(tensor), series)

    def _forget(self) -> None:
        self._calls += 1
        if self._calls % _SWEEP == 0:
            self._beside = {key: series for key, series in self._beside.items() if not key[0].expired()}
            self._twins = {storage: twin for storage, twin in self._twins.items() if not storage.expired()}


def _key(tensor: Tensor) -> _Key:
    """What tells one tensor from another: its memory, and how it lies there.  Tensor objects do not stay the same."""
    place = StorageWeakRef(tensor.untyped_storage())
    return place, int(tensor.storage_offset()), tensor.size(), tensor.stride(), tensor.dtype


def _same_chance(func: Any) -> contextlib.AbstractContextManager[None]:
    """What is drawn at random is drawn alike by both runs of the operator."""
    random = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(devices) if random else contextlib.nullcontext()


_INDICES = {"index", "indices", "condition", "mask"}


def _edges(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | None, ...]:
    """Autograd gives its nodes an edge for each tensor that may have a gradient, in the order of the schema."""
    edges: list[int | None] = []
    count = 0
    for i, argument in enumerate(func._schema.arguments):
        given = args[i] if i < len(args) else kwargs.get(argument.name)
        for leaf in pytree.tree_leaves(given):
            if isinstance(leaf, Tensor):
                edges.append(None if argument.name in _INDICES else count)
                count += argument.name not in _INDICES
    return tuple(edges)


def _sources(lifted: Any) -> dict[int, tuple[GradNode, int] | None]:
    """Where operands with a gradient came from, as long as the call has not written into them."""
    return {
        i: None if leaf.grad_fn is None else (leaf.grad_fn, leaf.output_nr)
        for i, leaf in enumerate(pytree.tree_leaves(lifted))
        if isinstance(leaf, Tensor) and not isinstance(leaf, Series) and leaf.requires_grad
    }


class Unfused(TorchFunctionMode):
    """Runs recurrent layers step by step: their fused kernel is one operator, and hides the steps inside."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one function."""
        fused = torch._C._get_mkldnn_enabled() and getattr(func, "__name__", "") == "lstm"
        try:
            if fused:
                torch._C._set_mkldnn_enabled(False)  # torch.backends.mkldnn.flags warns of TF32 on all machines
            return func(*args, **(kwargs or {}))
        finally:
            if fused:
                torch._C._set_mkldnn_enabled(True)


@contextlib.contextmanager
def following(program: Followed, *, keep: bool = False) -> Iterator[Alongside]:
    """The model's forward is run in this context, inside `termwise.pinning.pinned`."""
    alongside = Alongside(program, keep=keep)
    with program.running(), torch.enable_grad(), Unfused(), alongside:
        yield alongside
    alongside.settle()
