"""A residual network that is trained by a random part of its blocks at a time."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

from termwise.nets.resnet import Block, ResNet


class SomeBlocks(nn.Module):
    """A network that leaves out other blocks each time that it is called in training mode.

    What is left out is not computed: behind its rectifier a stream passes the shortcut of a missing block as it is.
    """

    def __init__(self, network: ResNet, part: float) -> None:
        super().__init__()
        self.network = network
        self._count = len(blocks_of(network))
        self._kept = round(part * self._count)

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to logits (N, classes)."""
        if not self.training:
            return self.network(x)
        return self.through(x, torch.randperm(self._count)[: self._kept].tolist())

    def through(self, x: Tensor, kept: Collection[int]) -> Tensor:
        """The logits (N, classes) of x (N, ...) by the blocks of these numbers."""
        network = self.network
        v = network.relu(network.norm(network.conv(x)))
        for number, block in enumerate(blocks_of(network)):
            v = block(v) if number in kept else block.shortcut(v)
        return network.classifier(network.pool(v).flatten(1))


def blocks_of(network: nn.Module) -> list[Block]:
    """The blocks, from the input on."""
    return [module for module in network.modules() if isinstance(module, Block)]


@torch.no_grad()
def scaled(network: ResNet, factor: float) -> ResNet:
    """A copy whose every branch brings so much of what it brought."""
    twin = copy.deepcopy(network)
    for block in blocks_of(twin):
        block.norm2.weight.mul_(factor)
        block.norm2.bias.mul_(factor)
    return twin
