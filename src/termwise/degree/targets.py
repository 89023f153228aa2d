"""Targets of known degree, for tests and experiments: functions of (samples, d) that return (samples,).

Each says what its energies by degree are, on N(0, I) or on the uniform cube {-1, 1}^d.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from termwise.errors import UsageError


def hermite(degree: int, x: Tensor) -> Tensor:
    """The orthonormal Hermite polynomial h_k at each number: h_{k+1} = (x h_k - sqrt(k) h_{k-1}) / sqrt(k + 1)."""
    before, now = torch.zeros_like(x), torch.ones_like(x)
    for k in range(degree):
        before, now = now, (x * now - math.sqrt(k) * before) / math.sqrt(k + 1)
    return now


def hermite_mixture(energies: Mapping[int, float], coordinates: int | None = None) -> Callable[[Tensor], Tensor]:
    """Sum over k of (W_k / n)^(1/2) sum over i of h_k(x_i): on N(0, I) the energy of degree k is W_k.

    Args:
        energies: W_k by degree.
        coordinates: over how many, the first n, each degree is spread; None for all.  With 1 it is a ridge function,
            whose powers have heavy tails.
    """

    def target(x: Tensor) -> Tensor:
        x = x if coordinates is None else x[:, :coordinates]
        total = x.new_zeros(len(x))
        for degree, energy in energies.items():
            total = total + math.sqrt(energy / x.shape[1]) * hermite(degree, x).sum(dim=1)
        return total

    return target


def parity(places: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """The product of some coordinates: of energy 1 at its number of places, on N(0, I) and on the cube."""
    return lambda x: x[:, list(places)].prod(dim=1)


def staircase(*lengths: int) -> Callable[[Tensor], Tensor]:
    """Sum of parities of the given lengths, over places of their own: staircase(1, 2, 4) is x1 + x2 x3 + x4 x5 x6 x7.

    Energy 1 for each length, on N(0, I) and on the cube.
    """
    if not lengths or min(lengths) < 1:
        raise UsageError(f"staircase{lengths}: give the numbers of coordinates that are multiplied, each at least 1.")
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    steps = [parity(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    return lambda x: torch.stack([step(x) for step in steps]).sum(dim=0)


def sines(amplitudes: Mapping[float, float]) -> Callable[[Tensor], Tensor]:
    """Sum over w of a_w sin(w x_1), by angular frequency w.

    On N(0, I) the coefficient of h_k, for odd k, is (-1)^((k - 1) / 2) sum over w of a_w exp(-w^2 / 2) w^k / sqrt(k!);
    those of even degree are zero.
    """
    return lambda x: torch.stack([a * torch.sin(w * x[:, 0]) for w, a in amplitudes.items()]).sum(dim=0)
