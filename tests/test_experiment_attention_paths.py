"""Accuracy by the length of paths through attention: what is told of made-up rows, and the lengths that there are."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from termwise.experiments import attention_paths, find, run


def lines(accuracies: dict[int, list[float]]) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "length": length, "accuracy": accuracy, "share": 0.25}
        for seed, each in accuracies.items()
        for length, accuracy in enumerate(each)
    ]


def concordance(values: list[float]) -> float:
    """Kendall's tau of values without ties, over their places, by its definition."""
    pairs = list(itertools.combinations(range(len(values)), 2))
    return sum(math.copysign(1, values[j] - values[i]) for i, j in pairs) / len(pairs)


def test_the_number_of_a_seed_is_the_concordance_of_length_and_accuracy() -> None:
    accuracies = {0: [0.9, 0.8, 0.3, 0.1], 1: [0.4, 0.9, 0.7, 0.2], 2: [0.1, 0.2, 0.3, 0.4]}
    expected = [concordance(each) for each in accuracies.values()]
    assert attention_paths.trends(lines(accuracies)) == pytest.approx(expected)
    assert math.isnan(attention_paths.trends(lines({0: [0.1, 0.1, 0.1]}))[0])


@pytest.mark.parametrize(
    ("accuracies", "verdict", "title"),
    [
        ([0.4, 0.9, 0.7, 0.2, 0.1], "holds", "Long paths know less: alone, length 1 has an accuracy of 0.90, length 4"),
        ([0.1, 0.2, 0.7, 0.8, 0.9], "fails", "Long paths know no less"),
        ([0.1, 0.9, 0.7, 0.8, 0.1], "undecided", "The accuracy of each length of path alone; length 1 has most, 0.88"),
    ],
)
def test_what_is_concluded(accuracies: list[float], verdict: str, title: str) -> None:
    values = [{"seed": seed, "quantity": "accuracy", "value": 0.9} for seed in range(5)]
    moved = {seed: accuracies if seed or verdict != "undecided" else accuracies[::-1] for seed in range(5)}
    concluded = attention_paths.conclude({"lengths": lines(moved), "values": values}, attention_paths.Protocol())
    assert concluded.found[0]["verdict"] == verdict
    assert str(concluded.charts[0].title).startswith(title)


def test_a_step_is_an_attention_layer() -> None:
    protocol = attention_paths.Protocol.quick()
    lengths = run(find("attention-paths"), [0], protocol).tables["lengths"]
    assert lengths["length"].tolist() == list(range(protocol.depth + 1))
    assert lengths["share"].sum() == pytest.approx(1)
