"""Pre-activation residual networks for small images, with norms or without.

K. He, X. Zhang, S. Ren, J. Sun, *Identity Mappings in Deep Residual Networks*, 2016 (arXiv 1603.05027): norm and
activation come before each convolution, and nothing stands behind the addition, so that the stream passes from the
first block to the last unchanged:

    v -> shortcut(v) + gain * conv(relu(norm(conv(relu(norm(v)))))).

A last norm and ReLU stand in front of the pooling.  Stages, widths and the padded shortcut of a block that halves the
resolution are those of `termwise.nets.resnet`.  Unlike the paper's, the first block is as all others: its shortcut
takes what the first convolution gives, and not what norm and ReLU make of it.

Without norms nothing keeps the stream small.  Under the weights of He et al. 2015 a branch is as large as its input (S.
De, S. Smith 2020, arXiv 2002.10444, section 3), so that the mean square grows by 1 + gain^2 in each block.  In front of
the classifier the features are divided by the growth that is expected of all blocks, a constant:

    (1 + gain^2)^(blocks / 2).

The convolutions are without biases, so this is the network that divides every sum by its growth, and every path has the
same share in both.  The rates at which networks with norms learn are too high for it: 24 blocks of width 16 learned the
16x16 digits at a peak rate of 0.006 (batches of 32, 15 epochs; a test accuracy of 0.91 to 0.98 over four seeds).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from termwise.errors import UsageError
from termwise.nets.parts import conv3x3, initialise, layers_per_stage, require_positive, residual_stages
from termwise.nets.resnet import PadShortcut

Norm = Callable[[int], nn.Module]


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each behind norm and ReLU, and a way past them."""

    def __init__(self, channels_in: int, channels_out: int, norm: Norm, gain: float) -> None:
        super().__init__()
        widens = channels_in != channels_out
        self.norm1 = norm(channels_in)
        self.conv1 = conv3x3(channels_in, channels_out, stride=2 if widens else 1)
        self.norm2 = norm(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.relu = nn.ReLU()
        self.gain = gain
        self.shortcut = PadShortcut(channels_in, channels_out) if widens else nn.Identity()

    def forward(self, v: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H', W'), H' = H or ceil(H / 2)."""
        branch = self.conv1(self.relu(self.norm1(v)))
        branch = self.conv2(self.relu(self.norm2(branch)))
        return self.shortcut(v) + self.gain * branch


class PreActResNet(nn.Module):
    """A stem, three stages of blocks, a classifier; built by `preact_resnet`."""

    def __init__(self, blocks: int, classes: int, channels: int, width: int, norm: bool, gain: float) -> None:
        super().__init__()
        layer: Norm = nn.BatchNorm2d if norm else _no_norm
        self.conv = conv3x3(channels, width)
        self.stages = residual_stages(blocks, width, partial(PreActBlock, norm=layer, gain=gain))
        self.norm = layer(4 * width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4 * width, classes)
        self.growth = 1.0 if norm else (1 + gain**2) ** (3 * blocks / 2)
        initialise(self, "fan_out" if norm else "fan_in")
        if not norm:
            nn.init.kaiming_normal_(self.classifier.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to logits (N, classes)."""
        v = self.relu(self.norm(self.stages(self.conv(x))))
        return self.classifier(self.pool(v).flatten(1) / self.growth)


def _no_norm(_channels: int) -> nn.Module:
    return nn.Identity()


def preact_resnet(
    depth: int,
    *,
    classes: int = 10,
    channels: int = 3,
    width: int = 16,
    norm: bool = True,
    gain: float = 1.0,
) -> PreActResNet:
    """The pre-activation CIFAR ResNet of `depth` weight layers.

    Args:
        depth: 6n + 2, with n blocks in each of the three stages.
        classes: number of logits.
        channels: of the input.
        width: channels of the first stage.
        norm: whether there are batch norms.
        gain: what every branch is multiplied with, a constant.

    Raises:
        UsageError: the depth is not 6n + 2, a size is below 1, or the gain is not above 0.
    """
    blocks = layers_per_stage("preact_resnet", depth, fixed=2, period=6)
    require_positive("preact_resnet", classes=classes, channels=channels, width=width)
    if not 0 < gain < math.inf:
        raise UsageError(f"preact_resnet: gain is {gain}; it must be above 0, as a branch of gain 0 never learns.")
    return PreActResNet(blocks, classes, channels, width, norm, gain)
