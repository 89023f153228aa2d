"""Selections: what is chosen is frozen, so each part is read at the chosen places.

y_k = x_k[index], with the index that the clean value decides (max-pooling, max, sort, top-k).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from termwise.rules.elementwise import frozen
from termwise.rules.fallback import linearise
from termwise.rules.linear import carrying, jointly
from termwise.rules.registry import Call, as_series, existing, plain, register
from termwise.series import Series, add_paths, add_rows, broadcast_rows, carries, frozen_series


def max_pool(call: Call) -> Any:
    """Pooling that returns the places it chose, flat over the pooled dimensions: plain, adaptive, fractional."""
    series = as_series(call.args[0])
    value, index = call.clean()
    spatial = 3 if "3d" in call.func._schema.name else 2

    def chosen(rows: Tensor) -> Tensor:
        flat = index.flatten(-spatial).expand(rows.shape[0], *index.flatten(-spatial).shape)
        return rows.flatten(-spatial).gather(-1, flat).unflatten(-1, value.shape[-spatial:])

    return series.mapped(chosen, value), frozen_series(index)


def along_dim(call: Call) -> Any:
    """Operators that return values and their indices along one dimension (max.dim, sort, topk, median.dim, cummax)."""
    if len(call.func._schema.returns) != 2:
        return extreme(call)
    series = as_series(call.args[0])
    out = call.clean()
    value, index = out
    if not carries(value):
        return type(out)((frozen_series(value), frozen_series(index)))
    if not series.dim():  # one number: it is the one chosen
        return type(out)((series.mapped(lambda rows: rows, value, gate=series.gate), frozen_series(index)))
    dim = call.argument("dim", -1) % series.dim()
    dropped = index.dim() < series.dim()

    def chosen(rows: Tensor) -> Tensor:
        at = index.unsqueeze(dim) if dropped else index
        picked = rows.gather(dim + 1, at.expand(rows.shape[0], *at.shape))
        return picked.squeeze(dim + 1) if dropped else picked

    return type(out)((series.mapped(chosen, value, gate=series.gate), frozen_series(index)))


def extreme(call: Call) -> Any:
    """max, min, amax, amin over dimensions without an index: ties share the choice equally, as in autograd."""
    series, *rest = call.args
    if rest and isinstance(rest[0], Tensor):
        return greater(call)
    series = as_series(series)
    value = call.clean()
    if not carries(value):
        return frozen_series(value)
    if not series.dim():
        return series.mapped(lambda rows: rows, value)
    declared = {a.name for a in call.func._schema.arguments}
    dims = call.argument("dim") if "dim" in declared else []
    dims = [dims] if isinstance(dims, int) else list(dims or range(series.dim()))
    dims = [d % series.dim() for d in dims]
    keep = bool(call.argument("keepdim", False)) if "keepdim" in declared else False
    full = value if keep else _unsqueezed(value, dims)
    ties = series.value == full
    weight = ties / ties.sum(dim=dims, keepdim=True).to(value.dtype)

    def chosen(rows: Tensor) -> Tensor:
        # What is not chosen may be infinite (a score that was masked): it is left out, not multiplied by 0.
        return torch.where(ties, rows * weight, 0).sum(dim=[d + 1 for d in dims], keepdim=keep)

    return series.mapped(chosen, value)


def _unsqueezed(value: Tensor, dims: list[int]) -> Tensor:
    for d in sorted(dims):
        value = value.unsqueeze(d)
    return value


def greater(call: Call) -> Any:
    """The greater or lesser of two values: each part is read from the one that was chosen."""
    value = call.clean()
    if not carries(value):
        return frozen(call)
    left, right = (carrying(as_series(operand), value) for operand in call.args)
    is_left, is_right = (torch.broadcast_to(s.value == value, value.shape) for s in (left, right))
    tie = 1 - (is_left & is_right).to(value.dtype) / 2
    summands = [
        (torch.where(chosen, broadcast_rows(s.rows, value) * tie, 0), s.parts)
        for s, chosen in ((left, is_left), (right, is_right))
    ]
    return Series(value, *add_rows(value, summands), add_paths([left.paths, right.paths]))


def scattered(call: Call) -> Any:
    """scatter_reduce and index_reduce: sums and means are linear; of extremes the choice is frozen, ties share it.

    A product of many is no row of the table: it is linearised.
    """
    reduce = call.argument("reduce")
    if reduce == "prod":
        return linearise(call)
    value = call.clean()
    if not carries(value):
        return frozen_series(value)
    source = "src" if call.func._schema.name == "aten::scatter_reduce" else "source"
    if reduce in ("sum", "mean"):
        return jointly(call, value, [("self", None), (source, None)])
    return _scattered_extreme(call, as_series(call.argument("self")), as_series(call.argument(source)), value)


def _scattered_extreme(call: Call, start: Series, source: Series, value: Tensor) -> Series:
    dim, index = call.argument("dim") % max(value.dim(), 1), plain(call.argument("index"))
    if index.dim() < source.dim():  # index_reduce: one number for each slice
        index = index.reshape(*(-1 if d == dim else 1 for d in range(source.dim()))).expand(source.shape)
    used = tuple(slice(n) for n in index.shape)
    hit = torch.zeros_like(value, dtype=torch.bool).scatter(dim, index, True)
    kept = start.value == value
    kept = kept if call.argument("include_self", True) else kept & ~hit
    won = source.value[used] == value.gather(dim, index)
    shares = 1 / kept.to(value.dtype).scatter_add(dim, index, won.to(value.dtype))

    def from_source(rows: Tensor) -> Tensor:
        brought = torch.where(won, rows[(slice(None), *used)] * shares.gather(dim, index), 0)
        places = index.expand(rows.shape[0], *index.shape)
        return rows.new_zeros((rows.shape[0], *value.shape)).scatter_add(dim + 1, places, brought)

    summands = [(torch.where(kept, start.rows * shares, 0), start.parts), (from_source(source.rows), source.parts)]
    return Series(value, *add_rows(value, summands), add_paths([start.paths, source.paths]))


register(
    "selection",
    max_pool,
    existing(
        """max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d
        fractional_max_pool2d fractional_max_pool3d"""
    ),
)
register("selection", along_dim, existing("max min sort topk median nanmedian kthvalue mode cummax cummin"))
register("selection", extreme, existing("amax amin"))
register("selection", greater, existing("maximum minimum fmax fmin"))
register("selection", scattered, existing("scatter_reduce index_reduce"))
