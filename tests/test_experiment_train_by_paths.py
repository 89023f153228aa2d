"""Training by halves of the gradient: by other means, and what is concluded from rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from termwise.data import load
from termwise.experiments import find, run, train_by_paths
from termwise.experiments.halves import HALVES, Half, descent, direction, split
from termwise.experiments.networks import ResidualMLP
from termwise.experiments.train_by_paths import RATIO, Protocol, causal, chosen, conclude
from termwise.seeds import owned_random


def test_the_middle_of_the_shares() -> None:
    assert split({1: 0.3, 2: 0.4, 3: 0.3}) == (2, pytest.approx(0.5))
    assert split({0: 1.2, 1: -0.4, 2: 0.2}) == (0, pytest.approx(0.5 / 1.2))
    assert split({4: 0.2, 5: 0.2, 6: 0.6}) == (6, pytest.approx(1 / 6))


# Halves of the gradient.


@pytest.fixture
def mlp() -> ResidualMLP:
    torch.manual_seed(0)
    return ResidualMLP(6, 8, 3, blocks=4, gain=0.5).double()


X, TARGETS = torch.randn(5, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])


def flat(half: Half, model: ResidualMLP) -> Tensor:
    found = direction(half, model, X, lambda y: F.cross_entropy(y, TARGETS))
    return torch.cat([found[name].flatten() for name, _ in model.named_parameters()])


def path_by_path(model: ResidualMLP) -> dict[int, Tensor]:
    """The gradient by the number of blocks on a path: each of the 2^4 paths on its own, with gates held."""
    with torch.no_grad():
        streams = [model.stem(X)]
        for branch in model.branches:
            streams.append(streams[-1] + branch(streams[-1]))
        y = model.head(streams[-1])
    cotangent = torch.autograd.grad(F.cross_entropy(y.requires_grad_(), TARGETS), y)[0]
    gradients = {k: torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64) for k in range(5)}
    for there in itertools.product((False, True), repeat=4):
        v = model.stem(X)
        for is_there, stream, branch in zip(there, streams, model.branches, strict=False):
            if is_there:
                v = branch.gain * branch.linear((stream > 0) * v)  # type: ignore[operator]
        path = (cotangent * model.head(v)).sum()
        parts = torch.autograd.grad(path, [*model.parameters()], materialize_grads=True)
        gradients[sum(there)] += torch.cat([part.flatten() for part in parts])
    return gradients


def test_the_shorter_half_is_the_sum_over_its_paths(mlp: ResidualMLP) -> None:
    by_length = path_by_path(mlp)
    whole = flat("all", mlp)
    assert torch.allclose(sum(by_length.values(), torch.zeros(())), whole, atol=1e-12)
    left, shorter = 0.5 * float(whole @ whole), torch.zeros_like(whole)
    for k in range(5):
        inner = float(by_length[k] @ whole)
        shorter += by_length[k] * min(1.0, left / inner)
        left -= min(left, inner)
        if not left:
            break
    for half, expected in {"shorter": shorter, "longer": whole - shorter}.items():
        assert torch.allclose(flat(half, mlp), expected * whole.norm() / expected.norm(), atol=1e-10)  # type: ignore[arg-type]


def test_both_halves_are_half_of_the_gradient_and_make_up_the_whole(mlp: ResidualMLP) -> None:
    F.cross_entropy(mlp(X), TARGETS).backward()
    whole = torch.cat([p.grad.flatten() for p in mlp.parameters() if p.grad is not None])
    shorter, longer = flat("shorter", mlp), flat("longer", mlp)
    assert torch.allclose(flat("all", mlp), whole, atol=1e-12)
    for half in (shorter, longer):
        assert float(half.norm()) == pytest.approx(float(whole.norm()))
    factors = torch.linalg.lstsq(torch.stack([shorter, longer], dim=1), whole[:, None]).solution.flatten()
    assert torch.allclose(factors[0] * shorter + factors[1] * longer, whole, atol=1e-9)
    assert float(factors[0] * shorter @ whole / (whole @ whole)) == pytest.approx(0.5)


def test_all_paths_are_gradient_descent() -> None:
    data, protocol = load("digits", size=8), Protocol(steps=4)
    rows_of_steps = [*train_by_paths.batches(data, protocol, 3)]
    losses = descent("all", 0.1, train_by_paths.mlp(data, protocol, 3), data, rows_of_steps)
    with owned_random(3):
        model = ResidualMLP(64, protocol.features, 10, blocks=protocol.blocks, gain=0.5)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for loss, rows in zip(losses, [*rows_of_steps, None], strict=True):
        with torch.no_grad():
            expected = float(F.cross_entropy(model(data.train_inputs), data.train_targets))
        assert loss == pytest.approx(expected, rel=1e-5)
        if rows is not None:
            optimiser.zero_grad()
            F.cross_entropy(model(data.train_inputs[rows]), data.train_targets[rows]).backward()
            optimiser.step()


def test_the_steps_are_those_to_the_first_loss_that_is_low_enough() -> None:
    rates, data = (0.1, 1e6), load("digits", size=8)
    found = train_by_paths.by_half("all", data, Protocol(rates=rates, steps=30, target=1.0), 0)
    reached, diverged = found["reached"]
    losses = [each["loss"] for each in found["losses"] if each["rate"] == 0.1]
    assert min(losses[:-1]) > 1.0 >= losses[-1]
    assert reached["steps"] == len(losses) - 1 > 1
    assert 0 < reached["error"] < 0.9
    assert diverged["steps"] == math.inf
    assert len([each for each in found["losses"] if each["rate"] == 1e6]) < 31


# What is concluded.

CAUSAL_ROW = "H1 (causal), exploratory"
NEVER = math.inf
PROTOCOL = Protocol(rates=(0.1, 0.14, 0.2))


def reached(paths: str, rate: float, steps: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"seed": s, "paths": paths, "rate": rate, "steps": n, "error": 0.1, "middle": 2.0} for s, n in enumerate(steps)
    ]


def made_up(steps: Mapping[str, Sequence[float]] | None = None) -> dict[str, list[dict[str, Any]]]:
    steps = {"shorter": [20, 21, 22, 21, 20], "longer": [30, 30, 31, 31, 30], "all": [25] * 5, **(steps or {})}
    at_rates = [
        each
        for half in HALVES
        for rate, factor in ((0.1, 1.5), (0.14, 1.0), (0.2, NEVER))
        for each in reached(half, rate, [n * factor for n in steps[half]])
    ]
    losses = [{**each, "step": 0, "loss": 2.3} for each in at_rates]
    return {"reached": at_rates, "losses": losses}


def found(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Mapping[str, Any]]:
    return {line["quantity"]: line for line in conclude(rows, PROTOCOL).found}


def test_short_paths_are_faster() -> None:
    lines = found(made_up())
    assert lines[RATIO]["verdict"] == lines[CAUSAL_ROW]["verdict"] == "holds"
    assert lines[RATIO]["found"] == pytest.approx((20 / 30 + 21 / 30 + 22 / 31 + 21 / 31 + 20 / 30) / 5)
    assert lines["steps by shorter over steps by all paths"]["found"] == pytest.approx(20.8 / 25)
    assert lines[f"{RATIO}, both at rate 0.1"]["found"] == pytest.approx(lines[RATIO]["found"])
    assert math.isnan(lines[f"{RATIO}, both at rate 0.2"]["found"])
    loss, rate = conclude(made_up(), PROTOCOL).charts
    assert str(loss.title) == "Trained by short paths, a network needs 0.68 times the steps that it needs by long ones"
    assert str(rate.title) == "At a rate of 0.1 short paths need 0.68 times the steps of long ones, at 0.14 0.68"


@pytest.mark.parametrize(("longer", "said"), [(40, True), (70, False)])
def test_that_it_is_the_size_of_the_step_is_said_where_the_data_say_it(longer: float, said: bool) -> None:
    rows = made_up()
    for each in rows["reached"]:
        if (each["paths"], each["rate"]) == ("longer", 0.1):
            each["steps"] = longer + 10.0 * (each["seed"] % 2)
        if (each["paths"], each["rate"]) == ("shorter", 0.1):
            each["steps"] = 42.0
    conclusion = conclude(rows, PROTOCOL)
    assert any("how large a step they bear" in str(note) for note in conclusion.notes) == said


def test_short_paths_are_slower() -> None:
    rows = made_up({"shorter": [40, 41, 42, 41, 40]})
    lines = found(rows)
    assert lines[RATIO]["verdict"] == lines[CAUSAL_ROW]["verdict"] == "fails"
    assert "no faster: 1.34 times" in str(conclude(rows, PROTOCOL).charts[0].title)


def test_h1_causal_is_in_doublings_and_can_be_had_from_saved_rows() -> None:
    rows = made_up({"shorter": [8, 16, 20, NEVER, 20], "longer": [32, 8, 20, 31, NEVER]})
    assert causal({"reached": rows["reached"]}) == [2.0, -1.0, 0.0, None, None]
    expected = sum(math.log2(b / a) for a, b in zip((20, 21, 22, 21, 20), (30, 30, 31, 31, 30), strict=True)) / 5
    line = found(made_up())[CAUSAL_ROW]
    assert line["found"] == pytest.approx(expected)
    assert line["expected"] == "above 0"


def test_a_loss_that_is_never_reached_decides_nothing() -> None:
    # Divided by infinity, the steps of the shorter paths would be 0 of the others', and hold.
    rows = made_up({"longer": [30, NEVER, 31, 31, 30]})
    conclusion = conclude(rows, PROTOCOL)
    assert found(rows)[RATIO]["verdict"] == found(rows)[CAUSAL_ROW]["verdict"] == "undecided"
    assert any("on 1 of 5 seeds" in str(note) for note in conclusion.notes)
    assert "{" not in conclusion.charts[0].title.template


def test_a_rate_is_chosen_on_all_other_seeds() -> None:
    rows = [
        *reached("shorter", 0.1, [10, 30, 30]),
        *reached("shorter", 0.2, [20, 20, 20]),
        *reached("longer", 0.1, [30, 30, 30]),
        *reached("longer", 0.2, [20, NEVER, 20]),
        *reached("all", 0.1, [NEVER] * 3),
        *reached("all", 0.2, [NEVER] * 3),
    ]
    assert chosen(rows) == {
        # On seed 0 the others need 60 and 40 steps; on seeds 1 and 2, 40 and 40.
        **{("shorter", 0): 0.2, ("shorter", 1): 0.1, ("shorter", 2): 0.1},
        # What its own seed never reaches is not known when its rate is chosen.
        **{("longer", 0): 0.1, ("longer", 1): 0.2, ("longer", 2): 0.1},
        **{("all", seed): 0.1 for seed in range(3)},
    }


def test_the_mean_loss_is_one_of_all_seeds() -> None:
    rows = made_up()
    rows["losses"] = [
        {"seed": seed, "paths": half, "rate": 0.14, "step": step, "loss": 1.0 + seed}
        for half in HALVES
        for seed in range(5)
        for step in range(4 + seed)
    ]
    by_step = conclude(rows, PROTOCOL).tables["by_step"]
    assert [(line["paths"], line["step"], line["loss"]) for line in by_step] == [
        (half, step, 3.0) for half in HALVES for step in range(4)
    ]


def test_every_training_is_there() -> None:
    result = run(find("train-by-paths"), [0], Protocol.quick())
    assert set(result.tables["losses"]["paths"]) == set(result.tables["reached"]["paths"]) == set(HALVES)
