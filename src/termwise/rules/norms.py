"""Normalisations: the scale that they measure is frozen, then they are affine.

    y = (x - m) r w + b,      r = 1 / sqrt(variance + eps) frozen

In evaluation mode batch norm's m is a stored constant and joins the constant part.  Where m is the data's own mean it
is linear in x and keeps its parts, exactly as when a model writes the norm out with mean, pow and rsqrt: both ways of
writing it must give the same terms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from termwise.deferred import Shifted
from termwise.rules.registry import Call, as_series, existing, plain, register
from termwise.series import CONSTANT, Series, frozen_series


def batch_norm(call: Call) -> Any:
    """Evaluation mode: y = x * w / sqrt(var + eps) + (b - mean * w / sqrt(var + eps)); else the batch's statistics."""
    if _is_adaptive(call):
        return _adapted(call, channel_affine=True)
    series = call.args[0]
    value, *saved = call.clean()
    if _uses_batch_statistics(call):
        dims = [d for d in range(series.dim()) if d != 1]
        out = _by_own_statistics(call, series, value, dims, call.argument("eps"), channel_affine=True)
    else:
        mean, variance = call.argument("running_mean"), call.argument("running_var")
        scale = torch.rsqrt(variance + call.argument("eps"))
        weight, bias = call.argument("weight"), call.argument("bias")
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        out = affine(series, value, _channels(scale, series), _channels(shift, series))
    return (out, *(frozen_series(s) for s in saved))


def _uses_batch_statistics(call: Call) -> bool:
    if call.func._schema.name.endswith("_no_training"):
        return False
    return bool(call.argument("training")) or call.argument("running_mean") is None


def affine(series: Series, value: Tensor, scale: Tensor, shift: Tensor) -> Series:
    """x * scale + shift with constants that broadcast; the rows are written once."""
    if CONSTANT in series.parts and scale.dtype == series.dtype == value.dtype:
        at = series.parts.index(CONSTANT)
        return Series(value, Shifted(series.held, scale, shift, at), series.parts, series.paths)
    if CONSTANT in series.parts:
        rows = series.rows * scale
        rows[series.parts.index(CONSTANT)] += shift
        return Series(value, rows.to(value.dtype), series.parts, series.paths)
    # Constants by depth may start later than this one, but the constant-born rows always come first.
    rows = series.rows.new_empty((len(series.parts) + 1, *series.rows.shape[1:]))
    torch.mul(series.rows, scale, out=rows[1:])
    rows[0] = shift
    return Series(value, rows.to(value.dtype), (CONSTANT, *series.parts), series.paths)


def _channels(per_channel: Tensor, series: Series) -> Tensor:
    return per_channel.reshape(1, -1, *(1,) * (series.dim() - 2))


def layer_norm(call: Call) -> Any:
    """Over the last dimensions; returns the mean and the reciprocal deviation too."""
    if _is_adaptive(call):
        return _adapted(call, channel_affine=False)
    series = as_series(call.args[0])
    value, *saved = call.clean()
    dims = list(range(series.dim() - len(call.argument("normalized_shape")), series.dim()))
    out = _by_own_statistics(call, series, value, dims, call.argument("eps"), channel_affine=False)
    return (out, *(frozen_series(s) for s in saved))


def rms_norm(call: Call) -> Any:
    """Over the last dimensions, without a mean; returns the reciprocal root mean square too."""
    if _is_adaptive(call):
        return _adapted(call, channel_affine=False)
    call.kind = "frozen"
    series = as_series(call.args[0])
    value, rstd = call.clean()
    return _normed(call, series, value, lambda rows: rows, rstd, channel_affine=False), frozen_series(rstd)


def group_norm(call: Call) -> Any:
    """Over the channels of each group and all positions."""
    if _is_adaptive(call):
        return _adapted(call, channel_affine=True)
    call.kind = "frozen"
    series = as_series(call.args[0])
    value, mean, rstd = call.clean()
    groups = call.argument("group")

    def centred(rows: Tensor) -> Tensor:
        grouped = rows.unflatten(2, (groups, -1)).flatten(3)
        return (grouped - grouped.mean(dim=-1, keepdim=True)).reshape(rows.shape)

    of_channels = rstd.repeat_interleave(series.shape[1] // groups, dim=1)
    scale = of_channels.reshape(*of_channels.shape, *(1,) * (series.dim() - 2))
    out = _normed(call, series, value, centred, scale, channel_affine=True)
    return out, frozen_series(mean), frozen_series(rstd)


def _by_own_statistics(
    call: Call, series: Series, value: Tensor, dims: list[int], eps: float, *, channel_affine: bool
) -> Series:
    call.kind = "frozen"
    # As in PyTorch, statistics of half-precision numbers are taken in single precision.
    whole = series.value.to(torch.promote_types(series.dtype, torch.float32))
    centred = whole - whole.mean(dim=dims, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(dim=dims, keepdim=True) + eps)
    of_rows = [d + 1 for d in dims]

    def centre(rows: Tensor) -> Tensor:
        return rows - rows.mean(dim=of_rows, keepdim=True)

    return _normed(call, series, value, centre, rstd, channel_affine=channel_affine)


def _normed(
    call: Call,
    series: Series,
    value: Tensor,
    centred: Callable[[Tensor], Tensor],
    rstd: Tensor,
    *,
    channel_affine: bool,
) -> Series:
    """Rows less their mean, times the frozen scale and the weight in one go; the bias joins the constant part."""
    weight, bias = (_shaped(call.argument(name), value, channel_affine) for name in ("weight", "bias"))
    scale = rstd if weight is None else rstd * weight
    out = series.later(lambda rows: (centred(rows) * scale).to(value.dtype), value, uses=[scale])
    return out if bias is None else out.plus(bias, value)


def _shaped(parameter: Any, value: Tensor, channel_affine: bool) -> Any:
    if parameter is None or not channel_affine:
        return parameter
    return parameter.reshape(-1, *(1,) * (value.dim() - 2))


def _is_adaptive(call: Call) -> bool:
    return any(isinstance(call.argument(name), Series) for name in ("weight", "bias"))


def _adapted(call: Call, *, channel_affine: bool) -> Any:
    """Scale or shift computed from the input: the bare norm first, then the product and the sum that they are."""
    clean, names = call.clean(), [a.name for a in call.func._schema.arguments]
    bare = {name: None if name in ("weight", "bias") else call.argument(name) for name in names}
    with call.replay:
        out, *saved = call.func(*bare.values())
        for name in ("weight", "bias"):
            if bare.get(name, 0) is None and call.argument(name) is not None:
                shaped = _shaped(call.argument(name), clean[0], channel_affine)
                out = out * shaped if name == "weight" else out + shaped
    return call.with_value((out, *(frozen_series(plain(s)) for s in saved)), clean)


def variance_and_mean(call: Call) -> Any:
    """var_mean, std_mean, of which norms are written out: the spread is frozen, the mean is linear."""
    call.kind = "frozen"
    series = call.args[0]
    spread, mean = call.clean()
    if not series.dim():
        return frozen_series(spread), series.mapped(lambda rows: rows, mean)
    declared = {a.name for a in call.func._schema.arguments}
    dims = (call.argument("dim") if "dim" in declared else None) or range(series.dim())
    of_rows = [d % series.dim() + 1 for d in dims]
    keep = bool(call.argument("keepdim", False)) if "keepdim" in declared else False
    return frozen_series(spread), series.mapped(lambda rows: rows.mean(dim=of_rows, keepdim=keep), mean)


register(
    "norm",
    batch_norm,
    existing("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm"),
)
register("norm", variance_and_mean, existing("var_mean std_mean"))
register("norm", layer_norm, existing("native_layer_norm"))
register("norm", group_norm, existing("native_group_norm"))
register("norm", rms_norm, existing("_fused_rms_norm"))
