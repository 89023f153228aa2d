"""The lesion experiment: its protocol end to end, its statistics over seeds by hand."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from termwise.experiments import find, run
from termwise.experiments.lesion import Protocol, conclude


def rows(network: str, removed: int, by_seed: dict[int, list[float]]) -> list[dict[str, Any]]:
    return [
        {"network": network, "seed": seed, "removed": removed, "statistics": "as trained", "accuracy": accuracy}
        for seed, draws in by_seed.items()
        for accuracy in draws
    ]


def test_one_number_a_seed_and_the_interval_over_seeds() -> None:
    draws = {seed: [0.90 + 0.01 * seed, 0.98 - 0.005 * seed] for seed in range(5)}
    conclusion = conclude({"draws": rows("resnet-50", 1, draws)}, Protocol())
    (found,) = conclusion.found
    means = np.array([np.mean(values) for values in draws.values()])
    low, high = stats.t.interval(0.95, 4, means.mean(), stats.sem(means))
    assert found["found"] == pytest.approx(means.mean())
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (found["expected"], found["verdict"]) == ("0.92 or more", "holds")
    (left,) = conclusion.tables["left"]
    assert (left["accuracy"], left["accuracy_low"]) == (pytest.approx(means.mean()), pytest.approx(low))
    # The lower draw of seeds 0 to 4: 0.90, 0.91, 0.92, 0.93, 0.94.
    assert left["worst"] == pytest.approx(0.92)


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ([0.95, 0.96, 0.95, 0.96, 0.95], "holds"),
        ([0.85, 0.86, 0.85, 0.86, 0.85], "fails"),
        ([0.85, 0.99, 0.85, 0.99, 0.95], "undecided"),
        ([0.95, 0.96, 0.95, 0.96], "undecided"),
        ([0.2], "undecided"),
    ],
)
def test_the_verdict(accuracies: list[float], verdict: str) -> None:
    draws = rows("resnet-50", 1, {seed: [value] for seed, value in enumerate(accuracies)})
    (found,) = conclude({"draws": draws}, Protocol()).found
    assert found["verdict"] == verdict


@pytest.mark.parametrize(("cost", "verdict"), [(0.3, "holds"), (0.05, "fails")])
def test_of_the_plain_network_the_cost_is_judged_against_its_own_whole(cost: float, verdict: str) -> None:
    whole = {seed: [0.9 + 0.02 * seed] for seed in range(5)}
    cut = {seed: [value - cost + 0.001 * (seed % 2)] for seed, (value,) in whole.items()}
    draws = [*rows("plain-20", 0, whole), *rows("plain-20", 1, cut)]
    found = conclude({"draws": draws}, Protocol()).found
    assert [line["verdict"] for line in found] == ["", "", verdict]
    assert found[-1]["found"] == pytest.approx(cost - 0.0004)


def test_every_draw_is_kept() -> None:
    result = run(find("lesion"), [0], Protocol.quick())
    draws = result.tables["draws"]
    # One whole network and two draws of one block less, of two networks, with two kinds of statistics.
    assert len(draws) == 3 * 2 * 2
    assert draws["accuracy"].max() <= 1
    assert set(draws["statistics"]) == {"as trained", "re-estimated"}
