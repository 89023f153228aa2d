"""Operators of torchvision, by name: it need not be installed.

Boxes, offsets and masks say where a feature is read, and are frozen like every index; what is read is linear in the
features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from termwise.rules.elementwise import frozen
from termwise.rules.fallback import linearise
from termwise.rules.linear import reducing
from termwise.rules.registry import Call, loop_rows, register
from termwise.series import Series, frozen_series


def deformable(call: Call) -> Any:
    """deform_conv2d: linear in the features by the weight, a step; offsets and modulation masks are frozen."""
    x, weight, offset, mask, bias, *rest = call.args
    if isinstance(weight, Series) or isinstance(bias, Series):
        return linearise(call)
    if not isinstance(x, Series):
        return frozen(call)
    where, nothing = (call.freeze(offset), call.freeze(mask)), torch.zeros_like(bias)
    value = call.clean()
    out = x.mapped(lambda rows: loop_rows(lambda row: call.func(row, weight, *where, nothing, *rest), rows), value)
    if call.is_weight(weight):
        call.event = "weight"
    return out.plus(bias.reshape(-1, 1, 1), value)


def roi_pool(call: Call) -> Any:
    """The maximum over each cell of each box: the places are chosen by the value, flat over the image (-1: none)."""
    series, boxes = call.args[:2]
    value, places = call.clean()
    if not isinstance(series, Series):
        return frozen(call)
    boxes = call.freeze(boxes)
    image, flat = boxes[:, 0].long(), places.long().flatten(2)

    def chosen(rows: Tensor) -> Tensor:
        candidates = rows[:, image].flatten(3)
        at = flat.clamp(min=0).expand(rows.shape[0], *flat.shape)
        return torch.where(flat < 0, 0, candidates.gather(-1, at)).unflatten(-1, value.shape[2:])

    return series.mapped(chosen, value), frozen_series(places)


register("selection", frozen, ["torchvision.nms"])
register("selection", roi_pool, ["torchvision.roi_pool"])
register("linear", reducing, ["torchvision.roi_align", "torchvision.ps_roi_align", "torchvision.ps_roi_pool"])
register("convolution", deformable, ["torchvision.deform_conv2d"])
