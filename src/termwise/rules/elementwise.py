"""Element-wise nonlinearities: the value gate, and what is frozen instead.

    s(u) = s(0) + g u,      g = (s(u) - s(0)) / u,      g = s'(0) at u = 0,

so y_k = g u_k with g held at its clean value, and s(0) joins the constant part.  Operators that are singular at 0, of
infinite slope there, or no function of one value have no such gate: their result is frozen, a plain gate itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from termwise.rules.registry import Call, differentiating, existing, plain, register
from termwise.series import Series, frozen_series


def gated(call: Call) -> Any:
    """A function of one value with one-sided slopes at 0: its value gate is frozen."""
    return _gated(call, provenance=False)


def gating(call: Call) -> Any:
    """Sigmoid, hard-sigmoid and tanh: gated as all others, and what comes out is a gate in products."""
    return _gated(call, provenance=True)


def _gated(call: Call, *, provenance: bool) -> Any:
    series = call.args[0]
    if not isinstance(series, Series) or any(isinstance(a, Series) for a in call.args[1:]):
        return frozen(call)
    rest, kwargs = plain(call.args[1:]), plain(call.kwargs)
    value, gate, at_zero = value_gate(lambda u: call.func(u, *rest, **kwargs), series.value)
    call.event = "nonlinearity"
    out = series.mapped(lambda rows: _through(rows, gate, series.value, value - at_zero), value, gate=provenance)
    return out.plus(at_zero, value) if bool((at_zero != 0).any()) else out


def _through(rows: Tensor, gate: Tensor, u: Tensor, change: Tensor) -> Tensor:
    """G times the rows; where u is infinite (a mask of -inf) g is 0, and the infinite parts make all of s(u) - s(0)."""
    out = rows * gate
    infinite = u.isinf()
    if not bool(infinite.any()):
        return out
    cause = rows.isinf().to(out.dtype)
    return torch.where(infinite, change * cause / cause.sum(dim=0), out)


def value_gate(function: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value, its gate and s(0).

    Near 0 the quotient loses its digits, and the slope at u/2 stands in for it wherever the two agree to rounding (for
    a smooth s they differ by O(u^2 s''' / 24); a kink between 0 and u sets them apart).  At u = 0 the gate is s'(0) as
    autograd has it.

    Returns:
        s(u) and g, of u's shape, and s(0), which broadcasts to it.
    """
    value = function(u)
    at_zero = function(torch.zeros_like(u))
    eps = torch.finfo(u.dtype).eps
    gate = (value - at_zero) / u
    near = u.abs() < eps ** (1 / 3)
    if bool(near.any()):
        derivative = slope(function, u / 2)
        agree = (at_zero + derivative * u - value).abs() <= 4 * eps
        gate = torch.where((near & agree) | (u == 0), derivative, gate)
    return value, gate, at_zero


def slope(function: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """The derivative of an element-wise function, by autograd's convention at kinks."""
    with differentiating():
        leaf = u.detach().requires_grad_()
        (derivative,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return derivative


def relu(call: Call) -> Any:
    """max(u, 0): the gate is u > 0."""
    series = call.args[0]
    value = call.clean()
    call.event = "nonlinearity"
    gate = (series.value > 0).to(value.dtype)
    return series.mapped(lambda rows: rows * gate, value)


def power(call: Call) -> Any:
    """u ** n with a whole n >= 1 has a value gate; any other power is frozen; a constant to the power u has one."""
    base, exponent = call.args
    if isinstance(base, Series) and not isinstance(exponent, Series):
        whole = torch.as_tensor(exponent)
        if bool((whole == whole.round()).all()) and bool((whole >= 1).all()):
            return gated(call)
        return frozen(call)
    if isinstance(exponent, Series) and not isinstance(base, Series):
        return _exponential(call, base, exponent)
    return frozen(call)


def _exponential(call: Call, base: Any, exponent: Series) -> Any:
    value, gate, at_zero = value_gate(lambda u: call.func(base, u), exponent.value)
    call.event = "nonlinearity"
    out = exponent.mapped(lambda rows: _through(rows, gate, exponent.value, value - at_zero), value)
    return out.plus(at_zero, value)


def log_sigmoid(call: Call) -> Any:
    """log_sigmoid_forward returns the value and a buffer."""
    series = call.args[0]
    value, buffer = call.clean()
    gate, at_zero = value_gate(lambda u: call.func(u)[0], series.value)[1:]
    call.event = "nonlinearity"
    return series.mapped(lambda rows: rows * gate, value).plus(at_zero, value), buffer


def frozen(call: Call) -> Any:
    """The result is a plain gate: no polynomial any more, its clean value alone."""
    call.kind = "frozen"
    return pytree.tree_map_only(Tensor, frozen_series, call.clean())


def reading(call: Call) -> Any:
    """A number read by the program (item, bool): it steers the program with its clean value."""
    call.kind = "frozen"
    return call.clean()


register("gate", relu, existing("relu"))
register(
    "gate",
    gated,
    existing(
        """gelu silu elu celu selu softplus mish exp exp2 expm1 log1p sin cos tan sinh cosh asinh asin acos atan
        atanh erf hardswish hardtanh relu6 leaky_relu rrelu_with_noise _prelu_kernel prelu threshold clamp
        clamp_min clamp_max abs softshrink hardshrink sinc special_erf"""
    ),
)
register("gate", log_sigmoid, existing("log_sigmoid_forward"))
register("gate", gating, existing("sigmoid hardsigmoid tanh"))
register("gate", power, existing("pow"))
register(
    "frozen",
    frozen,
    existing(
        """rsqrt sqrt reciprocal log log2 log10 sign sgn round floor ceil trunc frac remainder fmod floor_divide erfinv
        eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not
        bitwise_xor isnan isinf isfinite any all argmax argmin argsort nonzero var std
        linalg_vector_norm norm unique_consecutive _unique2 bucketize searchsorted one_hot atan2 bincount histc digamma
        lgamma prod cumprod count_nonzero isin angle"""
    ),
)
register("reading", reading, existing("_local_scalar_dense item is_nonzero equal allclose is_same_size"))
