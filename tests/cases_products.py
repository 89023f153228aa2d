"""Cases of products: by a constant, a weight, a gate, a value; convolutions among them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import oracles
from cases import Case, Oracle, aten, whole
from oracles import Known, alone, constant, frozen, gated, halves, plus, scaled, stepped

# Products.


def gate_of(u: Known) -> Tensor:
    return torch.sigmoid(u.value)


_W44 = nn.Parameter(torch.tensor([[1, -2, 0, 3], [2, 1, -1, 0], [0, 1, 2, -1], [3, 0, 1, 1]]).double() / 4)
_W43 = nn.Parameter(_W44.detach()[:, :3].clone())
_B3, _B4 = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([0.5, -1.0, 2.0, 0.25]).double()


_ONES = torch.eye(4).double()
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
            lambda u: torch.linalg.solve_triangular(_W44.tril(-1) + _ONES, u, upper=False, left=False),
            lambda u: alone(lambda p: p @ torch.linalg.inv(_W44.tril(-1) + _ONES), u),
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
