"""Hats, the tangent kernel and the frequencies by other means; what follows from rows, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from termwise.experiments.experiment import Job
from termwise.experiments.sines import EXPERIMENT, HAT, RELU, Hat, Protocol, conclude, largest_eigenvalue, measure
from termwise.experiments.sines import network as one_layer


def grid(points: int) -> torch.Tensor:
    return torch.arange(points)[:, None] * 2 / points - 1


def test_the_hat_is_a_sum_of_relus() -> None:
    u = torch.linspace(-3, 3, 61)
    relu = torch.relu
    assert torch.allclose(Hat()(u), relu(u + 1) - 2 * relu(u) + relu(u - 1), atol=1e-6)


def test_kinks_lie_in_the_interval_and_the_network_begins_at_zero() -> None:
    torch.manual_seed(0)
    model = one_layer(nn.ReLU(), 1000, 8.0)
    inner = model[0]
    assert isinstance(inner, nn.Linear)
    kinks = (-inner.bias / inner.weight[:, 0]).detach()
    assert float(kinks.min()) >= -1 and float(kinks.max()) <= 1
    assert np.histogram(kinks.numpy(), bins=4, range=(-1, 1))[0].min() > 200
    assert set(inner.weight[:, 0].tolist()) == {-8.0, 8.0}
    assert not model(grid(16)).any()


def test_the_largest_eigenvalue_by_autograd() -> None:
    torch.manual_seed(0)
    model, x = one_layer(Hat(), 24, 6.0).double(), grid(16).double()
    rows = []
    for point in x:
        slopes = torch.autograd.grad(model(point[None])[0, 0], list(model.parameters()))
        rows.append(torch.cat([slope.flatten() for slope in slopes]))
    jacobian = torch.stack(rows)
    expected = float(torch.linalg.eigvalsh(jacobian @ jacobian.T / len(x))[-1])
    assert largest_eigenvalue(model, x) == pytest.approx(expected, rel=1e-9)


def test_the_kernel_of_hats_is_flat_and_that_of_relus_is_not() -> None:
    """What the protocol's numbers are chosen for: energies of the waves under the kernel of hidden units."""
    protocol = Protocol()
    x = grid(protocol.points)
    waves = [torch.sin(math.pi * k * x[:, 0]) for k in protocol.frequencies]
    ratios = {}
    for name, activation in ((RELU, nn.ReLU()), (HAT, Hat())):
        torch.manual_seed(0)
        hidden = one_layer(activation, protocol.width, protocol.slope)[:-1](x).detach()
        energies = [float((hidden.T @ wave).square().sum()) for wave in waves]
        ratios[name] = energies[0] / energies[-1]
    assert ratios[HAT] < 1.5 and ratios[RELU] > 10


@pytest.mark.parametrize("name", [RELU, HAT])
def test_what_is_learned_of_a_frequency_by_the_discrete_fourier_transform(name: str, tmp_path: Path) -> None:
    protocol = Protocol.quick()
    assert EXPERIMENT.cells(protocol) == (RELU, HAT)
    rows = measure(Job(0, name, protocol, tmp_path, lambda line: None))["learned"]
    torch.manual_seed(0)
    model = one_layer({RELU: nn.ReLU(), HAT: Hat()}[name], protocol.width, protocol.slope)
    x = grid(protocol.points)
    target = sum(torch.sin(math.pi * k * x) for k in protocol.frequencies)
    rate = 1 / largest_eigenvalue(model, x)
    for _ in range(protocol.relu_steps):
        model.zero_grad()
        ((model(x) - target).square().mean() / 2).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= rate * parameter.grad
    y = model(x)[:, 0].detach().numpy()
    # x begins at -1, half a period of k = 1 before 0, so every second sine changes its sign.
    parts = -2 * np.fft.rfft(y).imag / len(y) * (-1.0) ** np.arange(len(y) // 2 + 1)
    last = {row["frequency"]: row["learned"] for row in rows if row["step"] == protocol.relu_steps}
    for k in protocol.frequencies:
        assert last[k] == pytest.approx(parts[k], abs=1e-4)


def lines(relu: list[float], hat: list[list[float]]) -> dict[str, list[dict[str, Any]]]:
    """Five seeds in which frequencies jump from 0 to 1 at steps: the same for the ReLU, each its own for the hat."""
    steps = [*range(30), 39, 40, 149, 150, 160]
    times = [(RELU, seed, relu) for seed in range(5)] + [(HAT, seed, each) for seed, each in enumerate(hat)]
    return {
        "learned": [
            {"activation": name, "seed": seed, "step": n, "frequency": k + 1, "learned": float(n >= at[k])}
            for name, seed, at in times
            for n in steps
            for k in range(4)
        ]
    }


NO_ORDER: list[list[float]] = [[20, 21, 19, 20], [19, 21, 20, 18], [21, 19, 20, 22], [20, 21, 22, 19], [22, 20, 21, 19]]


def verdicts(found: Any) -> list[str]:
    return [line["verdict"] for line in found]


def test_order_with_relus_and_none_with_hats() -> None:
    conclusion = conclude(lines([2, 10, 40, 150], NO_ORDER), Protocol())
    assert verdicts(conclusion.found) == ["holds"] * 4
    assert conclusion.found[0]["found"] == 1
    assert conclusion.found[1]["found"] > 50
    assert not conclusion.notes
    assert "hats remove the order" in str(conclusion.charts[1].title)
    assert len(conclusion.tables["times"]) == 2 * 5 * 4


def test_an_order_that_hats_leave_fails_and_its_distance_is_told() -> None:
    conclusion = conclude(lines([2, 10, 40, 150], [[20, 21, 22, 23]] * 5), Protocol())
    assert verdicts(conclusion.found) == ["holds", "holds", "fails", "holds"]
    assert "an order is left" in str(conclusion.notes[0])
    assert str(conclusion.charts[1].title) == "When each frequency is learned, with ReLUs and with hats"


def test_relus_without_order_fail() -> None:
    conclusion = conclude(lines([150, 40, 10, 8], NO_ORDER), Protocol())
    assert verdicts(conclusion.found)[:2] == ["fails", "fails"]


def test_a_frequency_that_is_never_learned_leaves_it_undecided() -> None:
    conclusion = conclude(lines([2, 10, 40, 1000], NO_ORDER), Protocol())
    assert verdicts(conclusion.found) == ["undecided", "undecided", "holds", "holds"]
    assert "5 of 40 frequencies" in str(conclusion.notes[0])
