"""Oracles for the rules: polynomials with known parts, and the rules of the theory written out slowly.

Nothing here uses the package.  A `Known` is a value with the parts that it is made of, each a plain tensor under the
name "constant", "frozen" or its depth.  Every function below is one line of the table of operators, derived again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
import torch.autograd.functional
from torch import Tensor, nn

Key = int | str
Function = Callable[..., Tensor]

# Nodes and weights of Gauss-Legendre on [0, 1]: exact to rounding for analytic slopes over a short segment.
_NODES = [
    0.5 + 0.5 * t for t in (-0.9061798459386640, -0.5384693101056831, 0.0, 0.5384693101056831, 0.9061798459386640)
]
_WEIGHTS = [
    0.5 * w for w in (0.2369268850561891, 0.4786286704993665, 128 / 225, 0.4786286704993665, 0.2369268850561891)
]


@dataclasses.dataclass
class Known:
    """A value, the parts that sum to it, and the number of input-born paths by depth."""

    value: Tensor
    parts: dict[Key, Tensor]
    paths: dict[int, int]

    @property
    def terms(self) -> dict[int, Tensor]:
        return {key: part for key, part in self.parts.items() if isinstance(key, int)}

    @property
    def constant(self) -> Tensor:
        """Constant-born and frozen together, as a result reports them."""
        return sum((part for key, part in self.parts.items() if isinstance(key, str)), torch.zeros_like(self.value))

    @property
    def frozen(self) -> Tensor | None:
        return self.parts.get("frozen")


class Source(nn.Module):
    """x * scale + x W + shift: one path of no step, one of one step, and a constant that brings the sum to `target`.

    All numbers but the target's are multiples of 1/4, so that targets of whole numbers (zero among them) are met
    exactly although no part vanishes.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, x: Tensor, target: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        n = x.shape[-1]
        self.weight = nn.Parameter(quarters((n, n), generator).to(x.dtype))
        self.register_buffer("scale", quarters((n,), generator).to(x.dtype))
        self.register_buffer("shift", target - (x * self.scale + x @ self.weight.detach()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + x @ self.weight + self.shift

    def known(self, x: Tensor) -> Known:
        with torch.no_grad():
            parts: dict[Key, Tensor] = {0: x * self.scale, 1: x @ self.weight, "constant": self.shift}
            return Known(self.forward(x), parts, {0: 1, 1: 1})


def quarters(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Whole multiples of 1/4 in [-1, 1] without zero."""
    steps = torch.randint(1, 5, tuple(shape), generator=generator)
    signs = torch.randint(0, 2, tuple(shape), generator=generator) * 2 - 1
    return (steps * signs).double() / 4


def keys_of(operands: Sequence[Known]) -> list[Key]:
    return list(dict.fromkeys(key for known in operands for key in known.parts))


def joined(*paths: dict[int, int]) -> dict[int, int]:
    total: dict[int, int] = {}
    for counts in paths:
        for depth, count in counts.items():
            total[depth] = total.get(depth, 0) + count
    return total


def alone(op: Function, *operands: Known) -> Known:
    """Linear in all operands together: the operator on each part alone, less what it makes of nothing."""
    nothing = op(*(torch.zeros_like(known.value) for known in operands))
    parts: dict[Key, Tensor] = {}
    for key in keys_of(operands):
        given = (known.parts.get(key, torch.zeros_like(known.value)) for known in operands)
        parts[key] = op(*given) - nothing
    if bool((nothing != 0).any()):
        parts["constant"] = parts.get("constant", torch.zeros_like(nothing)) + nothing
    return Known(op(*(known.value for known in operands)), parts, joined(*(known.paths for known in operands)))


def stepped(known: Known) -> Known:
    """One step: what is born of the input moves up by one."""
    parts: dict[Key, Tensor] = {key + 1 if isinstance(key, int) else key: v for key, v in known.parts.items()}
    return Known(known.value, parts, {depth + 1: count for depth, count in known.paths.items()})


def plus(*summands: Known) -> Known:
    parts: dict[Key, Tensor] = {}
    for known in summands:
        for key, part in known.parts.items():
            parts[key] = parts[key] + part if key in parts else part
    value = summands[0].value
    for known in summands[1:]:
        value = value + known.value
    parts = {key: part.expand(value.shape) for key, part in parts.items()}
    return Known(value, parts, joined(*(known.paths for known in summands)))


def constant(value: Tensor) -> Known:
    return Known(value, {"constant": value}, {})


def frozen(value: Tensor) -> Known:
    return Known(value, {"frozen": value}, {})


def scaled(known: Known, factor: Tensor | float) -> Known:
    return alone(lambda part: part * factor, known)


def secant(s: Function, u: Tensor) -> Tensor:
    """(s(u) - s(0)) / u; near zero, where the quotient loses its digits, as the mean of s' over [0, u]; s'(0) at 0."""
    u = u.expand(s(u).shape)
    quotient = (s(u) - s(torch.zeros_like(u))) / torch.where(u == 0, torch.ones_like(u), u)
    mean = sum(w * derivative(s, t * u) for t, w in zip(_NODES, _WEIGHTS, strict=True))
    assert isinstance(mean, Tensor)
    return torch.where(u.abs() < 1e-2, mean, quotient)


def derivative(s: Function, u: Tensor) -> Tensor:
    with torch.enable_grad():
        at = u.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(s(at).sum(), at)
    return slope


def gated(s: Function, u: Known) -> Known:
    """An element-wise function of one value by its value gate."""
    at_zero = s(torch.zeros_like(u.value))
    out = scaled(u, secant(s, u.value))
    if bool((at_zero != 0).any()):
        out = plus(out, constant(at_zero))
    return Known(s(u.value), out.parts, out.paths)


def halves(times: Function, a: Known, b: Known) -> Known:
    """A product of two values: half of the value to each, a_k b / 2 + a b_k / 2."""
    left = alone(lambda part: times(part, b.value) / 2, a)
    right = alone(lambda part: times(a.value, part) / 2, b)
    return plus(left, right)


def cauchy(times: Function, a: Known, b: Known) -> Known:
    """A product of two values in which depths add; a constant leaves the other's depth, what is frozen freezes it."""
    parts: dict[Key, Tensor] = {}
    for i, left in a.parts.items():
        for j, right in b.parts.items():
            depths = [key for key in (i, j) if isinstance(key, int)]
            key: Key = sum(depths) if depths else ("frozen" if "frozen" in (i, j) else "constant")
            product = times(left, right)
            parts[key] = parts[key] + product if key in parts else product
    both: dict[int, int] = {}
    for i, n in a.paths.items():
        for j, m in b.paths.items():
            both[i + j] = both.get(i + j, 0) + n * m
    return Known(times(a.value, b.value), parts, joined(both, a.paths, b.paths))


def linearised(op: Function, *operands: Known) -> Known:
    """The affine rule: the whole Jacobian times each of the parts; what remains of the value is constant."""
    values = tuple(known.value for known in operands)
    with torch.enable_grad():
        jacobians = torch.autograd.functional.jacobian(op, values)
    parts: dict[Key, Tensor] = {}
    for key in keys_of(operands):
        pushed = [
            torch.tensordot(jacobian, known.parts[key], dims=known.value.dim())
            for jacobian, known in zip(jacobians, operands, strict=True)
            if key in known.parts
        ]
        parts[key] = torch.stack(pushed).sum(dim=0)
    value = op(*values)
    kept = sum((part for key, part in parts.items() if key != "constant"), torch.zeros_like(value))
    parts["constant"] = value - kept
    return Known(value, parts, joined(*(known.paths for known in operands)))


def normed(u: Known, dims: Sequence[int], eps: float, *, centred: bool = True) -> Known:
    """Over `dims`: the scale is frozen; the data's own mean stays linear."""
    value = u.value
    spread = value - value.mean(dim=tuple(dims), keepdim=True) if centred else value
    scale = 1 / torch.sqrt((spread * spread).mean(dim=tuple(dims), keepdim=True) + eps)
    if not centred:
        return scaled(u, scale)
    return alone(lambda part: (part - part.mean(dim=tuple(dims), keepdim=True)) * scale, u)


def pattern(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """The attention pattern softmax(Q K^T / sqrt(d) + mask), exponentials and all."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    scores = scores if mask is None else scores + mask
    weights = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
    return weights / weights.sum(dim=-1, keepdim=True)


def disagreement(found: Tensor, expected: Tensor) -> float:
    """The largest deviation, relative to the expected tensor's largest entry (absolute below one)."""
    if found.shape != expected.shape:
        return math.inf
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0)) if found.numel() else 0.0
