"""Densely connected networks for small images.

G. Huang, Z. Liu, L. van der Maaten, K. Weinberger, *Densely Connected Convolutional Networks*, 2016 (arXiv
1608.06993), section 3 and the CIFAR networks of table 2: a 3x3 convolution, three dense blocks with a
transition between them, a last norm, average pooling and a linear classifier.  A layer of a dense block
appends its `growth` new channels to everything before it,

    v -> [v, conv(relu(norm(v)))],

and in a bottleneck layer a 1x1 convolution to 4 `growth` channels comes first.  No dropout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from termwise.errors import UsageError
from termwise.nets.parts import conv3x3, initialise, layers_per_stage, require_positive

STAGES = 3
BOTTLENECK = 4  # a bottleneck has this many times `growth` channels


class DenseLayer(nn.Module):
    """Appends `growth` channels to its input."""

    def __init__(self, channels: int, growth: int, bottleneck: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential()
        if bottleneck:
            inner = BOTTLENECK * growth
            self.branch.extend([nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, inner, 1, bias=False)])
            channels = inner
        self.branch.extend([nn.BatchNorm2d(channels), nn.ReLU(), conv3x3(channels, growth)])

    def forward(self, v: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + growth, H, W)."""
        return torch.cat([v, self.branch(v)], dim=1)


class Transition(nn.Sequential):
    """Norm, ReLU, 1x1 convolution, 2x2 average pooling: half the resolution, perhaps fewer channels.

    The ReLU is that of the authors' code; the text of the paper does not name it.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels_in),
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, 1, bias=False),
            nn.AvgPool2d(2),
        )


class DenseNet(nn.Module):
    """A stem, three dense blocks with transitions between them, a classifier; built by `densenet`."""

    def __init__(
        self,
        layers: int,
        growth: int,
        *,
        stem: int,
        bottleneck: bool,
        compression: float,
        classes: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.conv = conv3x3(channels, stem)
        self.stages = nn.Sequential()
        width = stem
        for stage in range(STAGES):
            block = nn.Sequential()
            for _ in range(layers):
                block.append(DenseLayer(width, growth, bottleneck))
                width += growth
            self.stages.append(block)
            if stage < STAGES - 1:
                narrower = int(width * compression)
                self.stages.append(Transition(width, narrower))
                width = narrower
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to logits (N, classes)."""
        v = self.relu(self.norm(self.stages(self.conv(x))))
        return self.classifier(self.pool(v).flatten(1))


def densenet(
    depth: int,
    growth: int,
    *,
    bottleneck: bool = False,
    compression: float = 1.0,
    classes: int = 10,
    channels: int = 3,
) -> DenseNet:
    """The CIFAR DenseNet of `depth` weight layers; DenseNet-BC is `bottleneck=True, compression=0.5`.

    Args:
        depth: 3n + 4 with n layers in each dense block; with bottlenecks, which count as two, 6n + 4.
        growth: channels that each layer appends (k in the paper).
        bottleneck: a 1x1 convolution before each 3x3 (DenseNet-B).
        compression: share of the channels that a transition keeps (theta in the paper, DenseNet-C).
        classes: number of logits.
        channels: of the input.

    The first convolution has 16 channels, or 2 `growth` in DenseNet-BC.

    Raises:
        UsageError: the depth does not fit, a size is below 1, or the compression is outside (0, 1].
    """
    layers = layers_per_stage("densenet", depth, fixed=4, period=6 if bottleneck else 3)
    require_positive("densenet", growth=growth, classes=classes, channels=channels)
    if not 0 < compression <= 1:
        raise UsageError(
            f"densenet: compression is {compression}; it must be above 0 and at most 1 (0.5 in DenseNet-BC)."
        )
    stem = 2 * growth if bottleneck and compression < 1 else 16
    if int((stem + layers * growth) * compression) < 1:
        raise UsageError(
            f"densenet: compression {compression} leaves no channel after the first dense block; raise it."
        )
    return DenseNet(
        layers,
        growth,
        stem=stem,
        bottleneck=bottleneck,
        compression=compression,
        classes=classes,
        channels=channels,
    )
