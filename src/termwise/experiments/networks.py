"""A residual network so small that its every part is in sight."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Branch(nn.Module):
    """norm, activation, weights, gain.

    Weights are from N(0, 2 / features), which keep the size of what is rectified; behind no activation at all
    (`nn.Identity`) from N(0, 1 / features), which keep that of anything.
    """

    def __init__(self, features: int, activation: Callable[[], nn.Module], gain: float, *, norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features) if norm else nn.Identity()
        self.activation = activation()
        self.linear = nn.Linear(features, features, bias=False)
        self.gain = gain
        linear = isinstance(self.activation, nn.Identity)
        self.kept = 1.0 if linear else 0.5  # of a mean square, by a rectifier
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="linear" if linear else "relu")

    @torch.no_grad()
    def strength(self) -> float:
        """The mean square of what it makes of independent features of mean square 1, by its parameters alone."""
        squares = self.linear.weight.square().sum(dim=0)
        if isinstance(self.norm, nn.BatchNorm1d):
            assert self.norm.running_var is not None
            squares = squares * self.norm.weight.square() / (self.norm.running_var + self.norm.eps)
        return self.gain**2 * self.kept * float(squares.mean())

    def forward(self, v: Tensor) -> Tensor:
        """(N, features) to (N, features)."""
        return self.gain * self.linear(self.activation(self.norm(v)))


class ResidualMLP(nn.Module):
    """v -> v + branch(v), so many times, between a first and a last layer; without biases.

    Args:
        inputs: features of the input, which is flattened.
        features: of the stream.
        classes: number of logits.
        blocks: number of branches.
        gain: of each branch.
        activation: of each branch.
        norm: whether each branch begins with a batch norm.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        classes: int,
        *,
        blocks: int,
        gain: float = 1.0,
        activation: Callable[[], nn.Module] = nn.ReLU,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, features, bias=False)
        self.branches = nn.ModuleList(Branch(features, activation, gain, norm=norm) for _ in range(blocks))
        self.head = nn.Linear(features, classes, bias=False)
        for layer in (self.stem, self.head):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to logits (N, classes)."""
        v = self.stem(torch.flatten(x, 1))
        for branch in self.branches:
            v = v + branch(v)
        return self.head(v)
