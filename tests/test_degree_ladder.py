"""The ladder on data whose distribution is known, so that the shares are known as well."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel

import termwise as tw
from termwise.degree import DegreeSpectrum
from termwise.degree.ladder import check_enough, monomials
from termwise.degree.targets import hermite_mixture, parity
from termwise.errors import DataError, ModelError, UsageError

MIXTURE = {1: 4.0, 2: 2.0, 3: 1.0}


def gaussian(samples: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, dimensions, generator=generator, dtype=torch.float64)


def measured(function: Any, data: Any, **options: Any) -> DegreeSpectrum:
    return tw.degrees(function, data, inputs="real", **options)


def test_the_shares_are_those_of_the_hermite_energies() -> None:
    # On Gaussian data the best polynomial of degree D is the Hermite series up to D.
    found = measured(hermite_mixture(MIXTURE), gaussian(3000, 6), components=6, highest=4)
    table = found.spectrum
    error = (table["share_high"] - table["share_low"]) / (2 * 1.96)
    assert (np.abs(table["share"] - np.array([4, 2, 1, 0]) / 7) <= 3 * error + 1e-6).all()
    assert (error < 0.05).all()
    assert found.spectrum["r2"][2] > 0.999 and found.warnings == ()
    assert (np.abs(found.spectrum["floor"]) < 0.02).all()
    assert found.details["ceiling"] > 0.98


def test_whitening_makes_no_difference() -> None:
    data = gaussian(2000, 5) @ torch.diag(torch.tensor([10.0, 3.0, 1.0, 0.3, 0.1], dtype=torch.float64)) + 7
    found = measured(lambda x: x[:, 4] * x[:, 0], data, components=5, highest=2)
    # x4 x0 = (x4 - 7)(x0 - 7) + 7 (x4 - 7) + 7 (x0 - 7) + 49.
    linear, product = 49 * (0.01 + 100), 0.01 * 100
    np.testing.assert_allclose(found.spectrum["share"], [linear, product] / np.sum([linear, product]), atol=0.01)


def test_what_lies_outside_the_components_is_below_neither_ladder_nor_ceiling() -> None:
    data = gaussian(2000, 6) * torch.tensor([5, 5, 5, 1, 1, 1], dtype=torch.float64)
    found = measured(lambda x: x[:, 0] / 5 + x[:, 5], data, components=3, highest=2)
    assert found.spectrum["r2"][-1] == pytest.approx(0.5, abs=0.07)
    assert found.details["ceiling"] == pytest.approx(0.5, abs=0.07)


def test_a_degree_above_the_ladder_shows_under_the_ceiling() -> None:
    found = measured(lambda x: torch.sin(3 * x[:, 0]), gaussian(2000, 2), components=2, highest=2)
    assert found.spectrum["r2"][-1] < 0.2 and found.details["ceiling"] > 0.95


def test_the_intervals_cover_the_shares() -> None:
    hits = np.zeros(3)
    for seed in range(20):
        table = measured(hermite_mixture(MIXTURE), gaussian(700, 3, seed), components=3, seed=seed).spectrum
        hits += (table["share_low"] <= np.array([4, 2, 1]) / 7) & (np.array([4, 2, 1]) / 7 <= table["share_high"])
    assert (hits >= 15).all(), hits


def test_an_output_without_relation_to_the_inputs_stays_at_the_floor() -> None:
    noise = torch.randn(2000, 3, generator=torch.Generator().manual_seed(1))
    rows = iter(noise.split(512))
    found = measured(lambda x: next(rows), gaussian(2000, 4), components=4)
    assert (np.abs(found.spectrum["r2"]) < 0.03).all() and (np.abs(found.spectrum["floor"]) < 0.03).all()
    assert found.details["ceiling"] < 0.03


def test_the_monomials_are_those_of_the_polynomial_kernel() -> None:
    x = np.random.default_rng(0).normal(size=(7, 4))
    for degree in (1, 2, 5):
        features = monomials(x, degree)
        assert features.shape[1] == math.comb(4 + degree, degree) - 1
        kernel = polynomial_kernel(x, degree=degree, gamma=1 / 4, coef0=1)
        np.testing.assert_allclose(features @ features.T + 1, kernel, rtol=1e-10)


@pytest.mark.parametrize(("components", "highest", "many"), [(10, 4, 11), (15, 3, 17), (30, 2, 45)])
def test_the_digits_carry_so_much_and_no_more(components: int, highest: int, many: int) -> None:
    check_enough(1797, components, highest)
    with pytest.raises(DataError, match="too few"):
        check_enough(1797, many, highest)


def test_too_few_samples_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(DataError, match=r"give 492 samples or components=9 or highest=2") as caught:
        check_enough(491, 10, 3)
    assert "286 monomials" in str(caught.value)
    check_enough(492, 10, 3)
    check_enough(491, 9, 3)
    check_enough(491, 10, 2)
    with pytest.raises(DataError, match="highest=2"):
        measured(parity([0]), gaussian(400, 12))


def test_targets_beside_the_inputs_are_ignored_and_the_result_is_kept(tmp_path: Any) -> None:
    x = gaussian(800, 4)
    plain = measured(hermite_mixture(MIXTURE), x, components=4)
    paired = measured(
        hermite_mixture(MIXTURE), [(x[:500], torch.zeros(500)), (x[500:], torch.zeros(300))], components=4
    )
    assert paired.spectrum.rows() == plain.spectrum.rows()
    plain.save(tmp_path / "l.termwise")
    assert str(DegreeSpectrum.load(tmp_path / "l.termwise")) == str(plain)
    assert "ceiling" in str(plain) and "noise floor" in str(plain)


def test_what_has_no_ladder_is_refused() -> None:
    x = gaussian(800, 4)
    with pytest.raises(ModelError, match="no degrees"):
        measured(lambda x: torch.full((len(x),), 0.1, dtype=torch.float64), x, components=4)
    with pytest.raises(DataError, match="components=2"):
        measured(parity([0]), x[:, :2] @ torch.randn(2, 4, dtype=torch.float64), components=3)
    with pytest.raises(DataError, match="the same"):
        measured(parity([0]), torch.ones(500, 3), components=1)
    for options in ({"highest": 0}, {"components": 0}, {"samples": 30_000}, {"angles": 32}, {"target": parity([0])}):
        with pytest.raises(UsageError, match=next(iter(options))):
            measured(parity([0]), x, **options)
