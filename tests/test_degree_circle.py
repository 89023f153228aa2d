"""The circle estimator against closed forms: Hermite series of NumPy, moments of quadratic forms, integrals."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.polynomial import hermite_e
from torch import Tensor, nn

import termwise as tw
from termwise.degree import DegreeSpectrum, Gaussian
from termwise.degree.inversion import powers_of_degrees
from termwise.degree.spectrum import GROUPS
from termwise.errors import DataError, ModelError, RecordError, UsageError

RELU_4 = 1 / (48 * math.pi)  # the square of E relu(z) h_4(z)


def measured(function: Any, dimensions: int = 20, **options: Any) -> DegreeSpectrum:
    return tw.degrees(function, (dimensions,), inputs="standard", **{"batch_size": 8192, **options})


def mixture(energies: dict[int, float], coordinates: int | None = None) -> Callable[[Tensor], Tensor]:
    """Energies by degree, spread over coordinates, by NumPy's Hermite series."""

    def function(x: Tensor) -> Tensor:
        x = x[:, :coordinates]
        series = np.zeros(max(energies) + 1)
        for k, energy in energies.items():
            series[k] = math.sqrt(energy / x.shape[1] / math.factorial(k))
        return torch.from_numpy(hermite_e.hermeval(x.numpy(), series).sum(axis=1))

    return function


def energy(result: DegreeSpectrum) -> np.ndarray:
    return result.spectrum["energy"]


def standard_error(result: DegreeSpectrum) -> np.ndarray:
    return (result.spectrum["energy_high"] - result.spectrum["energy_low"]) / (2 * 1.96)


def kinds(result: DegreeSpectrum) -> set[str]:
    return {warning.partition(":")[0] for warning in result.warnings}


# The matrix between powers and energies.


def test_the_powers_of_a_degree_are_those_of_a_power_of_the_cosine() -> None:
    t = 2 * np.pi * np.arange(64) / 64
    for k in range(25):
        series = np.fft.rfft(np.cos(t) ** k).real / 64
        series[1:-1] *= 2
        np.testing.assert_allclose(powers_of_degrees(64, cube=False)[:-1, k], series[:-1], atol=1e-13)


def test_the_powers_of_a_degree_are_binomial() -> None:
    found = powers_of_degrees(64, cube=False)
    for k in range(20):
        for m in range(20):
            inside = m <= k and (k - m) % 2 == 0
            expected = (1 if m == 0 else 2) * math.comb(k, (k - m) // 2) / 2**k if inside else 0
            assert found[m, k] == pytest.approx(expected, abs=1e-15)


# Known spectra.


@pytest.mark.parametrize("dimensions", [20, 784])
def test_a_mixture_of_hermite_polynomials_is_recovered(dimensions: int) -> None:
    truth = {1: 1.0, 2: 0.5, 3: 0.7, 4: 0.4, 5: 0.3, 6: 0.2}
    found = measured(mixture(truth), dimensions, samples=2000, seed=3)
    expected = np.array([0.0, 1.0, 0.5, 0.7, 0.4, 0.5, 0.0, 0.0])
    assert (np.abs(energy(found) - expected) <= 3 * standard_error(found) + 1e-12).all()
    assert found.details["explained"] == pytest.approx(1, abs=0.01)
    assert "aliasing" not in kinds(found) and "truncation" not in kinds(found)


def test_the_intervals_cover_what_they_should() -> None:
    # Of 40 repetitions at 95 % fewer than 34 hits have a probability of 0.3 %.
    hits = np.zeros(5)
    for seed in range(40):
        table = measured(mixture({1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}), samples=1000, seed=seed).spectrum
        hits += ((table["energy_low"] <= 1) & (table["energy_high"] >= 1))[:5]
    assert (hits[1:] >= 34).all(), hits


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 6, 9])
def test_a_polynomial_has_nothing_above_its_degree(degree: int) -> None:
    weights = torch.randn(degree, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(degree))
    found = measured(lambda x: (x @ weights.T + 0.3).prod(dim=1), samples=100)
    above = sum(e for e, (low, _) in zip(energy(found), GROUPS, strict=True) if low > degree)
    assert above < 1e-12 * energy(found).sum()
    powers = found.powers
    assert powers is not None and (powers["power"][degree + 1 :] < 1e-12 * powers["power"].sum()).all()
    assert energy(found)[:5][degree : degree + 1].sum() > 0 or degree > 4


@pytest.mark.parametrize("odd", [True, False])
def test_parities_do_not_leak(odd: bool) -> None:
    w = torch.linspace(-0.5, 0.5, 20, dtype=torch.float64)
    function = (lambda x: torch.tanh(x @ w)) if odd else (lambda x: torch.cos(x @ w))
    found = energy(measured(function, samples=100))
    own, others = found[[1, 3]], found[[2, 4]]
    if not odd:
        own, others = others, own
    assert (own > 1e-3).all() and (others < 1e-20).all()


@pytest.mark.parametrize("cutoff", range(6, 13))
def test_a_relu_has_its_degree_4_at_every_cutoff(cutoff: int) -> None:
    w = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = measured(lambda x: torch.relu(x @ w / w.norm()), 50, highest=cutoff, samples=4000, seed=2)
    assert energy(found)[4] == pytest.approx(RELU_4, rel=0.1)
    assert energy(found)[2] == pytest.approx(1 / (4 * math.pi), rel=0.1)
    assert energy(found)[0] == pytest.approx(1 / (2 * math.pi), rel=0.1)
    assert "truncation" not in kinds(found)


def test_a_sine_has_the_coefficients_of_its_integral() -> None:
    found = energy(measured(lambda x: torch.sin(1.2 * x[:, 0]), samples=4000))
    expected = [math.exp(-(1.2**2)) * 1.2 ** (2 * k) / math.factorial(k) for k in (1, 3)]
    np.testing.assert_allclose(found[[1, 3]], expected, rtol=0.1)


def test_a_mean_far_larger_than_the_rest_hides_nothing() -> None:
    found = measured(lambda x: 1e6 + x[:, 0] + x[:, 1] * x[:, 2], samples=2000)
    assert energy(found)[0] == pytest.approx(1e12, rel=1e-6)
    np.testing.assert_allclose(energy(found)[1:4], [1, 1, 0], atol=0.2)


def test_a_network_has_the_spectrum_of_its_quadrature() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    for parameter in model.parameters():
        parameter.data *= 1.5
    nodes, weights = hermite_e.hermegauss(50)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1)
    with torch.no_grad():
        values = model(torch.from_numpy(grid)).numpy()
    values -= values.mean(axis=-1, keepdims=True)
    basis = np.stack([hermite_e.hermeval(nodes, np.eye(30)[k]) / math.sqrt(math.factorial(k)) for k in range(30)])
    basis = basis * weights / math.sqrt(2 * math.pi)
    coefficients = np.einsum("ai,bj,ijc->abc", basis, basis, values)
    by_degree = np.zeros(59)
    np.add.at(by_degree, np.add.outer(np.arange(30), np.arange(30)), (coefficients**2).sum(axis=-1))
    found = measured(model, 2, samples=4000)
    assert (np.abs(energy(found)[:5] - by_degree[:5]) <= 3 * standard_error(found)[:5]).all()
    assert energy(found)[1:].sum() == pytest.approx(by_degree[1:].sum(), rel=0.05)


# Other Gaussians.


def quadratic(rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, factor = torch.randn(2, 6, 6, dtype=torch.float64, generator=generator)
    factor = factor[:, :rank]
    return a + a.T, factor @ factor.T, torch.linspace(-1, 1, 6, dtype=torch.float64)


def test_a_quadratic_form_on_a_given_gaussian() -> None:
    a, sigma, mu = quadratic(3)
    found = tw.degrees(lambda x: ((x @ a) * x).sum(1), Gaussian.of_moments(mu, sigma), samples=8000, batch_size=8192)
    expected = [
        float((torch.trace(a @ sigma) + mu @ a @ mu) ** 2),
        float(4 * mu @ a @ sigma @ a @ mu),
        float(2 * torch.trace(a @ sigma @ a @ sigma)),
    ]
    assert (np.abs(energy(found)[:3] - expected) <= 3 * standard_error(found)[:3]).all()
    assert found.mean_degree is not None
    mean = (expected[1] + 2 * expected[2]) / (expected[1] + expected[2])
    assert found.mean_degree.low <= mean <= found.mean_degree.high


@pytest.mark.parametrize("samples", [5, 200])
def test_a_fitted_gaussian_has_the_moments_of_the_data(samples: int) -> None:
    data = torch.randn(samples, 2, 3, 3, generator=torch.Generator().manual_seed(0)) + 1
    fitted = Gaussian.fitted(data)
    flat = data.double().flatten(1)
    assert fitted.factor is not None and fitted.rank == min(samples - 1, 18)
    torch.testing.assert_close(fitted.factor @ fitted.factor.T, torch.cov(flat.T))
    torch.testing.assert_close(fitted.mean, data.double().mean(dim=0))
    # And so have the circles: a linear function has the variance of the data in its direction.
    found = tw.degrees(lambda x: x.flatten(1)[:, 4], [(data, torch.zeros(samples))], samples=4000)
    assert energy(found)[1] == pytest.approx(float(flat[:, 4].var()), rel=0.1)


# Beside the spectrum.


def test_the_mean_degree_is_that_of_the_energies() -> None:
    found = measured(lambda x: x[:, 0] + 2 * x[:, 1] * x[:, 2] + x[:, 3:6].prod(dim=1), samples=4000)
    assert found.mean_degree is not None
    assert found.mean_degree.low <= (1 + 2 * 4 + 3) / 6 <= found.mean_degree.high
    assert "mean degree" not in kinds(found)


def test_the_mean_degree_counts_every_component() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], x[:, 1] * x[:, 2], x[:, 3]], dim=1)

    found = measured(function, samples=4000, centre=False)
    assert found.mean_degree is not None
    assert found.mean_degree.low <= 4 / 3 <= found.mean_degree.high
    np.testing.assert_allclose(energy(found)[:3], [0, 2, 1], atol=0.1)


def test_what_all_classes_share_does_not_count() -> None:
    found = measured(lambda x: torch.stack([x[:, 0] + x[:, 1] ** 3, x[:, 1] ** 3], dim=1), samples=2000)
    np.testing.assert_allclose(energy(found)[:5], [0, 0.5, 0, 0, 0], atol=0.05)


def test_the_learned_part_is_the_overlap_with_the_target() -> None:
    first, second, third = (mixture({k: 1.0}) for k in (1, 2, 3))
    noise = mixture({2: 4.0}, coordinates=1)
    found = measured(
        lambda x: 0.5 * first(x) - 0.2 * second(x) + 0.1 * noise(x),
        samples=4000,
        target=lambda x: first(x) + second(x) + third(x),
    )
    learned = found.spectrum
    # The noise is 1/20 part h_2 of the first coordinate, of which the target has a share: <noise, second> = 2 / 20^.5.
    expected = {1: 0.5, 2: -0.2 + 0.1 * 2 / math.sqrt(20), 3: 0.0}
    for degree, part in expected.items():
        assert learned["learned"][degree] == pytest.approx(part, abs=0.03)
        assert learned["learned_low"][degree] - 1e-9 <= part <= learned["learned_high"][degree] + 1e-9
    assert np.isnan(learned["learned"][[0, 4, 5, 6, 7]]).all()


# What can go wrong, and is said.


def test_it_warns_of_aliasing() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.sin(12 * x[:, 0])

    assert "aliasing" in kinds(measured(function, samples=100, angles=32))
    assert "aliasing" not in kinds(measured(function, samples=100, angles=128))


def test_angles_are_doubled_until_they_are_enough() -> None:
    calm = measured(lambda x: x[:, 0] ** 2, samples=40).details["angles"]
    fast = measured(lambda x: torch.sin(20 * x[:, 0]), samples=40)
    assert fast.details["angles"] > calm and "aliasing" not in kinds(fast)


def test_it_warns_of_what_lies_above_the_cutoff() -> None:
    assert "truncation" in kinds(measured(mixture({1: 1.0, 11: 3.0}), 60, samples=2000))
    assert "truncation" not in kinds(measured(mixture({1: 1.0, 3: 1.0}), samples=2000))


def test_it_warns_of_heavy_tails() -> None:
    assert "heavy tails" in kinds(measured(mixture({5: 1.0}, coordinates=1), samples=2000))
    assert "heavy tails" in kinds(measured(mixture({6: 1.0}, coordinates=1), samples=2000))
    assert "heavy tails" not in kinds(measured(mixture({1: 1.0, 2: 1.0, 3: 1.0}), samples=2000))


def test_it_warns_of_rounding() -> None:
    model = nn.Linear(20, 1)
    with torch.no_grad():
        model.bias.fill_(1e4)
    found = measured(model, samples=100)
    assert "float floor" in kinds(found)
    np.testing.assert_array_equal(energy(found)[2:], 0)
    assert "float floor" not in kinds(measured(lambda x: torch.exp(x[:, 0]), samples=100))
    # What is computed in single precision inside is judged by it.
    inside = measured(lambda x: x.float()[:, 0] * x.float()[:, 1] + 1e4, samples=100)
    assert inside.details["precision"] == "float32" and (energy(inside)[3:] == 0).all()


@pytest.mark.parametrize("angles", [32, 48, 64])
def test_few_angles_give_the_low_degrees_of_a_relu(angles: int) -> None:
    found = measured(lambda x: torch.relu(x[:, 0]), samples=4000, angles=angles)
    share = found.spectrum["share"]
    variance = 0.5 - 1 / (2 * math.pi)
    np.testing.assert_allclose(share[[1, 2]], [0.25 / variance, 1 / (4 * math.pi) / variance], rtol=0.03)
    assert share[4] == pytest.approx(RELU_4 / variance, rel=0.1)


def test_it_warns_where_gradients_are_not_those_of_the_function() -> None:
    def straight_through(x: Tensor) -> Tensor:
        y = x[:, 0]
        return y + (torch.sign(y) - y).detach()

    found = measured(straight_through, samples=500)
    assert found.mean_degree is None and "mean degree" in kinds(found)
    # By the integral of sign(z) h_k(z): a step is found out, and its energies are right all the same.
    np.testing.assert_allclose(energy(found)[[1, 3]], [2 / math.pi, 1 / (3 * math.pi)], rtol=0.03)
    missing = measured(lambda x: torch.from_numpy(np.tanh(x.detach().numpy()[:, 0])), samples=100)
    assert missing.mean_degree is None and "mean degree" in kinds(missing)


# The result, and how it is had.


def test_the_same_seed_gives_the_same_bits_and_the_model_is_left_as_found(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, again, other = (measured(model, 5, samples=50, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert str(first) == str(again) and first.spectrum.rows() == again.spectrum.rows()
    assert first.spectrum.rows() != other.spectrum.rows()
    first.save(tmp_path / "d.termwise")
    loaded = DegreeSpectrum.load(tmp_path / "d.termwise")
    assert str(loaded) == str(first) and loaded.details == first.details and loaded.warnings == first.warnings
    assert loaded.powers is not None and first.powers is not None and loaded.powers.rows() == first.powers.rows()


def test_a_record_of_another_kind_is_refused(tmp_path: Any) -> None:
    model = nn.Linear(4, 3)
    tw.profile(model, torch.randn(4, 4)).save(tmp_path / "p.termwise")
    with pytest.raises(RecordError, match="not a degree-spectrum"):
        DegreeSpectrum.load(tmp_path / "p.termwise")


def test_memory_does_not_grow_with_the_number_of_circles() -> None:
    peaks = []
    for circles in (500, 5000):
        tracemalloc.start()
        measured(lambda x: x[:, 0] ** 2, samples=circles, batch_size=512)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_no_more_than_a_batch_is_run_at_once_and_progress_is_told() -> None:
    sizes: list[int] = []
    told: list[tuple[int, int]] = []

    def function(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x[:, 0]

    found = measured(function, samples=30, batch_size=100, progress=lambda done, total: told.append((done, total)))
    assert max(sizes) <= 100 and sum(sizes) == found.details["evaluations"]
    assert told == [(n, 30) for n in range(1, 31)]
    # No more than 1.2 times the passes that the circles need, with as many as are usual.
    assert measured(function, angles=32, samples=2000).details["evaluations"] < 1.2 * 2000 * 32


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: x[:, 0] * math.nan, ModelError, "NaN"),
        (lambda x: torch.ones(len(x)), ModelError, "no degrees"),
        (lambda x: x.sum(), ModelError, "one row a sample"),
        (lambda x: (x[:, 0] > 0).long(), ModelError, "int64"),
        (lambda x: {"a": x}, ModelError, "output="),
        (lambda x: x[:, 0].bfloat16(), ModelError, "bfloat16"),
        (nn.Linear(20, 2).bfloat16(), ModelError, "model.float"),
        (lambda x: x @ torch.ones(20, 1), ModelError, "x.float"),
    ],
)
def test_functions_without_degrees_are_refused(function: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        measured(function, samples=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 5}, "at least 20"),
        ({"angles": 17}, "even"),
        ({"highest": 40}, "4 to 16"),
        ({"replicates": 1}, "interval"),
        ({"batch_size": 0}, "at least 1"),
        ({"inputs": "uniform"}, "'fitted'"),
        ({"inputs": "fitted"}, "needs data"),
        ({"target": lambda x: x}, "target gave shape"),
    ],
)
def test_options_that_make_no_spectrum_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measured(lambda x: x[:, 0], **options) if "inputs" not in options else tw.degrees(
            lambda x: x[:, 0], (20,), **options
        )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.randint(5, (8, 3)), "int64"),
        (torch.full((8, 3), math.nan), "NaN"),
        (torch.ones(8, 3), "the same"),
        (torch.ones(1, 3), "two samples"),
        (torch.ones(0, 3), "empty"),
    ],
)
def test_data_without_a_covariance_is_refused(data: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tw.degrees(lambda x: x[:, 0], data)


def test_outputs_whose_sums_do_not_fit_into_memory_are_refused() -> None:
    with pytest.raises(UsageError, match="2 GiB"):
        measured(lambda x: x[:, :1].expand(-1, 3000), samples=20, batch_size=64, replicates=100_000)


def test_moments_that_are_none_are_refused() -> None:
    mean = torch.zeros(3)
    with pytest.raises(UsageError, match=r"\(3, 3\)"):
        Gaussian.of_moments(mean, torch.eye(2))
    with pytest.raises(UsageError, match="semi-definite"):
        Gaussian.of_moments(mean, -torch.eye(3))
