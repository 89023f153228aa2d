"""The ResNet without its shortcuts: the control that has a single path from input to output.

The plain network of section 4.2 of He et al. 2015 (arXiv 1512.03385): convolution, batch norm, ReLU,
`depth` - 1 times over, with the widths and strides of the ResNet of the same depth, then pooling and the
classifier.
"""

from __future__ import annotations

from torch import nn

from termwise.nets.parts import conv3x3, initialise, layers_per_stage, require_positive


def plain(depth: int, *, classes: int = 10, channels: int = 3, width: int = 16) -> nn.Sequential:
    """The plain network of `depth` weight layers, for images (N, channels, H, W).

    Args:
        depth: 6n + 2, as for `resnet`.
        classes: number of logits.
        channels: of the input.
        width: channels of the first stage.

    Raises:
        UsageError: the depth is not 6n + 2, or a size is below 1.
    """
    blocks = layers_per_stage("plain", depth, fixed=2, period=6)
    require_positive("plain", classes=classes, channels=channels, width=width)
    widths = [width] * (2 * blocks + 1) + [2 * width] * (2 * blocks) + [4 * width] * (2 * blocks)
    layers: list[nn.Module] = []
    before = channels
    for index, after in enumerate(widths):
        halves = index > 0 and after != before
        layers += [conv3x3(before, after, stride=2 if halves else 1), nn.BatchNorm2d(after), nn.ReLU()]
        before = after
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))
    initialise(model)
    return model
