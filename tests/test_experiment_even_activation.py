"""Networks that are even functions, and what follows from rows, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from termwise import nets
from termwise.degree.walsh import all_inputs
from termwise.experiments.even_activation import ACTIVATIONS, CONTROL, EVEN, EXPERIMENT, conclude, measure
from termwise.experiments.experiment import Job
from termwise.experiments.fitting import OnTheCube


@pytest.mark.parametrize("name", EVEN)
def test_without_biases_the_network_is_even(name: str) -> None:
    torch.manual_seed(0)
    model = nets.mlp([5, 16, 1], activation=ACTIVATIONS[name], bias=False)
    x = all_inputs(5)
    assert torch.equal(model(x), model(-x))
    assert float(model(x).detach().var()) > 0


@pytest.mark.parametrize("name", [*EVEN, CONTROL])
def test_a_job_learns_degree_one_only_with_biases(name: str, tmp_path: Path) -> None:
    protocol = OnTheCube.quick()
    assert EXPERIMENT.cells(protocol) == (*EVEN, CONTROL)
    rows = measure(Job(0, name, protocol, tmp_path, lambda line: None))["learned"]
    assert {row["degree"] for row in rows} == {1, 2, 4}
    first = [row["learned"] for row in rows if row["degree"] == 1]
    assert first[0] == pytest.approx(0, abs=1e-9)
    assert (abs(first[-1]) > 1e-3) == (name == CONTROL)


def lines(ends: dict[str, dict[int, float]]) -> dict[str, list[dict[str, Any]]]:
    """Five seeds; each degree rises at a step of its own, degree 1 first, to an end that is given."""
    at = {1: 1, 2: 4, 4: 8}
    return {
        "learned": [
            {"network": name, "seed": seed, "degree": k, "step": n, "learned": end * (n >= at[k]), "share": 0.5}
            for name, degrees in ends.items()
            for k, end in degrees.items()
            for seed in range(5)
            for n in range(10)
        ]
    }


ALL = {1: 1.0, 2: 1.0, 4: 1.0}
NO_ODD = {1: 0.0, 2: 1.0, 4: 1.0}
HALF = {1: 0.0, 2: 1.0, 4: 0.5}


def test_the_claim_fails_where_degree_one_is_never_learned() -> None:
    conclusion = conclude(lines({**dict.fromkeys(EVEN, NO_ODD), CONTROL: ALL}), OnTheCube())
    *found, control = conclusion.found
    assert [line["verdict"] for line in found] == ["fails", "fails", "holds", "holds"] * 2
    assert [line["found"] for line in found] == [0, 0, 1, 1] * 2
    assert (control["found"], control["expected"], control["verdict"]) == (1, "", "")
    assert "it does not come at all" in str(conclusion.notes[0])
    assert "never degree 1" in str(conclusion.charts[0].title)


def test_it_would_hold_where_degree_one_came_first() -> None:
    conclusion = conclude(lines({**dict.fromkeys(EVEN, ALL), CONTROL: ALL}), OnTheCube())
    assert {line["verdict"] for line in conclusion.found[:-1]} == {"holds"}
    assert not conclusion.notes
    assert "never" not in str(conclusion.charts[0].title)


def test_it_is_undecided_where_the_others_are_not_learned() -> None:
    conclusion = conclude(lines({**dict.fromkeys(EVEN, HALF), CONTROL: ALL}), OnTheCube())
    verdicts = [line["verdict"] for line in conclusion.found[:4]]
    assert verdicts == ["fails", "undecided", "holds", "fails"]
    assert "never" not in str(conclusion.charts[0].title)
