"""Boolean inputs: against sums written out over all subsets, and against functions whose spectrum is known on paper."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import termwise as tw
from termwise.degree import DegreeSpectrum
from termwise.degree.cube import Cube
from termwise.degree.inversion import correlation
from termwise.degree.targets import parity, staircase
from termwise.degree.walsh import all_inputs
from termwise.errors import ModelError, UsageError
from termwise.interactions import walsh_energies


def measured(function: Any, dimensions: int, **options: Any) -> DegreeSpectrum:
    return tw.degrees(function, (dimensions,), inputs="boolean", **{"batch_size": 4096, **options})


def energies_by_definition(values: np.ndarray, dimensions: int) -> np.ndarray:
    """The coefficient of each subset as the mean of f times its parity, one at a time."""
    points = np.array(list(itertools.product([-1, 1], repeat=dimensions)))[:, ::-1]
    energies = np.zeros(dimensions + 1)
    for size in range(dimensions + 1):
        for subset in itertools.combinations(range(dimensions), size):
            sign = points[:, list(subset)].prod(axis=1)
            energies[size] += ((values * sign[:, None]).mean(axis=0) ** 2).sum()
    return energies


def majority_energies(dimensions: int) -> np.ndarray:
    """Of the sign of a sum of an odd number of coordinates, by its generating function.

    The derivative in one coordinate is the indicator that the other n = d - 1 are balanced, whose coefficient on a set
    of size j is that of z^(n / 2) in (1 - z)^j (1 + z)^(n - j), over 2^n.
    """
    n = dimensions - 1
    energies = np.zeros(dimensions + 1)
    for k in range(1, dimensions + 1, 2):
        j = k - 1
        coefficient = sum((-1) ** i * math.comb(j, i) * math.comb(n - j, n // 2 - i) for i in range(n // 2 + 1))
        energies[k] = math.comb(dimensions, k) * (coefficient / 2**n) ** 2
    return energies


# Exact.


def test_the_fast_transform_is_the_sum_over_all_inputs() -> None:
    values = np.random.default_rng(0).normal(size=(2**6, 3))
    np.testing.assert_allclose(walsh_energies(values), energies_by_definition(values, 6), rtol=1e-12)


def test_a_network_on_the_cube_has_the_spectrum_of_its_definition() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    found = measured(model, 7, centre=False, batch_size=10)
    with torch.no_grad():
        values = model(all_inputs(7).double()).numpy()
    expected = energies_by_definition(values, 7)
    np.testing.assert_allclose(found.spectrum["energy"], expected, rtol=1e-10)
    assert found.mean_degree is not None
    assert found.mean_degree.value == pytest.approx((np.arange(8) @ expected) / expected[1:].sum())
    assert found.variance == pytest.approx(values.var(axis=0).sum())


@pytest.mark.parametrize("places", [[0], [2, 4, 5], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_a_parity_is_at_its_degree_alone(places: list[int]) -> None:
    found = measured(parity(places), 8).spectrum["energy"]
    expected = np.zeros(9)
    expected[len(places)] = 1
    np.testing.assert_allclose(found, expected, atol=1e-30)


def test_twenty_inputs_are_run_whole() -> None:
    found = measured(lambda x: torch.sign(x[:, :19].sum(1)), 20, batch_size=2**17)
    assert found.method == "walsh" and found.details["evaluations"] == 2**20
    expected = np.append(majority_energies(19), 0)
    np.testing.assert_allclose(found.spectrum["energy"], expected, atol=1e-12)


def test_the_learned_part_by_degree_is_exact(tmp_path: Any) -> None:
    target = staircase(1, 2, 4)
    found = measured(lambda x: 0.9 * x[:, 0] + 0.5 * x[:, 1] * x[:, 2] + x[:, 8], 9, target=target)
    learned = found.spectrum["learned"]
    np.testing.assert_allclose(learned[[1, 2, 4]], [0.9, 0.5, 0.0], atol=1e-12)
    assert np.isnan(learned[[0, 3, 5, 6, 7, 8, 9]]).all()
    found.save(tmp_path / "w.termwise")
    assert str(DegreeSpectrum.load(tmp_path / "w.termwise")) == str(found)


# Circles.


@pytest.mark.parametrize("angles", [16, 32])
def test_points_of_a_circle_have_the_correlation_that_the_matrix_assumes(angles: int) -> None:
    points, _ = Cube((1,)).circles(40_000, angles, torch.Generator().manual_seed(0))
    values = points[..., 0].numpy()
    assert set(np.unique(values)) == {-1.0, 1.0}
    assert np.abs(values.mean(axis=0)).max() < 0.03
    expected = correlation(angles, cube=True)
    for lag in range(angles):
        found = (values * np.roll(values, -lag, axis=1)).mean()
        assert found == pytest.approx(expected[lag], abs=1e-9)  # around the whole circle it is no estimate


@pytest.mark.parametrize("seed", range(4))
def test_a_staircase_in_forty_dimensions(seed: int) -> None:
    found = measured(staircase(1, 2, 4), 40, samples=4000, seed=seed)
    energy = found.spectrum["energy"]
    error = (found.spectrum["energy_high"] - found.spectrum["energy_low"]) / (2 * 1.96)
    expected = np.array([0, 1, 1, 0, 1, 0, 0, 0])
    assert (np.abs(energy - expected) <= 3 * error + 0.02).all()
    assert found.mean_degree is not None and found.mean_degree.low <= 7 / 3 <= found.mean_degree.high


def test_the_majority_of_many() -> None:
    found = measured(lambda x: torch.sign(x.sum(1)), 41, samples=8000)
    expected = majority_energies(41)
    table = found.spectrum
    grouped = [*expected[:5], expected[5:7].sum(), expected[7:10].sum(), expected[10:].sum()]
    np.testing.assert_array_equal(table["energy"][[2, 4]], 0)  # an odd function
    for truth, low, high in zip(grouped, table["energy_low"], table["energy_high"], strict=True):
        assert low - 0.02 <= truth <= high + 0.02
    assert found.mean_degree is not None
    assert found.mean_degree.low <= np.arange(42) @ expected <= found.mean_degree.high


def test_a_function_without_gradient_has_a_mean_degree_on_the_cube() -> None:
    found = measured(lambda x: torch.from_numpy(x.numpy()[:, :3].prod(axis=1)), 25, samples=1000)
    assert found.mean_degree is not None and found.mean_degree.low <= 3 <= found.mean_degree.high


@pytest.mark.parametrize("dimensions", [5, 25])
def test_what_has_no_spectrum_is_refused(dimensions: int) -> None:
    with pytest.raises(ModelError, match="no degrees"):
        measured(lambda x: x[:, 0] ** 2, dimensions)
    with pytest.raises(UsageError, match="components"):
        measured(parity([0]), dimensions, components=3)


def test_outputs_that_do_not_fit_into_memory_are_refused() -> None:
    with pytest.raises(UsageError, match="2 GiB"):
        measured(lambda x: x[:, :1].expand(-1, 500), 20)
    with pytest.raises(UsageError, match="no number"):
        measured(parity([0]), 0)
