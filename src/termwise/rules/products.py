"""Products: by a weight, by a frozen gate, and of two values.

    by anything not computed from the input:   y_k = x_k * w
    by a gate (exactly one operand is one):     y_k = x_k * g        the gate is frozen at its clean value
    of two values, half to each (default):      y_k = (a_k b + a b_k) / 2
    of two values, Cauchy (on request):         y_k = sum_{i+j=k} a_i b_j      depths add

One function serves every bilinear operator: element-wise, matrix products, convolutions.  For more than two factors
the halves depend on the bracketing: x * (y * z) gives x one half and y, z a quarter each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from termwise.rules.registry import Call, each_row, existing, register
from termwise.series import Origin, Part, Parts, Series, add_paths, add_rows, carries, frozen_series

Bilinear = Callable[[Tensor, Tensor], Tensor]


def multiply(call: Call, left: Any, right: Any, times: Bilinear, value: Tensor) -> Series:
    """The Series of `times(left, right)`, whose clean value is `value`; at least one operand is a Series."""
    if not carries(value):
        return frozen_series(value)
    left, right = _without_constants(left, right)
    if not isinstance(right, Series):
        return left.mapped(lambda rows: _rows(rows, right, times, value), value, gate=left.gate and _is_scaling(times))
    if not isinstance(left, Series):
        swapped: Bilinear = torch.mul if times is torch.mul else (lambda b, a: times(a, b))
        return right.mapped(
            lambda rows: _rows(rows, left, swapped, value), value, gate=right.gate and _is_scaling(times)
        )
    left_gate, right_gate = _is_gate(left), _is_gate(right)
    if not carries(left):
        left_gate, right_gate = True, False  # an integer or a mask has nothing to give but its value
    elif not carries(right):
        left_gate, right_gate = False, True
    if left_gate != right_gate:
        free, gate = (right, call.freeze(left)) if left_gate else (left, call.freeze(right))
        ordered: Bilinear = (lambda b, a: times(a, b)) if left_gate else times
        return Series(value, _rows(free.rows, gate, ordered, value), free.parts, free.paths)
    if call.product == "cauchy" and not left_gate:
        return _cauchy(left, right, times, value)
    halves = [
        (_rows(left.rows, right.value / 2, times, value), left.parts),
        (_rows(right.rows, left.value / 2, lambda b, a: times(a, b), value), right.parts),
    ]
    gate = left_gate and right_gate
    return Series(value, *add_rows(value, halves), add_paths([left.paths, right.paths]), gate=gate)


def _without_constants(left: Any, right: Any) -> tuple[Any, Any]:
    """An operand that is all constant-born (a buffer that the program wrote to) is a constant, and no gate."""
    if isinstance(left, Series) and isinstance(right, Series):
        if _is_constant(right):
            return left, right.value
        if _is_constant(left):
            return left.value, right
    return left, right


def _is_constant(series: Series) -> bool:
    return bool(series.parts) and all(part.origin is Origin.CONSTANT for part in series.parts)


def _is_gate(series: Series) -> bool:
    return series.gate or not series.has_input


def _is_scaling(times: Bilinear) -> bool:
    # A gate scaled by a constant is still a gate (2 * sigmoid); what went through a weight is a feature.
    return times in (torch.mul, torch.div)


def _rows(rows: Tensor, other: Any, times: Bilinear, value: Tensor) -> Tensor:
    if not isinstance(other, Tensor):
        return times(rows, other)
    if times is torch.mul and rows.dtype == value.dtype:
        missing = value.dim() - (rows.dim() - 1)
        rows = rows.reshape(rows.shape[0], *(1,) * missing, *rows.shape[1:]) if missing > 0 else rows
        return rows * other
    return each_row(lambda row: times(row, other), rows).to(value.dtype)


def _cauchy(left: Series, right: Series, times: Bilinear, value: Tensor) -> Series:
    """Depths add; a product with something frozen keeps the other's origin, and the input's prevails."""
    summands: list[tuple[Tensor, Parts]] = []
    for i, a in enumerate(left.parts):
        for j, b in enumerate(right.parts):
            origin = Origin.INPUT if Origin.INPUT in (a.origin, b.origin) else max(a.origin, b.origin)
            # Depths add within an origin: a constant that a term is multiplied by lengthens none of its paths.
            depth = 0 if origin is Origin.FROZEN else sum(p.depth for p in (a, b) if p.origin is origin)
            rows = _rows(left.rows[i : i + 1], right.rows[j], times, value)
            summands.append((rows, (Part(origin, depth),)))
    paths: dict[int, int] = {}
    for i, n in (left.paths or {0: 1}).items():
        for j, m in (right.paths or {0: 1}).items():
            paths[i + j] = paths.get(i + j, 0) + n * m
    # Where a path meets a part of the other factor that is not born of the input, it goes on alone.
    paths = add_paths([paths, *_alone(left, right)])
    return Series(value, *add_rows(value, summands), paths)


def _alone(left: Series, right: Series) -> list[dict[int, int]]:
    pairs = ((left, right), (right, left))
    return [dict(a.paths) for a, b in pairs if any(part.origin is not Origin.INPUT for part in b.parts)]


def mul(call: Call) -> Any:
    """Element-wise product."""
    return multiply(call, call.args[0], call.args[1], torch.mul, call.clean())


def div(call: Call) -> Any:
    """Division: the divisor is frozen; with rounding the quotient is frozen too."""
    left, right = call.args[0], call.args[1]
    value = call.clean()
    if call.argument("rounding_mode") is not None or not isinstance(left, Series):
        call.kind = "frozen"
        return frozen_series(value)
    if isinstance(right, Series):
        right = call.freeze(right)
        gate = False
    else:
        gate = left.gate
    out = multiply(call, left, right, torch.div, value)
    out.gate = gate
    return out


def matmul(call: Call) -> Any:
    """Matrix products (mm, bmm, mv, dot): by a weight they are a step."""
    left, right = call.args[0], call.args[1]
    out = multiply(call, left, right, call.func, call.clean())
    _mark(call, left, right)
    return out


def _mark(call: Call, left: Any, right: Any) -> None:
    if any(not isinstance(operand, Series) and call.is_weight(operand) for operand in (left, right)):
        call.event = "weight"
    elif isinstance(left, Series) and isinstance(right, Series):
        call.event = "mixer"


# addmm and its kin: beta * input + alpha * (a @ b).
_BARE = {
    "addmm": torch.ops.aten.mm.default,
    "baddbmm": torch.ops.aten.bmm.default,
    "addmv": torch.ops.aten.mv.default,
}


def add_matmul(call: Call) -> Any:
    """beta * input + alpha * (a @ b); the input may be computed, and then joins as any other summand."""
    bias, left, right = call.args[:3]
    alpha, beta = call.argument("alpha", 1), call.argument("beta", 1)
    value = call.clean()
    bare = _BARE[call.func._schema.name.split("::")[1]]
    if isinstance(bias, Series) and beta != 0:
        with call.replay:
            product = bare(left, right)
            product = product if alpha == 1 else product * alpha
            return call.with_value(product + (bias if beta == 1 else bias * beta), value)
    times: Bilinear = bare if alpha == 1 else (lambda a, b: alpha * bare(a, b))
    product = multiply(call, left, right, times, value)
    _mark(call, left, right)
    return product if beta == 0 else product.plus(bias if beta == 1 else bias * beta, value)


def linear(call: Call) -> Any:
    """torch.nn.functional.linear where it arrives whole: x W^T + b."""
    x, weight, bias = call.args[0], call.args[1], call.argument("bias")
    if isinstance(bias, Series):
        return _computed_bias(call, lambda: call.func(x, weight), bias)
    value = call.clean()
    out = multiply(call, x, weight, lambda a, w: torch.ops.aten.linear.default(a, w), value)
    _mark(call, x, weight)
    return out if bias is None else out.plus(bias, value)


def convolution(call: Call) -> Any:
    """Every convolution, transposed ones too: linear in the value, the bias joins the constant part."""
    x, weight, bias, *rest = call.args
    spatial = weight.dim() - 2
    if isinstance(bias, Series):
        return _computed_bias(call, lambda: call.func(x, weight, None, *rest), bias, spatial)
    value = call.clean()

    def times(a: Tensor, w: Tensor) -> Tensor:
        return call.func(a, w, None, *rest)

    if isinstance(x, Series) and not isinstance(weight, Series) and x.dim() == weight.dim():
        out = x.mapped(lambda rows: _fold(rows, lambda stack: times(stack, weight)), value)
    else:
        out = multiply(call, x, weight, times, value)
    _mark(call, x, weight)
    return out if bias is None else out.plus(bias.reshape(-1, *(1,) * spatial), value)


def _computed_bias(call: Call, bare: Callable[[], Any], bias: Series, spatial: int = 0) -> Any:
    """A bias that is computed is no part of the step: it joins as any other summand."""
    with call.replay:
        return call.with_value(bare() + bias.reshape(-1, *(1,) * spatial), call.clean())


def _fold(rows: Tensor, operator: Callable[[Tensor], Tensor]) -> Tensor:
    """Depth is folded into the batch: one call serves all parts."""
    if not rows.shape[0]:
        return each_row(operator, rows)
    out = operator(rows.flatten(0, 1))
    return out.unflatten(0, rows.shape[:2])


def lerp(call: Call) -> Any:
    """start + weight (end - start), as the sum and product that it is."""
    start, end, weight = call.args
    with call.replay:
        out = start + weight * (end - start)
    return call.with_value(out, call.clean())


def addcmul(call: Call) -> Any:
    """self + value * a * b, as the sum and products that it is."""
    start, a, b = call.args
    with call.replay:
        out = start + (a * b) * call.argument("value", 1)
    return call.with_value(out, call.clean())


def addcdiv(call: Call) -> Any:
    """self + value * a / b, as the sum and quotient that it is."""
    start, a, b = call.args
    with call.replay:
        out = start + (a / b) * call.argument("value", 1)
    return call.with_value(out, call.clean())


register("product", mul, existing("mul"))
register("quotient", div, existing("div true_divide"))
register("matrix product", matmul, existing("mm bmm mv dot vdot matmul"))
register("matrix product", add_matmul, existing("addmm baddbmm addmv"))
register("matrix product", linear, existing("linear"))
register("convolution", convolution, existing("convolution _convolution"))
register("product", lerp, existing("lerp"))
register("product", addcmul, existing("addcmul"))
register("product", addcdiv, existing("addcdiv"))
