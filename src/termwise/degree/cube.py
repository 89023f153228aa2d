"""The uniform cube {-1, 1}^d, and the circles that can be drawn on it."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from termwise.degree.functions import Function


@dataclasses.dataclass(frozen=True)
class Cube:
    """Uniform inputs of -1 and 1 of some shape.

    A circle is x_i(t) = sign cos(t - u_i) with u_i uniform and independent: each x(t) is uniform on the cube, and two
    of them have the correlation 1 - 2 |t - s| / pi in every coordinate.

    Attributes:
        shape: of one sample.
    """

    shape: tuple[int, ...]
    cube = True
    angles = 32

    @property
    def highest(self) -> int:
        """The degree that a function can have: the number of coordinates."""
        return math.prod(self.shape)

    @property
    def title(self) -> str:
        """Which it is, in words."""
        return f"the uniform cube, {self.highest} dimensions"

    def rows(self, angles: int) -> int:
        """How many frequencies are looked at: all."""
        return angles // 2 + 1

    def circles(self, count: int, angles: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (count, angles, *shape), and the first of each circle."""
        # With M angles a coordinate is one of M patterns: 1 for half of the circle, from one of the angles on.
        turned = torch.randint(angles, (count, 1, self.highest), generator=generator)
        plus = (torch.arange(angles)[:, None] + turned) % angles < angles // 2
        points = (plus * 2.0 - 1).double().reshape(count, angles, *self.shape)
        return points, points[:, 0]

    def slopes(self, function: Function, start: Tensor, generator: torch.Generator) -> Tensor:
        """Whose mean is sum over k of k W_k: d (f(x) - f(x with one random coordinate flipped))^2 / 4."""
        flipped = start.flatten(1).clone()
        at = torch.randint(self.highest, (len(start),), generator=generator)
        flipped[torch.arange(len(start)), at] *= -1
        change = function(start) - function(flipped.reshape(start.shape))
        return self.highest / 4 * change.square().sum(dim=1)
