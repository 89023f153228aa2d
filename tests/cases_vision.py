"""Cases of torchvision's operators: the features are read where frozen boxes, offsets and masks say."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision import ops

from cases import Case
from cases_products import weight_of
from oracles import Known, alone, constant, plus, stepped

_BOXES = torch.tensor([[0, 1.0, 1.0, 5.0, 6.0], [1, 0.0, 2.0, 7.0, 7.0]]).double()
_IMAGE = (2, 3, 8, 8)
_BIAS = torch.tensor([0.5, -1.0, 2.0, 0.25]).double()


def bilinear_at(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The image (C, H, W) at one place between its pixels; zero outside."""
    out = torch.zeros(image.shape[0]).double()
    y0, x0 = int(torch.floor(y)), int(torch.floor(x))
    for i in (y0, y0 + 1):
        for j in (x0, x0 + 1):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                out = out + (1 - (y - i).abs()) * (1 - (x - j).abs()) * image[:, i, j]
    return out


def aligned(u: Tensor, boxes: Tensor) -> Tensor:
    """roi_align with 2 x 2 cells and one sample in the middle of each, aligned by half a pixel."""
    out = torch.zeros(boxes.shape[0], u.shape[1], 2, 2).double()
    for k, (image, x1, y1, x2, y2) in enumerate(boxes):
        for i in range(2):
            for j in range(2):
                y = y1 - 0.5 + (i + 0.5) * (y2 - y1) / 2
                x = x1 - 0.5 + (j + 0.5) * (x2 - x1) / 2
                out[k, :, i, j] = bilinear_at(u[int(image)], y, x)
    return out


def deformed(u: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
    """Every tap of the 3 x 3 filter read at its own offset, times its mask."""
    height, width = u.shape[2] - 2, u.shape[3] - 2
    out = torch.zeros(u.shape[0], weight.shape[0], height, width).double()
    for n in range(u.shape[0]):
        for i in range(height):
            for j in range(width):
                for tap in range(9):
                    y = i + tap // 3 + offset[n, 2 * tap, i, j]
                    x = j + tap % 3 + offset[n, 2 * tap + 1, i, j]
                    scale = 1.0 if mask is None else mask[n, tap, i, j]
                    out[n, :, i, j] += weight[:, :, tap // 3, tap % 3] @ bilinear_at(u[n], y, x) * scale
    return out


def pooled_cells(u: Known) -> Known:
    """roi_pool to one cell a box: the rounded box, ends included; the largest entry of each channel."""
    places: list[list[tuple[int, int, int, int]]] = []
    for image, x1, y1, x2, y2 in _BOXES.round().long().tolist():
        found = []
        for c in range(u.value.shape[1]):
            cell = [(image, c, y, x) for y in range(y1, y2 + 1) for x in range(x1, x2 + 1)]
            found.append(max(cell, key=lambda at: float(u.value[at])))
        places.append(found)
    return alone(lambda p: torch.stack([torch.stack([p[at] for at in found]) for found in places])[..., None, None], u)


def suppressed(u: Tensor) -> Tensor:
    """Boxes whose corner and extent are computed, kept by their overlap."""
    boxes = torch.cat([u[:, :2], u[:, :2] + u[:, 2:].abs()], dim=1)
    return u[ops.nms(boxes, u[:, 0], 0.2)].sum(dim=0)


def kept(u: Tensor) -> list[int]:
    def overlap(a: Tensor, b: Tensor) -> float:
        sides = torch.minimum(a[:2] + a[2:].abs(), b[:2] + b[2:].abs()) - torch.maximum(a[:2], b[:2])
        shared = float(sides.clamp(min=0).prod())
        return shared / (float(a[2:].abs().prod() + b[2:].abs().prod()) - shared)

    chosen: list[int] = []
    for i in u[:, 0].argsort(descending=True).tolist():
        if all(overlap(u[i], u[j]) <= 0.2 for j in chosen):
            chosen.append(i)
    return chosen


def per_position(whole: Callable[[Tensor], Tensor], u: Known) -> Known:
    """Position-sensitive pooling to 2 x 2 cells: each cell has a channel of its own."""

    def read(part: Tensor) -> Tensor:
        cells = whole(part)  # (boxes, channels, 2, 2)
        return torch.stack([cells[:, i, i // 2, i % 2] for i in range(4)], dim=1).view(-1, 1, 2, 2)

    return alone(read, u)


def averaged(u: Tensor) -> Tensor:
    """The mean of each of the 2 x 2 cells of each rounded box."""
    out = torch.zeros(_BOXES.shape[0], u.shape[1], 2, 2).double()
    for k, (image, x1, y1, x2, y2) in enumerate(_BOXES.round().long().tolist()):
        h, w = (y2 - y1) / 2, (x2 - x1) / 2
        for i in range(2):
            for j in range(2):
                ys = slice(int(y1 + i * h // 1), int(-(-(y1 + (i + 1) * h) // 1)))
                xs = slice(int(x1 + j * w // 1), int(-(-(x1 + (j + 1) * w) // 1)))
                out[k, :, i, j] = u[image, :, ys, xs].mean(dim=(-2, -1))
    return out


class Deformable(nn.Module):
    """Offsets and a mask computed from the features themselves, as the second version of the paper has it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = weight_of(4, 3, 3, 3)
        self.offset, self.mask = weight_of(18, 3, 3, 3), weight_of(9, 3, 3, 3)

    def where(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return torch.conv2d(u, self.offset) / 4, torch.sigmoid(torch.conv2d(u, self.mask))

    def forward(self, u: Tensor) -> Tensor:
        offset, mask = self.where(u)
        return ops.deform_conv2d(u, offset, self.weight, _BIAS, mask=mask)

    def by_hand(self, u: Known) -> Known:
        offset, mask = self.where(u.value)
        out = stepped(alone(lambda p: deformed(p, self.weight, offset, mask), u))
        return plus(out, constant(_BIAS[:, None, None].expand(out.value.shape)))


def vision() -> list[Case]:
    offsets = torch.linspace(-0.7, 0.9, 2 * 18 * 9).double().view(2, 18, 3, 3)
    weight, deformable = weight_of(4, 3, 3, 3), Deformable()
    return [
        Case(
            "roi-align",
            lambda u: ops.roi_align(u, _BOXES, (2, 2), sampling_ratio=1, aligned=True),
            lambda u: alone(lambda p: aligned(p, _BOXES), u),
            "torchvision.roi_align",
            shapes=(_IMAGE,),
        ),
        Case(
            "roi-align-by-computed-boxes",
            lambda u: ops.roi_align(u, _BOXES + torch.tanh(u.mean()) / 9, (2, 2), sampling_ratio=1, aligned=True),
            lambda u: alone(lambda p: aligned(p, _BOXES + torch.tanh(u.value.mean()) / 9), u),
            "torchvision.roi_align",
            "frozen",
            (_IMAGE,),
        ),
        Case("roi-pool", lambda u: ops.roi_pool(u, _BOXES, 1), pooled_cells, "torchvision.roi_pool", shapes=(_IMAGE,)),
        Case(
            "ps-roi-align",
            lambda u: ops.ps_roi_align(u, _BOXES, 2, sampling_ratio=1),
            lambda u: per_position(lambda p: aligned(p, _BOXES), u),
            "torchvision.ps_roi_align",
            shapes=((2, 4, 8, 8),),
        ),
        Case(
            "ps-roi-pool",
            lambda u: ops.ps_roi_pool(u, _BOXES, 2),
            lambda u: per_position(averaged, u),
            "torchvision.ps_roi_pool",
            shapes=((2, 4, 8, 8),),
        ),
        Case(
            "suppression",
            suppressed,
            lambda u: alone(lambda p: p[kept(u.value)].sum(dim=0), u),
            "torchvision.nms",
            "frozen",
            ((6, 4),),
        ),
        Case(
            "deformable",
            lambda u: ops.deform_conv2d(u, offsets, weight, _BIAS),
            lambda u: plus(
                stepped(alone(lambda p: deformed(p, weight, offsets), u)),
                constant(_BIAS[:, None, None].expand(2, 4, 3, 3)),
            ),
            "torchvision.deform_conv2d",
            shapes=((2, 3, 5, 5),),
        ),
        Case(
            "deformable-by-computed-offsets",
            deformable,
            deformable.by_hand,
            "torchvision.deform_conv2d",
            "frozen",
            ((2, 3, 4, 4),),
        ),
    ]
