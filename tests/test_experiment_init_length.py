"""Lengths before training: independent paths by enumeration, and what is concluded."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import termwise as tw
from termwise.experiments import init_length, run
from termwise.experiments.networks import ResidualMLP

# Lengths before training.


def test_the_length_of_independent_paths_is_that_of_all_subsets_of_blocks() -> None:
    strengths = [0.3, 1.7, 0.05, 0.8]
    squares = [0.0] * 5
    for taken in itertools.product((False, True), repeat=4):
        squares[sum(taken)] += math.prod(s for s, there in zip(strengths, taken, strict=True) if there)
    norms = np.sqrt(squares)
    assert init_length.independent(strengths) == pytest.approx(norms @ np.arange(5) / norms.sum())
    assert init_length.independent([1.0] * 24) == pytest.approx(12)


@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.Identity])
def test_a_branch_makes_of_a_stream_what_its_strength_says(activation: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    model = ResidualMLP(4, 256, 3, blocks=1, gain=0.7, activation=activation, norm=True).eval()
    (branch,) = init_length.branches(model)
    branch.norm.running_var.copy_(torch.rand(256) + 0.5)  # type: ignore[union-attr,operator]
    out = branch(torch.randn(10_000, 256)).square().mean()
    assert branch.strength() == pytest.approx(float(out.detach()), rel=0.03)


def test_linear_branches_give_the_lengths_of_independent_paths() -> None:
    torch.manual_seed(0)
    model = ResidualMLP(64, 256, 10, blocks=6, gain=0.5, activation=torch.nn.Identity).eval()
    length = tw.profile(model, (torch.randn(64, 64), torch.zeros(64).long()), unit="blocks", replicates=2).mean_depth
    assert init_length.independent([b.strength() for b in init_length.branches(model)]) == pytest.approx(
        length.value, rel=0.1
    )


def test_lengths_that_are_missed_stand_beside_those_of_linear_branches() -> None:
    numbers = {"He gain": 12.0, "batch norm": 4.6, "branch gain 0.2": 1.4, "zero init": 0.0}
    numbers |= {"batch norm, linear branches": 3.8, "branch gain 0.2, linear branches": 1.4}
    values = [
        {"kind": kind, "quantity": quantity, "value": value + 0.001 * (seed - 2) * (kind != "zero init")}
        | {"seed": seed}
        for kind, length in numbers.items()
        for seed in range(5)
        for quantity, value in (
            (init_length.MEASURED, length),
            (init_length.INDEPENDENT, length - 0.1),
            (init_length.GROWTH, 1.0 if "linear" in kind else 0.7),
        )
    ]
    conclusion = init_length.conclude({"values": values}, init_length.Protocol())
    verdicts = {line["quantity"]: line["verdict"] for line in conclusion.found if line["expected"]}
    assert verdicts == {"He gain": "holds", "batch norm": "fails", "branch gain 0.2": "holds", "zero init": "holds"}
    first, second = map(str, conclusion.notes)
    assert first.startswith("The mean length by batch norm is 4.60.") and "4.50; by linear branches it is 3.80" in first
    assert "Linear ones add 1.00, these 0.70" in second
    assert str(conclusion.charts[0].title).startswith("Weaker branches, shorter paths: 12.0 blocks")


def test_before_training_paths_are_as_long_as_the_branches_are_strong() -> None:
    found = run(init_length.EXPERIMENT, [0], init_length.Protocol(blocks=8, features=32, samples=32)).found
    length = dict(zip(found["quantity"], found["found"], strict=True))
    assert length["zero init"] == 0
    assert length["zero init"] < length["branch gain 0.2"] < length["batch norm"] < length["He gain"]
