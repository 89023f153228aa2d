"""Cases of selections, where the choice is frozen, and of norms, where the scale is."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import oracles
from cases import INDEX, Case, Oracle, aten, integers, normal, whole
from oracles import Known, alone, constant, frozen, halves, plus, scaled

# Selections: the places are chosen on the clean value, by comparison with every candidate.


def chosen(u: Known, places: Tensor, dim: int) -> Known:
    return alone(lambda part: torch.take_along_dim(part, places, dim), u)


def pooled(u: Known, windows: Callable[[Tensor], Tensor]) -> Known:
    """Max-pooling, window by window: `windows` lays the candidates of each along a last axis."""
    places = windows(u.value).argmax(dim=-1, keepdim=True)
    return alone(lambda part: windows(part).gather(-1, places).squeeze(-1), u)


def unfolded(*sizes: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Windows of the last dimensions, one (size, stride) each, their entries flattened."""

    def windows(part: Tensor) -> Tensor:
        first = part.dim() - len(sizes)
        for i, (size, stride) in enumerate(sizes):
            part = part.unfold(first + i, size, stride)
        return part.flatten(-len(sizes))

    return windows


def padded(part: Tensor) -> Tensor:
    return F.pad(part, (1, 1, 1, 1), value=-1e9)


def shared(u: Known, choose: Callable[[Tensor], Tensor], dims: tuple[int, ...], keep: bool) -> Known:
    """An extreme without an index: ties share equally."""
    best = choose(u.value)
    ties = (u.value == best).double()
    return alone(lambda part: (part * ties).sum(dim=dims, keepdim=keep) / ties.sum(dim=dims, keepdim=keep), u)


def either(u: Known, v: Known, choose: Callable[[Tensor, Tensor], Tensor]) -> Known:
    value = choose(u.value, v.value)
    left = torch.where(u.value == v.value, 0.5, (u.value == value).double())
    return plus(scaled(u, left), scaled(v, 1 - left))


def masked(u: Known, mask: Tensor) -> Known:
    return scaled(u, (~mask).double())


def fractional(u: Tensor, dims: int) -> Any:
    op = (F.fractional_max_pool2d, F.fractional_max_pool3d)[dims - 2]
    samples = torch.full((1, 2, dims), 0.3).double()
    return op(u, 2, output_size=2, return_indices=True, _random_samples=samples)


def at_places(part: Tensor, places: Tensor, dims: int) -> Tensor:
    return part.flatten(-dims).gather(-1, places.flatten(-dims)).view(places.shape)


def scatter(op: str, u: Tensor, v: Tensor, reduce: str, start: bool) -> Tensor:
    if op == "index_reduce":
        return u.index_reduce(0, INDEX[:3], v, reduce, include_self=start)
    return u.scatter_reduce(0, INDEX.expand(3, 4), v, reduce, include_self=start)


def scattered(op: str, u: Known, v: Known, choose: Callable[..., float], start: bool) -> Known:
    """Entry by entry: the candidates of each place, the best of them, and an equal share to each that reaches it."""
    rows = (lambda i, j: INDEX[i]) if op == "index_reduce" else (lambda i, j: INDEX[j])
    from_u, from_v = torch.zeros(3, 4, 3, 4).double(), torch.zeros(3, 4, 3, 4).double()
    for r in range(3):
        for j in range(4):
            brought = [i for i in range(3) if int(rows(i, j)) == r]
            own = start or not brought
            candidates = [float(v.value[i, j]) for i in brought] + [float(u.value[r, j])] * own
            best = choose(candidates)
            share = 1 / candidates.count(best)
            from_u[r, j, r, j] = share * (own and float(u.value[r, j]) == best)
            for i in brought:
                from_v[r, j, i, j] = share * (float(v.value[i, j]) == best)
    return plus(
        alone(lambda p: torch.tensordot(from_u, p, 2), u),
        alone(lambda p: torch.tensordot(from_v, p, 2), v),
    )


def selections() -> list[Case]:
    image, volume = (2, 3, 4, 4), (1, 2, 4, 4, 4)
    two, three = unfolded((2, 2), (2, 2)), unfolded((2, 2), (2, 2), (2, 2))

    def case(id: str, op: Any, oracle: Oracle, reaches: str, *shapes: tuple[int, ...], domain: Any = normal) -> Case:
        return Case(id, op, oracle, reaches, "exact", shapes or ((3, 4),), domain)

    return [
        case("max-pool-2d", lambda u: F.max_pool2d(u, 2), lambda u: pooled(u, two), "max_pool2d_with_indices", image),
        case(
            "max-pool-2d-padded",
            lambda u: F.max_pool2d(u, 3, 1, 1),
            lambda u: pooled(u, lambda part: unfolded((3, 1), (3, 1))(padded(part))),
            "max_pool2d_with_indices",
            image,
        ),
        case(
            "max-pool-2d-one-sample",
            lambda u: F.max_pool2d(u, 2),
            lambda u: pooled(u, two),
            "max_pool2d_with_indices",
            image[1:],
        ),
        case(
            "max-pool-1d",
            lambda u: F.max_pool1d(u, 2),
            lambda u: pooled(u, unfolded((2, 2))),
            "max_pool2d_with_indices",
            (2, 3, 4),
        ),
        case(
            "max-pool-3d", lambda u: F.max_pool3d(u, 2), lambda u: pooled(u, three), "max_pool3d_with_indices", volume
        ),
        case(
            "adaptive-max-2d",
            lambda u: F.adaptive_max_pool2d(u, 2),
            lambda u: pooled(u, two),
            "adaptive_max_pool2d",
            image,
        ),
        case(
            "adaptive-max-3d",
            lambda u: F.adaptive_max_pool3d(u, 2),
            lambda u: pooled(u, three),
            "adaptive_max_pool3d",
            volume,
        ),
        *(
            case(
                f"fractional-max-{dims}d",
                lambda u, dims=dims: fractional(u, dims)[0],
                lambda u, dims=dims: alone(lambda p: at_places(p, fractional(u.value, dims)[1], dims), u),
                f"fractional_max_pool{dims}d",
                (1, 2, *(5,) * dims),
            )
            for dims in (2, 3)
        ),
        *(
            case(
                f"{op}-{reduce}{'' if start else '-anew'}-{domain.__name__}",
                lambda u, v, op=op, reduce=reduce, start=start: scatter(op, u, v, reduce, start),
                lambda u, v, reduce=reduce, start=start, op=op: scattered(
                    op, u, v, max if reduce == "amax" else min, start
                ),
                op,
                (3, 4),
                (3, 4),
                domain=domain,
            )
            for op in ("scatter_reduce", "index_reduce")
            for reduce in ("amax", "amin")
            for start in (True, False)
            for domain in (normal, integers)
        ),
        *(
            case(
                f"number-{name}",
                lambda u, op=op: u + op(u[1, 2]),
                lambda u: plus(u, alone(lambda p: p[1, 2], u)),
                name,
            )
            for name, op in {
                "max": torch.max,
                "amin": torch.amin,
                "sort": lambda n: n.sort().values,
                "topk": lambda n: n.topk(1).values,
                "median": lambda n: n.median(0).values,
                "kthvalue": lambda n: n.kthvalue(1).values,
                "cummax": lambda n: n.cummax(0).values,
            }.items()
        ),
        case(
            "greatest-of-masked",
            lambda u: u.masked_fill(INDEX == 2, -torch.inf).amax(dim=1),
            lambda u: alone(lambda p: p[:, 1:3].gather(1, u.value[:, 1:3].argmax(1, keepdim=True))[:, 0], u),
            "amax",
        ),
        case(
            "greater-of-masked",
            lambda u: torch.maximum(u.masked_fill(INDEX == 2, -torch.inf), u.flip(0)),
            lambda u: either(
                Known(u.value.masked_fill(INDEX == 2, -1e9), masked(u, INDEX == 2).parts, u.paths),
                alone(lambda p: p.flip(0), u),
                torch.maximum,
            ),
            "maximum",
        ),
        case(
            "clamp-between-values",
            lambda u, v: torch.clamp(u, v, v + 1),
            lambda u, v: either(
                either(u, v, torch.maximum), plus(v, constant(torch.ones(3, 4).double())), torch.minimum
            ),
            "clamp maximum minimum",
            (3, 4),
            (3, 4),
        ),
        case(
            "clamp-by-whole-number",
            lambda u: u.clamp(max=(u > 0).sum() - 5),
            lambda u: either(u, frozen(((u.value > 0).sum() - 5).double().expand(3, 4)), torch.minimum),
            "clamp",
        ),
        case(
            "whole-number-or-value",
            lambda u: torch.maximum((u > 0).long(), u),
            lambda u: either(u, frozen((u.value > 0).double()), torch.maximum),
            "maximum gt",
        ),
        case("max", lambda u: u.max(), lambda u: shared(u, torch.max, (0, 1), False), "max"),
        case("max-ties", lambda u: u.max(), lambda u: shared(u, torch.max, (0, 1), False), "max", domain=integers),
        case("min-ties", lambda u: u.min(), lambda u: shared(u, torch.min, (0, 1), False), "min", domain=integers),
        case(
            "max-dim",
            lambda u: u.max(dim=-1).values,
            lambda u: alone(lambda p: p.squeeze(-1), chosen(u, u.value.argmax(dim=-1, keepdim=True), -1)),
            "max",
        ),
        case(
            "min-keepdim",
            lambda u: u.min(dim=0, keepdim=True)[0],
            lambda u: chosen(u, u.value.argmin(dim=0, keepdim=True), 0),
            "min",
        ),
        case(
            "median",
            lambda u: u.median(dim=1, keepdim=True).values,
            lambda u: chosen(u, u.value.argsort(dim=1)[:, 1:2], 1),
            "median",
        ),
        case(
            "nanmedian",
            lambda u: u.nanmedian(dim=1, keepdim=True).values,
            lambda u: chosen(u, u.value.argsort(dim=1)[:, 1:2], 1),
            "nanmedian",
        ),
        case(
            "median-of-all",
            lambda u: u.median(),
            lambda u: alone(lambda p: p.flatten()[u.value.flatten().argsort()[5]], u),
            "median",
        ),
        case(
            "kthvalue",
            lambda u: u.kthvalue(3, dim=1, keepdim=True).values,
            lambda u: chosen(u, u.value.argsort(dim=1)[:, 2:3], 1),
            "kthvalue",
        ),
        case(
            "mode",
            lambda u: u.mode(dim=1, keepdim=True).values,
            lambda u: chosen(u, u.value.mode(dim=1, keepdim=True).indices, 1),
            "mode",
            domain=integers,
        ),
        case("sort", lambda u: u.sort(dim=1).values, lambda u: chosen(u, u.value.argsort(dim=1), 1), "sort"),
        case(
            "sort-stable-descending",
            lambda u: u.sort(dim=0, descending=True, stable=True).values,
            lambda u: chosen(u, u.value.argsort(dim=0, descending=True, stable=True), 0),
            "sort",
            domain=integers,
        ),
        case(
            "topk",
            lambda u: u.topk(2, dim=1).values,
            lambda u: chosen(u, u.value.argsort(dim=1, descending=True)[:, :2], 1),
            "topk",
        ),
        case(
            "cummax",
            lambda u: u.cummax(dim=1).values,
            lambda u: chosen(u, torch.stack([u.value[:, : i + 1].argmax(dim=1) for i in range(4)], 1), 1),
            "cummax",
        ),
        case(
            "cummin",
            lambda u: u.cummin(dim=1).values,
            lambda u: chosen(u, torch.stack([u.value[:, : i + 1].argmin(dim=1) for i in range(4)], 1), 1),
            "cummin",
        ),
        case(
            "amax",
            lambda u: u.amax(dim=(0, -1)),
            lambda u: shared(u, lambda v: v.amax((0, 2), keepdim=True), (0, 2), False),
            "amax",
            (2, 3, 4),
            domain=integers,
        ),
        case(
            "amin",
            lambda u: u.amin(dim=1, keepdim=True),
            lambda u: shared(u, lambda v: v.amin(1, keepdim=True), (1,), True),
            "amin",
            domain=integers,
        ),
        case("amax-all", lambda u: u.amax(), lambda u: shared(u, torch.amax, (0, 1), False), "amax", domain=integers),
        *(
            case(
                f"{name}-{domain.__name__}",
                lambda u, v, op=op: op(u, v),
                lambda u, v, op=op: either(u, v, op),
                name,
                (3, 4),
                (1, 4),
                domain=domain,
            )
            for name, op in {
                "maximum": torch.maximum,
                "minimum": torch.minimum,
                "fmax": torch.fmax,
                "fmin": torch.fmin,
            }.items()
            for domain in (normal, integers)
        ),
        case(
            "maximum-of-constant",
            lambda u: torch.maximum(u, torch.zeros(()).double()),
            lambda u: either(u, constant(torch.zeros_like(u.value)), torch.maximum),
            "maximum",
        ),
        case("max-of-two", whole(torch.max), lambda u, v: either(u, v, torch.max), "max", (3, 4), (3, 4)),
        case(
            "index-by-data",
            lambda u: u[u[:, 0].argsort()],
            lambda u: alone(lambda p: p[u.value[:, 0].argsort()], u),
            "index sort",
        ),
        case(
            "gather-by-data",
            lambda u: u.gather(1, u.argmax(dim=1, keepdim=True)),
            lambda u: chosen(u, u.value.argmax(dim=1, keepdim=True), 1),
            "gather argmax",
        ),
        case(
            "where-by-data",
            lambda u, v: torch.where(u > v, u, v),
            lambda u, v: either(u, v, torch.maximum),
            "where gt",
            (3, 4),
            (3, 4),
        ),
        case(
            "masked-fill-by-data",
            lambda u: u.masked_fill(u < 0, 0.3),
            lambda u: plus(scaled(u, (u.value >= 0).double()), constant((u.value < 0).double() * 0.3)),
            "masked_fill lt",
        ),
    ]


# Norms, written out: the scale is frozen, the data's own mean is linear.

_GAMMA, _BETA = torch.tensor([0.5, -1.0, 1.5, 2.0]).double(), torch.tensor([1.0, -2.0, 0.25, 0.5]).double()
_MEAN, _VARIANCE = torch.tensor([0.3, -0.2, 0.1]).double(), torch.tensor([0.5, 1.5, 2.0]).double()


def per_channel(v: Tensor, dims: int) -> Tensor:
    return v.reshape(-1, *(1,) * (dims - 2))


def batch_normed(u: Known, gamma: Tensor, beta: Tensor) -> Known:
    scale = gamma / torch.sqrt(_VARIANCE + 1e-5)
    shift = beta - _MEAN * scale
    return plus(
        scaled(u, per_channel(scale, u.value.dim())), constant(per_channel(shift, u.value.dim()).expand(u.value.shape))
    )


def group_normed(u: Known, groups: int) -> Known:
    n, c, *rest = u.value.shape
    grouped = alone(lambda p: p.reshape(n, groups, -1), u)
    out = alone(lambda p: p.reshape(n, c, *rest), oracles.normed(grouped, (-1,), 1e-5))
    gamma, beta = per_channel(_GAMMA, u.value.dim()), per_channel(_BETA, u.value.dim())
    return plus(scaled(out, gamma), constant(beta.expand(u.value.shape)))


def written_layer_norm(u: Tensor) -> Tensor:
    centred = u - u.mean(dim=-1, keepdim=True)
    return centred * torch.rsqrt(centred.pow(2).mean(dim=-1, keepdim=True) + 1e-5)


def divided_layer_norm(u: Tensor) -> Tensor:
    return (u - u.mean(dim=-1, keepdim=True)) / torch.sqrt(u.var(dim=-1, keepdim=True, unbiased=False) + 1e-5)


_ONE, _NONE = torch.ones(4).double(), torch.zeros(4).double()
_ADAPTIVE: list[tuple[str, Callable[..., Tensor], Callable[[Known], Known], str]] = [
    (
        "layer-norm",
        lambda u, w, b: F.layer_norm(u, (4,), w, b),
        lambda u: oracles.normed(u, (-1,), 1e-5),
        "native_layer_norm",
    ),
    (
        "batch-norm",
        lambda u, w, b: F.batch_norm(u, _NONE, _ONE, w, b, eps=0.25),
        lambda u: scaled(u, 1.25**-0.5),
        "native_batch_norm",
    ),
    (
        "group-norm",
        lambda u, w, b: F.group_norm(u, 2, w, b),
        lambda u: alone(lambda p: p.reshape(3, 4), oracles.normed(alone(lambda p: p.reshape(3, 2, 2), u), (-1,), 1e-5)),
        "native_group_norm",
    ),
]


def norms() -> list[Case]:
    def case(id: str, op: Any, oracle: Oracle, reaches: str, shape: tuple[int, ...], kind: Any = "frozen") -> Case:
        # Written out, u and its mean are two paths; fused they are one.
        return Case(id, op, oracle, reaches, kind, (shape,), counted="written" not in id and "nothing" not in id)

    def batch_statistics(u: Known) -> Known:
        gamma, beta = per_channel(_GAMMA[:3], 4), per_channel(_BETA[:3], 4)
        return plus(scaled(oracles.normed(u, (0, 2, 3), 1e-5), gamma), constant(beta.expand(u.value.shape)))

    image = (2, 3, 4, 4)
    gamma, beta = _GAMMA[:3], _BETA[:3]
    return [
        case(
            "batch-norm",
            lambda u: F.batch_norm(u, _MEAN, _VARIANCE, gamma, beta),
            lambda u: batch_normed(u, gamma, beta),
            "native_batch_norm",
            image,
            "exact",
        ),
        case(
            "batch-norm-1d",
            lambda u: F.batch_norm(u, _MEAN, _VARIANCE, gamma, beta),
            lambda u: batch_normed(u, gamma, beta),
            "native_batch_norm",
            (4, 3),
            "exact",
        ),
        case(
            "batch-norm-bare",
            lambda u: F.batch_norm(u, _MEAN, _VARIANCE),
            lambda u: batch_normed(u, torch.ones(3).double(), torch.zeros(3).double()),
            "native_batch_norm",
            image,
            "exact",
        ),
        case(
            "batch-norm-no-training",
            lambda u: aten._native_batch_norm_legit_no_training(u, gamma, beta, _MEAN, _VARIANCE, 0.1, 1e-5)[0],
            lambda u: batch_normed(u, gamma, beta),
            "_native_batch_norm_legit_no_training",
            image,
            "exact",
        ),
        case(
            "batch-norm-own-statistics",
            lambda u: F.batch_norm(u, None, None, gamma, beta, training=True),
            batch_statistics,
            "native_batch_norm",
            image,
        ),
        case(
            "batch-norm-legit",
            lambda u: aten._native_batch_norm_legit.no_stats(u, gamma, beta, True, 0.1, 1e-5)[0],
            batch_statistics,
            "_native_batch_norm_legit",
            image,
        ),
        case(
            "instance-norm",
            lambda u: F.instance_norm(u, weight=gamma, bias=beta),
            lambda u: plus(
                scaled(oracles.normed(u, (2, 3), 1e-5), per_channel(gamma, 4)),
                constant(per_channel(beta, 4).expand(u.value.shape)),
            ),
            "native_batch_norm",
            image,
        ),
        case(
            "layer-norm",
            lambda u: F.layer_norm(u, (4,), _GAMMA, _BETA),
            lambda u: plus(scaled(oracles.normed(u, (-1,), 1e-5), _GAMMA), constant(_BETA.expand(u.value.shape))),
            "native_layer_norm",
            (2, 3, 4),
        ),
        case(
            "layer-norm-bare",
            lambda u: F.layer_norm(u, (3, 4)),
            lambda u: oracles.normed(u, (-1, -2), 1e-5),
            "native_layer_norm",
            (2, 3, 4),
        ),
        case(
            "layer-norm-written-out",
            written_layer_norm,
            lambda u: oracles.normed(u, (-1,), 1e-5),
            "rsqrt mul",
            (2, 3, 4),
        ),
        case(
            "layer-norm-written-as-quotient",
            divided_layer_norm,
            lambda u: oracles.normed(u, (-1,), 1e-5),
            "div sqrt var",
            (2, 3, 4),
        ),
        case(
            "group-norm",
            lambda u: F.group_norm(u, 2, _GAMMA, _BETA),
            lambda u: group_normed(u, 2),
            "native_group_norm",
            (2, 4, 3, 3),
        ),
        case(
            "group-norm-of-features",
            lambda u: F.group_norm(u, 2, _GAMMA, _BETA),
            lambda u: group_normed(u, 2),
            "native_group_norm",
            (3, 4),
        ),
        case(
            "rms-norm",
            lambda u: F.rms_norm(u, (4,), _GAMMA, 1e-5),
            lambda u: scaled(oracles.normed(u, (-1,), 1e-5, centred=False), _GAMMA),
            "mul",
            (2, 3, 4),
        ),
        case(
            "rms-norm-fused",
            whole(lambda u: aten._fused_rms_norm(u, [4], _GAMMA, 1e-5)[0]),
            lambda u: scaled(oracles.normed(u, (-1,), 1e-5, centred=False), _GAMMA),
            "_fused_rms_norm",
            (2, 3, 4),
        ),
        case(
            "rms-norm-fused-two-dimensions",
            whole(lambda u: aten._fused_rms_norm(u, [3, 4], None, 1e-5)[0]),
            lambda u: oracles.normed(u, (-1, -2), 1e-5, centred=False),
            "_fused_rms_norm",
            (2, 3, 4),
        ),
        *(
            case(
                f"{name}-by-values",
                lambda u, op=op: op(u, u[0] + 1, u[1]),
                lambda u, bare=bare: plus(
                    halves(torch.mul, bare(u), plus(alone(lambda p: p[0], u), constant(torch.ones(4).double()))),
                    alone(lambda p: p[1].expand(3, 4), u),
                ),
                packet,
                (3, 4),
                None,
            )
            for name, op, bare, packet in _ADAPTIVE
        ),
        case(
            "number-var-mean",
            lambda u: u + torch.var_mean(u[1, 2], correction=0)[1],
            lambda u: plus(u, alone(lambda p: p[1, 2], u)),
            "var_mean",
            (3, 4),
        ),
        case(
            "number-var-mean-along",
            lambda u: u + torch.var_mean(u[1, 2], dim=0, correction=0)[1],
            lambda u: plus(u, alone(lambda p: p[1, 2], u)),
            "var_mean",
            (3, 4),
        ),
        case(
            "group-norm-of-nothing",
            lambda u: u.sum() + F.group_norm(u[:0], 2).sum(),
            lambda u: alone(lambda p: p.sum(), u),
            "native_group_norm",
            (3, 4),
        ),
        case(
            "normalize",
            lambda u: F.normalize(u, dim=-1),
            lambda u: scaled(u, 1 / u.value.norm(dim=-1, keepdim=True)),
            "div linalg_vector_norm",
            (3, 4),
        ),
    ]
