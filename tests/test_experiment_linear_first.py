"""Mutual informations by brute force and by scikit-learn; the number of a seed, and what follows, by hand."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.metrics import mutual_info_score

from termwise.data import DataSet, load
from termwise.experiments import linear_first
from termwise.experiments.binary import small_and_large_digits
from termwise.experiments.experiment import Job
from termwise.experiments.linear_first import (
    BESIDE,
    END,
    KEPT,
    LEAST,
    REACHED,
    SHARE,
    Protocol,
    best_linear,
    conclude,
    conditional_information,
    course_of,
    entropy,
    information,
    known,
    measure,
    numbers,
)


def drawn(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three variables that depend on each other, of 2, 3 and 2 values."""
    draws = np.random.default_rng(seed)
    given = draws.integers(0, 2, n)
    f = (given + draws.integers(0, 3, n)) // 2
    y = np.where(draws.random(n) < 0.3, f + given, draws.integers(0, 3, n))
    return f, y, given


def shares(*variables: np.ndarray) -> dict[tuple[int, ...], float]:
    rows = list(zip(*(each.tolist() for each in variables), strict=True))
    return {cell: rows.count(cell) / len(rows) for cell in set(rows)}


def test_information_is_that_of_scikit_learn() -> None:
    f, y, _ = drawn(0)
    assert information(f, y, corrected=False) == pytest.approx(mutual_info_score(f, y) / math.log(2))


def test_conditional_information_is_its_sum_over_cells() -> None:
    f, y, given = drawn(1)
    p, pf, py, pl = shares(f, y, given), shares(f, given), shares(y, given), shares(given)
    expected = sum(share * math.log2(share * pl[c,] / (pf[a, c] * py[b, c])) for (a, b, c), share in p.items())
    assert conditional_information(f, y, given, corrected=False) == pytest.approx(expected)
    # And the mean over L of what F tells of Y where L is known.
    parts = [(given == c).mean() * mutual_info_score(f[given == c], y[given == c]) for c in (0, 1)]
    assert expected == pytest.approx(sum(parts) / math.log(2))


def test_the_correction_is_half_a_cell_a_sample() -> None:
    f, y, given = drawn(2)
    cells = {name: len(shares(*each)) for name, each in {"f": (f,), "y": (y,), "fy": (f, y)}.items()}
    assert cells == {"f": 2, "y": 3, "fy": 6}
    bits = 1 / (2 * len(f) * math.log(2))
    assert entropy(f) - entropy(f, corrected=False) == pytest.approx(bits)
    assert information(f, y) - information(f, y, corrected=False) == pytest.approx((1 + 2 - 5) * bits)
    cells = {"fl": shares(f, given), "yl": shares(y, given), "fyl": shares(f, y, given), "l": shares(given)}
    fl, yl, fyl, alone = (len(each) for each in cells.values())
    found = conditional_information(f, y, given) - conditional_information(f, y, given, corrected=False)
    assert found == pytest.approx((fl + yl - fyl - alone) * bits)


def test_of_independent_classes_the_correction_takes_the_bias_away() -> None:
    draws = np.random.default_rng(3)
    n, repeats = 200, 600
    f, y, given = draws.integers(0, 2, (3, repeats, n))
    for corrected, bias in ((False, 1 / (2 * n * math.log(2))), (True, 0.0)):
        found = np.array([information(*each, corrected=corrected) for each in zip(f, y, strict=True)])
        assert abs(found.mean() - bias) < 5 * found.std() / math.sqrt(repeats)
        found = np.array(
            [conditional_information(*each, corrected=corrected) for each in zip(f, y, given, strict=True)]
        )
        assert abs(found.mean() - 2 * bias) < 5 * found.std() / math.sqrt(repeats)


def test_who_says_what_the_linear_classifier_says_is_explained_by_it() -> None:
    f, y, _ = drawn(4)
    line = known(f, y, f)
    assert line["beyond"] == pytest.approx(0, abs=1e-12)
    assert line["explained"] == pytest.approx(line["information"])
    assert line["information"] > 0.02
    assert line["explained_plain"] == pytest.approx(1)
    # And who knows what it does not: Y = F + L mod 2 with F, L independent is nothing alone, and all with L.
    f, given = (np.array(each) for each in zip(*itertools.product((0, 1), repeat=2), strict=True))
    line = known(f, f ^ given, given)
    assert information(f, f ^ given, corrected=False) == pytest.approx(0)
    assert conditional_information(f, f ^ given, given, corrected=False) == pytest.approx(1)
    assert line["accuracy"] == 0.5


def course(*lines: tuple[float, float, float]) -> list[dict[str, Any]]:
    """Rows of accuracy, information and explained information."""
    return [
        {"step": 2 * step, "accuracy": a, "information": i, "explained": e, "beyond": i - e, "explained_plain": 0.5}
        for step, (a, i, e) in enumerate(lines)
    ]


def test_the_window_ends_at_linear_accuracy_and_begins_after_the_last_that_knows_little() -> None:
    y = np.array([0, 1] * 5)
    linear = np.array([0, 1] * 4 + [1, 0])  # accuracy 0.8
    lines = course(
        (0.5, 0.03, 0.0), (0.5, LEAST, 0.01), (0.6, 0.10, 0.09), (0.7, 0.20, 0.16), (0.8, 0.4, 0.1), (0.7, 0.1, 0.0)
    )
    beside = course((0.5, 0.0, 0.0), (0.6, 0.11, 0.11), (0.7, 0.3, 0.15))
    found = numbers(lines, beside, y, linear)
    assert found[SHARE] == pytest.approx((0.9 + 0.8) / 2)
    assert found[BESIDE] == pytest.approx((1 + 1) / 2)  # 0.11 is nearest to 0.10 and to 0.20
    assert found["explained share, least at an update until linear accuracy"] == pytest.approx(0.8)
    assert (found[REACHED], found["accuracy of the linear classifier"]) == (8, 0.8)
    assert found[END] == 0
    assert found[KEPT] == pytest.approx(0.0)
    never = numbers(lines[:4], beside, y, linear)
    assert (never[SHARE], never[BESIDE], never[REACHED]) == (None, None, None)


def values(share: list[float | None], beside: float = 0.95) -> list[dict[str, Any]]:
    rest = {BESIDE: beside, REACHED: 100.0, END: 0.6, KEPT: 0.99}
    return [
        {"seed": seed, "quantity": name, "value": value}
        for seed, each in enumerate(share)
        for name, value in {SHARE: each, **rest}.items()
    ]


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        ([0.93, 0.94, 0.95, 0.94, 0.93], "holds"),
        ([0.83, 0.84, 0.85, 0.84, 0.83], "fails"),
        ([0.83, 0.94, 0.95, 0.84, 0.93], "undecided"),
        ([0.93, 0.94, None, 0.94, 0.93], "undecided"),
    ],
)
def test_what_follows(share: list[float | None], verdict: str) -> None:
    rows = {
        "values": values(share),
        "course": [{"seed": s, **line} for s in range(5) for line in course((0.5, 0.0, 0.0), (0.8, 0.4 + s, 0.2 + s))],
    }
    conclusion = conclude(rows, Protocol())
    found = conclusion.found[0]
    assert (found["quantity"], found["expected"], found["verdict"]) == (SHARE, "at least 0.9", verdict)
    assert [line["verdict"] for line in conclusion.found[1:]] == [""] * 4
    said = " ".join(map(str, conclusion.notes))
    assert "still knows 99% of what the linear" in said
    assert ("a linear network knows, trained alike, it leaves 5.0%" in said) == (
        verdict != "holds" and None not in share
    )
    if verdict == "fails":
        assert "leaves 16.2% of what the network knows unexplained" in said
        assert "At most the rest, 11.2%, is not linear" in said
        rows["values"] = values(share, beside=0.8)
        assert "no more of what a linear network knows, trained alike (80.0%)" in str(
            conclude(rows, Protocol()).notes[1]
        )
    if None in share:
        assert str(conclusion.charts[0].title) == "What the network knows of the classes"
    (line,) = conclusion.tables["shares"]
    low, high = stats.t.interval(0.95, 4, *(f([(0.2 + s) / (0.4 + s) for s in range(5)]) for f in (np.mean, stats.sem)))
    assert (line["step"], line["share_low"], line["share_high"]) == (2, pytest.approx(low), pytest.approx(high))


def test_where_nothing_was_learned_there_is_no_chart_of_shares() -> None:
    rows = {
        "values": values([None] * 5),
        "course": [{"seed": s, **line} for s in range(5) for line in course((0.5, 0.0, 0.0))],
    }
    assert [chart.name for chart in conclude(rows, Protocol()).charts] == ["information"]


@pytest.fixture(scope="module")
def task() -> tuple[DataSet, np.ndarray]:
    data = small_and_large_digits(0)
    return data, best_linear(data, 0)


def test_the_linear_classifier_solves_the_task_by_nine_tenths_and_no_more(task: tuple[DataSet, np.ndarray]) -> None:
    data, linear = task
    assert (len(data.train_inputs), len(data.test_inputs)) == (899, 898)
    assert 0.85 < (linear == data.test_targets.numpy()).mean() < 0.93
    # Linear it is: what it names is one side of a plane, which a linear program finds.
    x, side = data.test_inputs.flatten(1).double().numpy(), 2.0 * linear - 1
    system = -side[:, None] * np.concatenate((x, np.ones((len(x), 1))), axis=1)
    plane = optimize.linprog(np.zeros(x.shape[1] + 1), A_ub=system, b_ub=-np.ones(len(x)), bounds=(None, None))
    assert plane.status == 0


def test_the_halves_are_drawn_anew_for_each_seed() -> None:
    first, other = small_and_large_digits(0), small_and_large_digits(1)
    assert first.sha256 != other.sha256 and first.sha256 == small_and_large_digits(0).sha256
    digits = load("digits", size=8)
    every = torch.cat((digits.train_inputs, digits.test_inputs)).flatten(1)
    classes = torch.cat((digits.train_targets, digits.test_targets))
    for data in (first, other):
        found = torch.cat((data.train_inputs, data.test_inputs)).flatten(1)
        targets = torch.cat((data.train_targets, data.test_targets))
        distance, place = torch.cdist(found.double(), every.double()).min(dim=1)
        assert distance.max() < 1e-5 and len(place.unique()) == len(every)
        assert torch.equal(targets, (classes[place] > 4).long())


def test_a_job_looks_at_every_update_until_linear_accuracy(
    task: tuple[DataSet, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = Protocol.quick()
    data, linear = task
    monkeypatch.setattr(linear_first, "best_linear", lambda data, seed: linear)
    lines = course_of((protocol.width,), data, linear, protocol, 0)
    goal = (linear == data.test_targets.numpy()).mean()
    before = [line["step"] for line in itertools.takewhile(lambda line: line["accuracy"] < goal, lines)]
    assert before == list(range(len(before)))
    assert lines[-1]["step"] == protocol.updates
    rows = measure(Job(0, "", protocol, tmp_path, lambda line: None))
    assert [line["step"] for line in rows["course"]] == [0, 1, 2, 4, 8, 16, 32, 64, 128, 200]
    assert {line["quantity"] for line in rows["values"]} >= {SHARE, BESIDE, REACHED, END, KEPT}
