"""Which modules of a network can be taken out of it: those that hold residual branches and keep the shape.

A *member* is the innermost module of an nn.Sequential or nn.ModuleList in which a residual branch lies and joins (see
`termwise.blocks`).  Taking it out means that its input goes on in place of its output: the whole of the member is gone,
its norms and its last nonlinearity with its branches.  Where the shortcut is the identity and the nonlinearity behind
the sum changes nothing of a value that went through one already, that is the network without these branches; in a
network with norms behind its sums (BERT) the norms go as well.

A member stays, and the reason is told, if its output has another shape than its input, if it runs more than once in a
pass, if weights in it are used elsewhere, or if it hands on more than one tensor and the model needs the others.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils import _pytree as pytree

from termwise.blocks import Block, find_blocks
from termwise.errors import UsageError
from termwise.expand import Output, call, follow
from termwise.graph import Graph
from termwise.pinning import pinned
from termwise.program import Program
from termwise.series import Series
from termwise.steps import Unit


@dataclasses.dataclass(frozen=True)
class Member:
    """A module that can be taken out.

    Attributes:
        name: its path in the model.
        blocks: the numbers of the residual branches in it, as `termwise.causal.lesion` takes them.
        run: members of one run follow each other directly: the output of each is the input of the next.
        entries: of the tuple that it returns, a tensor and then what nobody needs; 0 where it returns the tensor alone.
    """

    name: str
    blocks: tuple[int, ...]
    run: int
    entries: int = 0

    def bypass(self, module: nn.Module) -> nn.Module:
        """What stands in the place of the module when it is taken out."""
        stand_in = TupleBypass(module, self.entries) if self.entries else Bypass(module)
        return stand_in.train(module.training)


@dataclasses.dataclass(frozen=True)
class Members:
    """What can be taken out of a network, in the order of the program, and what cannot.

    Attributes:
        free: the members that can go.
        fixed: the name of each that holds a residual branch and stays, and why.
        largest: numbers in the largest tensor that a member, or the network, returned for one sample.
    """

    free: tuple[Member, ...]
    fixed: Mapping[str, str]
    largest: int

    @property
    def count(self) -> int:
        """How many blocks the network has, those that stay among them."""
        return len(self.free) + len(self.fixed)


def find_members(model: nn.Module, example: Any, *, output: Output = None) -> Members:
    """What can be taken out of `model`, looked for on an example.

    Raises:
        ModelError, DataError, RuleError: see `termwise.expand`.
    """
    graph = Graph()
    series = follow(Program(model, Unit("nothing"), graph=graph), model, example, output, None)
    blocks = find_blocks(graph, series.born) if isinstance(series, Series) else ()
    held: dict[str, list[int]] = {}
    fixed: dict[str, str] = {}
    for number, block in enumerate(blocks):
        holder = _holder(model, block, graph)
        if holder is None:
            fixed[block.name] = "it is written into the model's own forward, not a member of a Sequential or ModuleList"
        else:
            held.setdefault(holder, []).append(number)
    runs = _runs_of(model, held, example)
    owners = _owners(model)
    free: list[Member] = []
    last: _Run | None = None
    run = -1
    for name, seen in sorted(runs.items(), key=lambda item: item[1].order):
        reason = seen.reason() or _shared(model, name, owners)
        if reason is not None:
            fixed[name] = reason
            continue
        if last is None or seen.given is not last.returned:
            run += 1
        free.append(Member(name, (*held[name],), run, seen.entries))
        last = seen
    fixed |= {name: "it never ran as a module" for name in held if name not in runs}
    samples = max(_samples(example), 1)
    largest = max(series.numel(), *(seen.size for seen in runs.values())) if runs else series.numel()
    return Members(tuple(free), fixed, -(-largest // samples))


def selected(members: Members, names: Sequence[str] | None) -> Members:
    """Only these of the members; all others stay.

    Raises:
        UsageError: when one of the names is no member, or one that stays, with the reason.
    """
    if names is None:
        return members
    if isinstance(names, str) or not names:
        raise UsageError(f"blocks={names!r}: expected a list of names of blocks that may go, or None for all that can.")
    free = {member.name for member in members.free}
    for name in names:
        if name in members.fixed:
            raise UsageError(f"blocks: '{name}' cannot be taken out: {members.fixed[name]}.")
        if name not in free:
            raise UsageError(f"blocks: the model has no block '{name}'. Those that can go: {', '.join(sorted(free))}.")
    others = {member.name: "it is not among blocks=" for member in members.free if member.name not in names}
    chosen = tuple(member for member in members.free if member.name in names)
    return dataclasses.replace(members, free=chosen, fixed={**members.fixed, **others})


def _holder(model: nn.Module, block: Block, graph: Graph) -> str | None:
    """The innermost member of a container in which a branch lies and joins."""
    modules = [block.name, *(graph.nodes[place.call].module for place in block.places)]
    paths = [name.split(".") for name in modules]
    alike = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    name = ".".join(parts[0] for parts in alike)
    while name:
        parent, _, _ = name.rpartition(".")
        if isinstance(model.get_submodule(parent), (nn.Sequential, nn.ModuleList)):
            return name
        name = parent
    return None


@dataclasses.dataclass
class _Run:
    """What a module did in a pass."""

    order: int
    given: Any
    returned: Tensor | None
    entries: int
    extra: bool
    size: int
    calls: int = 1

    def reason(self) -> str | None:
        """Why it cannot be taken out."""
        if self.calls > 1:
            return f"it runs {self.calls} times in a pass: its weights are shared"
        if not isinstance(self.given, Tensor) or self.returned is None:
            return "it does not map a tensor, its first argument, to a tensor"
        if self.given.shape != self.returned.shape:
            before, after = (tuple(t.shape[1:]) for t in (self.given, self.returned))
            return f"it changes the shape, {before} to {after}"
        return "it returns more than one tensor, and the others are needed" if self.extra else None


def _runs_of(model: nn.Module, names: Mapping[str, Any], example: Any) -> dict[str, _Run]:
    named = {id(model.get_submodule(name)): name for name in names}
    runs: dict[str, _Run] = {}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        name = named.get(id(module))
        if name is None:
            return
        if name in runs:
            runs[name].calls += 1
            return
        tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        first, *others = output if isinstance(output, tuple) and output else (output,)
        plain = first if isinstance(first, Tensor) else None
        size = max((tensor.numel() for tensor in tensors), default=0)
        given = args[0] if args else None
        entries = len(output) if isinstance(output, tuple) else 0
        runs[name] = _Run(len(runs), given, plain, entries, any(one is not None for one in others), size)

    hook = register_module_forward_hook(note)
    try:
        with pinned(model):
            call(model, example)
    finally:
        hook.remove()
    for name, run in runs.items():
        run.extra = run.extra and not _runs_without_others(model, name, run.entries, example)
    return runs


def _runs_without_others(model: nn.Module, name: str, entries: int, example: Any) -> bool:
    """Whether the model runs with None in place of all but the first of what a member returns."""
    try:
        with pinned(model), without_members(model, [Member(name, (), 0, entries)]):
            call(model, example)
    except Exception:
        return False
    return True


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """For each parameter the names of all that hold it."""
    owners: dict[int, list[str]] = collections.defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)].append(name)
    return owners


def _shared(model: nn.Module, name: str, owners: Mapping[int, Sequence[str]]) -> str | None:
    for parameter in model.get_submodule(name).parameters():
        elsewhere = [other for other in owners[id(parameter)] if not other.startswith(f"{name}.")]
        if elsewhere:
            return f"its weights are tied: '{elsewhere[0]}' is one of them"
    return None


def _samples(example: Any) -> int:
    return next((len(leaf) for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor) and leaf.dim()), 1)


class Bypass(nn.Module):
    """Stands in the place of a member and returns what it is given, in the form in which the member returns it."""

    def __init__(self, member: nn.Module) -> None:
        super().__init__()
        self._member = (member,)  # in a tuple it is no submodule, so that its weights are gone

    def __getattr__(self, name: str) -> Any:
        """What loops read of their members (the kind of an attention) is the member's own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_member"][0], name)

    def forward(self, v: Any, *args: Any, **kwargs: Any) -> Any:
        """`v`, whatever else is given."""
        return v


class TupleBypass(Bypass):
    """The same for members that return a tuple: the tensor, then None."""

    def __init__(self, member: nn.Module, entries: int) -> None:
        super().__init__(member)
        self._others = (None,) * (entries - 1)

    def forward(self, v: Any, *args: Any, **kwargs: Any) -> Any:
        """(v, None, ...), whatever else is given."""
        return (v, *self._others)


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of that name."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


@contextlib.contextmanager
def without_members(model: nn.Module, members: Sequence[Member]) -> Iterator[None]:
    """The model, run without some of its members; afterwards each is in its place again."""
    found = {member: model.get_submodule(member.name) for member in members}
    try:
        for member, module in found.items():
            put(model, member.name, member.bypass(module))
        yield
    finally:
        for member, module in found.items():
            put(model, member.name, module)
