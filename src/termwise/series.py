"""Series: a tensor that also carries where it came from.

The object is a polynomial in a formal factor ``eps`` that every *step* of a program multiplies by,

    v(eps) = c + f + sum_k v_k eps^k,        c + f + sum_k v_k = v,

with ``v`` the value that the program really computes, ``c`` all that is born of constants (biases, shifts, tables),
``f`` what is born of frozen values (a softmax that joins a sum), and ``v_k`` the sum over all paths of exactly ``k``
steps from the input.  A coefficient is called a *part*: an origin and a depth.  The parts of a Series are stacked
along a leading axis, `rows[part, *shape]`, so that one call of an operator serves them all.

Only parts that some path has are stored.  In a network whose blocks hold two layers that is every other depth, which
halves the work against carrying the whole window between the shortest and the longest path; and a plain network has
exactly one input-born part everywhere.

A run may keep fewer parts than there are (the shallow ones alone), so that they do not sum to the value: whether a
value is computed from the input is said by its paths, and no rule takes a part for what the others leave of the value.

No operator is known here: `termwise.rules` says what each of them does to the parts.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from termwise.deferred import Deferred, Rows, Viewed, empty_rows, read, waits
from termwise.errors import ModelError, RuleError


class Origin(enum.IntEnum):
    """What a part was born of; the order is the order of the rows."""

    CONSTANT = 0
    FROZEN = 1
    INPUT = 2


class Part(NamedTuple):
    """One coefficient of a Series: its origin, and the number of steps since its birth."""

    origin: Origin
    depth: int


Parts = tuple[Part, ...]
Paths = Mapping[int, int]
Born = tuple[int, ...]

CONSTANT = Part(Origin.CONSTANT, 0)
FROZEN = Part(Origin.FROZEN, 0)
INPUT = Part(Origin.INPUT, 0)
INPUT_CALL: Born = (0,)  # calls are numbered from 1


class Series(Tensor):
    """A tensor with its parts: the type on which a model's own forward is run.

    Attributes:
        value: the clean value, shape S.
        rows: the parts, shape (len(parts), *S), in the value's dtype; no rows where the value cannot carry any
            (integers, booleans).  They may be computed only when they are first read (see `termwise.deferred`);
            `held` is what there is of them until then.
        parts: the label of each row, sorted.
        paths: for each depth among the input-born parts, the number of paths, as exact Python integers.
        gate: whether a product with this value freezes it: its provenance, not its value.
        born: the operator calls that this value is the result of, by their number in the program; more than one for a
            buffer that several wrote into, none where no graph is kept.
        run: which run it belongs to; what one run leaves behind means nothing in another.
    """

    value: Tensor
    held: Rows
    parts: Parts
    paths: Paths
    gate: bool
    born: Born
    run: object

    _alias_root: Series | None
    _alias_view: Callable[[Tensor], Tensor] | None
    _aliases: list[TensorWeakRef]
    _apart: list[TensorWeakRef]

    @staticmethod
    def __new__(cls: type[Series], value: Tensor, *_: Any, **__: Any) -> Series:
        """A wrapper with the geometry of `value` and no memory of its own."""
        return torch.Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=value.device,
        )

    def __init__(
        self, value: Tensor, rows: Rows, parts: Parts, paths: Paths | None = None, *, gate: bool = False
    ) -> None:
        """Wrap `value`; `rows` must have shape (len(parts), *value.shape)."""
        self.value, self.held, self.parts, self.paths, self.gate = value, rows, parts, dict(paths or {}), gate
        self.born = ()
        self._alias_root, self._alias_view, self._aliases, self._apart = None, None, [], []
        self.run = None

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        """Show the shape and the parts, not the numbers."""
        depths = [part.depth for part in self.parts if part.origin is Origin.INPUT]
        return f"Series(shape={tuple(self.shape)}, dtype={self.dtype}, depths={depths}, gate={self.gate})"

    def __format__(self, spec: str) -> str:
        """As any tensor: a number is written as one (models look modules up by names made of an index)."""
        return format(self.value, spec) if self.dim() == 0 else super().__format__(spec)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Refuse: outside the program that made it a Series has no rules to follow."""
        raise RuntimeError(
            f"{func}: a Series was used outside termwise.expand. It lives only while the model's forward runs; "
            "a hook or an attribute of the model must have kept one. Clear what kept it and run again."
        )

    # Out of PyTorch no operator can be followed. Whole numbers may go: they steer the program, as a read number does.

    def tolist(self) -> Any:
        """The clean value of integers and booleans as a list."""
        return self._outside(".tolist()").tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """The clean value of integers and booleans as an array."""
        return self._outside(".numpy()").numpy(force=force)

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """The clean value of integers and booleans, for other libraries."""
        return self._outside("DLPack").__dlpack__(*args, **kwargs)

    def _outside(self, how: str) -> Tensor:
        if carries(self):
            raise leaves_pytorch(f"{how}, of shape {tuple(self.shape)}")
        return self.value

    @property
    def rows(self) -> Tensor:
        """The parts, shape (len(parts), *shape)."""
        return read(self.held)

    @rows.setter
    def rows(self, rows: Tensor) -> None:
        self.held = rows

    @property
    def is_input(self) -> bool:
        """Whether these are integers of the input itself, perhaps rearranged: no parts yet, but a path of no steps."""
        return bool(self.paths) and not carries(self)

    @property
    def has_input(self) -> bool:
        """Whether some path from the input leads here, be its part kept or not."""
        return bool(self.paths) and carries(self)

    @property
    def window(self) -> int:
        """The number of depths from the shortest to the longest path, whether some path has them or not."""
        depths = [part.depth for part in self.parts if part.origin is Origin.INPUT]
        return depths[-1] - depths[0] + 1 if depths else 0

    def mapped(
        self,
        linear: Callable[[Tensor], Tensor],
        value: Tensor,
        *,
        gate: bool = False,
        view: bool = False,
        moves: bool = False,
        uses: Iterable[Any] | None = None,
    ) -> Series:
        """The Series of a linear operator: `linear` takes all rows at once, (R, *S) to (R, *S').

        Where all that `linear` reads beside the rows is named by `uses`, it waits as long as the rows do; if it only
        `moves` numbers about, those that nobody looks at need not be there.
        """
        held = self.held
        if not self.parts:
            rows: Rows = value.new_empty((0, *value.shape))
        elif uses is None or not waits(held):
            rows = linear(self.rows)
        elif moves:
            rows = Viewed(held, linear, self.shape, uses)
        else:
            rows = Deferred(lambda: linear(held.read()), owned=False, uses=[held, *uses])
        out = Series(value, rows, self.parts, self.paths, gate=gate)
        if view:
            out._follow(self, linear)
        return out

    def later(self, linear: Callable[[Tensor], Tensor], value: Tensor, *, uses: Iterable[Any]) -> Series:
        """As `mapped`, when the rows are first read; `linear` returns new memory."""
        held = self.held
        return Series(value, Deferred(lambda: linear(read(held)), uses=[held, *uses]), self.parts, self.paths)

    def plus(self, constant: Tensor, value: Tensor, *, part: Part = CONSTANT) -> Series:
        """Add what is born here; `constant` broadcasts to the value's shape."""
        if part in self.parts and waits(self.held) and self.value.shape == value.shape:
            rows = self.held.plus(constant, self.parts.index(part))
            return Series(value, rows, self.parts, self.paths, gate=self.gate)
        rows, parts = self.rows, self.parts
        if part in parts:
            rows = broadcast_rows(rows, value).to(value.dtype, copy=True, memory_format=torch.contiguous_format)
            rows[parts.index(part)] += constant
            return Series(value, rows, parts, self.paths, gate=self.gate)
        born = constant.to(value.dtype).expand(value.shape)
        return Series(value, *add_rows(value, [(rows, parts), (born[None], (part,))]), self.paths, gate=self.gate)

    def keep(self, parts: Parts) -> None:
        """Forget the rows of all other parts."""
        held = [i for i, part in enumerate(self.parts) if part in parts]
        if len(held) < len(self.parts):
            stretches = _runs(held)
            whole = slice(held[0], held[-1] + 1) if len(stretches) == 1 else held  # one stretch need not be copied
            self.held = self.held.only(whole) if waits(self.held) else self.rows[whole]
            self.parts = tuple(self.parts[i] for i in held)

    def shifted(self, *, constants: bool) -> Series:
        """One step: every input-born part moves up by one; the constant-born too where they are kept by depth."""
        moves = {Origin.INPUT: 1, Origin.CONSTANT: int(constants), Origin.FROZEN: 0}
        parts = tuple(Part(part.origin, part.depth + moves[part.origin]) for part in self.parts)
        return Series(self.value, self.held, parts, {depth + 1: n for depth, n in self.paths.items()}, gate=self.gate)

    # Aliasing. A view shares its base's rows; a write to either must reach the other. Rows are never written in
    # place: the root of the aliases gets new rows and every live view is derived from them again.

    def _follow(self, base: Series, view: Callable[[Tensor], Tensor]) -> None:
        root, earlier = (base, None) if base._alias_root is None else (base._alias_root, base._alias_view)
        self._alias_root = root
        self._alias_view = view if earlier is None else lambda rows: view(earlier(rows))
        root._aliases.append(TensorWeakRef(self))

    def part_from(self, earlier: Series) -> None:
        """Note that this is another polynomial of the same memory than `earlier`: a write can reach but one of them."""
        root = earlier if earlier._alias_root is None else earlier._alias_root
        self._apart += [TensorWeakRef(root), *root._aliases]
        root._apart.append(TensorWeakRef(self))

    def _become(self, rows: Rows, parts: Parts, paths: Paths, gate: bool, born: Born) -> None:
        self.held, self.parts, self.paths, self.gate, self.born = rows, parts, dict(paths), gate, born

    def overwrite(self, new: Series) -> None:
        """Take over the parts of `new` (in-place operators); the clean value has been written by the caller."""
        root = self if self._alias_root is None else self._alias_root
        if any(other() is not None for other in root._apart):
            raise RuleError(
                "a write into the memory of a value from before a module that is a step, or from behind it, while the "
                "other is still there: the module hands on its input or a view of it. Name a module around it, or "
                "write the model's line without the in-place operator."
            )
        if root is self:
            self._become(new.held, new.parts, new.paths, new.gate, new.born)
        else:
            assert self._alias_view is not None
            # What is written over whole leaves nothing behind, no part and no path.
            kept: tuple[Tensor, Parts, Paths, Born] = (root.rows, root.parts, root.paths, root.born)
            if self.numel() == root.numel():
                kept = (root.rows[:0], (), {}, ())
            parts = merge_parts([kept[1], new.parts])
            rows = align_rows(*kept[:2], parts).clone(memory_format=torch.contiguous_format)
            place = self._alias_view(rows)
            if parts and place.untyped_storage().data_ptr() != rows.untyped_storage().data_ptr():
                raise RuleError(
                    "a write into a view that cannot be followed: its base lies in memory in another order than its "
                    "parts. Write the model's line without the in-place operator."
                )
            place.copy_(align_rows(new.rows, new.parts, parts))
            born = tuple(dict.fromkeys((*kept[3], *new.born)))
            root._become(rows, parts, add_paths([kept[2], new.paths]), gate=False, born=born)
        self._derive(root)
        self.gate = new.gate

    @staticmethod
    def _derive(root: Series) -> None:
        for reference in root._aliases:
            view = reference()
            if not isinstance(view, Series) or view._alias_view is None:
                continue
            view._become(view._alias_view(root.rows), root.parts, root.paths, root.gate, root.born)


def leaves_pytorch(how: str) -> ModelError:
    """The refusal of values that go where no operator can be followed; `how` they go there."""
    return ModelError(
        f"the model takes values computed from the input out of PyTorch ({how}); what is computed there cannot be "
        "followed. The traceback shows the line: write it with PyTorch operators, or, where a hook does it, remove the "
        "hook for the time being."
    )


def carries(x: Tensor) -> bool:
    """Whether a tensor of this type can have parts; integers and booleans cannot."""
    return x.is_floating_point() or x.is_complex()


def input_series(x: Tensor) -> Series:
    """The input itself: one path of no steps (integers carry no parts; their embedding does)."""
    if not carries(x):
        return integer_input(x.clone())
    # Copies: a program that writes into its input must not write into the user's.
    series = Series(x.clone(), x[None].clone(), (INPUT,), {0: 1})
    series.born = INPUT_CALL
    return series


def foreign_series(x: Tensor, gates: Tensor) -> Series:
    """The input `x` by the gates of another: the value is `gates`, the term of no steps x, the difference a constant.

    So the parts add up as those of any Series do; what is born of constants means nothing then.
    """
    series = Series(gates.clone(), torch.stack([gates - x, x]), (CONSTANT, INPUT), {0: 1})
    series.born = INPUT_CALL
    return series


def integer_input(x: Tensor) -> Series:
    """Integers of the input: they carry no parts, but what is looked up by them does."""
    series = Series(x, x.new_empty((0, *x.shape)), (), {0: 1}, gate=True)
    series.born = INPUT_CALL
    return series


def constant_series(x: Tensor) -> Series:
    """A value that is not computed from the input."""
    return Series(x, x[None], (CONSTANT,))


def frozen_series(x: Tensor) -> Series:
    """A plain gate: computed from the input, but no polynomial of it any more."""
    if not carries(x):
        return Series(x, x.new_empty((0, *x.shape)), (), gate=True)
    return Series(x, x[None], (FROZEN,), gate=True)


def merge_parts(layouts: Iterable[Parts]) -> Parts:
    """The sorted union."""
    return tuple(sorted(set(itertools.chain.from_iterable(layouts))))


def add_paths(paths: Iterable[Paths]) -> dict[int, int]:
    """Path counts of a sum: counts add, depth by depth."""
    total: dict[int, int] = {}
    for counts in paths:
        for depth, count in counts.items():
            total[depth] = total.get(depth, 0) + count
    return total


def broadcast_rows(rows: Tensor, value: Tensor) -> Tensor:
    """Rows of a smaller operand, expanded to the shape of `value` behind the leading axis."""
    missing = value.dim() - (rows.dim() - 1)
    if missing:
        rows = rows.reshape(rows.shape[0], *(1,) * missing, *rows.shape[1:])
    return rows.expand(rows.shape[0], *value.shape)


def align_rows(rows: Tensor, parts: Parts, target: Parts) -> Tensor:
    """Rows laid out by `target`, a superset of `parts`, with zeros where nothing was."""
    if parts == target:
        return rows
    out = rows.new_empty((len(target), *rows.shape[1:]))
    place_rows(rows, parts, out, target)
    return out


def place_rows(rows: Tensor, parts: Parts, out: Tensor, target: Parts) -> None:
    """Write rows to their place in `out`, laid out by `target`, and zeros where there are none."""
    place = {part: i for i, part in enumerate(target)}
    for start, stop in _runs([place[part] for part in parts]):
        at = place[parts[start]]
        out[at : at + stop - start] = rows[start:stop]
    for start, stop in _runs(absent := [i for i, part in enumerate(target) if part not in parts]):
        out[absent[start] : absent[start] + stop - start] = 0


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """The half-open stretches over which `indices` count up by one."""
    if not indices:
        return []
    cuts = [0, *(i for i in range(1, len(indices)) if indices[i] != indices[i - 1] + 1), len(indices)]
    return [(start, stop) for start, stop in itertools.pairwise(cuts) if start < stop]


def add_rows(value: Tensor, summands: Sequence[tuple[Tensor, Parts]]) -> tuple[Tensor, Parts]:
    """Sum stacks of rows with different parts, each broadcast to the shape of `value`; one pass over the memory.

    Returns:
        The rows of the sum, shape (len(parts), *value.shape), and their parts.
    """
    parts = merge_parts(layout for _, layout in summands)
    places = [{part: i for i, part in enumerate(layout)} for _, layout in summands]
    stacks = [broadcast_rows(rows, value) for rows, _ in summands]
    out = empty_rows(len(parts), value, max(stacks, key=torch.numel, default=value[None]))
    start = 0
    while start < len(parts):
        present = [parts[start] in place for place in places]
        stop = start + 1
        while stop < len(parts) and [parts[stop] in place for place in places] == present:
            # Neighbours in the sum must be neighbours in every summand for a slice to serve them together.
            stop += 1
        pieces = [
            stack[place[parts[start]] : place[parts[start]] + stop - start]
            for stack, place, here in zip(stacks, places, present, strict=True)
            if here
        ]
        if len(pieces) == 1:
            out[start:stop] = pieces[0]
        elif len(pieces) > 2 and out.dtype in (torch.bfloat16, torch.float16):
            total = pieces[0].to(torch.float32, copy=True)  # rounded once, not once for each summand
            for piece in pieces[1:]:
                total += piece
            out[start:stop] = total
        else:
            torch.add(pieces[0], pieces[1], out=out[start:stop])
            for piece in pieces[2:]:
                out[start:stop] += piece
        start = stop
    return out, parts
