"""Products: by a weight, by a frozen gate, and of two values.

    by anything not computed from the input:   y_k = x_k * w
    by a gate (exactly one operand is one):     y_k = x_k * g        the gate is frozen at its clean value
    of two values, half to each (default):      y_k = (a_k b + a b_k) / 2
    of two values, Cauchy (on request):         y_k = sum_{i+j=k} a_i b_j      depths add
      and of its derivative in eps:             y' = a' b + a b'

One function serves every bilinear operator: element-wise, matrix products, convolutions.  For more than two factors
the halves depend on the bracketing: x * (y * z) gives x one half and y, z a quarter each.  An operator that multiplies
many at once (prod, cumprod) has no bracketing, and gives each an equal share.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from termwise.deferred import Convolved, Deferred, Projected, read, scaled
from termwise.rules.elementwise import frozen
from termwise.rules.fallback import linearise, push
from termwise.rules.linear import jointly
from termwise.rules.registry import Call, apply_to_rows, as_series, each_row, existing, loop_rows, plain, register
from termwise.series import Origin, Part, Parts, Series, add_paths, add_rows, carries, frozen_series, merge_parts

Bilinear = Callable[[Tensor, Tensor], Tensor]


def multiply(call: Call, left: Any, right: Any, times: Bilinear, value: Tensor) -> Series:
    """The Series of `times(left, right)`, whose clean value is `value`; at least one operand is a Series."""
    if not carries(value):
        return frozen_series(value)
    left, right = _without_constants(left, right)

    def by_right(rows: Tensor, b: Any) -> Tensor:
        return _rows(call, rows, b, times, value)

    def by_left(rows: Tensor, a: Any) -> Tensor:
        return _rows(call, rows, a, times, value, rows_first=False)

    if not isinstance(right, Series):
        if times in _MM and right.layout is torch.strided and right.dtype == left.dtype:
            return Series(value, Projected(left.held, right), left.parts, left.paths)
        return _by_plain(left, right, by_right, times, value)
    if not isinstance(left, Series):
        return _by_plain(right, left, by_left, times, value)
    left_gate, right_gate = _is_gate(left), _is_gate(right)
    if not carries(left):
        left_gate, right_gate = True, False  # an integer or a mask has nothing to give but its value
    elif not carries(right):
        left_gate, right_gate = False, True
    if left_gate != right_gate:
        free, gate, product = (right, left, by_left) if left_gate else (left, right, by_right)
        frozen_gate = call.freeze(gate)
        if times is torch.mul and free.shape == value.shape and free.dtype == gate.dtype == value.dtype:
            return Series(value, scaled(free.held, frozen_gate), free.parts, free.paths)
        return Series(value, product(free.rows, frozen_gate), free.parts, free.paths)
    if call.product != "half" and not left_gate:
        return _by_depths(call, left, right, times, value)
    return _halves(left, right, by_right, by_left, value)


def _by_plain(series: Series, plain: Any, product: Bilinear, times: Bilinear, value: Tensor) -> Series:
    if times in (torch.mul, torch.div):
        # A gate scaled by a constant is still a gate (2 * sigmoid); what went through a weight is a feature.
        return series.mapped(lambda rows: product(rows, plain), value, gate=series.gate, uses=[plain])
    return series.later(lambda rows: product(rows, plain), value, uses=[plain])


def _halves(left: Series, right: Series, by_right: Bilinear, by_left: Bilinear, value: Tensor) -> Series:
    """Half to each, when they are first read: if the product decides a pattern of attention, nobody will."""
    (a, a_parts, u), (b, b_parts, v) = ((s.held, s.parts, s.value) for s in (left, right))

    def summed() -> Tensor:
        return add_rows(value, [(by_right(read(a), v / 2), a_parts), (by_left(read(b), u / 2), b_parts)])[0]

    rows, parts = Deferred(summed, uses=[a, b, u, v]), merge_parts([a_parts, b_parts])
    return Series(value, rows, parts, add_paths([left.paths, right.paths]), gate=_is_gate(left) and _is_gate(right))


def _without_constants(left: Any, right: Any) -> tuple[Any, Any]:
    """An operand that is all constant-born (a buffer that the program wrote to) is a constant, and no gate."""
    if isinstance(left, Series) and isinstance(right, Series):
        if _is_constant(right):
            return left, right.value
        if _is_constant(left):
            return left.value, right
    return left, right


def _is_constant(series: Series) -> bool:
    of_constants = all(part.origin is Origin.CONSTANT for part in series.parts)
    return of_constants and carries(series) and not series.has_input


def _is_gate(series: Series) -> bool:
    return series.gate or not series.has_input


def _rows(call: Call, rows: Tensor, other: Any, times: Bilinear, value: Tensor, *, rows_first: bool = True) -> Tensor:
    """All rows times the other operand, or it times them."""
    if not isinstance(other, Tensor):
        return times(rows, other) if rows_first else times(other, rows)
    if times is torch.mul and rows.dtype == value.dtype:
        missing = value.dim() - (rows.dim() - 1)
        rows = rows.reshape(rows.shape[0], *(1,) * missing, *rows.shape[1:]) if missing > 0 else rows
        return rows * other

    def product(row: Tensor) -> Tensor:
        return times(row, other) if rows_first else times(other, row)

    if other.layout is not torch.strided:
        return loop_rows(product, rows)  # vmap knows nothing of sparse matrices
    at_once = _AT_ONCE.get((times, rows_first)) if rows.shape[0] and rows.dtype == other.dtype else None
    out = apply_to_rows(call.func, product, rows) if at_once is None else at_once(rows, other)
    return out.to(value.dtype)


# Matrix products of all rows at once.  What multiplies them is the same for all, so depth joins the rows of the left
# factor or the columns of the right one, and nothing is copied that is as large as a pattern of attention.


def _rows_bmm(rows: Tensor, b: Tensor) -> Tensor:
    parts, batch, n, m = rows.shape
    return torch.bmm(rows.transpose(0, 1).reshape(batch, parts * n, m), b).unflatten(1, (parts, n)).transpose(0, 1)


def _bmm_rows(rows: Tensor, a: Tensor) -> Tensor:
    parts, batch, m, n = rows.shape
    stack = rows.permute(1, 2, 0, 3).reshape(batch, m, parts * n)
    return torch.bmm(a, stack).unflatten(2, (parts, n)).permute(2, 0, 1, 3)


_MM = (torch.mm, torch.ops.aten.mm.default)
_AT_ONCE: dict[tuple[Bilinear, bool], Bilinear] = {
    (torch.bmm, True): _rows_bmm,
    (torch.bmm, False): _bmm_rows,
    (torch.ops.aten.bmm.default, True): _rows_bmm,
    (torch.ops.aten.bmm.default, False): _bmm_rows,
}


def _by_depths(call: Call, left: Series, right: Series, times: Bilinear, value: Tensor) -> Series:
    """Depths add: by pairs of parts, or of a derivative in eps by Leibniz' rule."""
    if call.product == "cauchy":
        summands = _pairs(call, left, right, times, value)
    else:
        (a, a_others), (b, b_others) = _parted(left), _parted(right)
        summands = _pairs(call, a_others, b_others, times, value)
        summands.append((_rows(call, a.rows, right.value, times, value), a.parts))
        summands.append((_rows(call, b.rows, left.value, times, value, rows_first=False), b.parts))
    paths: dict[int, int] = {}
    for i, n in (left.paths or {0: 1}).items():
        for j, m in (right.paths or {0: 1}).items():
            paths[i + j] = paths.get(i + j, 0) + n * m
    # Where a path meets a part of the other factor that is not born of the input, it goes on alone.
    paths = add_paths([paths, *_alone(left, right)])
    return Series(value, *add_rows(value, summands), paths)


def _pairs(call: Call, left: Series, right: Series, times: Bilinear, value: Tensor) -> list[tuple[Tensor, Parts]]:
    """A product with something frozen keeps the other's origin, and the input's prevails."""
    summands: list[tuple[Tensor, Parts]] = []
    for i, a in enumerate(left.parts):
        for j, b in enumerate(right.parts):
            origin = Origin.INPUT if Origin.INPUT in (a.origin, b.origin) else max(a.origin, b.origin)
            # Depths add within an origin: a constant that a term is multiplied by lengthens none of its paths.
            depth = 0 if origin is Origin.FROZEN else sum(p.depth for p in (a, b) if p.origin is origin)
            rows = _rows(call, left.rows[i : i + 1], right.rows[j], times, value)
            summands.append((rows, (Part(origin, depth),)))
    return summands


def _parted(series: Series) -> tuple[Series, Series]:
    """The input-born rows, which are the last, and the others."""
    n = sum(part.origin is not Origin.INPUT for part in series.parts)
    born, others = (Series(series.value, series.rows[at], series.parts[at]) for at in (slice(n, None), slice(n)))
    return born, others


def _alone(left: Series, right: Series) -> list[dict[int, int]]:
    pairs = ((left, right), (right, left))
    return [dict(a.paths) for a, b in pairs if any(part.origin is not Origin.INPUT for part in b.parts)]


def mul(call: Call) -> Any:
    """Element-wise product."""
    return multiply(call, call.args[0], call.args[1], torch.mul, call.clean())


def div(call: Call) -> Any:
    """Division: the divisor is frozen, and a gate divided is a gate still; with rounding the quotient is frozen too."""
    left, right = call.args[0], call.args[1]
    value = call.clean()
    if call.argument("rounding_mode") is not None or not isinstance(left, Series) or not carries(left):
        call.kind = "frozen"
        return frozen_series(value)
    return multiply(call, left, call.freeze(right), torch.div, value)


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


def _batches_summed(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b).sum(dim=0)


def prod(call: Call) -> Any:
    """A product of n values in one operator: to each factor an equal share, y_k = J x_k / n, with J the Jacobian."""
    series, value = call.args[0], call.clean()
    if not series.numel():
        return as_series(value)  # of nothing the product is 1
    gate = _is_gate(series)
    if not series.dim():
        return series.mapped(lambda rows: rows, value, gate=gate)
    if call.product != "half" and not gate:
        return _folded(call, series, value)
    rest, kwargs = call.args[1:], call.kwargs

    def shared(rows: Tensor) -> Tensor:
        (pushed,) = push(call, lambda u: (call.func(u, *rest, **kwargs),), [series], [rows])
        assert pushed is not None
        return pushed / _factors(call, series)

    return series.mapped(shared, value, gate=gate)


def _factors(call: Call, series: Series) -> Any:
    """How many factors each entry has."""
    dim = call.argument("dim")
    if dim is None:
        return series.numel()
    if call.func._schema.name == "aten::prod":
        return series.shape[dim]
    many = torch.arange(1, series.shape[dim] + 1, dtype=series.dtype, device=series.device)
    return many.reshape(*(-1 if d == dim % series.dim() else 1 for d in range(series.dim())))


def _folded(call: Call, series: Series, value: Tensor) -> Any:
    """Depths add: factor after factor."""
    dim = call.argument("dim")
    with call.replay:
        factors = series.reshape(-1).unbind(0) if dim is None else series.unbind(dim)
        products = list(itertools.accumulate(factors, torch.mul))
        if dim is None or call.func._schema.name == "aten::prod":
            out = products[-1].reshape(value.shape)
        else:
            out = torch.stack(products, dim)
    return call.with_value(out, value)


# addmm and its kin: beta * input + alpha * (a @ b).
_BARE: dict[str, Bilinear] = {
    "addmm": torch.mm,
    "baddbmm": torch.bmm,
    "addmv": torch.mv,
    "addbmm": _batches_summed,
    "_sparse_addmm": torch.mm,
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


def grouped_matmul(call: Call) -> Any:
    """One product for each group of rows (a mixture of experts): which rows are in which group is frozen."""
    x, weight = call.args[:2]
    if x.dim() != 2 or weight.dim() != 3 or call.argument("bias") is not None:
        return linearise(call)
    ends = plain(call.argument("offs")).tolist()

    def times(a: Tensor, b: Tensor) -> Tensor:
        groups = a[: ends[-1]].tensor_split(ends[:-1])
        products = [group @ matrix for group, matrix in zip(groups, b, strict=True)]
        return torch.cat([*products, a.new_zeros(a.shape[0] - ends[-1], b.shape[-1])])

    out = multiply(call, x, weight, times, call.clean())
    _mark(call, x, weight)
    return out


def linear(call: Call) -> Any:
    """torch.nn.functional.linear where it arrives whole: x W^T + b."""
    x, weight, bias = call.args[0], call.args[1], call.argument("bias")
    if isinstance(bias, Series):
        return _computed_bias(call, lambda: call.func(x, weight), bias)
    value = call.clean()
    out = multiply(call, x, weight, lambda a, w: torch.ops.aten.linear.default(a, w), value)
    _mark(call, x, weight)
    return out if bias is None else out.plus(bias, value)


# How nn.Bilinear calls _trilinear: which dimensions each factor is spread along, and which are summed.
_BILINEAR = ([1, 3], [0], [1, 2], [2, 3])


def trilinear(call: Call) -> Any:
    """x1 W x2, of which nn.Bilinear is made: half to each of x1 and x2, and by a weight a step for both.

    A weight that is computed from the input makes it a product of three values, which is linearised.
    """
    x1, weight, x2 = call.args[:3]
    if isinstance(weight, Series) or tuple(call.args[3:7]) != _BILINEAR:
        return linearise(call)

    def times(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("bi,oij,bj->bo", a, weight, b)

    out = multiply(call, x1, x2, times, call.clean())
    call.event = "weight" if call.is_weight(weight) else None
    return out


def conv_tbc(call: Call) -> Any:
    """The convolution whose time comes first and whose channels come last."""
    x, weight, bias, pad = call.args
    if isinstance(bias, Series):
        return _computed_bias(call, lambda: call.func(x, weight, torch.zeros_like(bias), pad), bias)
    value = call.clean()

    def times(a: Tensor, w: Tensor) -> Tensor:
        return torch.conv1d(a.permute(1, 2, 0), w.permute(2, 1, 0), padding=pad).permute(2, 0, 1)

    out = multiply(call, x, weight, times, value)
    _mark(call, x, weight)
    return out.plus(bias, value)


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
        out = Series(value, _convolved(call, x, weight, times), x.parts, x.paths)
    else:
        out = multiply(call, x, weight, times, value)
    _mark(call, x, weight)
    return out if bias is None else out.plus(bias.reshape(-1, *(1,) * spatial), value)


def _computed_bias(call: Call, bare: Callable[[], Any], bias: Series, spatial: int = 0) -> Any:
    """A bias that is computed is no part of the step: it joins as any other summand."""
    with call.replay:
        return call.with_value(bare() + bias.reshape(-1, *(1,) * spatial), call.clean())


def _convolved(call: Call, x: Series, weight: Tensor, times: Bilinear) -> Deferred:
    held = x.held

    def convolve(by: Tensor) -> Tensor:
        return _fold(read(held), lambda stack: times(stack, by))

    transposed = bool(call.argument("transposed"))
    if transposed:
        return Deferred(lambda: convolve(weight), uses=[held, weight])
    return Convolved(held, convolve, weight)


def _fold(rows: Tensor, operator: Callable[[Tensor], Tensor]) -> Tensor:
    """Depth is folded into the batch: one call serves all parts."""
    if not rows.shape[0]:
        return each_row(operator, rows)
    stack = rows.flatten(0, 1)
    if stack.dim() == 4 and stack.device.type == "cpu":
        stack = stack.contiguous(memory_format=torch.channels_last)  # the faster kernels; nothing else sees the order
    out = operator(stack)
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


def ldexp(call: Call) -> Any:
    """x * 2 ** n, as the product that it is."""
    with call.replay:
        out = call.args[0] * torch.pow(2.0, call.args[1])
    return call.with_value(out, call.clean())


def polar(call: Call) -> Any:
    """r (cos phi + i sin phi), as the products that it is."""
    radius, angle = call.args
    with call.replay:
        out = torch.complex(radius * torch.cos(angle), radius * torch.sin(angle))
    return call.with_value(out, call.clean())


# The right-hand side of each solver of linear systems, by name in its schema.
_RIGHT_HAND_SIDE = {
    "_linalg_solve_ex": "B",
    "linalg_solve_triangular": "B",
    "linalg_lu_solve": "B",
    "linalg_lstsq": "b",
    "cholesky_solve": "self",
}


def solve(call: Call) -> Any:
    """A^-1 b: the matrix is a divisor and frozen, the solution is linear in b; by a weight it is a step."""
    name = _RIGHT_HAND_SIDE[call.func._schema.name.split("::")[1]]
    others = [call.argument(a.name) for a in call.func._schema.arguments if a.name != name]
    if not isinstance(call.argument(name), Series):
        return frozen(call)
    clean = call.clean()
    solution, *rest = (clean,) if isinstance(clean, Tensor) else clean
    out = jointly(call, solution, [(name, None)])
    if any(isinstance(other, Series) for other in others):
        out.gate = False
        for other in others:
            call.freeze(other)
    elif any(isinstance(other, Tensor) and call.is_weight(other) for other in others):
        call.event = "weight"
    return out if isinstance(clean, Tensor) else type(clean)([out, *(frozen_series(r) for r in rest)])


register("product", mul, existing("mul"))
register("product", prod, existing("prod cumprod"))
register("quotient", div, existing("div true_divide"))
register("matrix product", matmul, existing("mm bmm mv dot vdot matmul"))
register("matrix product", add_matmul, existing("addmm baddbmm addmv addbmm _sparse_addmm"))
register("matrix product", grouped_matmul, existing("_grouped_mm"))
register("matrix product", linear, existing("linear"))
register("matrix product", trilinear, existing("_trilinear"))
register("matrix product", solve, existing(" ".join(_RIGHT_HAND_SIDE)))
register("convolution", convolution, existing("convolution _convolution"))
register("convolution", conv_tbc, existing("conv_tbc"))
register("product", lerp, existing("lerp"))
register("product", addcmul, existing("addcmul"))
register("product", addcdiv, existing("addcdiv"))
register("product", ldexp, existing("ldexp"))
register("product", polar, existing("polar"))
