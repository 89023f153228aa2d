"""Targets of known degree have the energies that they promise, by quadrature and by sums over the cube."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.polynomial import hermite_e
from torch import Tensor

from termwise.degree.targets import hermite, hermite_mixture, parity, sines, staircase
from termwise.errors import UsageError


def coefficients(function: Callable[[Tensor], Tensor], highest: int) -> np.ndarray:
    """Of a function of the first of one coordinates, by Gauss-Hermite quadrature."""
    nodes, weights = hermite_e.hermegauss(60)
    values = function(torch.from_numpy(nodes)[:, None]).numpy()
    basis = [
        hermite_e.hermeval(nodes, np.eye(highest + 1)[k]) / math.sqrt(math.factorial(k)) for k in range(highest + 1)
    ]
    return np.array([(weights * values * h).sum() for h in basis]) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize("degree", range(8))
def test_hermite_polynomials_are_orthonormal(degree: int) -> None:
    found = coefficients(lambda x: hermite(degree, x[:, 0]), 8)
    np.testing.assert_allclose(found, np.eye(9)[degree], atol=1e-10)


def test_a_mixture_has_its_energies_however_it_is_spread() -> None:
    energies = {1: 1.0, 3: 0.5, 6: 0.25}
    found = coefficients(hermite_mixture(energies), 7) ** 2
    np.testing.assert_allclose(found, [0, 1, 0, 0.5, 0, 0, 0.25, 0], atol=1e-10)
    x = torch.randn(200_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(hermite_mixture({2: 1.0})(x).var()) == pytest.approx(1, rel=0.03)
    one = hermite_mixture(energies, coordinates=1)(x)
    torch.testing.assert_close(one, hermite_mixture(energies)(x[:, :1]))


def test_a_sine_has_the_coefficients_that_are_promised() -> None:
    amplitudes = {0.5: 1.0, 2.0: -0.7}
    found = coefficients(sines(amplitudes), 9)
    for k in range(10):
        sign = (-1) ** ((k - 1) // 2)
        sums = sum(a * math.exp(-(w**2) / 2) * w**k for w, a in amplitudes.items())
        assert found[k] == pytest.approx(sign * sums / math.sqrt(math.factorial(k)) if k % 2 else 0, abs=1e-9)


def test_a_staircase_is_the_sum_of_its_parities() -> None:
    cube = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=7)))
    expected = cube[:, 0] + cube[:, 1] * cube[:, 2] + cube[:, 3] * cube[:, 4] * cube[:, 5] * cube[:, 6]
    torch.testing.assert_close(staircase(1, 2, 4)(cube), expected)
    torch.testing.assert_close(parity([1, 2])(cube), cube[:, 1] * cube[:, 2])
    for lengths in ((), (1, 0)):
        with pytest.raises(UsageError, match="at least 1"):
            staircase(*lengths)
