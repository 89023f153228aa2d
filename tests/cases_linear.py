"""Cases of operators that are linear, in one operand or in several together."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import (
    INDEX,
    Case,
    aten,
    whole,
)
from oracles import alone

_SPARSE = torch.sparse_coo_tensor(
    torch.tensor([[0, 1, 2], [1, 2, 0]]), torch.tensor([2.0, -1.0, 0.5]).double(), (3, 3), check_invariants=True
)

LINEAR: list[tuple[str, Callable[..., Tensor], str, tuple[int, ...]]] = [
    ("view", lambda u: u.view(2, 6), "view", (3, 4)),
    ("unsafe-view", lambda u: aten._unsafe_view(u, [4, 3]), "_unsafe_view", (3, 4)),
    ("reshape", whole(lambda u: u.reshape(4, 3)), "reshape", (3, 4)),
    ("reshape-copies", lambda u: u.t().reshape(2, 6), "clone", (3, 4)),
    ("reshape-alias", lambda u: aten._reshape_alias(u, [4, 3], [3, 1]), "_reshape_alias", (3, 4)),
    ("t", lambda u: u.t(), "t", (3, 4)),
    ("transpose", lambda u: u.transpose(0, 2), "transpose", (2, 3, 4)),
    ("permute", lambda u: u.permute(2, 0, -2), "permute", (2, 3, 4)),
    ("expand", lambda u: u.expand(5, 3, 4), "expand", (1, 3, 4)),
    ("expand-as-stored", lambda u: u[:, :1].expand(-1, 4), "expand", (3, 4)),
    ("squeeze", lambda u: u.squeeze(1).squeeze(-2), "squeeze", (3, 1, 1, 4)),
    ("squeeze-all", lambda u: u.squeeze(), "squeeze", (3, 1, 4, 1)),
    ("squeeze-leading", lambda u: u.squeeze(0), "squeeze", (1, 3, 4)),
    ("unsqueeze", lambda u: u.unsqueeze(-1).unsqueeze(0), "unsqueeze", (3, 4)),
    ("select", lambda u: u[:, -1], "select", (3, 4)),
    ("select-to-number", lambda u: u[1, 2], "select", (3, 4)),
    ("slice", lambda u: u[1:, ::2], "slice", (3, 4)),
    ("narrow", whole(lambda u: u.narrow(1, 1, 2)), "narrow", (3, 4)),
    ("alias", lambda u: aten.alias(u), "alias", (3, 4)),
    ("detach", lambda u: u.detach(), "detach", (3, 4)),
    ("clone", lambda u: u.clone(), "clone", (3, 4)),
    ("contiguous", whole(lambda u: u.t().contiguous()), "contiguous", (3, 4)),
    ("channels-last", lambda u: u.contiguous(memory_format=torch.channels_last), "clone", (2, 3, 4, 5)),
    ("lift-fresh", lambda u: aten.lift_fresh(u), "lift_fresh", (3, 4)),
    ("to-copy", lambda u: u.to(torch.float64, copy=True), "_to_copy", (3, 4)),
    ("to", whole(lambda u: u.to(torch.float64, copy=True)), "to", (3, 4)),
    ("view-as", whole(lambda u: u.view_as(torch.zeros(4, 3))), "view_as", (3, 4)),
    ("split", lambda u: u.split(2, dim=1)[1], "split", (3, 4)),
    ("split-sizes", lambda u: u.split([1, 3], dim=1)[1], "split_with_sizes", (3, 4)),
    ("unsafe-split", lambda u: torch.unsafe_split(u, 2, dim=1)[1], "unsafe_split", (3, 4)),
    ("unsafe-split-sizes", lambda u: torch.unsafe_split_with_sizes(u, [1, 3], 1)[1], "unsafe_split_with_sizes", (3, 4)),
    ("chunk", whole(lambda u: u.chunk(2, dim=1)[1]), "chunk", (3, 4)),
    ("unbind", lambda u: u.unbind(1)[2], "unbind", (3, 4)),
    ("flip", lambda u: u.flip(0, 1), "flip", (3, 4)),
    ("roll", lambda u: u.roll((1, -1), (0, 1)), "roll", (3, 4)),
    ("repeat", lambda u: u.repeat(2, 1, 3), "repeat", (3, 4)),
    ("repeat-interleave", lambda u: u.repeat_interleave(2, dim=1), "expand", (3, 4)),
    ("repeat-interleave-whole", whole(lambda u: u.repeat_interleave(2, dim=1)), "repeat_interleave", (3, 4)),
    ("diagonal", lambda u: u.diagonal(1), "diagonal", (4, 4)),
    ("diag-embed", lambda u: u.diag_embed(), "diag_embed", (3, 4)),
    ("index", lambda u: u[:, INDEX], "index", (3, 4)),
    ("index-mask", lambda u: u[torch.tensor([True, False, True])], "index", (3, 4)),
    ("masked-select", lambda u: u.masked_select(torch.tensor([True, False, True, True])), "masked_select", (3, 4)),
    ("index-select", lambda u: u.index_select(1, INDEX), "index_select", (3, 4)),
    ("gather", lambda u: u.gather(1, INDEX.expand(3, 4)), "gather", (3, 4)),
    ("take", lambda u: u.take(INDEX), "take", (3, 4)),
    ("unfold", lambda u: u.unfold(1, 3, 1), "unfold", (3, 4)),
    ("pixel-shuffle", lambda u: F.pixel_shuffle(u, 2), "pixel_shuffle", (2, 8, 3, 3)),
    ("pixel-unshuffle", lambda u: F.pixel_unshuffle(u, 2), "pixel_unshuffle", (2, 3, 4, 4)),
    ("channel-shuffle", lambda u: F.channel_shuffle(u, 2), "channel_shuffle", (2, 4, 3, 3)),
    ("im2col", lambda u: F.unfold(u, 2, padding=1), "im2col", (2, 3, 4, 4)),
    ("reflection-pad-1d", lambda u: F.pad(u, (1, 2), "reflect"), "reflection_pad1d", (2, 3, 4)),
    ("reflection-pad-2d", lambda u: F.pad(u, (1, 2, 0, 1), "reflect"), "reflection_pad2d", (2, 3, 4, 4)),
    ("reflection-pad-3d", lambda u: F.pad(u, (1, 1, 0, 1, 1, 0), "reflect"), "reflection_pad3d", (1, 2, 3, 3, 3)),
    ("replication-pad-1d", lambda u: F.pad(u, (1, 2), "replicate"), "replication_pad1d", (2, 3, 4)),
    ("replication-pad-2d", lambda u: F.pad(u, (1, 2, 0, 1), "replicate"), "replication_pad2d", (2, 3, 4, 4)),
    ("replication-pad-3d", lambda u: F.pad(u, (1, 1, 0, 1, 1, 0), "replicate"), "replication_pad3d", (1, 2, 3, 3, 3)),
    ("circular-pad", lambda u: F.pad(u, (1, 2), "circular"), "copy", (2, 3, 4)),
    ("movedim", whole(lambda u: u.movedim(0, -1)), "movedim", (2, 3, 4)),
    ("flatten", whole(lambda u: u.flatten(1)), "flatten", (2, 3, 4)),
    ("swapaxes", whole(lambda u: u.swapaxes(0, 1)), "swapaxes", (2, 3, 4)),
    ("rot90", lambda u: torch.rot90(u), "rot90", (3, 4)),
    ("take-along-dim", whole(lambda u: u.take_along_dim(INDEX.expand(3, 4), 1)), "take_along_dim", (3, 4)),
    ("nearest-1d", lambda u: F.interpolate(u, scale_factor=2), "upsample_nearest1d", (2, 3, 4)),
    ("nearest-2d", lambda u: F.interpolate(u, scale_factor=2), "upsample_nearest2d", (2, 3, 4, 4)),
    ("nearest-3d", lambda u: F.interpolate(u, scale_factor=2), "upsample_nearest3d", (1, 2, 2, 2, 2)),
    ("exact-1d", lambda u: F.interpolate(u, size=7, mode="nearest-exact"), "_upsample_nearest_exact1d", (2, 3, 4)),
    ("exact-2d", lambda u: F.interpolate(u, size=7, mode="nearest-exact"), "_upsample_nearest_exact2d", (2, 3, 4, 4)),
    (
        "exact-3d",
        lambda u: F.interpolate(u, size=3, mode="nearest-exact"),
        "_upsample_nearest_exact3d",
        (1, 2, 2, 2, 2),
    ),
    ("tril", lambda u: u.tril(-1), "tril", (3, 4)),
    ("triu", lambda u: u.triu(1), "triu", (3, 4)),
    ("unsafe-index", lambda u: aten._unsafe_index(u, [None, INDEX]), "_unsafe_index", (3, 4)),
    ("view-copy", lambda u: torch.view_copy(u, (4, 3)), "view_copy", (3, 4)),
    ("permute-copy", lambda u: torch.permute_copy(u, (1, 0)), "permute_copy", (3, 4)),
    ("expand-copy", lambda u: torch.expand_copy(u, (2, 3, 4)), "expand_copy", (3, 4)),
    ("transpose-copy", lambda u: torch.transpose_copy(u, 0, 1), "transpose_copy", (3, 4)),
    ("slice-copy", lambda u: torch.slice_copy(u, 1, 1, 3), "slice_copy", (3, 4)),
    ("select-copy", lambda u: torch.select_copy(u, 1, 2), "select_copy", (3, 4)),
    ("squeeze-copy", lambda u: torch.squeeze_copy(u, 1), "squeeze_copy", (3, 1, 4)),
    ("unsqueeze-copy", lambda u: torch.unsqueeze_copy(u, 1), "unsqueeze_copy", (3, 4)),
    ("as-strided", lambda u: u.as_strided((2, 3), (4, 1), 1), "as_strided", (3, 4)),
    ("as-strided-of-transposed", lambda u: u.t().clone().as_strided((2, 3), (4, 1), 1), "as_strided", (3, 4)),
    ("mean", lambda u: u.mean(dim=(0, 2), keepdim=True), "mean", (2, 3, 4)),
    ("mean-all", lambda u: u.mean(), "mean", (2, 3, 4)),
    ("sum", lambda u: u.sum(dim=-1), "sum", (2, 3, 4)),
    ("sum-all", lambda u: u.sum(), "sum", (2, 3, 4)),
    ("neg", lambda u: -u, "neg", (3, 4)),
    ("avg-pool-1d", lambda u: F.avg_pool1d(u, 2), "avg_pool2d", (2, 3, 4)),
    ("avg-pool-1d-whole", whole(lambda u: F.avg_pool1d(u, 2)), "avg_pool1d", (2, 3, 4)),
    ("avg-pool-2d", lambda u: F.avg_pool2d(u, 3, 2, 1, count_include_pad=False), "avg_pool2d", (2, 3, 4, 4)),
    ("avg-pool-3d", lambda u: F.avg_pool3d(u, 2), "avg_pool3d", (1, 2, 2, 2, 2)),
    ("adaptive-avg-1d", lambda u: F.adaptive_avg_pool1d(u, 3), "_adaptive_avg_pool2d", (2, 3, 4)),
    ("adaptive-avg-1d-whole", whole(lambda u: F.adaptive_avg_pool1d(u, 3)), "adaptive_avg_pool1d", (2, 3, 4)),
    ("adaptive-avg-2d", lambda u: F.adaptive_avg_pool2d(u, 3), "_adaptive_avg_pool2d", (2, 3, 4, 4)),
    ("adaptive-avg-2d-to-one", lambda u: F.adaptive_avg_pool2d(u, 1), "mean", (2, 3, 4, 4)),
    ("adaptive-avg-3d", lambda u: F.adaptive_avg_pool3d(u, (2, 1, 2)), "_adaptive_avg_pool3d", (1, 2, 3, 3, 3)),
    ("cumsum", lambda u: u.cumsum(dim=1), "cumsum", (3, 4)),
    ("col2im", lambda u: F.fold(u, (3, 3), 2), "col2im", (2, 12, 4)),
    ("linear-1d", lambda u: F.interpolate(u, size=7, mode="linear"), "upsample_linear1d", (2, 3, 4)),
    ("bilinear", lambda u: F.interpolate(u, size=7, mode="bilinear"), "upsample_bilinear2d", (2, 3, 4, 4)),
    ("trilinear", lambda u: F.interpolate(u, size=3, mode="trilinear"), "upsample_trilinear3d", (1, 2, 2, 2, 2)),
    ("bicubic", lambda u: F.interpolate(u, size=7, mode="bicubic"), "upsample_bicubic2d", (2, 3, 4, 4)),
    (
        "bilinear-smoothed",
        lambda u: F.interpolate(u, size=3, mode="bilinear", antialias=True),
        "_upsample_bilinear2d_aa",
        (2, 3, 4, 4),
    ),
    (
        "bicubic-smoothed",
        lambda u: F.interpolate(u, size=3, mode="bicubic", antialias=True),
        "_upsample_bicubic2d_aa",
        (2, 3, 4, 4),
    ),
    ("trace", lambda u: torch.trace(u), "trace", (4, 4)),
    ("diff", lambda u: torch.diff(u, dim=1), "sub", (3, 4)),
    ("diff-whole", whole(lambda u: torch.diff(u, dim=1)), "diff", (3, 4)),
    ("nansum", lambda u: torch.nansum(u, dim=1), "nansum", (3, 4)),
    ("subtract", lambda u: 2.3 - u, "rsub", (3, 4)),
    ("add-number", lambda u: u + 2.3, "add", (3, 4)),
    ("add-constant", lambda u: u + torch.arange(4), "add", (3, 4)),
    ("add-broadcasting", lambda u: torch.ones(2, 1, 1).double() + u, "add", (3, 4)),
    ("add-alpha", lambda u: torch.add(u, torch.arange(4).double(), alpha=-0.3), "add", (3, 4)),
    ("add-alpha-of-number", lambda u: torch.add(torch.arange(4).double(), u, alpha=-0.3), "add", (3, 4)),
    ("sub-constant", lambda u: torch.sub(u, torch.arange(4).double(), alpha=0.3), "sub", (3, 4)),
    ("sub-from-constant", lambda u: torch.arange(4).double() - u, "sub", (3, 4)),
    ("div-number", lambda u: u / 3, "div", (3, 4)),
    ("div-constant", lambda u: u / torch.arange(1, 5), "div", (3, 4)),
    ("true-divide", whole(lambda u: torch.true_divide(u, 3)), "true_divide", (3, 4)),
    ("mul-number", lambda u: u * -1.5, "mul", (3, 4)),
    ("mul-constant", lambda u: torch.arange(4) * u, "mul", (3, 4)),
    ("mul-outer", lambda u: torch.arange(2).reshape(2, 1, 1) * u, "mul", (3, 4)),
    ("mul-mask", lambda u: u * torch.tensor([True, False, True, True]), "mul", (3, 4)),
    ("pad", lambda u: F.pad(u, (1, 2)), "constant_pad_nd", (3, 4)),
    ("pad-value", lambda u: F.pad(u, (1, -1, 2, 0), value=2.3), "constant_pad_nd", (3, 4)),
    ("masked-fill", lambda u: u.masked_fill(INDEX == 2, -1.3), "masked_fill", (3, 4)),
    ("masked-fill-zero", lambda u: u.masked_fill(INDEX == 2, 0), "masked_fill", (3, 4)),
    ("masked-fill-tensor", lambda u: u.masked_fill(INDEX == 2, torch.tensor(2.3).double()), "masked_fill", (3, 4)),
    ("fill", lambda u: u[1:] + torch.fill(u, 2.3)[:-1], "fill", (3, 4)),
    ("fill-by-value", lambda u: u + torch.zeros(3, 4).double().fill_(u[1, 2]), "fill", (3, 4)),
    ("zero", lambda u: u + aten.zero(u), "zero", (3, 4)),
    ("zeros-like", lambda u: u + torch.zeros_like(u), "zeros_like", (3, 4)),
    ("ones-like", lambda u: u + torch.ones_like(u), "ones_like", (3, 4)),
    ("full-like", lambda u: u + torch.full_like(u, 2.3), "full_like", (3, 4)),
    ("empty-like", lambda u: u + torch.empty_like(u).fill_(2.3), "empty_like", (3, 4)),
    ("new-zeros", lambda u: u + u.new_zeros(4), "new_zeros", (3, 4)),
    ("new-ones", lambda u: u + u.new_ones(4), "new_ones", (3, 4)),
    ("new-full", lambda u: u + u.new_full((4,), 2.3), "new_full", (3, 4)),
    ("new-empty", lambda u: u + u.new_empty(4).fill_(2.3), "new_empty", (3, 4)),
    ("new-empty-strided", lambda u: u + u.new_empty_strided((4,), (1,)).zero_(), "new_empty_strided", (3, 4)),
    ("rand-like", lambda u: u + torch.rand_like(u).clamp(2, 3), "rand_like", (3, 4)),
    ("randn-like", lambda u: u + torch.randn_like(u).clamp(9, 9), "randn_like", (3, 4)),
    ("sym-size", whole(lambda u: u * aten.sym_size.int(u, 0)), "sym_size", (3, 4)),
    ("sym-numel", whole(lambda u: u * aten.sym_numel(u)), "sym_numel", (3, 4)),
    ("sym-stride", whole(lambda u: u * aten.sym_stride.int(u, 0)), "sym_stride", (3, 4)),
    ("grid-sample-2d", lambda u: F.grid_sample(u, _grid(2), align_corners=False), "grid_sampler_2d", (2, 3, 4, 4)),
    ("grid-sample-3d", lambda u: F.grid_sample(u, _grid(3), align_corners=False), "grid_sampler_3d", (1, 2, 3, 3, 3)),
    ("select-scatter", lambda u: u.select_scatter(torch.ones(3).double(), 1, 2), "select_scatter", (3, 4)),
    ("where-constant", lambda u: torch.where(INDEX == 2, u, 1.3), "where", (3, 4)),
    ("copied", lambda u: aten.copy(torch.zeros(2, 3, 4).double(), u), "copy", (3, 4)),
    ("copied-over", lambda u: u + aten.copy(u, torch.ones(4).double()), "copy", (3, 4)),
    ("real-of-real", lambda u: torch.real(u) + 1, "add", (3, 4)),
    ("fourier", lambda u: torch.fft.fft(u).real, "_fft_r2c", (3, 4)),
    ("fourier-2d-imaginary", lambda u: torch.fft.fft2(u).imag, "_fft_c2c", (3, 4)),
    ("fourier-back", lambda u: torch.fft.irfft(torch.fft.rfft(u)[:, :2], n=4), "_fft_c2r", (3, 4)),
    (
        "conjugate-spectrum",
        lambda u: torch.fft.irfft(torch.fft.rfft(u).conj() * torch.fft.rfft(torch.ones(4).double() * INDEX), n=4),
        "_fft_c2r _conj",
        (3, 4),
    ),
    ("negative-view", lambda u: aten._neg_view(u) * 2, "_neg_view", (3, 4)),
    ("fourier-whole", whole(lambda u: torch.fft.fft(u).real), "fft_fft real", (3, 4)),
    ("rotary", lambda u: torch.view_as_real(torch.view_as_complex(u.view(3, 2, 2)) * _TURNS), "mul", (3, 4)),
    ("real-as-complex", lambda u: torch.view_as_complex(u.view(3, 2, 2)).imag, "view_as_complex", (3, 4)),
    ("complex-as-real", lambda u: torch.view_as_real(torch.view_as_complex(u)), "view_as_real", (3, 4, 2)),
    ("conjugate", lambda u: torch.view_as_complex(u.view(3, 2, 2)).conj().imag, "_conj", (3, 4)),
    ("conjugate-written", lambda u: torch.view_as_complex(u).conj_physical().imag, "_conj_physical", (3, 4, 2)),
    (
        "short-time-fourier",
        lambda u: torch.view_as_real(torch.stft(u, 4, window=torch.ones(4).double(), return_complex=True)),
        "_fft_r2c",
        (2, 16),
    ),
    ("complex-by-constant", lambda u: (torch.complex(u, -u) * (0.3 + 0.7j)).real, "mul", (3, 4)),
    ("lanczos", lambda u: aten._upsample_lanczos2d_aa(u, [3, 3], False), "_upsample_lanczos2d_aa", (2, 3, 4, 4)),
    ("weighted-count", lambda u: torch.bincount(torch.tensor([0, 2, 2, 1]), weights=u[1]), "bincount", (3, 4)),
    ("sparse-times", lambda u: _SPARSE @ u, "mm", (3, 4)),
    ("compressed-times", lambda u: _SPARSE.to_sparse_csr() @ u, "mm", (3, 4)),
    ("sparse-times-added", lambda u: torch.sparse.addmm(u, _SPARSE, u, beta=0.5), "_sparse_addmm", (3, 4)),
    ("sparse-times-whole", lambda u: torch.sparse.mm(_SPARSE, u), "_sparse_addmm", (3, 4)),
    (
        "segment-sum",
        lambda u: torch.segment_reduce(u, "sum", lengths=torch.tensor([1, 2])),
        "segment_reduce",
        (3, 4),
    ),
    ("segment-mean", lambda u: torch.segment_reduce(u, "mean", lengths=torch.tensor([1, 2])), "segment_reduce", (3, 4)),
    ("scatter-times-number", lambda u: u.scatter(1, INDEX[:3, None], 2.5, reduce="multiply"), "scatter", (3, 4)),
    ("affine-grid", lambda u: F.affine_grid(u, [2, 3, 3, 3], align_corners=False), "mul", (2, 2, 3)),
    ("unpool", lambda u: F.max_unpool1d(u, torch.tensor([[[0, 3, 4, 6]] * 3] * 2), [2]), "index_put", (2, 3, 4)),
    ("uniform", lambda u: u + u.clone().uniform_(2, 2), "uniform", (3, 4)),
    ("normal-fill", lambda u: u + aten.normal_functional(u, 2.0, 0.0), "normal_functional", (3, 4)),
    ("exponential-fill", lambda u: u + u.clone().exponential_().clamp(9, 9), "exponential", (3, 4)),
    ("cauchy-fill", lambda u: u + u.clone().cauchy_().clamp(9, 9), "cauchy", (3, 4)),
    ("geometric-fill", lambda u: u + u.clone().geometric_(0.5).clamp(9, 9), "geometric", (3, 4)),
    ("log-normal-fill", lambda u: u + u.clone().log_normal_().clamp(9, 9), "log_normal", (3, 4)),
    ("random-fill", lambda u: u + u.clone().random_(2, 3), "random", (3, 4)),
    ("random-integers", lambda u: u + torch.randint_like(u, 2, 3), "randint_like", (3, 4)),
    ("mean-of-var-mean", lambda u: torch.var_mean(u, dim=1, keepdim=True)[1], "", (3, 4)),
    ("index-fill", lambda u: u.index_fill(1, torch.tensor([2, 0]), 0.3), "index_fill", (3, 4)),
    ("imaginary-whole", whole(lambda u: torch.fft.fft(u).imag), "imag", (3, 4)),
]


_TURNS = torch.polar(torch.ones(3, 2).double(), torch.arange(6.0).double().view(3, 2))


def _grid(dims: int) -> Tensor:
    theta = torch.eye(dims, dims + 1).double()[None] * 0.7
    return F.affine_grid(theta, [1, 1, *(3,) * dims], align_corners=False).expand(
        2 if dims == 2 else 1, *(-1,) * (dims + 1)
    )


# PyTorch takes these apart, or the case itself reads its operand twice.
_RECOUNTED = {"circular-pad", "diff", "fill", "fill-by-value", "complex-by-constant", "sparse-times-added"}


def linear_ones() -> list[Case]:
    return [
        Case(
            name,
            op,
            lambda u, op=op: alone(op, u),
            packet,
            "exact" if packet else None,
            (shape,),
            counted=name not in _RECOUNTED,
        )
        for name, op, packet, shape in LINEAR
    ]


# Linear in two operands together; a plain operand (third column: "uc", "cu") joins the constant part.

_MASK = torch.tensor([True, False, True, False])
_JOINT: list[tuple[str, Callable[..., Tensor], str, tuple[tuple[int, ...], ...]]] = [
    ("add", lambda u, v: u + v, "add", ((3, 4), (3, 4))),
    ("add-broadcasting", lambda u, v: torch.add(u, v, alpha=2), "add", ((3, 4), (2, 1, 4))),
    ("sub", lambda u, v: u - v, "sub", ((3, 4), (1, 4))),
    ("rsub", lambda u, v: torch.rsub(u, v, alpha=0.3), "rsub", ((3, 4), (3, 4))),
    ("cat", lambda u, v: torch.cat([u, torch.ones(1, 4).double(), v]), "cat", ((3, 4), (2, 4))),
    ("stack", lambda u, v: torch.stack([u, v], dim=1), "stack", ((3, 4), (3, 4))),
    ("where", lambda u, v: torch.where(_MASK, u, v), "where", ((3, 4), (3, 4))),
    ("slice-scatter", lambda u, v: u.slice_scatter(v, 1, 1, 3), "slice_scatter", ((3, 4), (3, 2))),
    ("select-scatter", lambda u, v: u.select_scatter(v[:, 0], 1, 2), "select_scatter", ((3, 4), (3, 2))),
    ("diagonal-scatter", lambda u, v: u.diagonal_scatter(v[0]), "diagonal_scatter", ((4, 4), (1, 4))),
    ("scatter", lambda u, v: u.scatter(1, torch.tensor([[1, 0], [2, 3]]), v), "scatter", ((3, 4), (2, 2))),
    ("scatter-number", lambda u, v: u.scatter(1, torch.tensor([[1], [2]]), 2.3) + v, "scatter", ((3, 4), (3, 4))),
    ("scatter-add", lambda u, v: u.scatter_add(0, INDEX.expand(3, 4), v), "scatter_add", ((3, 4), (3, 4))),
    ("index-put", lambda u, v: u.index_put((torch.tensor([2, 0]),), v), "index_put", ((3, 4), (2, 4))),
    (
        "index-put-accumulate",
        lambda u, v: u.index_put((torch.tensor([2, 2]),), v, accumulate=True),
        "index_put",
        ((3, 4), (2, 4)),
    ),
    ("index-add", lambda u, v: u.index_add(0, torch.tensor([2, 2]), v, alpha=2), "index_add", ((3, 4), (2, 4))),
    ("index-copy", lambda u, v: u.index_copy(0, torch.tensor([2, 0]), v), "index_copy", ((3, 4), (2, 4))),
    ("masked-scatter", lambda u, v: u.masked_scatter(_MASK, v), "masked_scatter", ((3, 4), (3, 4))),
    ("put", lambda u, v: u.put(torch.tensor([5, 2, 11, 0]), v[0]), "put", ((3, 4), (3, 4))),
    (
        "put-accumulate",
        lambda u, v: u.put(torch.tensor([5, 2, 5, 0]), v[0], accumulate=True),
        "put",
        ((3, 4), (3, 4)),
    ),
    ("complex", lambda u, v: torch.view_as_real(torch.complex(u, v)), "complex", ((3, 4), (3, 4))),
    ("masked-fill-by-value", lambda u, v: u.masked_fill(_MASK, v[1, 2]), "masked_fill", ((3, 4), (3, 4))),
    (
        "index-fill-by-value",
        lambda u, v: u.index_fill(1, torch.tensor([2, 0]), v[1, 2]),
        "index_fill",
        ((3, 4), (3, 4)),
    ),
    *(
        (
            f"scatter-{reduce}{'' if start else '-anew'}",
            lambda u, v, reduce=reduce, start=start: u.scatter_reduce(
                0, INDEX.expand(3, 4), v, reduce, include_self=start
            ),
            "scatter_reduce",
            ((3, 4), (3, 4)),
        )
        for reduce in ("sum", "mean")
        for start in (True, False)
    ),
    (
        "add-to-product",
        lambda u, v: torch.addcmul(u, v, torch.arange(4).double(), value=2),
        "addcmul",
        ((3, 4), (3, 4)),
    ),
    ("lerp-number", lambda u, v: torch.lerp(u, v, 0.3), "lerp", ((3, 4), (3, 4))),
    ("lerp-constant", lambda u, v: torch.lerp(u, v, torch.arange(4).double()), "lerp", ((3, 4), (3, 4))),
    ("addcdiv-constant", lambda u, v: torch.addcdiv(u, v, torch.arange(1, 5).double()), "addcdiv", ((3, 4), (3, 4))),
]


def joint_ones() -> list[Case]:
    cases = []
    for name, op, packet, shapes in _JOINT:
        counted = packet != "lerp"
        cases.append(
            Case(f"{name}-both", op, lambda u, v, op=op: alone(op, u, v), packet, shapes=shapes, counted=counted)
        )
        held = torch.arange(1.0, 1.0 + torch.Size(shapes[1]).numel()).double().reshape(shapes[1])
        right = lambda u, op=op, held=held: op(u, held)  # noqa: E731
        cases.append(
            Case(
                f"{name}-with-constant",
                right,
                lambda u, op=right: alone(op, u),
                packet,
                shapes=shapes[:1],
                counted=counted,
            )
        )
        if name == "scatter-number":
            continue
        held = torch.arange(1.0, 1.0 + torch.Size(shapes[0]).numel()).double().reshape(shapes[0])
        left = lambda v, op=op, held=held: op(held, v)  # noqa: E731
        cases.append(
            Case(
                f"constant-with-{name}",
                left,
                lambda v, op=left: alone(op, v),
                packet,
                shapes=shapes[1:],
                counted=counted,
            )
        )
    return cases
