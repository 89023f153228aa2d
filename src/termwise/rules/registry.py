"""The table of rules: which operator does what to the parts of a Series.

A rule is looked up by operator packet (`torch.ops.aten.add` for all overloads of add), or by the packet's name where
its library need not be installed ("torchvision.roi_align"); in-place operators follow the rule of their functional
twin.  Each packet is registered once, by the family that owns it; a second registration is refused, so that the table
has one author per line.

To add a rule for your own operator, name its family:

    import torch, termwise.rules as rules
    rules.register("gate", rules.gated, [torch.ops.mylib.my_activation])
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.overrides import enable_reentrant_dispatch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from termwise.errors import RuleError
from termwise.series import Series, constant_series

Kind = Literal["exact", "frozen", "linearised"]
Rewriting = Literal["half", "cauchy", "leibniz"]
Event = Literal["weight", "nonlinearity", "mixer", "join"]


@dataclasses.dataclass
class Call:
    """One call of an operator on at least one Series.

    Attributes:
        func: the functional overload that is called (never the in-place one).
        args, kwargs: as the model passed them; operands may be Series.
        is_weight: whether a plain tensor is computed from parameters (and constants) alone.
        product: how two values that are both no gates are multiplied: half to each; by depth (Cauchy); or, where the
            input-born row is the derivative in eps, by Leibniz' rule, which is the derivative of Cauchy's.
        kind: how the operator was treated; a rule may lower it from "exact".
        event: what the call is to a unit of depth: a product by a weight, a nonlinearity, a mixing of positions without
            a weight, or a sum or concatenation of several values.
        replay: context in which operators go to their rules again; for rules that take an operator apart.
        altered: whether pieces of the program are removed: what is taken apart then has the value of its pieces.
        gates: the operands that a rule froze: no path leads through them.
    """

    func: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_weight: Callable[[Tensor], bool]
    product: Rewriting
    replay: AbstractContextManager[Any]
    altered: bool = False
    kind: Kind = "exact"
    event: Event | None = None
    gates: list[Series] = dataclasses.field(default_factory=list)

    def clean(self) -> Any:
        """What the original operator gives on the clean values."""
        return self.func(*plain(self.args), **plain(self.kwargs))

    def freeze(self, operand: Any) -> Any:
        """An operand that is a gate here, whatever it is elsewhere: its clean value."""
        if not isinstance(operand, Series):
            return operand
        self.kind = "frozen"
        self.gates.append(operand)
        return operand.value

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument called `name` in the operator's schema."""
        if name in self.kwargs:
            return self.kwargs[name]
        for position, declared in enumerate(self.func._schema.arguments):
            if declared.name == name:
                if position < len(self.args) and not declared.kwarg_only:
                    return self.args[position]
                return declared.default_value if declared.has_default_value() else default
        return default

    def with_value(self, out: Any, clean: Any) -> Any:
        """The parts that rules gave to the pieces of this operator, with the clean value of the operator itself."""
        return out if self.altered else _with_value(out, clean)

    @property
    def is_view(self) -> bool:
        """Whether the operator's result aliases its first argument."""
        alias = self.func._schema.returns[0].alias_info if self.func._schema.returns else None
        return alias is not None and not alias.is_write


class Rule(Protocol):
    """Takes a call to its outputs: the structure of `call.clean()`, with Series where something flows on."""

    def __call__(self, call: Call) -> Any: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the table."""

    family: str
    rule: Rule


RULES: dict[Any, Entry] = {}


def register(family: str, rule: Rule, packets: Iterable[Any]) -> None:
    """Enter `rule` for operator packets such as `torch.ops.aten.relu`, or names such as "torchvision.nms".

    Raises:
        RuleError: when one of them is no operator packet, or has a rule already.
    """
    for packet in packets:
        is_name = isinstance(packet, str) and packet.count(".") == 1
        if not is_name and not isinstance(packet, torch._ops.OpOverloadPacket):
            raise RuleError(
                f"register: {packet!r} is no operator packet; pass torch.ops.<library>.<name> (no overload), "
                'or "<library>.<name>" for a library that is not loaded yet.'
            )
        taken = RULES.get(_packet_of(packet)) or RULES.get(str(packet))
        if taken is not None:
            raise RuleError(
                f"register: {packet} has a rule already, of the family '{taken.family}'. "
                "Each operator has one; to replace it, take it out first: termwise.rules.RULES.pop(packet)."
            )
        RULES[packet] = Entry(family, rule)


def _packet_of(packet: Any) -> Any:
    """The packet that a name stands for, if its library is loaded."""
    library, _, name = str(packet).partition(".")
    return getattr(getattr(torch.ops, library), name, packet) if isinstance(packet, str) else packet


def entry_of(packet: torch._ops.OpOverloadPacket) -> Entry | None:
    """The line of the table for a packet, entered as itself or by its name."""
    return RULES.get(packet) or RULES.get(str(packet))


def existing(names: str, library: Any = torch.ops.aten) -> list[Any]:
    """The packets named in a whitespace-separated list; those that this version of PyTorch lacks are left out."""
    return [getattr(library, name) for name in names.split() if hasattr(library, name)]


def plain(tree: Any) -> Any:
    """The same arguments with every Series replaced by its clean value."""
    kind = type(tree)
    if kind is Series:
        return tree.value
    if kind is tuple or kind is list:
        return kind([plain(item) for item in tree])
    if not isinstance(tree, (tuple, list, dict)):
        return tree
    return pytree.tree_map_only(Series, lambda series: series.value, tree)


def leaves_of(*trees: Any) -> list[Any]:
    """Everything in the arguments of an operator, which hold nothing but numbers, tensors, lists and tuples."""
    leaves: list[Any] = []
    for tree in trees:
        if isinstance(tree, (tuple, list)):
            leaves += leaves_of(*tree)
        elif isinstance(tree, dict):
            leaves += leaves_of(*tree.values())
        else:
            leaves.append(tree)
    return leaves


def as_series(operand: Series | Tensor) -> Series:
    """A plain tensor operand becomes constant-born."""
    return operand if isinstance(operand, Series) else constant_series(operand)


class _Passing(TorchDispatchMode):
    # Inside a dispatch mode the Python key stays set; without a mode to serve it, vmap and jvp crash (PyTorch 2.13+).
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def transforms() -> Iterator[None]:
    """Context in which vmap and autograd work although an operator is being dispatched, if one is."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(RuntimeError):  # of there being no dispatch to reenter: nothing is needed
            stack.enter_context(enable_reentrant_dispatch())
            stack.enter_context(_Passing())
        yield


@contextlib.contextmanager
def differentiating() -> Iterator[None]:
    """`transforms`, with gradients."""
    with transforms(), torch.enable_grad():
        yield


# vmap has no batching rule for these, nor for other libraries: it refuses them, or warns the user and loops.
_LOOPED = frozenset(
    existing(
        """take select_copy slice_copy _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
        masked_scatter unsafe_split_with_sizes masked_select _pack_padded_sequence segment_reduce put bincount
        _embedding_bag _embedding_bag_forward_only"""
    )
)


def apply_to_rows(func: Any, linear: Callable[..., Any], *stacks: Tensor) -> Tensor:
    """`each_row` for a `linear` that calls `func`, row by row where vmap cannot take that."""
    if func.namespace != "aten" or func.overloadpacket in _LOOPED:
        return loop_rows(linear, *stacks)
    return each_row(linear, *stacks)


def loop_rows(linear: Callable[..., Tensor], *stacks: Tensor) -> Tensor:
    """`each_row`, one row after another."""
    if not stacks[0].shape[0]:
        return loop_rows(linear, *(stack.new_zeros((1, *stack.shape[1:])) for stack in stacks))[:0]
    return torch.stack([linear(*rows) for rows in zip(*stacks, strict=True)])


def _with_value(out: Any, clean: Any) -> Any:
    if isinstance(out, Series):
        # Rows that wait must not be read here: what is taken apart comes from inside the program.
        rows = out.held if out.dtype == clean.dtype else out.rows.to(clean.dtype)
        whole = Series(clean, rows, out.parts, out.paths, gate=out.gate)
        whole.born = out.born
        return whole
    if isinstance(out, (tuple, list)):
        # A decomposition may return a named tuple of its own: the operator's own structure holds.
        build = getattr(type(clean), "_make", type(clean))  # a named tuple is not built from a list
        return build([_with_value(o, c) for o, c in zip(out, clean, strict=True)])
    return out


def each_row(linear: Callable[..., Tensor], *stacks: Tensor) -> Tensor:
    """Apply an operator that knows nothing of rows to each of them; all stacks have the same leading axis."""
    if not stacks[0].shape[0]:
        # vmap refuses an empty axis: one row of zeros gives the shape.
        return each_row(linear, *(stack.new_zeros((1, *stack.shape[1:])) for stack in stacks))[:0]
    with transforms():
        return torch.vmap(linear)(*stacks)
