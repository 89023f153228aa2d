"""Residual networks for small images.

K. He, X. Zhang, S. Ren, J. Sun, *Deep Residual Learning for Image Recognition*, 2015 (arXiv 1512.03385),
section 4.2: a 3x3 convolution, three stages of n blocks with `width`, 2 `width` and 4 `width` channels at
full, half and quarter resolution, average pooling and a linear classifier, so that depth = 6n + 2.

A block is

    v -> relu( shortcut(v) + norm(conv(relu(norm(conv(v))))) ).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from termwise.errors import UsageError
from termwise.nets.parts import conv3x3, initialise, layers_per_stage, require_positive

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
    """Two 3x3 convolutions and a way past them; the first block of a stage halves the resolution."""

    def __init__(self, channels_in: int, channels_out: int, shortcut: Shortcut) -> None:
        super().__init__()
        widens = channels_in != channels_out
        self.conv1 = conv3x3(channels_in, channels_out, stride=2 if widens else 1)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU()
        self.shortcut = SHORTCUTS[shortcut](channels_in, channels_out) if widens else nn.Identity()

    def forward(self, v: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H', W'), H' = H or ceil(H / 2)."""
        branch = self.relu(self.norm1(self.conv1(v)))
        branch = self.norm2(self.conv2(branch))
        return self.relu(self.shortcut(v) + branch)


class ResNet(nn.Module):
    """A stem, three stages of blocks, a classifier; built by `resnet`."""

    def __init__(self, blocks: int, classes: int, channels: int, width: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv = conv3x3(channels, width)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        stages = []
        before = width
        for after in (width, 2 * width, 4 * width):
            same = (Block(after, after, shortcut) for _ in range(blocks - 1))
            stages.append(nn.Sequential(Block(before, after, shortcut), *same))
            before = after
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to logits (N, classes)."""
        v = self.relu(self.norm(self.conv(x)))
        v = self.pool(self.stages(v))
        return self.classifier(v.flatten(1))


def resnet(depth: int, *, classes: int = 10, channels: int = 3, width: int = 16, shortcut: Shortcut = "pad") -> ResNet:
    """The CIFAR ResNet of `depth` weight layers: 20, 32, 44, 56 and 110 in the paper.

    Args:
        depth: 6n + 2, with n blocks in each of the three stages.
        classes: number of logits.
        channels: of the input.
        width: channels of the first stage; 16 in the paper.
        shortcut: what passes a block that changes shape: "pad" (option A, the paper's choice on CIFAR) or
            "projection" (option B).

    Raises:
        UsageError: the depth is not 6n + 2, a size is below 1, or the shortcut is unknown.
    """
    blocks = layers_per_stage("resnet", depth, fixed=2, period=6)
    require_positive("resnet", classes=classes, channels=channels, width=width)
    if shortcut not in SHORTCUTS:
        raise UsageError(f"resnet: shortcut {shortcut!r} is unknown; choose one of {', '.join(SHORTCUTS)}.")
    return ResNet(blocks, classes, channels, width, shortcut)
