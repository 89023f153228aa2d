"""What there is of low degree beside a lone parity: measured by other means, and what follows from rows, by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from termwise import nets
from termwise.degree.walsh import all_inputs
from termwise.experiments.experiment import Job
from termwise.experiments.fitting import OnTheCube
from termwise.experiments.lone_parity import conclude, lower, measure
from termwise.seeds import owned_random


def test_a_job_begins_at_zero_and_measures_all_degrees(tmp_path: Path) -> None:
    protocol = OnTheCube(inputs=5, width=8, rate=1e-2, steps=1)
    rows = measure(Job(3, "", protocol, tmp_path, lambda line: None))["degrees"]
    assert {(row["energy"], row["share"]) for row in rows if row["step"] == 0} == {(0, None)}
    with owned_random(3):
        model = nets.mlp([5, 8, 1], bias=False)
    last, x = model[-1], all_inputs(5)
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    ((model(x)[:, 0] - x[:, 0] * x[:, 1] * x[:, 2] * x[:, 3]).square().mean() / 2).backward()
    optimiser.step()
    y = model(x)[:, 0].detach()
    for k in range(1, 6):
        sets = itertools.combinations(range(5), k)
        energy = sum(float((y * x[:, list(places)].prod(dim=1)).mean()) ** 2 for places in sets)
        (row,) = (each for each in rows if each["step"] == 1 and each["degree"] == k)
        assert row["energy"] == pytest.approx(energy, rel=1e-3, abs=1e-12)
        assert row["share"] == pytest.approx(energy / float(y.var(correction=0)), rel=1e-3, abs=1e-9)


def lines(shares: list[float]) -> dict[str, list[dict[str, Any]]]:
    """Of the parity 0, 0.01, 0.1, 0.5, 1 is learned; degree 1 has the given share where half of it is."""
    learned = [0.0, 0.01, 0.1, 0.5, 1.0]
    return {
        "degrees": [
            {
                "seed": seed,
                "step": n,
                "degree": k,
                "energy": 0.02 * n / 4 if k == 2 else 0.0,
                "share": None if n == 0 else {1: share if n == 3 else 0.7, 2: 0.01, 3: 0.0, 4: 0.2}.get(k, 0.0),
                "learned": value if k == 4 else None,
            }
            for seed, share in enumerate(shares)
            for n, value in enumerate(learned)
            for k in range(1, 7)
        ]
    }


@pytest.mark.parametrize(
    ("shares", "verdict", "title"),
    [
        ([0.01, 0.02, 0.01, 0.02, 0.01], "fails", "lower degrees have 2.4% of"),
        ([0.8, 0.9, 0.8, 0.9, 0.8], "holds", "lower degrees have most"),
        ([0.1, 0.9, 0.1, 0.9, 0.1], "undecided", "Of which degrees"),
    ],
)
def test_the_claim_is_decided_half_way(shares: list[float], verdict: str, title: str) -> None:
    conclusion = conclude(lines(shares), OnTheCube())
    half, end, tenth, hundredth, most, step = conclusion.found
    assert half["verdict"] == verdict
    assert half["found"] == pytest.approx(sum(shares) / 5 + 0.01)
    assert (end["found"], end["verdict"]) == (1, "holds")
    assert (tenth["found"], hundredth["found"]) == (pytest.approx(0.71), pytest.approx(0.71))
    assert (most["found"], step["found"]) == (pytest.approx(0.02), pytest.approx(3))
    assert title in str(conclusion.charts[0].title)
    assert bool(conclusion.notes) == (verdict == "fails")


def test_a_parity_that_is_not_learned_decides_nothing() -> None:
    rows = lines([0.01] * 5)
    early = {"degrees": [row for row in rows["degrees"] if row["step"] < 3]}
    half, end, *_ = conclude(early, OnTheCube()).found
    assert (half["verdict"], end["verdict"]) == ("undecided", "fails")


def test_lower_degrees_are_those_between_zero_and_the_parity() -> None:
    found = lower(lines([0.3] * 5)["degrees"], "share", 2)
    assert found.values[1:].tolist() == pytest.approx([0.71, 0.71, 0.31, 0.71])
