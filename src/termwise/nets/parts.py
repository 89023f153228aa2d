"""What the convolutional networks share: their convolution, their initial weights, their checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from termwise.errors import UsageError


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (for stride 1), without a bias: a batch norm follows."""
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


def initialise(model: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Set the initial weights of He et al. 2015 (arXiv 1502.01852, eq. 14 for the backward signal).

    Convolutions are drawn from N(0, 2 / (kernel area x channels out)), or by `mode` with the channels in, which keeps
    the size of the forward signal (eq. 10); norms are the identity, and the classifier's bias is zero; its weights are
    those that torch gives a linear layer, as in the code of the original papers.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def residual_stages(blocks: int, width: int, block: Callable[[int, int], nn.Module]) -> nn.Sequential:
    """Three stages of `blocks` blocks each, of `width`, 2 `width` and 4 `width` channels.

    Args:
        blocks: in each stage.
        width: channels of the input, and of the first stage.
        block: makes one from its numbers of channels, in and out; where they differ it halves the resolution.
    """
    stages = nn.Sequential()
    before = width
    for after in (width, 2 * width, 4 * width):
        stages.append(nn.Sequential(block(before, after), *(block(after, after) for _ in range(blocks - 1))))
        before = after
    return stages


def layers_per_stage(network: str, depth: int, *, fixed: int, period: int) -> int:
    """(depth - fixed) / period, a whole number of at least 1.

    Raises:
        UsageError: no such number; the message names the nearest depths that have one.
    """
    count, rest = divmod(depth - fixed, period)
    if count < 1 or rest:
        below = fixed + period * max(count, 1)
        near = f"{below}" if count < 1 else f"{below} or {below + period}"
        raise UsageError(
            f"{network}: the depth must be {period}n + {fixed} with n >= 1, and {depth} is not: try {near}."
        )
    return count


def require_positive(network: str, **values: int) -> None:
    """Refuse sizes below 1, by the name of their argument.

    Raises:
        UsageError: a value is below 1.
    """
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{network}: {name} is {value}; it must be at least 1.")
