"""A model is a program: its own forward, run on Series.

Nothing is traced or rewritten.  While a `Program` is active every operator that the model calls arrives here.  Those
without a Series run as they are, and only the mark "computed from parameters" is handed on.  The others go to their
rule; what the rule says of the call (a product by a weight, a nonlinearity) decides whether it is a step.

Look-up: the packet, then the functional twin of an in-place operator, then PyTorch's own decomposition, then the affine
fallback (listed as linearised).
"""

from __future__ import annotations

import collections
import contextlib
import functools
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

from termwise.blocks import Place
from termwise.deferred import Deferred, waits
from termwise.errors import ModelError, RuleError
from termwise.graph import Graph, Node, role_of
from termwise.memory import Memory, Parameters, physical
from termwise.operators import OperatorUse, Unsupported
from termwise.rules import Call, Entry, linearise, plain
from termwise.rules.registry import Event, Kind, Rewriting, entry_of, leaves_of
from termwise.series import INPUT, Born, Series, carries, constant_series, frozen_series, integer_input
from termwise.steps import Unit
from termwise.walks import Walk

Product = Literal["half", "cauchy"]
Constants = Literal["pooled", "by_depth"]

# How long a chain of rows may wait for each other: each is computed by a call inside the one that needs it.
_PATIENCE = 32

_FALLBACK = Entry("fallback", linearise)

# The tokens tell which rows of a table are shortened to its largest norm; they are constants all the same.
_CONSTANT_WRITES = {torch.ops.aten.embedding_renorm_.default}

# Ways to write the look-up in a table of numbers, other than the embedding itself.
_LOOK_UPS = {torch.ops.aten.index, torch.ops.aten.index_select, torch.ops.aten.gather, torch.ops.aten.take}


class Program(TorchDispatchMode):
    """Runs operators on Series; use as a context around the model's forward."""

    supports_higher_order_operators = True  # they arrive here, and are refused in words

    def __init__(
        self,
        model: object,
        unit: Unit,
        constants: Constants = "pooled",
        product: Rewriting = "half",
        *,
        walk: Walk | None = None,
        strict: bool = False,
        graph: Graph | None = None,
        removed: Collection[Place] = (),
    ) -> None:
        """A run yet to come.

        Args:
            model: whose parameters are weights and whose modules have names.
            unit: what counts as a step.
            constants: whether what is born of constants is kept by depth.
            product: how two values that are both no gates are multiplied.
            walk: what a step makes of a Series, and what is carried on of it; by default all of it.
            strict: count an operator without a rule of its own as unsupported instead of linearising it.
            graph: where to enter the calls, if it is wanted.
            removed: operands of joins that are taken as zero.
        """
        super().__init__()
        self.unit = unit
        self.strict = strict
        self.graph = graph
        self._removed = frozenset(removed)
        self._removed_at = {place.call for place in removed}
        self.calls = self.weights = 0
        # What was called where, and, with the blocks' operands at stake, from which calls each got its terms.
        self.route = self.wiring = 0
        self.unsupported: list[Unsupported] = []
        self.constants: Constants = constants
        self.product: Rewriting = product
        self._walk = Walk() if walk is None else walk
        self._weights: Any = WeakTensorKeyDictionary()
        self._parameters = set(map(id, model.parameters())) if isinstance(model, nn.Module) else set()
        self._names = {id(m): name for name, m in model.named_modules()} if isinstance(model, nn.Module) else {}
        self._inside: list[str] = []
        self._uses: dict[tuple[str, str, Kind], list[str]] = collections.defaultdict(list)
        self._memory = Memory()
        self._stepped: set[str] = set()
        self._parameters_as_found = Parameters()
        self.flops = self._ideal_flops = 0
        self._run = object()
        self._waiting: weakref.WeakSet[Deferred] = weakref.WeakSet()
        self.coarsest: torch.dtype | None = None

    @property
    def operators(self) -> tuple[OperatorUse, ...]:
        """What was used, most often first."""
        uses = [
            OperatorUse(operator, rule, kind, len(where), tuple(dict.fromkeys(where)))
            for (operator, rule, kind), where in self._uses.items()
        ]
        return tuple(sorted(uses, key=lambda use: (-use.count, use.operator)))

    @property
    def ideal_cost(self) -> float:
        """The floor, in plain passes: sum of (window + 1 for c) x FLOPs over FLOPs (convolutions, matrix products)."""
        return self._ideal_flops / self.flops if self.flops else 1.0

    # Where the program is: global hooks, so that nothing is left on the model.

    @contextlib.contextmanager
    def running(self) -> Iterator[Program]:
        """Active, and told which module is being run."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._put_back)
            stack.callback(register_module_forward_pre_hook(self._enter_module).remove)
            stack.callback(register_module_forward_hook(self._leave_module, always_call=True).remove)
            stack.enter_context(self)
            yield self

    def _put_back(self) -> None:
        for parameter in self._parameters_as_found.written():
            with torch.autocast(parameter.device.type, enabled=False):
                self.about_to_write([parameter])
        self._parameters_as_found.put_back()

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        for tensor in module._parameters.values():
            if tensor is not None and not isinstance(tensor, (nn.Parameter, Series)):
                self._mark(physical(tensor))  # functional_call puts plain tensors in the place of parameters
        self._parameters_as_found.meet(module)
        if id(module) in self._names:
            self._inside.append(self._names[id(module)])

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> Any:
        name = self._names.get(id(module))
        if name is None:
            return None
        if self._inside and self._inside[-1] == name:
            self._inside.pop()
        if name not in self.unit.modules or output is None:
            return None
        self._stepped.add(name)
        return pytree.tree_map_only(Series, lambda series: self._module_step(series, name), output)

    def _module_step(self, series: Series, name: str) -> Series:
        moved = self._step(series)
        moved.part_from(series)
        if self.graph is not None and series.has_input:
            self.calls += 1
            self.graph.add(Node(self.calls, "module", "affine", False, name, ((0, series.born),), module_step=True))
            moved.born = (self.calls,)
        return moved

    def _here(self) -> str:
        """Where the program is, for messages."""
        return f"in module '{self._inside[-1]}'" if self._inside and self._inside[-1] else "in the model itself"

    def check_modules(self) -> None:
        """Refuse a unit of modules of which some never ran.

        Raises:
            ModelError: naming them.
        """
        idle = sorted(self.unit.modules - self._stepped)
        if idle:
            raise ModelError(
                f"unit: {', '.join(map(repr, idle))} never ran as a module, so its output is no step. The model may "
                "call its forward() or its weights directly; name a module around it."
            )

    def _step(self, series: Series) -> Series:
        return self._walk.step(series, constants=self.constants == "by_depth")

    def lifted(self, tree: Any, lift: Callable[[Tensor], Tensor]) -> Any:
        """The input with Series of this run in place of its tensors, as `lift` makes them."""
        return self.own(self._arrived(pytree.tree_map_only(Tensor, lift, tree), None))

    def _arrived(self, out: Any, event: Event | None) -> Any:
        for leaf in (out,) if isinstance(out, Tensor) else pytree.tree_leaves(out):
            if isinstance(leaf, Series):
                self._walk.arrive(leaf, event)
        return out

    # The dispatch.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        keywords: dict[str, Any] = dict(kwargs or {})
        if self._memory:
            args, keywords = pytree.tree_map_only(Tensor, self._memory.lift, (args, keywords))
        leaves = leaves_of(args, keywords)
        if _writes(func):
            written = _written(func, args, keywords)
            self._parameters_as_found.spare(written)
            self.about_to_write([leaf for leaf in written if not isinstance(leaf, Series)])
        if not any(isinstance(leaf, Series) for leaf in leaves):
            out = func(*args, **keywords)
            if any(isinstance(leaf, Tensor) and self.is_weight(leaf) for leaf in leaves):
                pytree.tree_map_only(Tensor, self._mark, out)
            return out
        if isinstance(func, torch._ops.HigherOrderOperator):
            raise RuleError(
                f"{func.name()} {self._here()}: an operator that calls functions (torch.cond, flex_attention, scan) "
                "cannot be followed. Use Python's own control flow, or another implementation of attention (with "
                "transformers: attn_implementation='sdpa')."
            )
        self._refuse_strangers(leaves)
        if func in _CONSTANT_WRITES:
            func(*plain(args), **plain(keywords))
            return args[0]
        if _writes(func):
            return self.own(self._in_place(func, args, keywords))
        return self.own(self._apply(func, args, keywords))

    def own(self, tree: Any) -> Any:
        """Make the Series in `tree` those of this run, and note the coarsest precision that any of its values had."""
        for leaf in [tree] if isinstance(tree, Tensor) else pytree.tree_leaves(tree):
            if isinstance(leaf, Series):
                leaf.run = self._run
                if waits(leaf.held):
                    self._let_wait(leaf.held)
                if carries(leaf) and (self.coarsest is None or _eps(leaf.dtype) > _eps(self.coarsest)):
                    self.coarsest = leaf.dtype
        return tree

    def _let_wait(self, rows: Deferred) -> None:
        self._waiting.add(rows)
        if rows.generations > _PATIENCE:
            rows.read()

    def about_to_write(self, written: Iterable[Any]) -> None:
        """Have the rows computed that need what is about to be written."""
        for tensor in (leaf for leaf in written if isinstance(leaf, Tensor) and self._waiting):
            value = tensor.value if isinstance(tensor, Series) else physical(tensor)
            if value.layout is torch.strided:
                memory = value.untyped_storage().data_ptr()
                for rows in [rows for rows in self._waiting if rows.reads(memory)]:
                    rows.read()

    def _refuse_strangers(self, leaves: list[Any]) -> None:
        if any(isinstance(leaf, Series) and leaf.run not in (None, self._run) for leaf in leaves):
            raise ModelError(
                f"a value that an earlier run left behind is used {self._here()}: the model, or a hook on it, keeps "
                "results outside of its modules (in a list, in a cache object). Clear what keeps them before each run."
            )

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether a plain tensor is a parameter (or learned as one is), or computed from such and constants alone."""
        known = isinstance(tensor, nn.Parameter) or id(tensor) in self._parameters or tensor in self._weights
        return known or tensor.requires_grad

    def _mark(self, tensor: Tensor) -> None:
        self._weights[tensor] = True

    def _apply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        entry = entry_of(func.overloadpacket) or self._decomposed(func) or _FALLBACK
        if entry.family == "taken apart":
            return entry.rule(self._call(func, args, kwargs))
        self.calls += 1
        number, where = self.calls, self._inside[-1] if self._inside else ""
        self.route = hash((self.route, func, where))
        if number in self.unit.branches or number in self._removed_at:
            args, kwargs = self._branching(number, args, kwargs)
        call = self._call(func, args, kwargs)
        out = self._by_rule(entry, call, where)
        self.weights += call.event == "weight"
        self._uses[str(func.overloadpacket), entry.family, call.kind].append(where)
        flops = self._account(call, out) if func.overloadpacket in flop_registry else 0
        if self.graph is not None or self.unit.blocks is not None:
            self._enter(number, entry.family, call, out, where, flops)
        if not self.unit.counts(call.event):
            return self._arrived(out, call.event)
        return self._step(out) if isinstance(out, Series) else pytree.tree_map_only(Series, self._step, out)

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return Call(func, args, kwargs, self.is_weight, self.product, self, altered=bool(self._removed))

    def _by_rule(self, entry: Entry, call: Call, where: str) -> Any:
        """What the rule makes of a call; where none can, the clean value, and a note that the run is no good."""
        if entry is _FALLBACK and self.strict:
            self._refuse(call, where, "there is no rule for it, and strict=True asks for one")
        try:
            if self._cannot_carry(call) and entry.family not in ("embedding", "shape", "reading"):
                return self._integers(call)
            return entry.rule(call)
        except RuleError as error:
            # The program goes on, so that all of them can be named at once.
            self._refuse(call, where, str(error))
            call.kind = "frozen"
            return pytree.tree_map_only(Tensor, frozen_series, call.clean())

    def _refuse(self, call: Call, where: str, why: str) -> None:
        self.unsupported.append(Unsupported(str(call.func.overloadpacket), where, why))

    def _branching(self, number: int, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The operands of a join: residual branches one step up, those that are removed as zero."""
        leaves, structure = pytree.tree_flatten((args, kwargs))
        tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for operand, i in enumerate(tensors):
            series = leaves[i]
            if not isinstance(series, Series):
                continue
            for _ in range(self.unit.lengths.get(Place(number, operand), 0)):
                leaves[i] = self._step(leaves[i])
                leaves[i].born = series.born
            if Place(number, operand) in self._removed:
                leaves[i] = Series(torch.zeros_like(series.value), series.rows[:0], ())
        return pytree.tree_unflatten(leaves, structure)

    def _enter(self, number: int, family: str, call: Call, out: Any, where: str, flops: int) -> None:
        """Enter a call into the graph, if one is wanted, and mark what it returns as born of it."""
        found = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Series) and not leaf.born]
        results = [series for series in found if series.has_input or series.is_input]
        if not results:
            return
        tensors = [leaf for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
        inputs = _flowing(tensors, call.gates)
        self.wiring = hash((self.wiring, self.route, inputs))
        for series in results:
            series.born = (number,)
        if self.graph is None:
            return
        size = 0 if call.is_view else sum(s.value.numel() * s.value.element_size() for s in results)
        name = str(call.func.overloadpacket)
        role = role_of(call.event, family, len(inputs), len(tensors))
        self.graph.add(Node(number, name, role, call.event == "nonlinearity", where, inputs, flops, size))

    def _account(self, call: Call, out: Any) -> int:
        flops = flop_registry[call.func.overloadpacket](*plain(call.args), **plain(call.kwargs), out_val=plain(out))
        operands = [leaf for leaf in leaves_of(call.args, call.kwargs) if isinstance(leaf, Series)]
        window = max(operand.window for operand in operands)
        self.flops += flops
        self._ideal_flops += (window + 1) * flops
        return flops

    @staticmethod
    def _cannot_carry(call: Call) -> bool:
        series = [leaf for leaf in leaves_of(call.args, call.kwargs) if isinstance(leaf, Series)]
        return not any(carries(s) for s in series)

    def _integers(self, call: Call) -> Any:
        """All operands are integers: they stay the input's if all are; a table read by such is an embedding."""
        # What is written over whole is no operand: tokens copied into a buffer are tokens.
        operands = call.args[1:] if call.func.overloadpacket is torch.ops.aten.copy else call.args
        leaves = pytree.tree_leaves((operands, call.kwargs))
        of_input = all(leaf.is_input for leaf in leaves if isinstance(leaf, Series))
        looked_up = isinstance(call.args[0], Tensor) and not isinstance(call.args[0], Series)

        def result(value: Tensor) -> Series:
            if of_input and not carries(value):
                return integer_input(value)
            if of_input and looked_up and call.func.overloadpacket in _LOOK_UPS:
                return Series(value, value[None], (INPUT,), {0: 1})
            call.kind = "frozen"
            return frozen_series(value)

        return pytree.tree_map_only(Tensor, result, call.clean())

    def _decomposed(self, func: Any) -> Entry | None:
        if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            return Entry("taken apart", lambda call: self._take_apart(call, call.func.decompose))
        table = _decompositions()
        if func in table:
            return Entry("taken apart", lambda call: self._take_apart(call, table[func]))
        return None

    def _take_apart(self, call: Call, how: Any) -> Any:
        with self:
            out = how(*call.args, **call.kwargs)
        return call.with_value(out, call.clean())

    def series_of(self, result: Tensor) -> Tensor:
        """The Series behind a tensor that the model returned, which may be a plain buffer that one was written into."""
        return self._memory.lift(result)

    # Writes.

    def _in_place(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The functional rule, then the write: into the clean value, which keeps its aliases, and into the parts."""
        target = args[0] if args else kwargs.get("self")
        functional = functional_of(func)
        if functional is None or "out" in kwargs or not isinstance(target, Tensor):
            raise RuleError(
                f"{func} {self._here()}: it writes into an argument in a way "
                "that no rule describes. Write the model's line without out= or with the functional operator."
            )
        if not isinstance(target, Series):
            target = self._memory.adopt(target)
            args = (target, *args[1:])
        out = self._apply(functional, args, kwargs)
        new = out[0] if isinstance(out, (tuple, list)) else out
        if not isinstance(new, Series):
            new = constant_series(new) if carries(new) else frozen_series(new)
        self.own(new)
        self.about_to_write([target])
        if torch.Tag.inplace_view in func.tags:
            # transpose_, as_strided_: not the numbers are written but the geometry of the tensor object itself.
            with no_dispatch():
                func(target, *plain(args[1:]), **plain(kwargs))
            target.value = new.value
        else:
            target.value.copy_(new.value)
        target.overwrite(new)
        self._memory.note(target.value, new)
        return target


def _flowing(tensors: list[Tensor], gates: list[Series]) -> tuple[tuple[int, Born], ...]:
    """The place of each operand that terms flow from, and its birth; of x / x that is the first x alone."""
    frozen = collections.Counter(map(id, gates))
    flowing: list[tuple[int, Series]] = []
    for i, operand in reversed([*enumerate(tensors)]):
        if frozen[id(operand)]:
            frozen[id(operand)] -= 1
        elif isinstance(operand, Series) and operand.born:
            flowing.append((i, operand))
    # Integers beside numbers that have parts say where to read or write; alone they start at their look-up.
    with_parts = [(i, operand) for i, operand in flowing if carries(operand)]
    return tuple((i, operand.born) for i, operand in reversed(with_parts or flowing))


def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


@functools.cache
def _writes(func: Any) -> bool:
    """Whether an operator writes into its first argument or an out= argument (others write into scratch space)."""
    if isinstance(func, torch._ops.HigherOrderOperator):
        return False
    written = [a for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return bool(written) and (written[0].name == func._schema.arguments[0].name or any(a.is_out for a in written))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operator writes into, flat."""
    given = [args[i] if i < len(args) else kwargs.get(a.name) for i, a in enumerate(func._schema.arguments)]
    written = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
    return pytree.tree_leaves([x for x, writes in zip(given, written, strict=True) if writes])


def functional_of(func: Any) -> Any:
    """The operator without the write: add_.Tensor to add.Tensor."""
    name = func._schema.name.split("::")[1]
    packet = getattr(getattr(torch.ops, func.namespace), name.removesuffix("_"), None)
    if not name.endswith("_") or packet is None:
        return None
    types = [str(a.type) for a in func._schema.arguments]
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    return next((o for o in overloads if [str(a.type) for a in o._schema.arguments] == types), None)


_TABLE: dict[Any, Any] = {}


def _decompositions() -> dict[Any, Any]:
    if not _TABLE:
        _TABLE.update(torch.export.default_decompositions().items())
    return _TABLE
