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

from termwise.deferred import scaled
from termwise.errors import RuleError, first_line
from termwise.rules.registry import Call, differentiating, existing, leaves_of, plain, register
from termwise.series import Series, broadcast_rows, carries, frozen_series


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
    if series.is_complex() and not call.clean().is_complex():
        return frozen(call)  # |z|: a norm of two numbers
    rest, kwargs = plain(call.args[1:]), plain(call.kwargs)
    call.event = "nonlinearity"
    alone = not any(isinstance(operand, Tensor) for operand in leaves_of(rest, kwargs))
    return by_value_gate(series, lambda u: call.func(u, *rest, **kwargs), provenance=provenance, alone=alone)


def by_value_gate(
    series: Series, function: Callable[[Tensor], Tensor], *, provenance: bool = False, alone: bool = False
) -> Series:
    """The Series of an element-wise function of one; `alone`: of this one, and of no other tensor."""
    value, gate, at_zero = value_gate(function, series.value, alone=alone)
    rows = held(series, gate, value, value - at_zero)
    out = Series(value, rows, series.parts, series.paths, gate=provenance)
    return out.plus(at_zero, value) if bool((at_zero != 0).any()) else out


# Two points of Gauss and Legendre on [0, 1]: the mean of a smooth slope up to O(u^4).
_NODES = (0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5)


def value_gate(
    function: Callable[[Tensor], Tensor], u: Tensor, *, alone: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The value, its gate and s(0); other operands of s may broadcast u, unless it is `alone`.

    Near 0 the quotient loses its digits, and the mean of the slope over [0, u] stands in for it wherever the two agree
    to rounding (a kink between 0 and u sets them apart).  At u = 0 the gate is s'(0) as autograd has it.

    Returns:
        s(u) and g, of the same shape, and s(0), which broadcasts to it.
    """
    value = function(u)
    u = u.expand(value.shape)
    at_zero = function(u.new_zeros(()) if alone else torch.zeros_like(u))
    gate = (value - at_zero) / u
    near = u.abs() < torch.finfo(u.dtype).eps ** (1 / 3)
    if alone and bool(near.any()):
        gate[near] = _near_zero(function, u[near], value[near], at_zero, gate[near])  # there are few of them
    elif bool(near.any()):
        gate = torch.where(near, _near_zero(function, u, value, at_zero, gate), gate)
    return value, gate, at_zero


def _near_zero(
    function: Callable[[Tensor], Tensor], u: Tensor, value: Tensor, at_zero: Tensor, quotient: Tensor
) -> Tensor:
    mean = (slope(function, u * _NODES[0]) + slope(function, u * _NODES[1])) / 2
    agree = (at_zero + mean * u - value).abs() <= 4 * torch.finfo(u.dtype).eps * at_zero.abs().clamp(min=1)
    return torch.where(agree | (u == 0), mean, quotient)


def held(series: Series, gate: Tensor, value: Tensor, whole: Tensor) -> Tensor:
    """The rows of a function of `series` that is `value`, by its gate.

    Where u is infinite (a score that was masked) the gate is the limit of that of large numbers: it gives `whole`,
    s(u) - s(0), to the row that holds the infinity, and nothing to the others.
    """
    u = series.value
    if u.shape == value.shape and bool(torch.isfinite(u.sum())):
        return scaled(series.held, gate)
    rows = broadcast_rows(series.rows, value)
    out = rows * gate
    if bool(torch.isfinite(u.sum())):
        return out
    holds = torch.isinf(rows)
    first = holds & (holds.cumsum(dim=0) == 1)
    return torch.where(torch.isinf(u), torch.where(first, whole, torch.zeros_like(whole)), out)


def slope(function: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """The derivative of an element-wise function, by autograd's convention at kinks.

    Raises:
        RuleError: when there is none.
    """
    try:
        with differentiating():
            leaf = u.detach().requires_grad_()
            total = function(leaf).sum()
            # For complex numbers autograd has the conjugate of the derivative.
            (derivative,) = torch.autograd.grad(total.real if total.is_complex() else total, leaf)
    except RuntimeError as error:
        raise RuleError(
            f"a gate is the derivative of its operator near 0, and this one has none ({first_line(error)}). "
            "Give it one (torch.library.register_autograd), or write a rule with its gate."
        ) from error
    return derivative.conj().resolve_conj() if derivative.is_complex() else derivative


def relu(call: Call) -> Any:
    """max(u, 0): the gate is u > 0."""
    series = call.args[0]
    value = call.clean()
    call.event = "nonlinearity"
    gate = (series.value > 0).to(value.dtype)
    return Series(value, held(series, gate, value, value), series.parts, series.paths)


def power(call: Call) -> Any:
    """u ** n with a whole n >= 1 has a value gate; any other power is frozen; a constant to the power u has one."""
    base, exponent = call.args
    if isinstance(exponent, Series) and not carries(exponent):
        exponent = exponent.value  # whole numbers steer the program
    if isinstance(base, Series) and not isinstance(exponent, Series):
        whole = torch.as_tensor(exponent)
        if not bool((whole == whole.round()).all() & (whole >= 1).all()):
            return frozen(call)
        call.event = "nonlinearity"
        return by_value_gate(base, lambda u: call.func(u, exponent))
    if isinstance(exponent, Series) and not isinstance(base, Series):
        call.event = "nonlinearity"
        return by_value_gate(exponent, lambda u: call.func(base, u))
    return frozen(call)


def clamp(call: Call) -> Any:
    """Between constants: gated.  Between values it selects, like maximum and minimum."""
    names = [a.name for a in call.func._schema.arguments[1:]]
    bounds = {name: call.argument(name) for name in names}
    if not any(isinstance(bound, Series) for bound in bounds.values()):
        return gated(call)
    out = call.args[0]
    with call.replay:
        if bounds.get("min") is not None:
            out = torch.maximum(out, bounds["min"])
        if bounds.get("max") is not None:
            out = torch.minimum(out, bounds["max"])
    return call.with_value(out, call.clean())


def prelu(call: Call) -> Any:
    """By constant slopes: gated.  By slopes computed from the input it is u, or their product."""
    u, slopes = call.args
    if not isinstance(slopes, Series):
        return gated(call)
    shaped = slopes.shape if slopes.dim() == u.dim() or slopes.numel() == 1 else (-1, *(1,) * (u.dim() - 2))
    with call.replay:
        out = torch.where(plain(u) > 0, u, u * slopes.reshape(shaped))
    return call.with_value(out, call.clean())


def copysign(call: Call) -> Any:
    """The magnitude is gated, the sign frozen."""
    magnitude, sign = call.args
    if not isinstance(magnitude, Series):
        return frozen(call)
    call.event, sign = "nonlinearity", call.freeze(sign)
    return by_value_gate(magnitude, lambda u: call.func(u, sign))


def log_sigmoid(call: Call) -> Any:
    """log_sigmoid_forward returns the value and a buffer."""
    call.event = "nonlinearity"
    return by_value_gate(call.args[0], lambda u: call.func(u)[0]), call.clean()[1]


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
        atanh erf erfc erfinv hardswish hardtanh relu6 leaky_relu rrelu_with_noise threshold abs softshrink
        hardshrink sinc i0 special_erf special_erfc special_erfcx special_i0e special_i1 special_i1e
        special_log_ndtr"""
    ),
)
register("gate", clamp, existing("clamp clamp_min clamp_max"))
register("gate", prelu, existing("_prelu_kernel prelu"))
register("gate", copysign, existing("copysign"))
register("gate", log_sigmoid, existing("log_sigmoid_forward"))
register("gate", gating, existing("sigmoid hardsigmoid tanh"))
register("gate", power, existing("pow"))
register(
    "frozen",
    frozen,
    existing(
        """rsqrt sqrt reciprocal log log2 log10 sign sgn round floor ceil trunc frac remainder fmod floor_divide
        eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not
        bitwise_xor isnan isinf isfinite any all argmax argmin argsort nonzero var std
        linalg_vector_norm norm unique_consecutive _unique2 bucketize searchsorted one_hot atan2 histc digamma
        lgamma count_nonzero isin angle hypot dist _cdist_forward _euclidean_dist _pdist_forward
        linalg_inv_ex linalg_pinv special_ndtri polygamma signbit frexp bernoulli multinomial poisson normal"""
    ),
)
register("reading", reading, existing("_local_scalar_dense item is_nonzero equal allclose is_same_size"))
