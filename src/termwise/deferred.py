"""Rows that are computed when somebody first reads them.

Three things are had by waiting.  What a later operator freezes is never computed at all: the terms of queries and keys,
whose products only decide a pattern.  What a later operator multiplies by is multiplied in where it costs nothing: the
scale of a batch norm into the weights of the convolution before it, a gate into the memory that nobody else holds yet.
And where one product holds queries, keys and values side by side, only the columns that somebody reads are made.

Whoever waits must not see what changes meanwhile.  Rows themselves are never written into; of everything else that a
`Deferred` will read it names the memory in `uses`, and the program has it computed before any of that is written.
Whenever that is, no gradients are recorded, and no autocast changes the precision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard, TypeVar, cast

import torch
from torch import Tensor

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _undisturbed(compute: _Method) -> _Method:
    """Without gradients and in the precision of the operands, wherever the program is meanwhile."""

    @functools.wraps(compute)
    def alone(self: Deferred, *args: Any) -> Any:
        with torch.no_grad(), torch._C._DisableAutocast():
            return compute(self, *args)

    return cast(_Method, alone)


class Deferred:
    """Rows yet to be computed.

    Args:
        make: computes them, into memory that nobody else holds if `owned`; a subclass may have a method instead.
        owned: whether it does so; views of other rows do not.
        uses: what they are computed from.

    Attributes:
        generations: how many others they wait for, one after another.
    """

    def __init__(self, make: Callable[[], Tensor] | None, *, owned: bool = True, uses: Iterable[Any] = ()) -> None:
        self._make, self._owned = make, owned
        self._rows: Tensor | None = None
        self._taken = False
        self._uses = tuple(used for used in uses if isinstance(used, (Tensor, Deferred)))
        self.generations = 1 + max((used.generations for used in self._uses if waits(used)), default=0)

    def reads(self, memory: int) -> bool:
        """Whether they will be computed from what is at this address."""
        pending, seen = [*self._uses], set[int]()
        while pending:
            used = pending.pop()
            if isinstance(used, Deferred):
                pending += used._uses if id(used) not in seen else ()
                seen.add(id(used))
            elif used.layout is torch.strided and used.untyped_storage().data_ptr() == memory:
                return True
        return False

    @property
    def is_read(self) -> bool:
        """Whether they have been computed."""
        return self._rows is not None

    @_undisturbed
    def read(self) -> Tensor:
        """The rows, computed once; not to be written into."""
        if self._rows is None:
            self._rows = self._compute()
            self._forget()
        return self._rows

    @_undisturbed
    def take(self) -> Tensor | None:
        """Rows that the caller may write into; None where others may read them, or they are views.

        They are given away once: who asks later has them computed again, and kept.
        """
        if not self._owned or self._taken or self._rows is not None:
            return None
        self._taken = True
        return self._compute()

    @_undisturbed
    def scaled(self, factor: Tensor) -> Tensor:
        """The rows times a factor that broadcasts to each of them, in new memory."""
        rows = self.take()
        return self.read() * alike(factor, self.read()) if rows is None else rows.mul_(alike(factor, rows))

    @_undisturbed
    def rectified(self, u: Tensor) -> Tensor:
        """The rows where u > 0, and zero elsewhere, in new memory."""
        rows = self.take()
        return _rectified(self.read(), u) if rows is None else _rectified(rows, u, out=rows)

    def plus(self, constant: Tensor, at: int) -> Deferred:
        """The rows with something added to the one at `at`."""
        return Added(self, constant, at)

    def only(self, which: slice | list[int]) -> Deferred:
        """Some of the rows."""
        return Deferred(lambda: self.read()[which], owned=False, uses=[self])

    # A method, never kept as an attribute: an object in a cycle keeps its rows until the collector comes by.
    def _compute(self) -> Tensor:
        assert self._make is not None
        return self._make()

    def _forget(self) -> None:
        """Let go of everything that was needed to compute them."""
        self._make, self._uses = None, ()


Rows = Tensor | Deferred


def read(rows: Rows) -> Tensor:
    """The rows themselves."""
    return rows.read() if isinstance(rows, Deferred) else rows


def waits(rows: object) -> TypeGuard[Deferred]:
    """Whether they are yet to be computed."""
    return isinstance(rows, Deferred) and not rows.is_read


def scaled(rows: Rows, factor: Tensor) -> Tensor:
    """The rows times a factor, in new memory."""
    return rows.scaled(factor) if isinstance(rows, Deferred) else rows * alike(factor, rows)


def rectified(rows: Rows, u: Tensor) -> Tensor:
    """The rows where u > 0, and zero elsewhere, in new memory; u has the shape of each."""
    return rows.rectified(u) if isinstance(rows, Deferred) else _rectified(rows, u)


def _rectified(rows: Tensor, u: Tensor, out: Tensor | None = None) -> Tensor:
    # The derivative of a ReLU does it in one pass, and without the gate as numbers.
    where = alike(u, rows).expand_as(rows)
    if out is None:
        return torch.ops.aten.threshold_backward(rows, where, 0)
    return torch.ops.aten.threshold_backward.grad_input(rows, where, 0, grad_input=out)


def alike(one: Tensor, rows: Tensor) -> Tensor:
    """What each row is multiplied by, of their type and in their order: mixed ones make element-wise work slow."""
    if one.shape == rows.shape[1:] and (one.stride() != rows.stride()[1:] or one.dtype == torch.bool):
        return empty_rows(1, one, rows, rows.dtype)[0].copy_(one)
    return one


def empty_rows(count: int, one: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Memory for rows of the shape of `one`, ordered as that of the rows `like` is (channels last, say)."""
    if like.dim() != one.dim() + 1:
        return one.new_empty((count, *one.shape), dtype=dtype or one.dtype)
    order = sorted(range(one.dim()), key=lambda d: (-like.stride(d + 1), d))
    strides, size = [0] * one.dim(), 1
    for d in reversed(order):
        strides[d] = size
        size *= max(one.shape[d], 1)
    return torch.empty_strided((count, *one.shape), (size, *strides), dtype=dtype or one.dtype, device=one.device)


class Added(Deferred):
    """Rows of which one gets something added; without a copy where nobody else holds them."""

    def __init__(self, rows: Deferred, constant: Tensor, at: int) -> None:
        super().__init__(None, uses=[rows, constant])
        self._base, self._constant, self._at = rows, constant, at

    def _compute(self) -> Tensor:
        rows = self._base.take()
        rows = self._base.read().clone(memory_format=torch.preserve_format) if rows is None else rows
        rows[self._at] += self._constant
        return rows

    def _forget(self) -> None:
        super()._forget()
        del self._base, self._constant


class Shifted(Deferred):
    """Rows times a scale, of which one also gets a shift: y = x s + [row is c] t.

    A factor that comes on top is multiplied into scale and shift, which are no larger than one row.
    """

    def __init__(self, rows: Rows, scale: Tensor, shift: Tensor, at: int) -> None:
        super().__init__(None, uses=[rows, scale, shift])
        self._base, self._scale, self._added, self._at = rows, scale, shift, at

    def _compute(self) -> Tensor:
        rows = scaled(self._base, self._scale)
        rows[self._at] += self._added
        return rows

    @_undisturbed
    def scaled(self, factor: Tensor) -> Tensor:
        """The rows times a factor, in new memory."""
        if not self._is_cheap:
            return super().scaled(factor)
        self._taken = True
        base = read(self._base)
        factor = alike(factor, base)
        rows = base * (self._scale * factor)
        rows[self._at] += self._added * factor
        return rows

    @_undisturbed
    def rectified(self, u: Tensor) -> Tensor:
        """The rows where u > 0, and zero elsewhere, in new memory."""
        return self.scaled(u > 0) if self._is_cheap else super().rectified(u)

    @property
    def _is_cheap(self) -> bool:
        """Whether a factor saves a pass over all rows: what they are made of is there, and to be kept."""
        return not (self.is_read or self._taken or waits(self._base))

    def _forget(self) -> None:
        super()._forget()
        del self._base, self._scale, self._added


class Convolved(Deferred):
    """Rows that a convolution makes of others: a scale of its channels goes into its weights.

    Args:
        convolve: the convolution of all rows by a weight.
        weight: (channels out, ...).
    """

    def __init__(self, rows: Rows, convolve: Callable[[Tensor], Tensor], weight: Tensor) -> None:
        super().__init__(None, uses=[rows, weight])
        self._convolve, self._weight = convolve, weight

    def _compute(self) -> Tensor:
        return self._convolve(self._weight)

    @_undisturbed
    def scaled(self, factor: Tensor) -> Tensor:
        """The rows times a factor, in new memory."""
        if self.is_read or self._taken or not self._is_scale(factor):
            return super().scaled(factor)
        self._taken = True
        return self._convolve(self._weight * factor.reshape(-1, *(1,) * (self._weight.dim() - 1)))

    def _is_scale(self, factor: Tensor) -> bool:
        """Whether it is one number for each channel, which the result has second."""
        channels = self._weight.shape[0]
        alone = factor.dim() > 1 and factor.shape[1] == factor.numel() == channels
        return alone and factor.dtype == self._weight.dtype

    def _forget(self) -> None:
        super()._forget()
        del self._convolve, self._weight


class Projected(Deferred):
    """Rows that a product by a matrix makes of others; some of its columns can be had without the rest.

    Args:
        rows: (R, n, in).
        matrix: (in, out).
        bias: (out,), added to the row at `at`, if there is one.
    """

    def __init__(self, rows: Rows, matrix: Tensor, bias: Tensor | None = None, at: int = 0) -> None:
        super().__init__(None, uses=[rows, matrix, bias])
        self._base, self._matrix, self._bias, self._at = rows, matrix, bias, at

    def _compute(self) -> Tensor:
        return self.columns(0, self._matrix.shape[1])

    def numbers(self, shape: torch.Size) -> Tensor:
        """At each place of a row of this shape the number of its column, (1, ..., out); it takes no memory."""
        return torch.arange(shape[-1], dtype=torch.int32, device=self._matrix.device).expand(1, *shape)

    def plus(self, constant: Tensor, at: int) -> Deferred:
        """The rows with something added to the one at `at`."""
        if self.is_read or self._bias is not None or constant.shape != self._matrix.shape[1:]:
            return super().plus(constant, at)
        return Projected(self._base, self._matrix, constant, at)

    def only(self, which: slice | list[int]) -> Deferred:
        """Some of the rows; of the first so many nothing else is computed."""
        if self.is_read or not isinstance(which, slice) or which.start or which.stop <= self._at:
            return super().only(which)
        base = self._base.only(which) if waits(self._base) else read(self._base)[which]
        return Projected(base, self._matrix, self._bias, self._at)

    @_undisturbed
    def columns(self, start: int, stop: int) -> Tensor:
        """The rows, (R, n, out), of which only these columns mean anything."""
        rows = read(self._base)
        out = rows.new_empty((*rows.shape[:2], self._matrix.shape[1]))
        torch.mm(rows.flatten(0, 1), self._matrix[:, start:stop], out=out.flatten(0, 1)[:, start:stop])
        if self._bias is not None:
            out[self._at, :, start:stop] += self._bias[start:stop]
        return out

    def _forget(self) -> None:
        super()._forget()
        del self._base, self._matrix, self._bias


class Viewed(Deferred):
    """The same numbers elsewhere: of what a matrix makes, only the columns that are seen are computed.

    Args:
        rows: what is looked at.
        view: moves the numbers of all rows about, (R, ...) to (R, ...).
        shape: of a row of `rows`.
    """

    def __init__(
        self, rows: Deferred, view: Callable[[Tensor], Tensor], shape: torch.Size, uses: Iterable[Any]
    ) -> None:
        super().__init__(None, owned=False, uses=[rows, *uses])
        self._base, self._view, self._shape = rows, view, shape

    def _compute(self) -> Tensor:
        source, views, shape = self._base, [self._view], self._shape
        while isinstance(source, Viewed) and not source.is_read:
            views.insert(0, source._view)
            source, shape = source._base, source._shape
        if isinstance(source, Projected) and not source.is_read:
            seen = _through(views, source.numbers(shape))
            low, high = map(int, seen.aminmax()) if seen.numel() else (0, -1)
            return _through(views, source.columns(low, high + 1))
        return self._view(self._base.read())

    def _forget(self) -> None:
        super()._forget()
        del self._base, self._view


def _through(views: Iterable[Callable[[Tensor], Tensor]], rows: Tensor) -> Tensor:
    for view in views:
        rows = view(rows)
    return rows
