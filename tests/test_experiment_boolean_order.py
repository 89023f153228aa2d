"""The kernel by brute force and by autograd, rates by numpy, and what follows from rows, by hand."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from termwise import nets
from termwise.experiments.boolean_order import (
    DEGREES,
    EXPERIMENT,
    Protocol,
    conclude,
    eigenvalues,
    measure,
    random_target,
    rates,
    times_of,
)
from termwise.experiments.experiment import Job


def cube(count: int) -> np.ndarray:
    return np.array([*itertools.product([-1.0, 1.0], repeat=count)])


def parities(x: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    count = x.shape[1]
    return {
        places: x[:, list(places)].prod(axis=1)
        for k in range(count + 1)
        for places in itertools.combinations(range(count), k)
    }


def kernel(u: np.ndarray) -> np.ndarray:
    """K(u) by quadrature: 2 E relu relu' + 2 u E step step' over two normals with the angle arccos u between them."""
    values, places = np.unique(u.round(12), return_inverse=True)
    phi = (np.arange(20000) + 0.5) * 2 * np.pi / 20000
    one, other = np.cos(phi)[:, None], np.cos(phi[:, None] - np.arccos(values))
    both = (one > 0) & (other > 0)
    # In the plane of both, the square of the radius is 2 in the mean.
    found = 2 * (2 * one * other * both).mean(axis=0) + 2 * values * both.mean(axis=0)
    return found[places].reshape(u.shape)


@pytest.mark.parametrize("count", [3, 4, 6])
def test_eigenvalues_by_diagonalisation(count: int) -> None:
    x = cube(count)
    matrix = kernel(x @ x.T / count) / len(x)
    exact = eigenvalues(count)
    repeated = np.repeat(exact, [math.comb(count, k) for k in range(count + 1)])
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), np.sort(repeated), atol=2e-4)
    for places, chi in parities(x).items():
        np.testing.assert_allclose(matrix @ chi, exact[len(places)] * chi, atol=2e-4)


@pytest.mark.parametrize("count", [3, 7, 10])
def test_without_biases_odd_degrees_are_linear(count: int) -> None:
    exact = eigenvalues(count)
    assert exact[1] == pytest.approx(1 / count, abs=1e-12)
    np.testing.assert_allclose(exact[3::2], 0, atol=1e-12)
    assert (exact[::2] > 1e-5).all()


def test_eigenvalues_by_autograd_at_large_width() -> None:
    count, width = 4, 40_000
    x = torch.from_numpy(cube(count))
    model = nets.mlp([count, width, 1], bias=False).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def output(weights: dict[str, torch.Tensor], point: torch.Tensor) -> torch.Tensor:
        scaled = point[None] / math.sqrt(count)
        return math.sqrt(2 / width) * torch.func.functional_call(model, weights, (scaled,))[0, 0]

    slopes = torch.func.vmap(torch.func.grad(output), in_dims=(None, 0))(weights, x)
    flat = torch.cat([each.flatten(1) for each in slopes.values()], dim=1)
    matrix = (flat @ flat.T / len(x)).detach().numpy()
    for places, chi in parities(cube(count)).items():
        found = chi @ matrix @ chi / len(x)
        assert found == pytest.approx(eigenvalues(count)[len(places)], rel=0.05, abs=1e-12)


def test_a_random_target_has_every_parity_with_its_part() -> None:
    x = cube(5)
    values = random_target(5, 3)(torch.from_numpy(x)).numpy()
    signs = set()
    for places, chi in parities(x).items():
        coefficient = (values * chi).mean() * math.sqrt(math.comb(5, len(places)))
        assert abs(coefficient) == pytest.approx(1)
        signs.add(round(coefficient))
    assert signs == {-1, 1}
    assert not np.array_equal(values, random_target(5, 4)(torch.from_numpy(x)).numpy())


def test_rates_tend_to_the_eigenvalues_with_the_width() -> None:
    chosen = [*DEGREES]
    exact = eigenvalues(6)[chosen]
    found = {
        width: [np.abs(rates(6, width, 4, seed)[chosen] / exact - 1).max() for seed in (0, 1)] for width in (16, 16384)
    }
    assert max(found[16384]) < 0.1 < min(found[16])


def test_odd_degrees_above_one_have_no_rate_at_any_width() -> None:
    assert np.abs(rates(5, 16, 1, 0)[[3, 5]]).max() < 1e-9


def lines(times: dict[int, list[float]], ratio: float = 1.0) -> dict[str, list[dict[str, Any]]]:
    """Degrees that jump from 0 to 1 at the given steps, in five seeds; rates that are so many times the eigenvalue."""
    learned = [
        {"inputs": 7, "seed": seed, "degree": k, "step": step, "learned": float(step >= at[seed])}
        for k, at in times.items()
        for seed in range(5)
        for step in (*range(20), 60, 61, 100)
    ]
    found = [
        {"seed": seed, "degree": k, "eigenvalue": value, "rate": value * (1 if k == 0 else ratio + 0.001 * seed)}
        for seed in range(5)
        for k, value in enumerate(eigenvalues(7))
    ]
    return {"learned": learned, "rates": found}


ONE = Protocol(inputs=(7,))


def test_times_are_those_of_each_cube_and_seed() -> None:
    rows = lines({1: [2] * 5, 2: [5, 6, 7, 8, 9], 4: [61] * 5})["learned"]
    found = times_of(rows)
    assert [(each["inputs"], each["seed"]) for each in found] == [(7, seed) for seed in range(5)]
    for seed, each in enumerate(found):
        assert 1 < each["degree_1"] <= 2
        assert 4 + seed < each["degree_2"] <= 5 + seed
        assert 60 < each["degree_4"] <= 61


def test_the_order_holds_where_every_degree_is_twice_as_late_in_every_seed() -> None:
    conclusion = conclude(lines({1: [2] * 5, 2: [5, 6, 7, 8, 9], 4: [61] * 5}), ONE)
    verdicts = {line["quantity"]: line["verdict"] for line in conclusion.found}
    assert set(verdicts.values()) == {"holds"}
    first = np.array([each["degree_2"] / each["degree_1"] for each in conclusion.tables["times"]])
    low, high = stats.t.interval(0.95, 4, first.mean(), stats.sem(first))
    line = conclusion.found[0]
    assert (line["found"], line["low"], line["high"]) == tuple(map(pytest.approx, (first.mean(), low, high)))
    assert "in that order in every seed" in str(conclusion.charts[0].title)
    assert "in the order of the kernel's eigenvalues" in str(conclusion.charts[1].title)
    assert "The smallest" in str(conclusion.notes[0])


def test_the_order_fails_where_degrees_change_places() -> None:
    conclusion = conclude(lines({1: [9] * 5, 2: [5] * 5, 4: [61] * 5}), ONE)
    earlier, later, every = conclusion.found[:3]
    assert (earlier["verdict"], later["verdict"], every["verdict"]) == ("fails", "holds", "fails")
    assert str(conclusion.charts[0].title) == "When degrees 1, 2, 4 are learned"


def test_one_seed_out_of_order_leaves_it_undecided() -> None:
    every = conclude(lines({1: [2] * 5, 2: [3, 6, 7, 8, 9], 4: [61] * 5}), ONE).found[2]
    assert (every["found"], every["verdict"]) == (pytest.approx(0.8), "undecided")


def test_a_degree_that_is_never_learned_has_no_time() -> None:
    conclusion = conclude(lines({1: [2] * 5, 2: [5] * 5, 4: [61, 61, 61, 61, 1000]}), ONE)
    assert conclusion.found[1]["verdict"] == "undecided"
    assert "not learned" in str(conclusion.notes[0])


def test_rates_that_are_not_the_eigenvalues_fail() -> None:
    found = conclude(lines({1: [2] * 5, 2: [5] * 5, 4: [61] * 5}, ratio=1.5), ONE).found
    by_name = {line["quantity"]: line for line in found}
    assert [by_name[f"rate over eigenvalue, degree {k}"]["verdict"] for k in DEGREES] == ["fails"] * 3
    ranks = by_name["rank correlation of rates and eigenvalues"]
    assert (ranks["found"], ranks["verdict"]) == (pytest.approx(1), "holds")


def test_a_job_fits_a_cube_or_looks_at_rates(tmp_path: Path) -> None:
    protocol = Protocol.quick()
    assert EXPERIMENT.cells(protocol) == ("7", "8", "kernel")
    rows = measure(Job(0, "8", protocol, tmp_path, lambda line: None))["learned"]
    assert {(row["inputs"], row["degree"]) for row in rows} == {(8, k) for k in DEGREES}
    assert max(row["step"] for row in rows) == protocol.steps
    rows = measure(Job(0, "kernel", protocol, tmp_path, lambda line: None))["rates"]
    assert [row["eigenvalue"] for row in rows] == eigenvalues(5).tolist()
