"""Rows that are computed when somebody first reads them.

Two things are had by waiting.  What a later operator freezes is never computed at all: the terms of queries and keys,
whose products only decide a pattern.  What a later operator multiplies by is multiplied in where it costs nothing: the
scale of a batch norm into the weights of the convolution before it, a gate into the memory that nobody else holds yet.

Whoever waits must not see what changes meanwhile.  Rows themselves are never written into; of everything else that a
`Deferred` will read it names the memory in `uses`, and the program has it computed before any of that is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor


_STRIDED = torch.strided  # what has another layout is not written into


class Deferred:
    """Rows yet to be computed.

    Args:
        make: computes them, into memory that nobody else holds if `owned`.
        owned: whether it does so; views of other rows do not.
        uses: what they are computed from.
    """

    def __init__(self, make: Callable[[], Tensor], *, owned: bool = True, uses: Iterable[Any] = ()) -> None:
        self._make, self._owned = make, owned
        self._rows: Tensor | None = None
        self._taken = False
        self._uses = tuple(u for u in uses if isinstance(u, Deferred) or (isinstance(u, Tensor) and u.layout is _STRIDED))

    def reads(self, memory: int) -> bool:
        """Whether they will be computed from what is at this address."""
        return any(
            used.reads(memory) if isinstance(used, Deferred) else used.untyped_storage().data_ptr() == memory
            for used in self._uses
        )

    @property
    def is_read(self) -> bool:
        """Whether they have been computed."""
        return self._rows is not None

    def read(self) -> Tensor:
        """The rows, computed once; not to be written into."""
        if self._rows is None:
            self._rows = self._make()
            self._forget()
        return self._rows

    def take(self) -> Tensor | None:
        """Rows that the caller may write into; None where others may read them, or they are views.

        They are given away once: who asks later has them computed again, and kept.
        """
        if not self._owned or self._taken or self._rows is not None:
            return None
        self._taken = True
        return self._make()

    def scaled(self, factor: Tensor) -> Tensor:
        """The rows times a factor that broadcasts to each of them, in new memory."""
        rows = self.take()
        return self.read() * alike(factor, self.read()) if rows is None else rows.mul_(alike(factor, rows))

    def _forget(self) -> None:
        """Let go of everything that was needed to compute them."""
        self._make = _made
        self._uses = ()


def _made() -> Tensor:
    raise AssertionError("the rows are there already")


Rows = Tensor | Deferred


def read(rows: Rows) -> Tensor:
    """The rows themselves."""
    return rows.read() if isinstance(rows, Deferred) else rows


def waits(rows: Rows) -> TypeGuard[Deferred]:
    """Whether they are yet to be computed."""
    return isinstance(rows, Deferred) and not rows.is_read


def scaled(rows: Rows, factor: Tensor) -> Tensor:
    """The rows times a factor, in new memory."""
    return rows.scaled(factor) if isinstance(rows, Deferred) else rows * alike(factor, rows)


def alike(one: Tensor, rows: Tensor) -> Tensor:
    """A tensor of the shape of each row, in memory ordered as they are: mixed orders make element-wise work slow."""
    if one.shape != rows.shape[1:] or one.stride() == rows.stride()[1:]:
        return one
    return empty_rows(1, one, rows)[0].copy_(one)


def empty_rows(count: int, one: Tensor, like: Tensor) -> Tensor:
    """Memory for rows of the shape of `one`, ordered as that of the rows `like` is (channels last, say)."""
    if like.dim() != one.dim() + 1:
        return one.new_empty((count, *one.shape))
    order = sorted(range(one.dim()), key=lambda d: (-like.stride(d + 1), d))
    strides, size = [0] * one.dim(), 1
    for d in reversed(order):
        strides[d] = size
        size *= max(one.shape[d], 1)
    return torch.empty_strided((count, *one.shape), (size, *strides), dtype=one.dtype, device=one.device)


class Added(Deferred):
    """Rows of which one gets something added; without a copy where nobody else holds them."""

    def __init__(self, rows: Deferred, constant: Tensor, at: int) -> None:
        super().__init__(self._add, uses=[rows, constant])
        self._base, self._constant, self._at = rows, constant, at

    def _add(self) -> Tensor:
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
        super().__init__(self._shift, uses=[rows, scale, shift])
        self._base, self._scale, self._added, self._at = rows, scale, shift, at

    def _shift(self) -> Tensor:
        rows = scaled(self._base, self._scale)
        rows[self._at] += self._added
        return rows

    def scaled(self, factor: Tensor) -> Tensor:
        """The rows times a factor, in new memory."""
        if self.is_read or self._taken or waits(self._base):
            return super().scaled(factor)
        self._taken = True
        base = read(self._base)
        factor = alike(factor, base)
        rows = base * (self._scale * factor)
        rows[self._at] += self._added * factor
        return rows

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
        super().__init__(lambda: convolve(weight), uses=[rows, weight])
        self._convolve, self._weight = convolve, weight

    def scaled(self, factor: Tensor) -> Tensor:
        """The rows times a factor, in new memory."""
        channels = self._weight.shape[0]
        per_channel = factor.numel() == channels and factor.dim() > 1 and factor.shape[1] == channels
        if self.is_read or self._taken or not per_channel or factor.dtype != self._weight.dtype:
            return super().scaled(factor)
        self._taken = True
        return self._convolve(self._weight * factor.reshape(-1, *(1,) * (self._weight.dim() - 1)))

    def _forget(self) -> None:
        super()._forget()
        del self._convolve, self._weight

