"""Jets: tensors that carry a truncated Taylor series, on which a model's own forward is run.

A jet is  v(eps) = v_0 + v_1 eps + ... + v_K eps^K,  kept as `rows[k, *shape]`.  Every operator acts on the whole
series, gates included; nothing is frozen and nothing is linearised.  For a function y = s(u) with y' = g(u) the
coefficients follow from  k y_k = sum_{i=1..k} i u_i g_{k-i}  (Griewank & Walther, *Evaluating Derivatives*, 2008,
section 13.2).

An operator that is not analytic (ReLU, a maximum, a comparison) has no Taylor series where it bends, and one that is
not listed here might not be: both are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from termwise.errors import RuleError

aten = torch.ops.aten
Rows = Tensor
Rule = Callable[..., Any]
_RULES: dict[Any, Rule] = {}


class Jet(Tensor):
    """A tensor with the coefficients of its Taylor series in eps: `rows` of shape (K + 1, *shape), in float64."""

    rows: Tensor
    shared: bool

    @staticmethod
    def __new__(cls: type[Jet], rows: Tensor) -> Jet:
        """A wrapper with the geometry of the first row and no memory of its own."""
        first = rows[0]
        return torch.Tensor._make_wrapper_subclass(
            cls, first.shape, strides=first.stride(), dtype=first.dtype, device=first.device
        )

    def __init__(self, rows: Tensor) -> None:
        """Wrap the coefficients."""
        self.rows, self.shared = rows, False

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        """Show the shape and the order."""
        return f"Jet(shape={tuple(self.shape)}, order={len(self.rows) - 1})"

    @classmethod
    def constant(cls, value: Tensor, order: int) -> Jet:
        """A jet that does not depend on eps."""
        return cls(torch.cat([value[None], value.new_zeros((order, *value.shape))]))

    def stepped(self) -> Jet:
        """Times eps."""
        return Jet(torch.cat([torch.zeros_like(self.rows[:1]), self.rows[:-1]]))

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator on the series."""
        keywords = dict(kwargs or {})
        name = func._schema.name.split("::")[1]
        if func._schema.is_mutable and torch.Tag.inplace_view not in func.tags:
            return _in_place(func, name, args, keywords)
        rule = _RULES.get(func.overloadpacket)
        if rule is None:
            raise _unknown(func)
        out = rule(func, *args, **keywords)
        for leaf in pytree.tree_leaves(out):
            if isinstance(leaf, Jet) and leaf.dtype != torch.float64:
                raise RuleError(f"{func}: the model computes in {leaf.dtype} there. The series needs float64.")
            if isinstance(leaf, Jet) and any(r.alias_info is not None for r in func._schema.returns):
                leaf.shared = args[0].shared = True
        return out


_BENDS = """relu relu6 leaky_relu abs clamp clamp_min clamp_max hardtanh hardswish hardsigmoid threshold maximum minimum
    max min amax amin sort topk sign _prelu_kernel elu celu selu hardshrink softshrink max_pool2d_with_indices
    adaptive_max_pool2d round floor ceil eq ne lt le gt ge argmax fmax fmin"""


def _unknown(func: Any) -> RuleError:
    name = func._schema.name.split("::")[1].rstrip("_")
    if name in _BENDS.split():
        return RuleError(
            f"{func.overloadpacket} is not analytic (it bends or jumps), so the network has no Taylor series at "
            "eps = 0 whose coefficients say what it does at eps = 1. Use the frozen paths (termwise.expand), or smooth "
            "activations (GELU, SiLU, tanh) and average pooling."
        )
    if func.overloadpacket in (aten._local_scalar_dense, aten.is_nonzero, aten.equal):
        return RuleError("the model reads a number and steers by it, so the network is not analytic in eps.")
    return RuleError(f"{func.overloadpacket} has no rule for Taylor series, so the unfrozen series cannot be computed.")


def _in_place(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target = args[0]
    packet = getattr(aten, name.removesuffix("_"), None)
    rule = _RULES.get(packet)
    if rule is None or not name.endswith("_"):
        raise _unknown(func)
    if not isinstance(target, Jet) or target.shared:
        raise RuleError(
            f"{func.overloadpacket} writes the series into a buffer or through a view, which is not followed. Write "
            "the model's line with the operator that returns its result."
        )
    new = rule(func if packet is aten.copy else getattr(packet, func._overloadname), *args, **kwargs)
    target.rows = new.rows.expand_as(target.rows)
    return target


# Arithmetic of coefficients.


def _rows(operand: Any, like: Rows) -> Rows:
    """The rows of an operand; what is no jet is constant."""
    if isinstance(operand, Jet):
        return operand.rows
    value = torch.as_tensor(operand, dtype=like.dtype, device=like.device)
    return torch.cat([value[None], value.new_zeros((len(like) - 1, *value.shape))])


def cauchy(a: Rows, b: Rows, product: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> Rows:
    """The product of two series: c_k = sum_i a_i b_{k-i}."""
    return torch.stack([_convolved(a, b, k, product) for k in range(len(a))])


def _convolved(a: Any, b: Any, k: int, product: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> Tensor:
    total = product(a[0], b[k])
    for i in range(1, k + 1):
        total = total + product(a[i], b[k - i])
    return total


def integrated(u: Rows, first: Tensor, slope: Callable[[list[Tensor]], Tensor]) -> Rows:
    """y with y' = g(u): `slope` gives g_k when y_0 .. y_k are known."""
    y, g = [first], []
    for k in range(1, len(u)):
        g.append(slope(y))
        y.append(sum(i * u[i] * g[k - i] for i in range(1, k + 1)) / k)  # pyright: ignore[reportArgumentType]
    return torch.stack(y)


def exp(u: Rows) -> Rows:
    """y' = y."""
    return integrated(u, u[0].exp(), lambda y: y[-1])


def tanh(u: Rows) -> Rows:
    """y' = 1 - y^2."""
    return integrated(u, u[0].tanh(), lambda y: float(len(y) == 1) - _convolved(y, y, len(y) - 1))


def sigmoid(u: Rows) -> Rows:
    """y' = y - y^2."""
    return integrated(u, u[0].sigmoid(), lambda y: y[-1] - _convolved(y, y, len(y) - 1))


def _by_slope(u: Rows, first: Tensor, slopes: Rows) -> Rows:
    return integrated(u, first, lambda y: slopes[len(y) - 1])


def erf(u: Rows) -> Rows:
    """y' = 2 / sqrt(pi) exp(-u^2)."""
    return _by_slope(u, u[0].erf(), 2 / math.sqrt(math.pi) * exp(-cauchy(u, u)))


def log(u: Rows) -> Rows:
    """y' = 1 / u."""
    return _by_slope(u, u[0].log(), power(u, -1.0))


def softplus(u: Rows, beta: float = 1.0) -> Rows:
    """y' = sigmoid(beta u); without the threshold above which PyTorch leaves u alone."""
    return _by_slope(u, torch.logaddexp(beta * u[0], torch.zeros_like(u[0])) / beta, sigmoid(beta * u))


def sine(u: Rows) -> tuple[Rows, Rows]:
    """Sine and cosine together: s' = c, c' = -s."""
    s, c = [u[0].sin()], [u[0].cos()]
    for k in range(1, len(u)):
        s.append(sum(i * u[i] * c[k - i] for i in range(1, k + 1)) / k)  # pyright: ignore[reportArgumentType]
        c.append(-sum(i * u[i] * s[k - i] for i in range(1, k + 1)) / k)  # pyright: ignore[reportArgumentType]
    return torch.stack(s), torch.stack(c)


def power(u: Rows, p: float) -> Rows:
    """u^p: whole powers as products, others by  k u_0 y_k = sum_i ((p + 1) i - k) u_i y_{k-i}."""
    if p == int(p) and 0 <= p <= 64:
        out = _rows(torch.ones_like(u[0]), u)
        for _ in range(int(p)):
            out = cauchy(out, u)
        return out
    y = [u[0] ** p]
    for k in range(1, len(u)):
        terms = sum(((p + 1) * i - k) * u[i] * y[k - i] for i in range(1, k + 1))
        y.append(terms / (k * u[0]))
    return torch.stack(y)


# The rules of operators.


def _register(rule: Rule, names: str) -> None:
    _RULES.update({getattr(aten, name): rule for name in names.split() if hasattr(aten, name)})


def _linear(func: Any, jet: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator that is linear in its first argument."""
    if not isinstance(jet, Jet) or any(isinstance(leaf, Jet) for leaf in pytree.tree_leaves((args, kwargs))):
        raise RuleError(f"{func.overloadpacket}: the series is not its first argument, in which alone it is linear.")
    outs = [func(row, *args, **kwargs) for row in jet.rows]
    if isinstance(outs[0], (tuple, list)):
        return [Jet(torch.stack(column)) for column in zip(*outs, strict=True)]
    return Jet(torch.stack(outs))


def _joined(func: Any, tensors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Jet:
    """cat and stack."""
    like = next(tensor for tensor in tensors if isinstance(tensor, Jet)).rows
    stacks = [_rows(tensor, like) for tensor in tensors]
    return Jet(torch.stack([func(list(rows), *args, **kwargs) for rows in zip(*stacks, strict=True)]))


def _affine(func: Any, jet: Jet, *args: Any, **kwargs: Any) -> Any:
    """An operator that is affine in its first argument; the first of its results alone is a series."""
    if any(isinstance(leaf, Jet) for leaf in pytree.tree_leaves((args, kwargs))) or not isinstance(jet, Jet):
        raise RuleError(f"{func.overloadpacket}: an operand other than the first depends on eps.")
    results = [func(row, *args, **kwargs) for row in (*jet.rows, torch.zeros_like(jet.rows[0]))]
    *outs, zero = [result[0] if isinstance(result, tuple) else result for result in results]
    rows = Jet(torch.stack([outs[0], *(out - zero for out in outs[1:])]))
    return (rows, *results[0][1:]) if isinstance(results[0], tuple) else rows


def _filled(func: Any, jet: Jet, where: Any, value: Any = 0) -> Jet:
    """constant_pad_nd and masked_fill: the filling does not depend on eps."""
    zero = torch.zeros_like(value) if isinstance(value, Tensor) else 0
    return Jet(torch.stack([func(jet.rows[0], where, value), *(func(row, where, zero) for row in jet.rows[1:])]))


def _add(func: Any, left: Any, right: Any, *, alpha: float = 1) -> Jet:
    like = left.rows if isinstance(left, Jet) else right.rows
    return Jet(torch.stack([a + alpha * b for a, b in zip(_rows(left, like), _rows(right, like), strict=True)]))


def _sub(func: Any, left: Any, right: Any, *, alpha: float = 1) -> Jet:
    return _add(func, left, right, alpha=-alpha)


def _rsub(func: Any, left: Any, right: Any, alpha: float = 1) -> Jet:
    return _add(func, right, left, alpha=-alpha)


def _where(func: Any, condition: Tensor, left: Any, right: Any) -> Jet:
    if isinstance(condition, Jet):
        raise RuleError("a choice by a value that depends on eps is not analytic.")
    like = left.rows if isinstance(left, Jet) else right.rows
    pairs = zip(_rows(left, like), _rows(right, like), strict=True)
    return Jet(torch.stack([torch.where(condition, a, b) for a, b in pairs]))


def _mul(func: Any, left: Any, right: Any) -> Jet:
    return _product(torch.mul, left, right)


def _product(product: Callable[[Any, Any], Tensor], left: Any, right: Any) -> Jet:
    if not isinstance(left, Jet):
        return Jet(torch.stack([product(left, row) for row in right.rows]))
    if not isinstance(right, Jet):
        return Jet(torch.stack([product(row, right) for row in left.rows]))
    return Jet(cauchy(left.rows, right.rows, product))


def _div(func: Any, left: Any, right: Any, **kwargs: Any) -> Jet:
    if kwargs.get("rounding_mode") is not None:
        raise RuleError("a division that is rounded is not analytic.")
    if not isinstance(right, Jet):
        return _product(torch.div, left, right)
    return _product(torch.mul, left, Jet(power(right.rows, -1.0)))


def _matmul(func: Any, left: Any, right: Any) -> Jet:
    return _product(func, left, right)


_PRODUCTS = {aten.addmm: torch.mm, aten.baddbmm: torch.bmm, aten.addmv: torch.mv}


def _add_matmul(func: Any, bias: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1) -> Jet:
    if not isinstance(left, Jet) and not isinstance(right, Jet):
        return _add(func, _PRODUCTS[func.overloadpacket](left, right) * alpha, bias, alpha=beta)
    product = _product(_PRODUCTS[func.overloadpacket], left, right)
    return _add(func, Jet(alpha * product.rows), bias, alpha=beta)


def _normalised(rows: Rows, dims: Sequence[int], eps: float, *, centre: bool = True) -> Rows:
    """(x - mean) / sqrt(var + eps); the dims are those of a row."""
    shifted = [dim + 1 if dim >= 0 else dim for dim in dims]
    x = rows - rows.mean(dim=shifted, keepdim=True) if centre else rows
    variance = cauchy(x, x).mean(dim=shifted, keepdim=True)
    variance[0] += eps
    return cauchy(x, power(variance, -0.5))


def _scaled(rows: Rows, weight: Any, bias: Any) -> Jet:
    jet = Jet(rows if weight is None else rows * weight)
    return jet if bias is None else _add(None, jet, bias)


def _batch_norm(
    func: Any, jet: Jet, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    """By running statistics it is affine; by those of the batch (or of an instance) it depends on all of it."""
    if not training:
        return _affine(func, jet, weight, bias, mean, var, training, momentum, eps)
    shape = (-1, *(1,) * (jet.dim() - 2))
    rows = _normalised(jet.rows, [0, *range(2, jet.dim())], eps)
    return _scaled(rows, *(None if v is None else v.reshape(shape) for v in (weight, bias))), None, None


def _layer_norm(func: Any, jet: Jet, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> Any:
    return _scaled(_normalised(jet.rows, range(-len(shape), 0), eps), weight, bias), None, None


def _rms_norm(func: Any, jet: Jet, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Any:
    eps = torch.finfo(jet.dtype).eps if eps is None else eps
    return _scaled(_normalised(jet.rows, range(-len(shape), 0), eps, centre=False), weight, None), None


def _group_norm(func: Any, jet: Jet, weight: Any, bias: Any, n: int, c: int, area: int, groups: int, eps: float) -> Any:
    rows = _normalised(jet.rows.reshape(len(jet.rows), n, groups, -1), [-1], eps).reshape(jet.rows.shape)
    shape = (c, *(1,) * (jet.dim() - 2))
    return _scaled(rows, *(None if v is None else v.reshape(shape) for v in (weight, bias))), None, None


def _softmax(func: Any, jet: Jet, dim: int, *args: Any, **kwargs: Any) -> Jet:
    raised, axis = _exponentials(jet.rows, dim)
    return Jet(cauchy(raised, power(raised.sum(dim=axis, keepdim=True), -1.0)))


def _log_softmax(func: Any, jet: Jet, dim: int, *args: Any, **kwargs: Any) -> Jet:
    raised, axis = _exponentials(jet.rows, dim)
    rows = jet.rows - log(raised.sum(dim=axis, keepdim=True))
    rows[0] -= jet.rows[0].amax(dim=dim, keepdim=True)
    return Jet(rows)


def _exponentials(rows: Rows, dim: int) -> tuple[Rows, int]:
    """exp(x - the greatest x at eps = 0): a constant, which any quotient loses."""
    first = rows[0] - rows[0].amax(dim=dim, keepdim=True)
    return exp(torch.cat([first[None], rows[1:]])), dim + 1 if dim >= 0 else dim


def _gelu(func: Any, jet: Jet, approximate: str = "none") -> Jet:
    u = jet.rows
    if approximate == "none":
        inner = erf(u / math.sqrt(2))
    else:
        inner = tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * power(u, 3)))
    inner[0] += 1
    return Jet(cauchy(u, inner) / 2)


def _softplus(func: Any, jet: Jet, beta: float = 1, threshold: float = 20) -> Jet:
    return Jet(softplus(jet.rows, beta))


def _pow(func: Any, base: Any, exponent: Any) -> Jet:
    if not isinstance(base, Jet) or isinstance(exponent, Tensor):
        raise RuleError("a power whose exponent is a tensor has no rule for Taylor series.")
    return Jet(power(base.rows, float(exponent)))


def _vector_norm(func: Any, jet: Jet, order: float = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Jet:
    if order != 2:
        raise RuleError(f"a norm of order {order} is not analytic.")
    dims = [d % jet.dim() + 1 for d in ([dim] if isinstance(dim, int) else dim or range(jet.dim()))]
    return Jet(power(cauchy(jet.rows, jet.rows).sum(dim=dims, keepdim=keepdim), 0.5))


def _of_shape(func: Any, *args: Any, **kwargs: Any) -> Any:
    """What looks at the shape alone."""
    return func(*pytree.tree_map_only(Jet, lambda jet: jet.rows[0], args), **kwargs)


def _copied(func: Any, target: Any, source: Any, *args: Any) -> Jet:
    return Jet(_rows(source, target.rows).expand_as(target.rows).clone())


def _unary(on_rows: Callable[[Rows], Rows]) -> Rule:
    return lambda func, jet: Jet(on_rows(jet.rows))


_register(
    _linear,
    """view _unsafe_view reshape t transpose permute expand squeeze unsqueeze select slice narrow alias detach split
    split_with_sizes unbind flip roll repeat diagonal index index_select gather unfold pixel_shuffle pixel_unshuffle
    reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d mean sum _adaptive_avg_pool2d avg_pool1d
    avg_pool2d cumsum neg clone _to_copy contiguous upsample_nearest2d upsample_bilinear2d tril triu im2col col2im""",
)
_register(_joined, "cat stack")
_register(_affine, "convolution _native_batch_norm_legit_no_training")
_register(_batch_norm, "native_batch_norm")
_register(_filled, "constant_pad_nd masked_fill")
_register(_add, "add")
_register(_sub, "sub")
_register(_rsub, "rsub")
_register(_where, "where")
_register(_mul, "mul")
_register(_div, "div true_divide")
_register(_matmul, "mm bmm mv dot")
_register(_add_matmul, "addmm baddbmm addmv")
_register(_layer_norm, "native_layer_norm")
_register(_rms_norm, "_fused_rms_norm")
_register(_group_norm, "native_group_norm")
_register(_softmax, "_softmax _safe_softmax")
_register(_log_softmax, "_log_softmax")
_register(_gelu, "gelu")
_register(_softplus, "softplus")
_register(_pow, "pow")
_register(_vector_norm, "linalg_vector_norm")
_register(_copied, "copy")
_register(_of_shape, "zeros_like ones_like empty_like full_like new_zeros new_ones new_full new_empty")
for _names, _rule in (
    ("exp", exp),
    ("tanh", tanh),
    ("sigmoid", sigmoid),
    ("erf", erf),
    ("log", log),
    ("sin", lambda u: sine(u)[0]),
    ("cos", lambda u: sine(u)[1]),
    ("silu", lambda u: cauchy(u, sigmoid(u))),
    ("mish", lambda u: cauchy(u, tanh(softplus(u)))),
    ("sqrt", lambda u: power(u, 0.5)),
    ("rsqrt", lambda u: power(u, -0.5)),
    ("reciprocal", lambda u: power(u, -1.0)),
):
    _register(_unary(_rule), _names)
