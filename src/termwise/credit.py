"""Loss credit: which term brought the loss down, and when.

Let y(t) be the logits at record t, y_k(t) their parts (the input-born terms, what is born of constants, what is born of
frozen values; together they are y), and l the mean cross-entropy.  Between two records the credit of a part is

    C_k = - E< integral_0^1 grad l( y(t) + s (y(t') - y(t)) ) ds , y_k(t') - y_k(t) >        in nats

(a path integral along the straight line, as in loss change allocation, Lan et al. 2019, arXiv 1909.01440, there over
parameters).  It is positive where the part lowered the loss.  Over all parts the credits sum to
l(t) - l(t') exactly, which is checked.  For cross-entropy grad l = softmax - target, so the integral is one average
softmax a sample, shared by all parts.

What it does not mean: a straight line between two records is not the way that training took.  The credits therefore
depend on how densely the run was recorded; `Credits.drift` measures by how much.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp, softmax

LEVELS = (0.1, 0.5, 0.9)  # of the final credit, for the times learned
CONVERGED = 0.05  # a drift up to here leaves the credits a meaning
LEAST = 0.02  # of sum |C|: below, a part has no time at which it was learned
_NODES = 16  # of Gauss-Legendre a panel
_PANELS = 1024  # where the doubling ends: logits that move by more than about 10,000
_RELATIVE, _ABSOLUTE = 1e-10, 1e-12  # at which the doubling of the nodes stops, of sum |C| and in nats


@dataclasses.dataclass(frozen=True, eq=False)
class Credits:
    """The loss credit of P parts over R records.

    Attributes:
        steps: of the records, shape (R,).
        between: the credit that each interval between records brought, shape (R - 1, P), in nats.
        closure: the worst of |sum_k C_k - (l(t) - l(t'))| / sum_k |C_k| over the intervals, with the losses that the
            network really had.
        drift: the largest move of a final cumulative credit when every other record is left out, over sum_k |C_k|;
            None with fewer than three records, where none can be left out.
    """

    steps: np.ndarray
    between: np.ndarray
    closure: float
    drift: float | None

    @property
    def cumulative(self) -> np.ndarray:
        """The credit since the first record, shape (R, P), in nats."""
        return np.concatenate([np.zeros((1, self.between.shape[1])), self.between.cumsum(axis=0)])

    @property
    def fractions(self) -> np.ndarray:
        """The final credit of each part over sum_k |C_k|, signed, shape (P,)."""
        final = self.cumulative[-1]
        total = np.abs(final).sum()
        return final / total if total else np.zeros_like(final)

    @property
    def converged(self) -> bool | None:
        """Whether leaving out every other record moves no credit by more than 5 % of sum |C|; None: unknown."""
        return None if self.drift is None else self.drift <= CONVERGED

    def times(self) -> list[tuple[float | None, ...]]:
        """For each part the steps at which 10, 50 and 90 % of its final credit are in; see `time_learned`.

        All are None for parts with less than 2 % of sum |C|: of so little the order is noise.
        """
        counts = np.abs(self.fractions) >= LEAST
        nothing = (None,) * len(LEVELS)
        return [
            time_learned(self.steps, curve) if enough else nothing
            for curve, enough in zip(self.cumulative.T, counts, strict=True)
        ]


def credits_over(
    steps: Sequence[int], terms: Sequence[np.ndarray], targets: np.ndarray, losses: Sequence[float]
) -> Credits:
    """The credits over a run, with their closure and their dependence on the density of the records.

    Args:
        steps: of the R records, ascending.
        terms: of each record the parts of the logits, shape (P, N, C); summed in float64 whatever their dtype.
        targets: the classes, shape (N,).
        losses: the mean cross-entropy of the real output at each record, in nats.
    """
    between = _along(range(len(steps)), terms, targets)
    fell = -np.diff(np.asarray(losses, dtype=np.float64))
    wrong, size = np.abs(between.sum(axis=1) - fell), np.abs(between).sum(axis=1)
    # Two equal records: no credit and no change.
    relative = np.divide(wrong, size, out=np.where(wrong > 0, np.inf, 0.0), where=size > 0)
    return Credits(np.asarray(steps), between, float(relative.max(initial=0.0)), _drift(between, terms, targets))


def _along(records: Sequence[int], terms: Sequence[np.ndarray], targets: np.ndarray) -> np.ndarray:
    rows = [loss_credit(terms[i], terms[j], targets) for i, j in itertools.pairwise(records)]
    return np.array(rows).reshape(len(rows), len(terms[0]))


def _drift(between: np.ndarray, terms: Sequence[np.ndarray], targets: np.ndarray) -> float | None:
    last = len(terms) - 1
    if last < 2:
        return None
    kept = [*range(0, last, 2), last]
    final = between.sum(axis=0)
    total = np.abs(final).sum()
    moved = np.abs(_along(kept, terms, targets).sum(axis=0) - final).max()
    return float(moved / total) if total else 0.0


def loss_credit(before: np.ndarray, after: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The credit of each part for the change of the cross-entropy between two records.

    The integral is taken by Gauss-Legendre on panels; their number doubles until neither a credit nor the sum over all
    parts is off by more than 1e-10 of sum |C|.

    Args:
        before: the parts of the logits at the first record, shape (P, N, C).
        after: at the second.
        targets: the classes, shape (N,).

    Returns:
        Shape (P,), float64, in nats: positive where the part lowered the loss.
    """
    start = before.sum(axis=0, dtype=np.float64)
    way = after.sum(axis=0, dtype=np.float64) - start
    moves = after.astype(np.float64) - before
    chosen = np.eye(start.shape[1])[targets]
    fell = cross_entropy(start, targets) - cross_entropy(start + way, targets)

    def credit(panels: int) -> np.ndarray:
        slope = _mean_softmax(start, way, panels) - chosen
        return -np.einsum("nc,pnc->p", slope, moves) / len(targets)

    panels, last, found = 1, credit(1), credit(2)
    while panels < _PANELS:
        tolerance = _RELATIVE * np.abs(found).sum() + _ABSOLUTE
        if max(np.abs(found - last).sum(), abs(found.sum() - fell)) <= tolerance:
            break
        panels *= 2
        last, found = found, credit(2 * panels)
    return found


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    """The mean cross-entropy of logits (N, C) with classes (N,), in nats."""
    return float((logsumexp(logits, axis=1) - logits[np.arange(len(targets)), targets]).mean())


def _mean_softmax(start: np.ndarray, way: np.ndarray, panels: int) -> np.ndarray:
    """The mean of softmax(start + s way) over s in [0, 1]: shape (N, C)."""
    nodes, weights = _rule()
    mean = np.zeros_like(start)
    for panel in range(panels):
        for node, weight in zip(nodes, weights, strict=True):
            mean += (weight / panels) * softmax(start + ((panel + node) / panels) * way, axis=1)
    return mean


@functools.cache
def _rule() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return (nodes + 1) / 2, weights / 2


def time_learned(
    steps: Sequence[int] | np.ndarray, cumulative: np.ndarray, levels: Sequence[float] = LEVELS
) -> tuple[float | None, ...]:
    """The steps at which the given fractions of the final cumulative credit are in.

    Between two records the time is interpolated linearly in log(step + 1), the scale on which runs are recorded.  A
    part of negative final credit, one that raised the loss, is measured towards that.

    Args:
        steps: of the records, ascending, shape (R,).
        cumulative: the credit since the first record, shape (R,), the first being 0.
        levels: the fractions, between 0 and 1.

    Returns:
        For each level the step, or None where the curve passes the level more than once or has no end to measure by.
    """
    final = cumulative[-1]
    if not final:
        return (None,) * len(levels)
    return tuple(_passing(np.log1p(np.asarray(steps, dtype=float)), cumulative / final, level) for level in levels)


def _passing(scale: np.ndarray, curve: np.ndarray, level: float) -> float | None:
    above = curve >= level
    passes = np.flatnonzero(above[1:] != above[:-1])
    if len(passes) != 1:
        return None
    i = int(passes[0])
    part = (level - curve[i]) / (curve[i + 1] - curve[i])
    return float(np.expm1(scale[i] + part * (scale[i + 1] - scale[i])))
