"""Squeeze-and-excitation residual networks for small images.

J. Hu, L. Shen, G. Sun, *Squeeze-and-Excitation Networks*, 2017 (arXiv 1709.01507).  The result of each branch
is scaled, channel by channel, with what its mean over the image says (section 3, equations 2 to 4; section 3.3 for the
place in a residual block):

    v -> relu( shortcut(v) + s(u) u ),      u = norm(conv(relu(norm(conv(v)))))
    s(u) = sigmoid(W2 relu(W1 mean(u))),    W1 of C to C / reduction, W2 back

Without biases, as the equations have it; so a unit of C channels has 2 C^2 / reduction parameters (equation 5).  All
else is the CIFAR ResNet of `termwise.nets.resnet`.
"""

from __future__ import annotations

from torch import Tensor, nn

from termwise.errors import UsageError
from termwise.nets.parts import layers_per_stage, require_positive
from termwise.nets.resnet import Block, ResNet


class SqueezeExcite(nn.Module):
    """Scales each channel by a number from 0 to 1 that depends on the means of all channels."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.relu = nn.ReLU()
        self.excite = nn.Linear(channels // reduction, channels, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, u: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        scale = self.sigmoid(self.excite(self.relu(self.squeeze(u.mean(dim=(2, 3))))))
        return scale[..., None, None] * u


def se_resnet(depth: int, *, reduction: int = 16, classes: int = 10, channels: int = 3, width: int = 16) -> ResNet:
    """The CIFAR SE-ResNet of `depth` weight layers, those of its gates not counted.

    Args:
        depth: 6n + 2, with n blocks in each of the three stages.
        reduction: the gate of C channels has C / reduction hidden units; 16 in the paper.
        classes: number of logits.
        channels: of the input.
        width: channels of the first stage.

    Raises:
        UsageError: the depth is not 6n + 2, a size is below 1, or the reduction leaves no hidden unit.
    """
    blocks = layers_per_stage("se_resnet", depth, fixed=2, period=6)
    require_positive("se_resnet", reduction=reduction, classes=classes, channels=channels, width=width)
    if width < reduction:
        raise UsageError(
            f"se_resnet: reduction {reduction} leaves no hidden unit of {width} channels; give one of at most {width}."
        )

    def block(channels_in: int, channels_out: int) -> Block:
        return Block(channels_in, channels_out, "pad", SqueezeExcite(channels_out, reduction))

    return ResNet(blocks, classes, channels, width, block)
