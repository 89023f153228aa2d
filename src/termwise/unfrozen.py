"""The unfrozen series: the network with every residual branch times eps, expanded at eps = 0 with gates recomputed.

    f(eps) = a_0 + a_1 eps + a_2 eps^2 + ...,        f(0) the network without any block, f(1) the network.

a_k is what the "subnetwork of k blocks" is when nothing is frozen: the k-th Taylor coefficient.  In contrast to the
terms of the expansion by frozen paths there are infinitely many, they exist for analytic activations alone, and
their sum need not converge at eps = 1.  Whether it does is decided by the singularity of f nearest to 0 in the complex
plane; its distance, the radius of convergence, is estimated from the coefficients.

Of the model with ReLU, max-pooling or any other operator that bends there is no such series: it is refused.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from termwise.causal import Joins
from termwise.errors import DataError, ModelError, UsageError
from termwise.expand import Output, call, pick_output
from termwise.jets import Jet
from termwise.pinning import pinned
from termwise.records import Table

_LEAST = 8  # orders from which a radius can be estimated


class Radius(NamedTuple):
    """The radius of convergence as the coefficients show it.

    Attributes:
        value: the estimate; infinite where the series ends as far as rounding shows: its upper half is below 1e-14 of
            the largest coefficient.
        low: the least of all estimates and their errors.
        high: the greatest.
    """

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
class Unfrozen:
    """The Taylor coefficients of the network in the strength of its blocks, at eps = 0; every tensor has its shape.

    Attributes:
        terms: a_0 .. a_K.
        total: f(1), what the model computes.
        radius: of convergence, over the whole batch: that of its worst sample.  It is estimated from the norms of the
            upper half of the coefficients by least squares, log |a_k| = c - k log R; a pair of conjugate singularities
            makes the norms swing, which a moving mean of three (of |a_k| R^k, squared) takes out.  `low` and `high`
            hold this fit and that of c - k log R + g log k, as the kind of the singularity would have it, with two
            standard errors.  It says nothing of a singularity that so few coefficients do not show.
        converges: whether the radius is above 1 ("yes"), below ("no"), or the interval holds 1 ("undecided").
    """

    terms: tuple[Tensor, ...]
    total: Tensor
    radius: Radius

    @property
    def converges(self) -> Literal["yes", "no", "undecided"]:
        """Whether the series has f(1) as its sum, as far as the radius tells."""
        if self.radius.low > 1:
            return "yes"
        return "no" if self.radius.high < 1 else "undecided"

    @property
    def table(self) -> Table:
        """A row for each order: |a_k| / |f(1)|, and |a_0 + .. + a_k - f(1)| / |f(1)|."""
        size = float(self.total.norm())
        sums = torch.stack(self.terms).cumsum(dim=0)
        return Table(
            {
                "order": range(len(self.terms)),
                "norm": [float(term.norm()) / size for term in self.terms],
                "error": [float((partial - self.total).norm()) / size for partial in sums],
            },
            {"norm": "of |f(1)|", "error": "of |f(1)|"},
        )

    def __str__(self) -> str:
        """The table, and the radius in words."""
        value, low, high = self.radius
        return f"{self.table!r}\nradius of convergence {value:.3g} ({low:.3g} to {high:.3g}); at 1: {self.converges}"


def unfrozen(model: nn.Module, x: Any, *, order: int = 12, output: Output = None) -> Unfrozen:
    """Expand the output in the strength of the residual branches, at strength 0 and with gates recomputed.

    The model is run once on truncated Taylor series (see `termwise.jets`), at a cost that grows with the square of the
    order where values are multiplied.

    Args:
        model: an nn.Module in float64 that is called as model(x); run in evaluation mode and left as found.
        x: its input in float64, as in `termwise.expand`.
        order: K, the highest coefficient; at least 8, for the radius.
        output: which tensor of the model's result, as in `termwise.expand`.

    Returns:
        The coefficients, f(1), and the radius of convergence.

    Raises:
        UsageError: when the order is below 8, or the model has no residual block.
        DataError: when model or input are not in float64.
        RuleError: when an operator is not analytic, or has no rule for Taylor series.
        ModelError: see `termwise.causal.lesion`; when a coefficient is not finite, as behind a norm of nothing.
    """
    if order < _LEAST:
        raise UsageError(f"unfrozen: order={order}: a radius of convergence needs at least {_LEAST} coefficients.")
    floats = [leaf for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if any(leaf.dtype != torch.float64 for leaf in (*floats, *model.parameters())):
        raise DataError("unfrozen: high orders need float64: give model.double() and x.double().")
    joins = Joins(model, x, output=output)
    if not joins.blocks:
        raise UsageError("unfrozen: the model has no residual blocks, so there is nothing to expand in.")
    with pinned(model):
        total = pick_output(call(model, x), output)
        jets = pytree.tree_map_only(Tensor, lambda t: Jet.constant(t, order) if t.is_floating_point() else t, x)
        with joins.changed(dict.fromkeys(range(len(joins.blocks)), lambda _, branch: _stepped(branch, order))):
            result = pick_output(call(model, jets), output)
    if not isinstance(result, Jet):
        raise ModelError("unfrozen: the output does not depend on the blocks through any operator that was seen.")
    if not bool(torch.isfinite(result.rows).all()):
        raise ModelError(
            "unfrozen: a coefficient is not finite: at eps = 0 the network divides by zero or takes a root of it, such "
            "as a norm of a stream that the blocks alone fill."
        )
    terms = tuple(result.rows)
    return Unfrozen(terms, total, radius_of([float(term.norm()) for term in terms]))


def _stepped(branch: Tensor, order: int) -> Tensor:
    # What comes before the first block (of tokens, all of it) does not depend on eps, and need not be a jet.
    return (branch if isinstance(branch, Jet) else Jet.constant(branch, order)).stepped()


def radius_of(norms: list[float]) -> Radius:
    """The radius of convergence of a series with coefficients of these sizes; see `Unfrozen`."""
    sizes = np.asarray(norms)
    tail = np.arange(len(sizes) // 2, len(sizes))
    there = tail[sizes[tail] > 1e-14 * sizes.max()]
    if not len(there):
        return Radius(math.inf, math.inf, math.inf)
    if len(there) < 4:  # every other coefficient may vanish; of so few nothing can be told
        return Radius(math.nan, 0.0, math.inf)
    k, logs = there.astype(float), np.log(sizes[there])
    rate, _ = _slope([np.ones_like(k), -k], logs)
    inner = k[1:-1]
    for _ in range(3):
        y = _smoothed(logs + k * rate) - inner * rate
        rate, error = _slope([np.ones_like(inner), -inner], y)
    fits = [(rate, error)]
    if len(inner) > 3:
        fits.append(_slope([np.ones_like(inner), -inner, np.log(inner)], y))
    low = min(slope - 2 * error for slope, error in fits)
    high = max(slope + 2 * error for slope, error in fits)
    return Radius(math.exp(fits[0][0]), math.exp(low), math.exp(min(high, 700.0)))


def _smoothed(logs: np.ndarray) -> np.ndarray:
    """log of the root mean square over each value and its neighbours, of all that have two."""
    power = np.exp(2 * (logs - logs.max()))
    return np.log((power[:-2] + power[1:-1] + power[2:]) / 3) / 2 + logs.max()


def _slope(columns: list[np.ndarray], y: np.ndarray) -> tuple[float, float]:
    """log R by least squares, with its standard error."""
    design = np.stack(columns, axis=1)
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    free = max(len(y) - design.shape[1], 1)
    variance = float(((y - design @ solution) ** 2).sum()) / free
    return float(solution[1]), math.sqrt(variance * float(np.linalg.inv(design.T @ design)[1, 1]))
