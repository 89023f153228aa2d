"""What a run makes of its steps: how much of the polynomial in eps a Series carries from operator to operator.

    all of it                     v_k for every k                                       one row for each depth
    the shallow terms             v_k for k <= K                                        at most K + 1 rows
    those that are not small      v_k between the ends that hardly add to the value     as many as that takes
    the value and a derivative    D = sum_k k v_k, the derivative in eps at eps = 1     one row
    nothing                       only which values are computed from the input         none

Besides, the rows of what is born of constants and of frozen values.  Every rule is linear in the rows and takes gates
from the value alone, so that it serves all of these alike; only the Cauchy product, in which depths add, has a rule of
its own for the derivative (`termwise.rules.products`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from termwise.deferred import Deferred, Rows, empty_rows, read, waits
from termwise.rules.registry import Event
from termwise.series import INPUT, Origin, Part, Series

DERIVATIVE = Part(Origin.INPUT, 1)


class Walk:
    """All of it: at a step every part moves up by one."""

    def step(self, series: Series, *, constants: bool) -> Series:
        """What a step makes of a Series; `constants` says whether the constant-born parts are kept by depth."""
        return series.shifted(constants=constants)

    def arrive(self, series: Series, event: Event | None) -> None:
        """Forget those parts of an operator's result that are not carried on."""


class UpTo(Walk):
    """The terms of at most `depth` steps: what is deeper is forgotten where it comes to be."""

    def __init__(self, depth: int, *, constants: bool) -> None:
        """With `constants` those that are kept by depth are cut as well."""
        self._depth = depth
        self._cut = (Origin.INPUT, Origin.CONSTANT) if constants else (Origin.INPUT,)

    def step(self, series: Series, *, constants: bool) -> Series:
        """Moved up by one, and cut."""
        moved = series.shifted(constants=constants)
        self.arrive(moved, None)
        return moved

    def arrive(self, series: Series, event: Event | None) -> None:
        """A Cauchy product may be deeper than both of its factors."""
        if any(part.depth > self._depth for part in series.parts):
            series.keep(tuple(p for p in series.parts if p.depth <= self._depth or p.origin not in self._cut))


class Within(Walk):
    """The terms that are not small: at each join, the ends of the window that hardly add to the value are dropped.

    From either end terms are dropped while the sum of their norms is at most `threshold` times the norm of the value,
    norms being taken over all entries of all samples.

    Attributes:
        threshold: see above.
        dropped: the sum over all joins so far of the norms of what was dropped, each relative to the value there.
    """

    def __init__(self, threshold: float) -> None:
        """Nothing dropped yet."""
        self.threshold, self.dropped = threshold, 0.0

    def arrive(self, series: Series, event: Event | None) -> None:
        """Only a join makes the window wider."""
        kept = [i for i, part in enumerate(series.parts) if part.origin is Origin.INPUT]
        if event != "join" or len(kept) < 2:
            return
        whole = _norm(series.value)
        if not math.isfinite(whole):
            return  # scores with a mask among them: everything is small beside it
        terms, lost = len(kept), 0.0
        for end in (0, -1):
            room = self.threshold * whole
            while kept and (size := _norm(series.rows[kept[end]])) <= room:
                room, lost = room - size, lost + size
                kept.pop(end)
        if len(kept) < terms:
            series.keep(tuple(p for i, p in enumerate(series.parts) if i in kept or p.origin is not Origin.INPUT))
            self.dropped += lost / whole if whole else 0.0


class AroundOne(Walk):
    """The value and its derivative in eps at eps = 1: the input-born parts F = v - c - (frozen) are not written out.

    A step multiplies F by eps, so that D becomes D + F; everything else is linear in D.
    """

    def step(self, series: Series, *, constants: bool) -> Series:
        """The same value; D + F in the row of the derivative, which the first step makes."""
        if not series.has_input:
            return series.shifted(constants=False)
        others = tuple(part for part in series.parts if part.origin is not Origin.INPUT)
        held, value, n = series.held, series.value, len(others)
        moved = series.shifted(constants=False)
        moved.parts = (*others, DERIVATIVE)
        if waits(held):  # a step in front of queries and keys is one that nobody will ask for
            moved.held = Deferred(lambda: _with_derivative(held, value, n), uses=[held, value])
        else:
            moved.held = _with_derivative(held, value, n)
        return moved

    def arrive(self, series: Series, event: Event | None) -> None:
        """At its birth a value of the input is a term of no steps, and its derivative zero."""
        if series.parts and series.parts[-1] == INPUT:
            series.keep(series.parts[:-1])


class Nothing(Walk):
    """No terms at all, of nothing: what is left is which values are computed from the input, and by what calls."""

    def step(self, series: Series, *, constants: bool) -> Series:
        """Only the lengths of paths move up."""
        moved = series.shifted(constants=constants)
        self.arrive(moved, None)
        return moved

    def arrive(self, series: Series, event: Event | None) -> None:
        """Forget all parts."""
        series.keep(())


def _with_derivative(held: Rows, value: Tensor, n: int) -> Tensor:
    """The rows, of which the first n are not of the input, with D + F = D + v - c - (frozen) last."""
    rows = held.take() if isinstance(held, Deferred) else None
    if rows is None or len(rows) == n:
        old = read(held) if rows is None else rows
        rows = empty_rows(n + 1, value, old) if len(old) else value.new_empty((n + 1, *value.shape))
        rows[: len(old)] = old
        rows[len(old) :] = 0
    rows[n] += value
    for row in rows[:n]:
        rows[n] -= row
    return rows


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)))
