"""Selective kernel residual networks for small images.

X. Li, W. Wang, X. Hu, J. Yang, *Selective Kernel Networks*, 2019 (arXiv 1903.06586).  After the paper (section 3.1) is
the selective kernel convolution of two paths,

    narrow = relu(norm(conv 3x3 (v))),     wide = relu(norm(conv 3x3 of dilation 2 (v)))       (split)
    z = relu(norm(W mean(narrow + wide))),     W of C to d = max(C / reduction, 32)            (fuse)
    a, b = softmax of the pair A z, B z, for each channel                                      (select)
    v -> a narrow + b wide,

its convolutions in groups, its smallest d (L in the paper), and that the fully connected layers have no biases.

Our choice is the network around it.  On CIFAR the paper has SKNet-29, of ResNeXt's bottleneck blocks with cardinality
16; here the unit takes the place of the first 3x3 convolution, norm and ReLU of each block of the CIFAR ResNet of
`termwise.nets.resnet`, where it meets the same two convolutions a block:

    v -> relu( shortcut(v) + norm(conv(select(v))) ).

The convolutions are in one group unless told otherwise, since 16 channels leave no cardinality to speak of.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from termwise.errors import UsageError
from termwise.nets.parts import conv3x3, layers_per_stage, require_positive
from termwise.nets.resnet import PadShortcut, ResNet

SMALLEST = 32  # hidden units of the selection, at the least (L in the paper)


class SelectiveKernel(nn.Module):
    """Two convolutions of the same input, and for each channel the mixture of them that the image asks for."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, groups: int, reduction: int) -> None:
        super().__init__()

        def path(dilation: int) -> nn.Sequential:
            conv = nn.Conv2d(
                channels_in, channels_out, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False
            )
            return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())

        hidden = max(channels_out // reduction, SMALLEST)
        self.narrow, self.wide = path(1), path(2)
        self.fuse = nn.Sequential(nn.Linear(channels_out, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU())
        self.select = nn.Linear(hidden, 2 * channels_out, bias=False)  # A above B

    def forward(self, v: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H', W'), H' = ceil(H / stride)."""
        narrow, wide = self.narrow(v), self.wide(v)
        scores = self.select(self.fuse((narrow + wide).mean(dim=(2, 3)))).unflatten(1, (2, -1))
        a, b = torch.softmax(scores, dim=1)[..., None, None].unbind(dim=1)
        return a * narrow + b * wide


class SKBlock(nn.Module):
    """The block of the ResNet with a selective kernel unit for its first convolution."""

    def __init__(self, channels_in: int, channels_out: int, groups: int, reduction: int) -> None:
        super().__init__()
        widens = channels_in != channels_out
        self.select = SelectiveKernel(
            channels_in, channels_out, stride=2 if widens else 1, groups=groups, reduction=reduction
        )
        self.conv = conv3x3(channels_out, channels_out)
        self.norm = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU()
        self.shortcut = PadShortcut(channels_in, channels_out) if widens else nn.Identity()

    def forward(self, v: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H', W'), H' = H or ceil(H / 2)."""
        branch = self.norm(self.conv(self.select(v)))
        return self.relu(self.shortcut(v) + branch)


def sk_resnet(
    depth: int, *, groups: int = 1, reduction: int = 16, classes: int = 10, channels: int = 3, width: int = 16
) -> ResNet:
    """A CIFAR ResNet of `depth` weight layers with selective kernels, the two paths of a unit counted as one.

    Args:
        depth: 6n + 2, with n blocks in each of the three stages.
        groups: of the convolutions in the units (G in the paper); divides `width`.
        reduction: a unit of C channels selects by max(C / reduction, 32) hidden units; 16 in the paper.
        classes: number of logits.
        channels: of the input.
        width: channels of the first stage.

    Raises:
        UsageError: the depth is not 6n + 2, a size is below 1, or the groups do not divide the width.
    """
    blocks = layers_per_stage("sk_resnet", depth, fixed=2, period=6)
    sizes = {"groups": groups, "reduction": reduction, "classes": classes, "channels": channels, "width": width}
    require_positive("sk_resnet", **sizes)
    if width % groups:
        raise UsageError(f"sk_resnet: {groups} groups do not divide the width {width}; give a divisor of it.")
    return ResNet(blocks, classes, channels, width, partial(SKBlock, groups=groups, reduction=reduction))
