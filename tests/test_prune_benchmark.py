"""The figures of the pruning benchmark are those of the tables that it makes."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from benchmarks.pruning import METHODS, ON_A_PART, PARTS, Case, area, bars, courses, lines, rank_correlation


class Adding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))

    def forward(self, v: Tensor) -> Tensor:
        return v + self.branch(v)


@pytest.fixture(scope="module")
def case() -> Case:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(*(Adding() for _ in range(4)), nn.Linear(6, 3)).eval()
    data, test = ((torch.randn(n, 6), torch.randint(3, (n,))) for n in (64, 40))
    return Case("a chain", model, data, test)


def test_the_bars_are_of_the_courses(case: Case) -> None:
    plans = courses(case)
    assert {*plans} == {*METHODS, ON_A_PART}
    assert all(len(plan.table) == 5 for plan in plans.values())
    rows = {row.measure: row for row in bars(case, plans)}
    ours, ceiling = (sum(plans[method].table["loss"]) / 5 for method in ("expansion", "exhaustive"))
    assert area(plans["expansion"].table) == pytest.approx(ours)
    assert rows["area under the loss, exhaustive"].ratio == pytest.approx(ours / ceiling)
    assert rows["passes, exhaustive"].other == 4 + 3 + 2 + 1
    table = lines(case, plans).rows()
    assert {row["method"]: row["passes"] for row in table}[ON_A_PART] == 10 / PARTS
    assert all(row["loss -50%"] == plans[row["method"]].table["loss"][2] for row in table)


def test_the_rank_correlation_is_spearmans(case: Case) -> None:
    x, targets = case.test

    def loss(model: nn.Module) -> float:
        return float(nn.functional.cross_entropy(model(x), targets).detach())

    layers = [*case.model.children()]
    measured = [loss(nn.Sequential(*layers[:i], *layers[i + 1 :])) for i in range(4)]
    from termwise.pruning.frozen import predict

    predicted = predict(case.model, [(x, targets)], [(str(i),) for i in range(4)]).sets.mean()
    found, count = rank_correlation(case)
    assert count == 4
    assert found == pytest.approx(spearmanr(predicted, measured)[0])
