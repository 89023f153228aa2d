"""Cases of products: by a constant, a weight, a gate, a value; convolutions among them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import oracles
from cases import Case, Oracle, aten, normal, whole, zeros
from oracles import Known, alone, constant, frozen, gated, halves, plus, scaled, stepped

# Products.


def gate_of(u: Known) -> Tensor:
    return torch.sigmoid(u.value)


_W44 = nn.Parameter(torch.tensor([[1, -2, 0, 3], [2, 1, -1, 0], [0, 1, 2, -1], [3, 0, 1, 1]]).double() / 4)
_W43 = nn.Parameter(_W44.detach()[:, :3].clone())
_B3, _B4 = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([0.5, -1.0, 2.0, 0.25]).double()


def shared(*factors: Known) -> Known:
    """A product of many: to each an equal share."""
    value = torch.stack([f.value for f in factors]).prod(dim=0)
    others = [torch.stack([f.value for f in factors if f is not factor]).prod(dim=0) for factor in factors]
    split = [scaled(f, other / len(factors)) for f, other in zip(factors, others, strict=True)]
    return Known(value, plus(*split).parts, factors[0].paths)


def columns(u: Known) -> list[Known]:
    return [alone(lambda p, i=i: p[:, i], u) for i in range(u.value.shape[1])]


def in_turn(u: Known) -> Known:
    """Factor after factor, as the Cauchy product has it."""
    first, *rest = columns(u)
    for factor in rest:
        first = oracles.cauchy(torch.mul, first, factor)
    return first


def side_by_side(*steps: Known) -> Known:
    parts = {k: torch.stack([s.parts[k] for s in steps], 1) for k in oracles.keys_of(steps)}
    return Known(torch.stack([s.value for s in steps], 1), parts, steps[0].paths)


_CUBE = nn.Parameter(torch.stack([_W43.detach(), _W43.detach().flip(0), _W43.detach() ** 2, -_W43.detach()]))


def _bilinear(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([((a @ w) * b).sum(-1) for w in _CUBE.detach()], -1)


_ONES = torch.eye(4).double()
_TRIANGLE = _W44.detach().tril(-1) + _ONES  # no parameter: division by it is no step
_SPECTRAL = nn.Parameter(torch.complex(_W43.detach()[:3], _W43.detach()[1:]))


def products() -> list[Case]:
    pair = ((3, 4), (3, 4))
    square = ((4, 4), (4, 4))
    batch = ((2, 3, 4), (2, 4, 3))

    def case(
        id: str,
        op: Any,
        oracle: Oracle,
        reaches: str,
        shapes: Any,
        kind: Any = "exact",
        product: Any = "half",
        counted: bool = True,
    ) -> Case:
        return Case(id, op, oracle, reaches, kind, shapes, product=product, counted=counted)

    def added_product(times: Callable[..., Tensor]) -> Oracle:
        return lambda u, v: plus(constant(_B4.expand(4, 4) * 2), scaled(halves(times, u, v), 0.5))

    return [
        case("half", lambda u, v: u * v, lambda u, v: halves(torch.mul, u, v), "mul", pair),
        case("half-broadcasting", lambda u, v: u * v, lambda u, v: halves(torch.mul, u, v), "mul", ((3, 4), (2, 1, 4))),
        case(
            "half-of-one-value",
            lambda u: u * u.flip(0),
            lambda u: halves(torch.mul, u, alone(lambda p: p.flip(0), u)),
            "mul",
            ((3, 4),),
        ),
        case("cauchy", lambda u, v: u * v, lambda u, v: oracles.cauchy(torch.mul, u, v), "mul", pair, product="cauchy"),
        case(
            "cauchy-broadcasting",
            lambda u, v: u * v,
            lambda u, v: oracles.cauchy(torch.mul, u, v),
            "mul",
            ((3, 4), (2, 1, 4)),
            product="cauchy",
        ),
        case("cauchy-mm", torch.mm, lambda u, v: oracles.cauchy(torch.mm, u, v), "mm", square, product="cauchy"),
        case(
            "cauchy-with-frozen-part",
            lambda u, v: (u + torch.round(u)) * v,
            lambda u, v: oracles.cauchy(torch.mul, plus(u, frozen(u.value.round())), v),
            "mul",
            pair,
            product="cauchy",
        ),
        case(
            "gate-times-value",
            lambda u, v: torch.sigmoid(u) * v,
            lambda u, v: scaled(v, gate_of(u)),
            "mul",
            pair,
            "frozen",
        ),
        case(
            "value-times-gate",
            lambda u, v: v * torch.sigmoid(u),
            lambda u, v: scaled(v, gate_of(u)),
            "mul",
            pair,
            "frozen",
        ),
        case(
            "gate-times-value-cauchy",
            lambda u, v: torch.sigmoid(u) * v,
            lambda u, v: scaled(v, gate_of(u)),
            "mul",
            pair,
            "frozen",
            "cauchy",
        ),
        case(
            "gate-times-gate",
            lambda u, v: torch.sigmoid(u) * torch.tanh(v),
            lambda u, v: halves(torch.mul, gated(torch.sigmoid, u), gated(torch.tanh, v)),
            "mul",
            pair,
        ),
        case(
            "squeeze-excitation",
            lambda u, v: torch.sigmoid(u.mean(dim=(2, 3)))[:, :, None, None] * v,
            lambda u, v: scaled(v, torch.sigmoid(u.value.mean(dim=(2, 3), keepdim=True))),
            "mul",
            ((2, 3, 4, 4), (2, 3, 4, 4)),
            "frozen",
        ),
        case(
            "glu",
            lambda u: F.glu(u, 1),
            lambda u: scaled(alone(lambda p: p[:, :2], u), torch.sigmoid(u.value[:, 2:])),
            "",
            ((3, 4),),
            None,
        ),
        case("mask-times-value", lambda u: (u > 0) * u, lambda u: gated(torch.relu, u), "mul gt", ((3, 4),), "frozen"),
        case(
            "frozen-times-value",
            lambda u, v: u * torch.round(v),
            lambda u, v: scaled(u, v.value.round()),
            "mul round",
            pair,
            "frozen",
        ),
        *(
            Case(
                f"prod-{domain.__name__}",
                lambda u: u.prod(dim=-1),
                lambda u: shared(*columns(u)),
                "prod",
                domain=domain,
            )
            for domain in (normal, zeros)
        ),
        case(
            "prod-keepdim",
            lambda u: u.prod(dim=1, keepdim=True),
            lambda u: alone(lambda p: p[:, None], shared(*columns(u))),
            "prod",
            ((3, 4),),
        ),
        case(
            "prod-all",
            lambda u: u.prod(),
            lambda u: shared(*(alone(lambda p, i=i, j=j: p[i, j], u) for i in range(2) for j in range(3))),
            "prod",
            ((2, 3),),
        ),
        case(
            "prod-of-gates-times-value",
            lambda u, v: torch.sigmoid(u).prod(dim=1, keepdim=True) * v,
            lambda u, v: scaled(v, torch.sigmoid(u.value).prod(dim=1, keepdim=True)),
            "mul prod",
            pair,
            "frozen",
        ),
        case(
            "prod-of-nothing",
            lambda u: u + u[:, :0].prod(dim=1, keepdim=True),
            lambda u: plus(u, constant(torch.ones(3, 4).double())),
            "prod",
            ((3, 4),),
        ),
        *(
            case(
                f"prod-of-a-number-{product}",
                lambda u: u + u[1, 2].cumprod(0) + u[0, 1].prod(),
                lambda u: plus(u, *(alone(lambda p, at=at: p[at].expand(3, 4), u) for at in ((1, 2), (0, 1)))),
                "prod cumprod",
                ((3, 4),),
                product=product,
            )
            for product in ("half", "cauchy")
        ),
        case("prod-cauchy", lambda u: u.prod(dim=1), in_turn, "prod", ((3, 3),), product="cauchy", counted=False),
        *(
            Case(
                f"cumprod-{domain.__name__}",
                lambda u: u.cumprod(dim=1),
                lambda u: side_by_side(columns(u)[0], *(shared(*columns(u)[: i + 1]) for i in range(1, 4))),
                "cumprod",
                domain=domain,
            )
            for domain in (normal, zeros)
        ),
        case("divided-by-value", lambda u, v: u / v, lambda u, v: scaled(u, 1 / v.value), "div", pair, "frozen"),
        case("mm", torch.mm, lambda u, v: halves(torch.mm, u, v), "mm", square),
        case("mm-weight", lambda u: u @ _W43, lambda u: stepped(alone(lambda p: p @ _W43, u)), "mm", ((3, 4),)),
        case(
            "mm-of-weight", lambda u: _W43.t() @ u, lambda u: stepped(alone(lambda p: _W43.t() @ p, u)), "mm", ((4, 4),)
        ),
        case(
            "mm-constant",
            lambda u: u @ torch.ones(4, 3).double(),
            lambda u: alone(lambda p: p @ torch.ones(4, 3).double(), u),
            "mm",
            ((3, 4),),
        ),
        case("bmm", torch.bmm, lambda u, v: halves(torch.bmm, u, v), "bmm", batch),
        case(
            "bmm-gate",
            lambda u, v: torch.bmm(u.softmax(dim=-1), v),
            lambda u, v: alone(lambda p: torch.softmax(u.value, -1) @ p, v),
            "bmm",
            batch,
            "frozen",
        ),
        case(
            "bmm-weight",
            lambda u: torch.bmm(u, _W43.expand(2, 4, 3)),
            lambda u: stepped(alone(lambda p: p @ _W43, u)),
            "bmm",
            ((2, 3, 4),),
        ),
        case(
            "mv",
            lambda u, v: torch.mv(u, v[0]),
            lambda u, v: halves(torch.mv, u, alone(lambda p: p[0], v)),
            "mv",
            pair,
        ),
        case(
            "mv-weight",
            lambda u: torch.mv(u, _W44[0]),
            lambda u: stepped(alone(lambda p: p @ _W44[0], u)),
            "mv",
            ((3, 4),),
        ),
        case(
            "dot",
            lambda u, v: torch.dot(u[0], v[1]),
            lambda u, v: halves(torch.dot, alone(lambda p: p[0], u), alone(lambda p: p[1], v)),
            "dot",
            pair,
        ),
        case(
            "vdot",
            lambda u, v: torch.vdot(u[0], v[1]),
            lambda u, v: halves(torch.dot, alone(lambda p: p[0], u), alone(lambda p: p[1], v)),
            "vdot",
            pair,
        ),
        case("matmul-whole", whole(torch.matmul), lambda u, v: halves(torch.matmul, u, v), "matmul", batch),
        case(
            "matmul-weight",
            lambda u: u @ _W43,
            lambda u: stepped(alone(lambda p: p @ _W43, u)),
            "mm",
            ((2, 3, 4),),
        ),
        case(
            "fourier-layer",
            lambda u: torch.fft.irfft(torch.fft.rfft(u) @ _SPECTRAL, n=4),
            lambda u: stepped(alone(lambda p: torch.fft.irfft(torch.fft.rfft(p) @ _SPECTRAL, n=4), u)),
            "mm",
            ((3, 4),),
        ),
        case(
            "einsum",
            lambda u, v: torch.einsum("bij,bjk->bik", u, v),
            lambda u, v: halves(torch.bmm, u, v),
            "bmm",
            batch,
        ),
        case(
            "addmm-weight",
            lambda u: torch.addmm(_B3, u, _W43, beta=2, alpha=0.5),
            lambda u: stepped(alone(lambda p: 2 * _B3 + 0.5 * p @ _W43, u)),
            "addmm",
            ((3, 4),),
        ),
        case(
            "addmm-values",
            lambda u, v: torch.addmm(_B4, u, v, beta=2, alpha=0.5),
            added_product(torch.mm),
            "addmm",
            square,
        ),
        case(
            "addmm-to-value",
            lambda u, v: torch.addmm(u, v, _W44, beta=0.5),
            lambda u, v: plus(scaled(u, 0.5), stepped(alone(lambda p: p @ _W44, v))),
            "addmm",
            pair,
            None,
        ),
        case(
            "addmm-of-constants-to-value",
            lambda u: torch.addmm(u, torch.ones(3, 2).double(), torch.ones(2, 4).double()),
            lambda u: plus(u, constant(torch.full((3, 4), 2.0).double())),
            "addmm",
            ((3, 4),),
        ),
        case(
            "baddbmm",
            lambda u, v: torch.baddbmm(_B3, u, v, beta=2),
            lambda u, v: plus(halves(torch.bmm, u, v), constant((2 * _B3).expand(2, 3, 3))),
            "baddbmm",
            batch,
        ),
        case(
            "baddbmm-no-bias",
            lambda u, v: torch.baddbmm(torch.full((2, 3, 3), 7.0).double(), u, v, beta=0),
            lambda u, v: halves(torch.bmm, u, v),
            "baddbmm",
            batch,
        ),
        case(
            "addmv-weight",
            lambda u: torch.addmv(_B3, _W43.t(), u[0]),
            lambda u: stepped(alone(lambda p: _B3 + _W43.t() @ p[0], u)),
            "addmv",
            ((3, 4),),
        ),
        case(
            "linear",
            lambda u: F.linear(u, _W43.t(), _B3),
            lambda u: stepped(alone(lambda p: p @ _W43 + _B3, u)),
            "addmm",
            ((3, 4),),
        ),
        case(
            "linear-without-bias",
            lambda u: F.linear(u, _W43.t()),
            lambda u: stepped(alone(lambda p: p @ _W43, u)),
            "mm",
            ((2, 3, 4),),
        ),
        case(
            "linear-whole",
            whole(lambda u: F.linear(u, _W43.t(), _B3)),
            lambda u: stepped(alone(lambda p: p @ _W43 + _B3, u)),
            "linear",
            ((2, 3, 4),),
        ),
        case(
            "bilinear-layer",
            lambda u, v: F.bilinear(u, v, _CUBE),
            lambda u, v: stepped(halves(_bilinear, u, v)),
            "_trilinear",
            ((2, 4), (2, 3)),
        ),
        case(
            "bilinear-layer-gate",
            lambda u, v: F.bilinear(torch.sigmoid(u), v, _CUBE, _B4),
            lambda u, v: stepped(plus(alone(lambda p: _bilinear(gate_of(u), p), v), constant(_B4.expand(2, 4)))),
            "_trilinear sigmoid",
            ((2, 4), (2, 3)),
            "frozen",
        ),
        case(
            "bilinear-layer-of-constant",
            lambda v: F.bilinear(torch.ones(2, 4).double(), v, _CUBE),
            lambda v: stepped(alone(lambda p: _bilinear(torch.ones(2, 4).double(), p), v)),
            "_trilinear",
            ((2, 3),),
        ),
        case(
            "bilinear-layer-by-fixed-numbers",
            lambda u, v: F.bilinear(u, v, _CUBE.detach().clone() * torch.ones(())),
            lambda u, v: stepped(halves(_bilinear, u, v)),
            "_trilinear",
            ((2, 4), (2, 3)),
        ),
        case(
            "addbmm",
            lambda u, v: torch.addbmm(_B3, u, v, beta=2, alpha=0.5),
            lambda u, v: plus(
                scaled(halves(lambda a, b: torch.bmm(a, b).sum(dim=0), u, v), 0.5), constant((2 * _B3).expand(3, 3))
            ),
            "addbmm",
            batch,
        ),
        case(
            "addbmm-weight",
            lambda u: torch.addbmm(_B3, u, _W43.expand(2, 4, 3)),
            lambda u: stepped(alone(lambda p: _B3 + (p @ _W43).sum(dim=0), u)),
            "addbmm",
            ((2, 3, 4),),
        ),
        case(
            "outer-added",
            lambda u, v: torch.addr(_W44.detach(), u[0], v[1]),
            lambda u, v: plus(
                halves(torch.outer, alone(lambda p: p[0], u), alone(lambda p: p[1], v)), constant(_W44.detach())
            ),
            "mul",
            pair,
        ),
        case(
            "whole-number-over-value",
            lambda u, v: v + (u > 0).sum(dim=1, keepdim=True) / v,
            lambda u, v: plus(v, frozen((u.value > 0).sum(dim=1, keepdim=True) / v.value)),
            "div gt",
            pair,
            "frozen",
        ),
        case(
            "times-power-of-two",
            lambda u: torch.ldexp(u, torch.tensor([-1, 0, 1, 2])),
            lambda u: scaled(u, torch.tensor([0.5, 1.0, 2.0, 4.0]).double()),
            "ldexp",
            ((3, 4),),
        ),
        case(
            "polar",
            lambda u, v: torch.view_as_real(torch.polar(u, v)),
            lambda u, v: alone(
                lambda a, b: torch.stack([a, b], -1),
                halves(torch.mul, u, gated(torch.cos, v)),
                halves(torch.mul, u, gated(torch.sin, v)),
            ),
            "polar",
            pair,
            counted=False,
        ),
        case(
            "complex-values",
            lambda u, v: (torch.view_as_complex(u.view(3, 2, 2)) * torch.view_as_complex(v.view(3, 2, 2)).conj()).real,
            lambda u, v: halves(lambda a, b: (a * b).view(3, 2, 2).sum(-1), u, v),
            "mul _conj",
            pair,
        ),
        case(
            "solve-by-weight",
            lambda u: torch.linalg.solve(_W44, u),
            lambda u: stepped(alone(lambda p: torch.linalg.inv(_W44) @ p, u)),
            "_linalg_solve_ex",
            ((4, 4),),
        ),
        case(
            "solve-by-value",
            torch.linalg.solve,
            lambda u, v: alone(lambda p: torch.linalg.inv(u.value) @ p, v),
            "_linalg_solve_ex",
            square,
            "frozen",
        ),
        case(
            "solve-triangular",
            lambda u: torch.linalg.solve_triangular(_W44.triu(), u, upper=True),
            lambda u: stepped(alone(lambda p: torch.linalg.inv(_W44.triu()) @ p, u)),
            "linalg_solve_triangular",
            ((4, 4),),
        ),
        case(
            "solve-factored",
            lambda u: torch.linalg.lu_solve(*torch.linalg.lu_factor(torch.eye(4).double() * 2 + 1), u),
            lambda u: alone(lambda p: torch.linalg.inv(torch.eye(4).double() * 2 + 1) @ p, u),
            "linalg_lu_solve",
            ((4, 4),),
        ),
        case(
            "least-squares",
            lambda u: torch.linalg.lstsq(_W43.detach(), u)[0],
            lambda u: stepped(alone(lambda p: torch.linalg.pinv(_W43.detach()) @ p, u)),
            "linalg_lstsq",
            ((4, 2),),
        ),
        case(
            "cholesky-solve",
            lambda u: torch.cholesky_solve(u, torch.eye(4).double().tril() * 2),
            lambda u: scaled(u, 0.25),
            "cholesky_solve",
            ((4, 2),),
        ),
        case(
            "prelu-by-value",
            lambda u, v: F.prelu(u, v[0]),
            lambda u, v: plus(
                scaled(u, (u.value > 0).double()),
                scaled(halves(torch.mul, u, alone(lambda p: p[0], v)), (u.value <= 0).double()),
            ),
            "_prelu_kernel",
            pair,
            counted=False,
        ),
        case(
            "addcmul-values",
            lambda u, v: torch.addcmul(_B4, u, v, value=2),
            lambda u, v: plus(scaled(halves(torch.mul, u, v), 2.0), constant(_B4.expand(3, 4))),
            "addcmul",
            pair,
        ),
        case(
            "addcdiv-values",
            lambda u, v: torch.addcdiv(_B4, u, v, value=2),
            lambda u, v: plus(scaled(u, 2 / v.value), constant(_B4.expand(3, 4))),
            "addcdiv",
            pair,
        ),
        case(
            "solve-triangular-values",
            lambda u, v: torch.linalg.solve_triangular(u.tril(-1) + _ONES, v, upper=False),
            lambda u, v: alone(lambda p: torch.linalg.inv(u.value.tril(-1) + _ONES) @ p, v),
            "linalg_solve_triangular",
            square,
            "frozen",
        ),
        case(
            "solve-triangular-by-constant",
            lambda u: torch.linalg.solve_triangular(_TRIANGLE, u, upper=False, left=False),
            lambda u: alone(lambda p: p @ torch.linalg.inv(_W44.detach().tril(-1) + _ONES), u),
            "linalg_solve_triangular",
            ((3, 4),),
        ),
        case(
            "solve-triangular-of-constant",
            lambda u, v: v + torch.linalg.solve_triangular(u.tril(-1) + _ONES, _W44.data, upper=False),
            lambda u, v: plus(v, frozen(torch.linalg.inv(u.value.tril(-1) + _ONES) @ _W44.detach())),
            "linalg_solve_triangular",
            square,
            "frozen",
        ),
        case(
            "lerp-gate",
            lambda u, v: torch.lerp(u, v, torch.sigmoid(v)),
            lambda u, v: plus(scaled(u, 1 - gate_of(v)), scaled(v, gate_of(v))),
            "lerp",
            pair,
            None,
            counted=False,
        ),
    ]


# Convolutions.


def weight_of(*shape: int) -> nn.Parameter:
    g = torch.Generator().manual_seed(7)
    return nn.Parameter(torch.randn(shape, generator=g, dtype=torch.float64))


def time_first(u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.conv1d(u.permute(1, 2, 0), w.permute(2, 1, 0), b, padding=1).permute(2, 0, 1)


def convolutions() -> list[Case]:
    cases = []
    bias = torch.tensor([0.5, -1.0, 2.0, 0.25]).double()
    layouts: list[tuple[str, Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = [
        ("conv-1d", lambda u, w, b=None: F.conv1d(u, w, b, padding=1), (2, 3, 5), (4, 3, 3)),
        ("conv-2d", lambda u, w, b=None: F.conv2d(u, w, b, 2, 1), (2, 3, 4, 4), (4, 3, 3, 3)),
        (
            "conv-2d-dilated",
            lambda u, w, b=None: F.conv2d(u, w, b, dilation=2, padding="same"),
            (2, 3, 4, 4),
            (4, 3, 3, 3),
        ),
        ("conv-2d-depthwise", lambda u, w, b=None: F.conv2d(u, w, b, groups=4), (2, 4, 4, 4), (4, 1, 3, 3)),
        ("conv-3d", lambda u, w, b=None: F.conv3d(u, w, b), (1, 2, 3, 3, 3), (4, 2, 2, 2, 2)),
        ("conv-2d-one-sample", lambda u, w, b=None: F.conv2d(u, w, b), (3, 4, 4), (4, 3, 3, 3)),
        ("transposed-1d", lambda u, w, b=None: F.conv_transpose1d(u, w, b, 2), (2, 3, 5), (3, 4, 3)),
        ("transposed-2d", lambda u, w, b=None: F.conv_transpose2d(u, w, b, 2, 1, 1), (2, 3, 4, 4), (3, 4, 3, 3)),
        (
            "transposed-2d-groups",
            lambda u, w, b=None: F.conv_transpose2d(u, w, b, groups=2),
            (2, 4, 3, 3),
            (4, 2, 2, 2),
        ),
    ]
    for name, conv, shape, filters in layouts:
        w = weight_of(*filters)
        cases += [
            Case(
                name,
                lambda u, conv=conv, w=w: conv(u, w, bias),
                lambda u, conv=conv, w=w: stepped(alone(lambda p: conv(p, w, bias), u)),
                "convolution",
                "exact",
                (shape,),
            ),
            Case(
                f"{name}-fixed-filter",
                lambda u, conv=conv, w=w: conv(u, w.detach().clone().sign()),
                lambda u, conv=conv, w=w: stepped(alone(lambda p: conv(p, w.detach().sign()), u)),
                "convolution",
                "exact",
                (shape,),
            ),
        ]
    pair = ((2, 3, 4, 4), (4, 3, 3, 3))
    cases += [
        Case(
            "conv-time-first",
            lambda u: torch.conv_tbc(u, weight_of(3, 3, 4), bias, 1),
            lambda u: stepped(alone(lambda p: time_first(p, weight_of(3, 3, 4), bias), u)),
            "conv_tbc",
            "exact",
            ((5, 2, 3),),
        ),
        Case("conv-by-value", F.conv2d, lambda u, v: halves(F.conv2d, u, v), "convolution", "exact", pair),
        Case(
            "conv-by-gate",
            lambda u, v: F.conv2d(u, torch.sigmoid(v), bias),
            lambda u, v: alone(lambda p: F.conv2d(p, torch.sigmoid(v.value), bias), u),
            "convolution",
            "frozen",
            pair,
        ),
        Case(
            "conv-of-weight-by-value",
            lambda v: F.conv2d(weight_of(2, 3, 4, 4), v),
            lambda v: stepped(alone(lambda p: F.conv2d(weight_of(2, 3, 4, 4), p), v)),
            "convolution",
            "exact",
            pair[1:],
        ),
        Case(
            "conv-whole",
            whole(
                lambda u: aten._convolution(
                    u, weight_of(4, 3, 3, 3), bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, False, False, False, False
                )
            ),
            lambda u: stepped(alone(lambda p: F.conv2d(p, weight_of(4, 3, 3, 3), bias, padding=1), u)),
            "_convolution",
            "exact",
            pair[:1],
        ),
    ]
    return cases
