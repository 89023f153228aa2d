"""What the experiments on fitted functions share: curves by hand, descent and degrees by other means."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from termwise import nets
from termwise.degree.targets import staircase
from termwise.degree.walsh import all_inputs
from termwise.errors import ModelError
from termwise.experiments.fitting import Curve, OnTheCube, by_degree, course, fit
from termwise.verdict.decision import tau


def curve(steps: list[float], values: list[float]) -> Curve:
    return Curve(np.array(steps), np.array(values))


def test_a_level_is_reached_between_two_records_on_a_logarithmic_scale() -> None:
    # Half-way from 0.8 to 1 between steps 3 and 15: log(step + 1) is half-way from log 4 to log 16, at log 8.
    assert curve([0, 3, 15], [0.0, 0.8, 1.0]).reaches() == pytest.approx(7)
    assert curve([0, 3, 15], [0.0, 0.9, 1.0]).reaches() == pytest.approx(3)
    assert curve([0, 3, 15], [1.0, 0.2, 1.0]).reaches() == 0
    assert math.isnan(curve([0, 3, 15], [0.0, 0.8, 0.89]).reaches())


def test_the_first_time_counts_and_what_is_missing_does_not() -> None:
    assert curve([0, 1, 3, 7], [0.0, 0.9, 0.2, 1.0]).reaches() == pytest.approx(1)
    assert curve([0, 1, 3], [math.nan, 0.5, 1.0]).reaches(0.5) == 1


def test_a_value_between_two_records() -> None:
    found = curve([0, 3, 15], [0.0, 0.8, 1.0])
    assert found.at(7) == pytest.approx(0.9)
    assert math.isnan(found.at(math.nan))


def test_a_curve_of_rows() -> None:
    rows = [{"seed": seed, "step": n, "x": None if n == 0 else 10.0 * seed + n} for n in (0, 1, 4) for seed in (1, 2)]
    found = Curve.of(rows, "x", seed=2)
    np.testing.assert_equal(found.steps, [0, 1, 4])
    np.testing.assert_equal(found.values, [math.nan, 21, 24])


def test_tau_by_counting_pairs() -> None:
    one, other = [1, 2, 3, 4], [1.0, 3.0, 2.0, 4.0]
    pairs = itertools.combinations(range(4), 2)
    signs = [np.sign((one[i] - one[j]) * (other[i] - other[j])) for i, j in pairs]
    assert tau(one, other) == pytest.approx(np.mean(signs))
    assert math.isnan(tau(one, [1.0, math.nan, 2.0, 3.0]))


def test_descent_is_that_of_half_the_mean_square() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    model = nets.mlp([3, 1], bias=False).double()
    (weight,) = model.parameters()
    expected = weight.detach().numpy()[0].copy()
    recorded: list[int] = []
    fit(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), 5, recorded.append, ratio=2.0)
    for _ in range(5):
        expected -= 0.1 * x.numpy().T @ (x.numpy() @ expected - y.numpy()) / 6
    np.testing.assert_allclose(weight.detach().numpy()[0], expected, rtol=1e-12)
    assert recorded == [0, 1, 2, 4, 5]


def test_a_step_that_is_too_large_is_refused() -> None:
    torch.manual_seed(0)
    x, model = torch.randn(6, 3), nets.mlp([3, 8, 1])
    with pytest.raises(ModelError, match="the step is too large"):
        fit(model, x, x[:, 0], torch.optim.SGD(model.parameters(), lr=1e9), 20, lambda n: None)


def test_what_is_learned_on_the_cube_by_products_with_parities() -> None:
    torch.manual_seed(0)
    protocol = OnTheCube(inputs=7, width=8, rate=1e-2, steps=3)
    model = nets.mlp([7, 8, 1], bias=False)
    rows = by_degree(course(model, staircase(1, 2, 4), protocol))
    x = all_inputs(7)
    y = model(x)[:, 0].detach().double()
    last = {row["degree"]: row for row in rows if row["step"] == 3}
    for places in ([0], [1, 2], [3, 4, 5, 6]):
        coefficient = float((y * x[:, places].prod(dim=1)).mean())
        assert last[len(places)]["learned"] == pytest.approx(coefficient, abs=1e-6)
    for k in (1, 2):
        sets = itertools.combinations(range(7), k)
        energy = sum(float((y * x[:, list(places)].prod(dim=1)).mean()) ** 2 for places in sets)
        assert last[k]["energy"] == pytest.approx(energy, rel=1e-5)
        assert last[k]["share"] == pytest.approx(energy / float(y.var(correction=0)), rel=1e-5)
    assert sorted(last) == [*range(1, 8)]
    assert last[3]["learned"] is None


def test_a_network_that_begins_at_zero_has_learned_nothing_then() -> None:
    torch.manual_seed(0)
    model = nets.mlp([4, 8, 1], bias=False)
    torch.nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
    rows = by_degree(course(model, staircase(1, 2), OnTheCube(inputs=4, width=8, steps=2)))
    first = {row["degree"]: (row["energy"], row["learned"]) for row in rows if row["step"] == 0}
    assert first == {1: (0, 0), 2: (0, 0), 3: (0, None), 4: (0, None)}
