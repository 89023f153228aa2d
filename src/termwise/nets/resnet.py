"""Residual networks for small images.

K. He, X. Zhang, S. Ren, J. Sun, *Deep Residual Learning for Image Recognition*, 2015 (arXiv 1512.03385),
section 4.2: a 3x3 convolution, three stages of n blocks with `width`, 2 `width` and 4 `width` channels at
full, half and quarter resolution, average pooling and a linear classifier, so that depth = 6n + 2.

A block is

    v -> relu( shortcut(v) + norm(conv(relu(norm(conv(v))))) ).

With `zero_init` the scale of the last norm of each block is zero at first (P. Goyal et al., *Accurate, Large Minibatch
SGD: Training ImageNet in 1 Hour*, 2017, arXiv 1706.02677, section 5.1): no branch brings anything before it has
learned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from termwise.errors import UsageError
from termwise.nets.parts import conv3x3, initialise, layers_per_stage, require_positive, residual_stages

Shortcut = Literal["pad", "projection"]


class PadShortcut(nn.Module):
    """Option A of the paper: every second pixel, and zeros for the channels that are new.  No parameters."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.extra = channels_out - channels_in

    def forward(self, v: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + extra, ceil(H / 2), ceil(W / 2))."""
        return F.pad(v[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra))


class ProjectionShortcut(nn.Sequential):
    """Option B of the paper: a 1x1 convolution of stride 2 and a batch norm."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(nn.Conv2d(channels_in, channels_out, 1, stride=2, bias=False), nn.BatchNorm2d(channels_out))


SHORTCUTS: dict[str, type[PadShortcut] | type[ProjectionShortcut]] = {
    "pad": PadShortcut,
    "projection": ProjectionShortcut,
}


class Block(nn.Module):
    """Two 3x3 convolutions and a way past them; the first block of a stage halves the resolution.

    Args:
        channels_in: of the input.
        channels_out: of the result.
        shortcut: what passes the branch, where the shape changes.
        scale: what the branch goes through at its end.
    """

    def __init__(self, channels_in: int, channels_out: int, shortcut: Shortcut, scale: nn.Module | None = None) -> None:
        super().__init__()
        widens = channels_in != channels_out
        self.conv1 = conv3x3(channels_in, channels_out, stride=2 if widens else 1)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.scale = nn.Identity() if scale is None else scale
        self.relu = nn.ReLU()
        self.shortcut = SHORTCUTS[shortcut](channels_in, channels_out) if widens else nn.Identity()

    def forward(self, v: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H', W'), H' = H or ceil(H / 2)."""
        branch = self.relu(self.norm1(self.conv1(v)))
        branch = self.scale(self.norm2(self.conv2(branch)))
        return self.relu(self.shortcut(v) + branch)


class ResNet(nn.Module):
    """A stem, three stages of blocks, a classifier; built by `resnet`, and of other blocks by its relatives.

    Args:
        blocks: in each stage.
        classes: number of logits.
        channels: of the input.
        width: channels of the first stage.
        block: makes a block from its numbers of channels, in and out.
    """

    def __init__(
        self, blocks: int, classes: int, channels: int, width: int, block: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.conv = conv3x3(channels, width)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stages = residual_stages(blocks, width, block)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4 * width, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to logits (N, classes)."""
        v = self.relu(self.norm(self.conv(x)))
        v = self.pool(self.stages(v))
        return self.classifier(v.flatten(1))


def resnet(
    depth: int,
    *,
    classes: int = 10,
    channels: int = 3,
    width: int = 16,
    shortcut: Shortcut = "pad",
    zero_init: bool = False,
) -> ResNet:
    """The CIFAR ResNet of `depth` weight layers: 20, 32, 44, 56 and 110 in the paper.

    Args:
        depth: 6n + 2, with n blocks in each of the three stages.
        classes: number of logits.
        channels: of the input.
        width: channels of the first stage; 16 in the paper.
        shortcut: what passes a block that changes shape: "pad" (option A, the paper's choice on CIFAR) or
            "projection" (option B).
        zero_init: whether the last norm of each branch begins with the scale 0 (Goyal et al. 2017).

    Raises:
        UsageError: the depth is not 6n + 2, a size is below 1, or the shortcut is unknown.
    """
    blocks = layers_per_stage("resnet", depth, fixed=2, period=6)
    require_positive("resnet", classes=classes, channels=channels, width=width)
    if shortcut not in SHORTCUTS:
        raise UsageError(f"resnet: shortcut {shortcut!r} is unknown; choose one of {', '.join(SHORTCUTS)}.")
    model = ResNet(blocks, classes, channels, width, partial(Block, shortcut=shortcut))
    for module in model.modules() if zero_init else ():
        if isinstance(module, Block):
            nn.init.zeros_(module.norm2.weight)
    return model
