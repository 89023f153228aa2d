r"""Slow, independent oracles of the depth expansion: what `termwise.expand` must agree with.

The object. Freeze every nonlinearity s of a network at the value u that it really saw,

    s(v)  ->  s(0) + g v,      g = (s(u) - s(0)) / u      (g = s'(0) where u = 0),

and give every *step* (every linear map by a weight in unit `layers`, every residual or dense branch in unit
`blocks`, every nonlinearity in unit `activations`) a factor eps. Each intermediate value is then a
polynomial in eps; its coefficient of eps^k that is born of the input is the sum over all paths of exactly k
steps from the input: the unravelled view of Veit, Wilber and Belongie, "Residual networks behave like
ensembles of relatively shallow networks" (2016, arXiv 1605.06431, section 3), made exact by frozen gates.
Whatever is born of a constant (a bias, the shift of a norm, s(0)) is kept apart and counted by its number of
steps *after birth*; the constant of a step enters before that step's factor, so it counts that step.

Three ways to compute it, which share nothing but the frozen network:

* `by_paths` walks every path by itself, all 2^L of them, and adds up those of equal length;
* `at_roots` evaluates the polynomial at the complex roots of unity and reads the coefficients off a Fourier
  transform;
* `of_linear_network` expands a product of (I + W_l) into sums over subsets of its factors.

A network is first written down as a small tree of the nodes below, by hand or by `describe`. Nothing in this
file knows how the expansion itself is computed. All of it is exponential or quadratic in the depth: it is for
tests and for reading. The largest residual network that `by_paths` walks in a few seconds has about ten
blocks.
"""

from termwise.reference.describe import describe
from termwise.reference.network import (
    Affine,
    Dense,
    Linear,
    Node,
    Nonlinearity,
    Norm,
    Residual,
    Sequence,
    Terms,
    Weight,
    forward,
    freeze,
)
from termwise.reference.oracles import at_roots, by_paths, discrepancy, of_linear_network

__all__ = [
    "Affine",
    "Dense",
    "Linear",
    "Node",
    "Nonlinearity",
    "Norm",
    "Residual",
    "Sequence",
    "Terms",
    "Weight",
    "at_roots",
    "by_paths",
    "describe",
    "discrepancy",
    "forward",
    "freeze",
    "of_linear_network",
]
