"""The number of a seed, and what follows from several, by hand; what is measured, by other means."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from termwise import nets
from termwise.data import load
from termwise.degree import Gaussian, depth_degrees
from termwise.experiments.depth_degree import EXPERIMENT, H3, Protocol, conclude, measure, numbers
from termwise.experiments.experiment import Job
from termwise.records import Table


def lines(excess: dict[str, list[float | None]]) -> dict[str, list[dict[str, Any]]]:
    values = [
        {"seed": seed, "network": "resnet-20", "quantity": quantity, "value": value}
        for quantity, each in excess.items()
        for seed, value in enumerate(each)
    ]
    bands = {"upto_1": 0.5, "upto_2": 0.7, "from_3_to_15": 0.2, "from_16": 0.1}
    terms = [
        {"seed": seed, "network": "resnet-20", "of": of, "depth": depth, "weight": 0.5, **bands, "upto_1": 0.1 * seed}
        for seed in range(5)
        for of in ("own", "shuffled", "initial")
        for depth in (2, 4)
    ]
    return {"values": values, "terms": terms}


@pytest.mark.parametrize(
    ("smaller", "verdict", "title"),
    [
        ([0.01, 0.02, 0.01, 0.02, 0.015], "holds", "beyond what gates alone"),
        ([-0.01, -0.02, -0.01, -0.02, -0.015], "fails", "by no more than gates alone"),
        ([-0.01, 0.02, -0.01, 0.02, -0.015], "undecided", "the smaller excess is"),
        ([0.01, 0.02, 0.01, 0.02, None], "undecided", "the smaller excess is"),
    ],
)
def test_h3_is_decided_by_the_smaller_excess(smaller: list[float | None], verdict: str, title: str) -> None:
    conclusion = conclude(lines({"excess over gates shuffled": [0.5] * 5, H3: smaller}), Protocol())
    other, found = conclusion.found
    assert (other["verdict"], other["expected"]) == ("", "")
    assert found["verdict"] == verdict
    assert title in str(conclusion.charts[0].title)
    known = np.array(smaller, dtype=float)
    if verdict != "undecided":
        low, high = stats.t.interval(0.95, 4, known.mean(), stats.sem(known))
        assert (found["found"], found["low"], found["high"]) == tuple(map(pytest.approx, (known.mean(), low, high)))


def test_the_charts_read_means_over_seeds() -> None:
    conclusion = conclude(lines({H3: [0.01] * 5}), Protocol())
    tables = {
        name: Table({key: [line[key] for line in each] for key in each[0]}) for name, each in conclusion.tables.items()
    }
    for plot in (plot for chart in conclusion.charts for plot in chart.plots):
        rows = tables[plot.table].where(**plot.where)
        assert len(rows) and {plot.x.column, plot.y.column} <= set(rows.columns)
    (line,) = tables["by_depth"].where(of="own", depth=2).rows()
    low, high = stats.t.interval(0.95, 4, 0.2, stats.sem([0.0, 0.1, 0.2, 0.3, 0.4]))
    assert line["upto_1"] == pytest.approx(0.2)
    assert (line["upto_1_low"], line["upto_1_high"]) == (pytest.approx(low), pytest.approx(high))
    (tile,) = tables["tiles"].where(of="initial", depth=4, band="m >= 16").rows()
    assert tile["share"] == pytest.approx(0.1)


def test_the_number_of_a_seed_is_the_smaller_of_two_excesses() -> None:
    torch.manual_seed(0)
    model, initial = (nets.resnet(8, channels=1, width=2).eval() for _ in range(2))
    inputs = Gaussian.standard((1, 8, 8))
    found = depth_degrees(model, inputs, initial=initial, circles=20, angles=64, replicates=2)
    values = {line["quantity"]: line["value"] for line in numbers(found)}
    excess = dict(zip(found.trend["comparator"], found.trend["excess"], strict=True))
    assert values == {
        "excess over gates shuffled": excess["shuffled"],
        "excess over first weights": excess["initial"],
        H3: min(excess.values()),
    }
    unknown = {
        name: np.where(found.trend["comparator"] == "initial", np.nan, excess["shuffled"]) for name in ("excess",)
    }
    lost = dataclasses.replace(found, trend=Table({"comparator": found.trend["comparator"].tolist(), **unknown}))
    assert {line["quantity"]: line["value"] for line in numbers(lost)}[H3] is None


def test_of_a_network_of_one_term_the_shares_are_compared() -> None:
    torch.manual_seed(0)
    model, initial = (nets.plain(8, channels=1, width=2).eval() for _ in range(2))
    found = depth_degrees(model, Gaussian.standard((1, 8, 8)), initial=initial, circles=20, angles=64, replicates=2)
    share = {line["network"]: line["upto_1"] for line in found.terms.where(part="input").rows()}
    assert {line["quantity"]: line["value"] for line in numbers(found)} == {
        "share at m <= 1 less that of gates shuffled": pytest.approx(share["own"] - share["shuffled"]),
        "share at m <= 1 less that of first weights": pytest.approx(share["own"] - share["initial"]),
    }


def test_a_job_trains_one_network_and_keeps_all_of_its_terms(tmp_path: Path) -> None:
    protocol = Protocol.quick()
    assert EXPERIMENT.cells(protocol) == ("resnet-8", "plain-8")
    rows = measure(Job(0, "resnet-8", protocol, tmp_path, lambda line: None))
    accuracy, *_ = rows["values"]
    samples = len(load("digits", size=8).test_targets)
    assert accuracy["quantity"] == "accuracy"
    assert accuracy["value"] * samples == pytest.approx(round(accuracy["value"] * samples))
    # Three blocks of two layers between the first layer and the last.
    for of in ("own", "shuffled", "initial"):
        terms = [line for line in rows["terms"] if line["of"] == of]
        assert [line["depth"] for line in terms] == [2, 4, 6, 8]
        assert sum(line["weight"] for line in terms) == pytest.approx(1)
        for line in terms:
            assert line["upto_2"] + line["from_3_to_15"] + line["from_16"] == pytest.approx(1)
