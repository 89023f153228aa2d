"""Cases of element-wise operators: gates, frozen values, and numbers that the program reads."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import (
    Case,
    Oracle,
    aten,
    inside,
    inside_small,
    inside_zeros,
    integers,
    normal,
    positive,
    small,
    whole,
    zeros,
)
from oracles import Known, constant, frozen, gated, plus, scaled

_SMOOTH = (normal, zeros, small)
_INSIDE = (inside, inside_zeros, inside_small)
_GATES: list[tuple[str, Callable[..., Tensor], str, tuple[Callable[..., Tensor], ...]]] = [
    ("relu", torch.relu, "relu", _SMOOTH),
    ("gelu", F.gelu, "gelu", _SMOOTH),
    ("gelu-tanh", lambda u: F.gelu(u, approximate="tanh"), "gelu", _SMOOTH),
    ("silu", F.silu, "silu", _SMOOTH),
    ("elu", F.elu, "elu", _SMOOTH),
    ("celu", lambda u: F.celu(u, 0.7), "celu", _SMOOTH),
    ("selu", F.selu, "elu", _SMOOTH),
    ("selu-whole", whole(F.selu), "selu", (normal,)),
    ("softplus", F.softplus, "softplus", _SMOOTH),
    ("mish", F.mish, "mish", _SMOOTH),
    ("exp", torch.exp, "exp", _SMOOTH),
    ("exp2", torch.exp2, "exp2", _SMOOTH),
    ("expm1", torch.expm1, "expm1", _SMOOTH),
    ("log1p", torch.log1p, "log1p", _INSIDE),
    ("sin", torch.sin, "sin", _SMOOTH),
    ("cos", torch.cos, "cos", _SMOOTH),
    ("tan", torch.tan, "tan", _INSIDE),
    ("sinh", torch.sinh, "sinh", _SMOOTH),
    ("cosh", torch.cosh, "cosh", _SMOOTH),
    ("asinh", torch.asinh, "asinh", _SMOOTH),
    ("asin", torch.asin, "asin", _INSIDE),
    ("acos", torch.acos, "acos", _INSIDE),
    ("atan", torch.atan, "atan", _SMOOTH),
    ("atanh", torch.atanh, "atanh", _INSIDE),
    ("erf", torch.erf, "erf", _SMOOTH),
    ("erfc", torch.erfc, "erfc", _SMOOTH),
    ("erfinv", torch.erfinv, "erfinv", _INSIDE),
    ("special-erfc", whole(torch.special.erfc), "special_erfc", (normal,)),
    ("special-erfcx", torch.special.erfcx, "special_erfcx", _SMOOTH),
    ("log-ndtr", torch.special.log_ndtr, "special_log_ndtr", _SMOOTH),
    ("ndtr", torch.special.ndtr, "erf", _SMOOTH),
    ("i0", torch.i0, "i0", _SMOOTH),
    ("i0e", torch.special.i0e, "special_i0e", _SMOOTH),
    ("i1", torch.special.i1, "special_i1", _SMOOTH),
    ("i1e", torch.special.i1e, "special_i1e", _SMOOTH),
    ("copysign", lambda u: torch.copysign(u, torch.tensor([1.0, -1.0, 2.0, -3.0]).double()), "copysign", _SMOOTH),
    ("special-erf", whole(torch.special.erf), "special_erf", (normal,)),
    ("square", torch.square, "pow", _SMOOTH),
    ("hardswish", F.hardswish, "hardswish", _SMOOTH),
    ("hardtanh", F.hardtanh, "hardtanh", _SMOOTH),
    ("relu6", F.relu6, "hardtanh", _SMOOTH),
    ("relu6-whole", whole(F.relu6), "relu6", (normal,)),
    ("rrelu", F.rrelu, "rrelu_with_noise", _SMOOTH),
    ("leaky-relu", F.leaky_relu, "leaky_relu", _SMOOTH),
    ("prelu", lambda u: F.prelu(u, torch.tensor([0.1, 0.2, 0.3, 0.4]).double()), "_prelu_kernel", _SMOOTH),
    ("prelu-whole", whole(lambda u: F.prelu(u, torch.tensor([0.25]).double())), "prelu", (normal,)),
    ("threshold", lambda u: F.threshold(u, 0.3, 0.3), "threshold", _SMOOTH),
    ("threshold-jump", lambda u: F.threshold(u, 0.3, 2.0), "threshold", _SMOOTH),
    ("clamp", lambda u: u.clamp(-0.5, 0.8), "clamp", _SMOOTH),
    ("clamp-off-zero", lambda u: u.clamp(0.1, 0.8), "clamp", _SMOOTH),
    ("clamp-tensor", lambda u: u.clamp(torch.full((4,), -0.5).double()), "clamp", _SMOOTH),
    ("clamp-to-another-shape", lambda u: u.clamp(torch.full((2, 1, 4), -0.5).double()), "clamp", _SMOOTH),
    ("clamp-min", lambda u: torch.clamp_min(u, -0.2), "clamp_min", _SMOOTH),
    ("clamp-max", lambda u: torch.clamp_max(u, 0.2), "clamp_max", _SMOOTH),
    ("abs", torch.abs, "abs", _SMOOTH),
    ("softshrink", F.softshrink, "softshrink", _SMOOTH),
    ("hardshrink", F.hardshrink, "hardshrink", _SMOOTH),
    ("sinc", torch.sinc, "sinc", _SMOOTH),
    ("logsigmoid", F.logsigmoid, "log_sigmoid_forward", _SMOOTH),
    ("sigmoid", torch.sigmoid, "sigmoid", _SMOOTH),
    ("hardsigmoid", F.hardsigmoid, "hardsigmoid", _SMOOTH),
    ("tanh", torch.tanh, "tanh", _SMOOTH),
    ("pow-2", lambda u: u**2, "pow", _SMOOTH),
    ("pow-3", lambda u: u**3.0, "pow", _SMOOTH),
    ("pow-tensor", lambda u: u ** torch.tensor([1, 2, 3, 4]), "pow", _SMOOTH),
    ("pow-to-another-shape", lambda u: u ** torch.tensor([[[1]], [[3]]]), "pow", _SMOOTH),
    ("pow-of-two", lambda u: 2.0**u, "pow", _SMOOTH),
]


def gates() -> list[Case]:
    def case(name: str, op: Callable[..., Tensor], packet: str, domain: Callable[..., Tensor]) -> Case:
        # The oracle differentiates, which needs the autograd that `whole` leaves out.
        return Case(f"{name}-{domain.__name__}", op, lambda u: gated(inspect.unwrap(op), u), packet, domain=domain)

    return [
        *(case(name, op, packet, domain) for name, op, packet, domains in _GATES for domain in domains),
        *(masked(name, op) for name, op in {"exp": torch.exp, "sigmoid": torch.sigmoid, "elu": F.elu}.items()),
        masked("pow", lambda u: 2.0**u),
    ]


_OPEN = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]]).bool()


def masked(name: str, op: Callable[..., Tensor]) -> Case:
    """-inf where a mask is closed: there the constant brings all of s(-inf), and the other parts nothing."""

    def oracle(u: Known) -> Known:
        closed = torch.where(_OPEN, 0.0, op(torch.tensor(-torch.inf).double()))
        return plus(scaled(gated(op, u), _OPEN.double()), constant(closed))

    return Case(f"{name}-masked", lambda u: op(u.masked_fill(~_OPEN, -torch.inf)), oracle, f"{name} masked_fill")


_FROZEN: list[tuple[str, Callable[..., Any], str, Callable[..., Tensor]]] = [
    ("rsqrt", torch.rsqrt, "rsqrt", positive),
    ("sqrt", torch.sqrt, "sqrt", positive),
    ("reciprocal", torch.reciprocal, "reciprocal", normal),
    ("log", torch.log, "log", positive),
    ("log2", torch.log2, "log2", positive),
    ("log10", torch.log10, "log10", positive),
    ("sign", torch.sign, "sign", zeros),
    ("sgn", torch.sgn, "sgn", zeros),
    ("round", torch.round, "round", normal),
    ("floor", torch.floor, "floor", normal),
    ("ceil", torch.ceil, "ceil", integers),
    ("trunc", torch.trunc, "trunc", normal),
    ("frac", torch.frac, "frac", normal),
    ("remainder", lambda u: u % 0.7, "remainder", normal),
    ("fmod", lambda u: torch.fmod(u, 0.7), "fmod", normal),
    ("floor-divide", lambda u: u // 0.7, "floor_divide", normal),
    ("ndtri", lambda u: torch.special.ndtri(u.abs() + 0.05), "special_ndtri", inside),
    ("hypot", lambda u: torch.hypot(u, u + 1), "hypot", normal),
    ("distance", lambda u: torch.dist(u, u.flip(0)), "dist", normal),
    ("distances", lambda u: torch.cdist(u, u + 1), "_cdist_forward", normal),
    ("distances-by-products", lambda u: aten._euclidean_dist(u, u + 1), "_euclidean_dist", normal),
    ("distances-in-one-set", F.pdist, "_pdist_forward", normal),
    ("inverse", lambda u: torch.linalg.inv(u[:, :3]), "linalg_inv_ex", normal),
    ("pseudo-inverse", torch.linalg.pinv, "linalg_pinv", normal),
    ("polygamma", lambda u: torch.polygamma(1, u), "polygamma", positive),
    ("signbit", torch.signbit, "signbit", zeros),
    ("mantissa", lambda u: torch.frexp(u)[0], "frexp", normal),
    ("copysign-to-constant", lambda u: torch.copysign(torch.ones(4).double(), u), "copysign", normal),
    ("bernoulli", lambda u: torch.bernoulli((u > 0).double()), "bernoulli", normal),
    ("multinomial", lambda u: torch.multinomial(F.one_hot(u.argmax(dim=1), 4).double(), 1), "multinomial", normal),
    ("poisson", lambda u: torch.poisson((u * 0).round()), "poisson", normal),
    ("normal", lambda u: torch.normal(u, 0.0), "normal", normal),
    ("length-of-complex", lambda u: torch.complex(u, u + 1).abs(), "abs", normal),
    ("eq", lambda u: u == 0, "eq", zeros),
    ("ne", lambda u: u != 0, "ne", zeros),
    ("lt", lambda u: u < 0.2, "lt", normal),
    ("le", lambda u: u <= 0, "le", zeros),
    ("gt", lambda u: u > 0, "gt", zeros),
    ("ge", lambda u: u >= 0, "ge", zeros),
    ("logical-and", lambda u: torch.logical_and(u, u > 0), "logical_and gt", zeros),
    ("logical-or", lambda u: torch.logical_or(u, u > 0), "logical_or", zeros),
    ("logical-not", torch.logical_not, "logical_not", zeros),
    ("logical-xor", lambda u: torch.logical_xor(u, u > 0), "logical_xor", zeros),
    ("bitwise-and", lambda u: (u > 0) & (u < 1), "bitwise_and", normal),
    ("bitwise-or", lambda u: (u > 1) | (u < 0), "bitwise_or", normal),
    ("bitwise-not", lambda u: ~(u > 0), "bitwise_not", normal),
    ("bitwise-xor", lambda u: (u > 0) ^ (u < 1), "bitwise_xor", normal),
    ("isnan", torch.isnan, "isnan", normal),
    ("isinf", torch.isinf, "isinf", normal),
    ("isfinite", torch.isfinite, "eq", normal),
    ("isfinite-whole", whole(torch.isfinite), "isfinite", normal),
    ("any", lambda u: (u > 1).any(dim=1), "any", normal),
    ("all", lambda u: (u > -1).all(), "all", normal),
    ("argmax", lambda u: u.argmax(dim=1), "argmax", normal),
    ("argmin", lambda u: u.argmin(), "argmin", normal),
    ("argsort", whole(lambda u: u.argsort(dim=1) * torch.arange(4)), "argsort", normal),
    ("nonzero", torch.nonzero, "nonzero", zeros),
    ("var", lambda u: u.var(dim=1), "var", normal),
    ("std", lambda u: u.std(), "std", normal),
    ("var-mean-whole", whole(lambda u: torch.var_mean(u, dim=1)[0]), "var_mean", normal),
    ("std-mean-whole", whole(lambda u: torch.std_mean(u, dim=1)[0]), "std_mean", normal),
    ("vector-norm", lambda u: torch.linalg.vector_norm(u, dim=1), "linalg_vector_norm", normal),
    ("norm", lambda u: aten.norm.ScalarOpt_dim(u, 2, [1]), "norm", normal),
    ("unique-consecutive", lambda u: torch.unique_consecutive(u), "unique_consecutive", integers),
    ("unique", lambda u: torch.unique(u), "_unique2", integers),
    ("bucketize", lambda u: torch.bucketize(u, torch.tensor([-1.0, 0.0, 1.0]).double()), "bucketize", normal),
    ("searchsorted", lambda u: torch.searchsorted(torch.tensor([-1.0, 1.0]).double(), u), "searchsorted", normal),
    ("one-hot", lambda u: F.one_hot(u.argmax(dim=1), 4) * torch.arange(4), "argmax", normal),
    ("one-hot-whole", whole(lambda u: F.one_hot(u.argmax(dim=1), 4) * torch.arange(4)), "one_hot", normal),
    ("atan2", lambda u: torch.atan2(u, torch.ones(4).double()), "atan2", normal),
    ("bincount", lambda u: torch.bincount(u.argmax(dim=1), minlength=5)[2], "bincount", normal),
    ("histc", lambda u: torch.histc(u, 4, -1, 1)[2], "histc", normal),
    ("digamma", torch.digamma, "digamma", positive),
    ("lgamma", torch.lgamma, "lgamma", positive),
    ("count-nonzero", lambda u: torch.count_nonzero(u), "count_nonzero", zeros),
    ("isin", lambda u: torch.isin(u, torch.tensor([0.0, 1.0]).double()), "isin", integers),
    ("angle", torch.angle, "angle", normal),
    ("pow-half", lambda u: u**0.5, "pow", positive),
    ("pow-minus-one", lambda u: u**-1.0, "pow", positive),
    ("pow-of-value", lambda u: u**u, "pow", positive),
    ("softmax", lambda u: u.softmax(dim=1), "_softmax", normal),
    ("softmax-whole", whole(lambda u: u.softmax(dim=1)), "softmax", normal),
    ("safe-softmax", lambda u: aten._safe_softmax(u, 1), "_safe_softmax", normal),
    ("logsumexp", lambda u: u.logsumexp(dim=1), "logsumexp", normal),
    ("division-by-value", lambda u: 1.5 / u, "reciprocal", positive),
    ("division-of-constant", lambda u: torch.full((4,), 1.3).double() / u, "div", positive),
    ("rounded-quotient", lambda u: torch.div(u, 0.7, rounding_mode="floor"), "div", normal),
]


def with_frozen(op: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], Oracle]:
    """The input plus the sum of what is frozen (a number, so that every shape fits)."""

    def run(u: Tensor) -> Tensor:
        return u + op(u).to(u.dtype).sum()

    def oracle(u: Known) -> Known:
        number = op(u.value).to(u.value.dtype).sum()
        return plus(u, frozen(number.expand(u.value.shape)))

    return run, oracle


def frozen_values() -> list[Case]:
    return [
        Case(f"{name}-{domain.__name__}", *with_frozen(op), packets, "frozen", domain=domain)
        for name, op, packets, domain in _FROZEN
    ]


_READINGS: list[tuple[str, Callable[..., Tensor], str]] = [
    ("float", lambda u: u * float(u.sum()), "_local_scalar_dense"),
    ("item", whole(lambda u: u * u.sum().item()), "item"),
    ("bool", whole(lambda u: u * 2 if bool(u.sum() > 100) else u * 3), "is_nonzero"),
    ("equal", lambda u: u * 2 if torch.equal(u, u + 1) else u * 3, "equal"),
    ("allclose", whole(lambda u: u * 2 if torch.allclose(u, u + 1) else u * 3), "allclose"),
    ("is-same-size", whole(lambda u: u * 2 if aten.is_same_size(u, u[0]) else u * 3), "is_same_size"),
]


def readings() -> list[Case]:
    """A number that the program reads steers it: the expansion is that of the branch and the factor taken."""

    def oracle(u: Known, op: Callable[..., Tensor]) -> Known:
        at = u.value
        factor = (op(at) / at).flatten()[0]
        return scaled(u, factor)

    return [
        Case(f"read-{name}", op, lambda u, op=op: oracle(u, op), packet, "frozen") for name, op, packet in _READINGS
    ]
