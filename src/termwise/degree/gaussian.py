"""Gaussian inputs N(mu, Sigma): standard, of given moments, or of the mean and covariance of data; their circles."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from termwise.degree.functions import Function, gathered
from termwise.degree.inversion import FAR
from termwise.errors import DataError, UsageError

SAMPLES = 4096  # of data that the moments are taken of


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian over inputs of some shape.

    Attributes:
        mean: of the shape of one sample, float64.
        factor: (numbers in a sample, rank), with factor @ factor.T the covariance; None for the identity.
        title: which it is, in words.
    """

    mean: Tensor
    factor: Tensor | None
    title: str

    @staticmethod
    def standard(shape: Sequence[int]) -> Gaussian:
        """N(0, I) over samples of this shape."""
        mean = torch.zeros(*shape, dtype=torch.float64)
        return Gaussian(mean, None, f"N(0, I), {mean.numel()} dimensions")

    @staticmethod
    def of_moments(mean: Tensor, covariance: Tensor) -> Gaussian:
        """Given moments: a mean of the shape of one sample, and the covariance of its numbers.

        Raises:
            UsageError: when the shapes do not fit, or the covariance is not symmetric and positive semi-definite.
        """
        d = mean.numel()
        if covariance.shape != (d, d):
            raise UsageError(
                f"degrees: a covariance of shape {tuple(covariance.shape)} for {d} numbers: not ({d}, {d})."
            )
        covariance = covariance.detach().cpu().double()
        values, vectors = torch.linalg.eigh(covariance)
        largest = float(values.abs().max())
        if not torch.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8 * largest) or values[0] < -1e-6 * largest:
            raise UsageError(
                "degrees: the covariance is not symmetric and positive semi-definite. Give (C + C.T) / 2, or the data."
            )
        kept = values > 1e-12 * largest
        factor = vectors[:, kept] * values[kept].sqrt()
        return Gaussian(mean.detach().cpu().double(), factor, f"Gaussian of given moments, {d} dimensions")

    @staticmethod
    def fitted(data: Any, batch_size: int = 256) -> Gaussian:
        """The mean and covariance of the first 4,096 samples of data, the covariance by a factor of low rank.

        Raises:
            DataError: when there are fewer than two samples, or all are the same.
        """
        inputs, _ = gathered(data, SAMPLES, batch_size)
        flat = inputs.cpu().double().flatten(1)
        n, d = flat.shape
        if n < 2:
            raise DataError("degrees: a covariance needs at least two samples of data.")
        mean = flat.mean(dim=0)
        deviations = (flat - mean) / math.sqrt(n - 1)
        # The smaller of the two Gram matrices has all that there is.
        values, vectors = torch.linalg.eigh(deviations @ deviations.T if n < d else deviations.T @ deviations)
        kept = values > 1e-10 * values[-1]
        if not bool(values[-1] > 0):
            raise DataError("degrees: all samples are the same, so there is no distribution to take degrees on.")
        factor = deviations.T @ vectors[:, kept] if n < d else vectors[:, kept] * values[kept].sqrt()
        title = f"Gaussian with the mean and covariance of {n} samples, rank {factor.shape[1]} of {d}"
        return Gaussian(mean.reshape(inputs.shape[1:]), factor, title)

    cube = False
    highest = FAR  # degree that a function can have
    angles = 64

    @property
    def rank(self) -> int:
        """Of how many independent numbers a sample is made."""
        return self.mean.numel() if self.factor is None else self.factor.shape[1]

    def rows(self, angles: int) -> int:
        """How many frequencies are looked at: those of most power, and few that higher ones show as."""
        return min(20, angles // 2 - 2)

    def circles(self, count: int, angles: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points x_t = mu + (x - mu) cos t + (x' - mu) sin t, (count, angles, *shape), and what x is made of."""
        independent = torch.randn(2, count, self.rank, generator=generator, dtype=torch.float64)
        u, v = (self._deviations(part)[:, None] for part in independent)
        t = torch.arange(angles, dtype=torch.float64) * (2 * math.pi / angles)
        t = t.reshape(1, angles, *[1] * self.mean.dim())
        return self.mean + u * t.cos() + v * t.sin(), independent[0]

    def slopes(self, function: Function, start: Tensor, generator: torch.Generator) -> Tensor:
        """Whose mean is sum over k of k W_k: |J L|^2 at one point of each circle, by a random sign for each component.

        Raises:
            RuntimeError: when the function has no gradient.
        """
        found = []
        with torch.enable_grad():
            for part in start.split(function.batch_size):
                z = part.clone().requires_grad_()
                y = function.once(self.mean + self._deviations(z))
                signs = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
                found.append(torch.autograd.grad((y * signs).sum(), z)[0].square().sum(dim=1))
        return torch.cat(found)

    def _deviations(self, independent: Tensor) -> Tensor:
        """x - mu for independent standard Gaussians, (N, rank) to (N, *shape)."""
        flat = independent if self.factor is None else independent @ self.factor.T
        return flat.reshape(-1, *self.mean.shape)
