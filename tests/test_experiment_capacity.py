"""What is read off truncations, by hand; the slope of a seed, and what follows from several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import termwise as tw
from termwise import nets
from termwise.experiments.capacity import EXPERIMENT, Protocol, conclude, measure, numbers, slopes
from termwise.experiments.experiment import Job
from termwise.records import Table


def test_the_numbers_of_a_network_are_those_of_sums_of_its_terms() -> None:
    torch.manual_seed(0)
    model = nets.resnet(14, channels=1, width=4).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(60, 1, 8, 8)
    # Labels that the network half knows, so that truncations differ.
    targets = torch.where(torch.arange(60) % 2 == 0, model(x).argmax(dim=1), torch.arange(60) % 10)
    found = numbers(tw.profile(model, (x, targets), replicates=2))
    e = tw.expand(model, x)
    right = {}
    for depth in e.terms:
        kept = e.constant + torch.stack([term for k, term in e.terms.items() if k <= depth]).sum(dim=0)
        right[depth] = (kept.argmax(dim=1) == targets).double().mean().item()
    whole = right[14]
    effective = min(k for k in right if all(right[j] >= 0.99 * whole for j in right if j >= k))
    assert found["accuracy"] == pytest.approx(whole)
    assert found["effective_depth"] == effective
    assert found["lost"] == pytest.approx(1 - right[6] / whole)  # of depths 2, 4, ..., 14 the last below 7
    norms = {k: (t - t.mean(dim=1, keepdim=True)).norm(dim=1).mean().item() for k, t in e.terms.items()}
    assert found["mean_depth"] == pytest.approx(sum(k * n for k, n in norms.items()) / sum(norms.values()), rel=1e-5)


@pytest.mark.parametrize("size", Protocol().sizes)
def test_each_size_is_trained_with_as_many_updates(size: int) -> None:
    protocol = Protocol()
    assert protocol.training(size).steps(size) == protocol.updates


def test_the_slope_is_that_of_a_line_against_the_logarithm() -> None:
    values = {90: 8.0, 180: 9.0, 360: 9.0, 1440: 13.0}
    lines = [{"seed": seed, "size": n, "v": seed * v} for seed in (1, 2) for n, v in values.items()]
    slope = np.polyfit(np.log2(list(values)), list(values.values()), 1)[0]
    assert slopes(lines, "v") == [pytest.approx(slope), pytest.approx(2 * slope)]


def made_up(step: float) -> dict[str, list[dict[str, Any]]]:
    """An effective depth and a path length that grow by so much with each doubling, more or less."""
    sizes = [
        {
            "seed": seed,
            "size": size,
            "accuracy": 0.7 + 0.05 * place,
            "effective_depth": 10 + (step + 0.01 * seed) * place,
            "mean_depth": 8 + (step + 0.01 * seed) * place,
            "lost": 0.5,
            "fitted_depth": 8,
            "moved": 0.3 + (0.1 + 0.01 * seed) * place,
            "initial_depth": 8.5,
        }
        for seed in range(5)
        for place, size in enumerate((100, 200, 400))
    ]
    heads = [{**line, "depth": depth} for line in sizes for depth in (2, 4)]
    return {"sizes": sizes, "truncated": heads}


@pytest.mark.parametrize(
    ("step", "verdict", "title", "notes"),
    [
        (1.0, "holds", "the deeper the terms", 1),
        (-1.0, "fails", "need no deeper terms", 2),
        (-0.02, "undecided", "Depth by the number", 1),
    ],
)
def test_the_claim_is_decided_by_the_slope(step: float, verdict: str, title: str, notes: int) -> None:
    protocol = Protocol(sizes=(100, 200, 400))
    conclusion = conclude(made_up(step), protocol)
    first, *others = conclusion.found
    assert (first["verdict"], first["found"]) == (verdict, pytest.approx(step + 0.02))
    assert {line["verdict"] for line in others} == {""}
    assert title in str(conclusion.charts[1].title)
    assert len(conclusion.notes) == notes
    tables = {
        name: Table({key: [line[key] for line in each] for key in each[0]}) for name, each in conclusion.tables.items()
    }
    for plot in (plot for chart in conclusion.charts for plot in chart.plots):
        rows = tables[plot.table].where(**plot.where)
        assert len(rows) and {plot.x.column, plot.y.column} <= set(rows.columns)


def test_a_job_trains_on_one_size(tmp_path: Path) -> None:
    protocol = Protocol.quick()
    assert EXPERIMENT.cells(protocol) == ("32", "64", "128")
    rows = measure(Job(0, "64", protocol, tmp_path, lambda line: None))
    (line,) = rows["sizes"]
    assert line["size"] == 64 and line["moved"] > 0
    depths = [each["depth"] for each in rows["truncated"]]
    assert depths == [2, 4, 6, 8]
    assert rows["truncated"][-1]["accuracy"] == line["accuracy"]
