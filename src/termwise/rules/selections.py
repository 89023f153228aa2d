"""Selections: what is chosen is frozen, so each part is read at the chosen places.

y_k = x_k[index], with the index that the clean value decides (max-pooling, max, sort, top-k).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from termwise.rules.elementwise import frozen
from termwise.rules.registry import Call, as_series, existing, register
from termwise.series import Series, add_paths, add_rows, carries, frozen_series


def max_pool(call: Call) -> Any:
    """max_pool2d/3d and the adaptive ones: they return the places that they chose, flat over the pooled dimensions."""
    series = as_series(call.args[0])
    value, index = call.clean()
    spatial = 3 if "3d" in call.func._schema.name else 2

    def chosen(rows: Tensor) -> Tensor:
        flat = index.flatten(-spatial).expand(rows.shape[0], *index.flatten(-spatial).shape)
        return rows.flatten(-spatial).gather(-1, flat).unflatten(-1, value.shape[-spatial:])

    return series.mapped(chosen, value), frozen_series(index)


def along_dim(call: Call) -> Any:
    """Operators that return values and their indices along one dimension (max.dim, sort, topk, median.dim, cummax)."""
    if not call.func._schema.returns or len(call.func._schema.returns) != 2:
        return extreme(call)
    series = as_series(call.args[0])
    out = call.clean()
    value, index = out
    if not carries(value):
        return type(out)((frozen_series(value), frozen_series(index)))
    dim = call.argument("dim", -1) % max(series.dim(), 1)
    dropped = index.dim() < series.dim()

    def chosen(rows: Tensor) -> Tensor:
        at = index.unsqueeze(dim) if dropped else index
        picked = rows.gather(dim + 1, at.expand(rows.shape[0], *at.shape))
        return picked.squeeze(dim + 1) if dropped else picked

    return type(out)((series.mapped(chosen, value), frozen_series(index)))


def extreme(call: Call) -> Any:
    """max, min, amax, amin over dimensions without an index: ties share the choice equally, as in autograd."""
    series, *rest = call.args
    if rest and isinstance(rest[0], Tensor):
        return greater(call)
    series = as_series(series)
    value = call.clean()
    if not carries(value):
        return frozen_series(value)
    declared = {a.name for a in call.func._schema.arguments}
    dims = call.argument("dim") if "dim" in declared else []
    dims = [dims] if isinstance(dims, int) else list(dims or range(series.dim()))
    dims = [d % max(series.dim(), 1) for d in dims]
    keep = bool(call.argument("keepdim", False)) if "keepdim" in declared else False
    full = value if keep else _unsqueezed(value, dims)
    ties = (series.value == full).to(value.dtype)
    weight = ties / ties.sum(dim=dims, keepdim=True)
    return series.mapped(lambda rows: (rows * weight).sum(dim=[d + 1 for d in dims], keepdim=keep), value)


def _unsqueezed(value: Tensor, dims: list[int]) -> Tensor:
    for d in sorted(dims):
        value = value.unsqueeze(d)
    return value


def greater(call: Call) -> Any:
    """The greater or lesser of two values: each part is read from the one that was chosen."""
    left, right = as_series(call.args[0]), as_series(call.args[1])
    value = call.clean()
    if not carries(value):
        return frozen(call)
    from_left = ((left.value == value).to(value.dtype)).expand(value.shape)
    tie = ((left.value == value) & (right.value == value)).expand(value.shape)
    from_left = torch.where(tie, from_left / 2, from_left)
    missing_left, missing_right = (value.dim() - s.dim() for s in (left, right))
    summands = [
        (_lifted(left.rows, missing_left) * from_left, left.parts),
        (_lifted(right.rows, missing_right) * (1 - from_left), right.parts),
    ]
    return Series(value, *add_rows(value, summands), add_paths([left.paths, right.paths]))


def _lifted(rows: Tensor, missing: int) -> Tensor:
    return rows.reshape(rows.shape[0], *(1,) * missing, *rows.shape[1:])


register(
    "selection",
    max_pool,
    existing("max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d"),
)
register("selection", along_dim, existing("max min sort topk median nanmedian kthvalue mode cummax cummin"))
register("selection", extreme, existing("amax amin"))
register("selection", greater, existing("maximum minimum fmax fmin"))
