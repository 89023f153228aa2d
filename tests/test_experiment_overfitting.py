"""Wrong labels, margins and their depths by other means; where rules stop, and what follows from several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import termwise as tw
from termwise import nets
from termwise.data import load
from termwise.experiments.experiment import Job
from termwise.experiments.label_noise import (
    RIGHT,
    WRONG,
    Labelled,
    accuracies,
    course_line,
    ends,
    margins,
    mean_depth_of,
)
from termwise.experiments.overfitting import EXPERIMENT, Protocol, conclude, measure, numbers, stops
from termwise.moments import Moment, read_directory
from termwise.records import Table

# Wrong labels.


def test_so_many_labels_are_wrong_and_all_others_are_right() -> None:
    data = load("digits", size=8)
    truth = {
        image.numpy().tobytes(): int(target)
        for image, target in zip(data.train_inputs, data.train_targets, strict=True)
    }
    labelled = Labelled.of(data, 200, 20, seed=3)
    assert labelled.wrong == 40
    assert labelled.true.tolist() == [truth[image.numpy().tobytes()] for image in labelled.inputs]
    assert (labelled.given != labelled.true).tolist() == [True] * 40 + [False] * 160
    assert int(labelled.given.min()) >= 0 and int(labelled.given.max()) < 10
    validation, targets = labelled.validation
    assert targets.tolist() == [truth[image.numpy().tobytes()] for image in validation]
    assert len(validation) == len(data.train_inputs) - 200
    places = labelled.probe(30)
    assert (labelled.given != labelled.true)[places].tolist() == [True] * 30 + [False] * 30
    assert len(set(places.tolist())) == 60


def test_more_noise_keeps_samples_and_wrong_labels() -> None:
    data = load("digits", size=8)
    none, some, more = (Labelled.of(data, 100, noise, seed=0) for noise in (0, 20, 40))
    assert torch.equal(none.inputs, more.inputs) and torch.equal(none.given, none.true)
    assert torch.equal(some.given[:20], more.given[:20])
    assert len(set(none.probe(30).tolist())) == 60
    assert not torch.equal(Labelled.of(data, 100, 0, seed=1).inputs, none.inputs)


def test_accuracies_are_counted_on_whole_sets() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    inputs, true = torch.randn(50, 4), torch.arange(50) % 3
    labelled = Labelled(inputs, (true + (torch.arange(50) < 10)) % 3, true, 10, (inputs[:7], true[:7]))
    found = accuracies(model, labelled, (inputs[20:31], true[20:31]))
    guess = (inputs.numpy() @ model.weight.detach().numpy().T + model.bias.detach().numpy()).argmax(axis=1)
    given = labelled.given.numpy()
    expected = {
        "given": np.mean(guess == given),
        "memorised": np.mean(guess[:10] == given[:10]),
        "validation": np.mean(guess[:7] == true.numpy()[:7]),
        "test": np.mean(guess[20:31] == true.numpy()[20:31]),
    }
    assert found == pytest.approx(expected)


# Margins.


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Moment, tw.Expansion, torch.Tensor]:
    """A record, the expansion of the same network, and the labels of the probe."""
    torch.manual_seed(0)
    model = nets.resnet(8, channels=1, width=4).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, given = torch.randn(40, 1, 8, 8), torch.randint(0, 10, (40,))
    recorder = tw.Recorder(model, (x, given), calibration=False, replicates=2, directory=tmp_path)
    recorder.step(0, given=0.1, memorised=None, validation=0.3, test=0.4)
    (moment,) = read_directory(tmp_path)
    return moment, tw.expand(model, x), given


def test_a_margin_is_the_difference_of_two_logits_of_each_term(
    recorded: tuple[Moment, tw.Expansion, torch.Tensor],
) -> None:
    moment, e, given = recorded
    other = (given + 3) % 10
    against = margins(moment, given.numpy()[:15], other.numpy()[:15])
    mean = margins(moment, given.numpy())
    for place, term in enumerate(e.terms.values()):
        for i in range(15):
            difference = float(term[i, given[i]] - term[i, other[i]])
            assert against[place, i] == pytest.approx(difference, abs=1e-5)
        for i in range(40):
            others = [float(term[i, c]) for c in range(10) if c != given[i]]
            assert mean[place, i] == pytest.approx(float(term[i, given[i]]) - sum(others) / 9, abs=1e-5)


def test_the_ends_are_those_of_the_two_halves_of_the_probe(recorded: tuple[Moment, tw.Expansion, torch.Tensor]) -> None:
    moment, e, _ = recorded
    # Labels by which each half has a margin: the most and the least likely class.
    whole = torch.stack(list(e.terms.values())).sum(dim=0)
    moment.targets[:] = whole.argmax(dim=1).numpy()  # type: ignore[index]
    true = moment.targets.copy()  # type: ignore[union-attr]
    true[:20] = whole.argmin(dim=1).numpy()[:20]
    found = ends(moment, true, 20)
    terms = np.stack([term.detach().double().numpy() for term in e.terms.values()])
    rows, depths = np.arange(20), np.array(list(e.terms))
    wrong = np.mean(terms[:, rows, moment.targets[:20]] - terms[:, rows, true[:20]], axis=1)  # type: ignore[index]
    centred = terms - terms.mean(axis=2, keepdims=True)
    right = np.mean(centred[:, 20 + rows, true[20:]], axis=1)
    for name, share in (("wrong_depth", wrong), ("right_depth", right)):
        negative = -share[share < 0].sum() / np.abs(share).sum()
        assert found[name] == (pytest.approx(depths @ share / share.sum(), rel=1e-4) if negative < 0.1 else None)
    assert found["wrong_depth"] is not None or found["right_depth"] is not None
    assert ends(moment, true, 0)["wrong_depth"] is None


def test_a_mean_depth_and_where_it_means_nothing() -> None:
    even = np.array([1.0, 1.01, 0.99, 1.0])
    assert mean_depth_of(np.stack([even, 3 * even]), [2, 6]) == pytest.approx(5.0)
    assert mean_depth_of(-np.stack([even, 3 * even]), [2, 6]) is None  # all of it is negative
    assert mean_depth_of(np.stack([-even, 3 * even]), [2, 6]) is None  # a quarter is
    assert mean_depth_of(np.stack([even * 0, np.array([5.0, -4.0, 5.0, -5.0])]), [2, 6]) is None  # may be zero


def test_a_record_as_the_rules_see_it(recorded: tuple[Moment, tw.Expansion, torch.Tensor]) -> None:
    moment, e, _ = recorded
    norms = {k: (t - t.mean(dim=1, keepdim=True)).norm(dim=1).mean().item() for k, t in e.terms.items()}
    total = sum(norms.values())
    line = course_line(moment)
    assert line["deep_share"] == pytest.approx((norms[6] + norms[8]) / total, rel=1e-5)
    assert line["mean_depth"] == pytest.approx(sum(k * n for k, n in norms.items()) / total, rel=1e-5)
    assert (line["mean_degree"], line["memorised"], line["test"]) == (None, None, 0.4)


# Where rules stop.

STEPS = (0, 15, 30, 60, 120, 240)


def course(degree: Sequence[float | None]) -> list[dict[str, Any]]:
    columns: dict[str, Sequence[Any]] = {
        "mean_degree": degree,
        "mean_depth": [1.0, 9.0, 8.0, 7.0, 6.0, 7.0],
        "deep_share": [0.1, 0.5, 0.6, 0.7, 0.8, 0.9],
        "given": [0.1, 0.5, 0.6, 0.7, 0.8, 1.0],
        "memorised": [0.1, 0.1, 0.1, 0.2, 0.5, 1.0],
        "validation": [0.99, 0.5, 0.8, 0.8, 0.7, 0.6],
        "test": [0.1, 0.52, 0.82, 0.81, 0.71, 0.61],
    }
    return [
        {"step": step, "past_epoch": step >= 15, **{name: values[i] for name, values in columns.items()}}
        for i, step in enumerate(STEPS)
    ]


def test_rules_look_at_what_comes_after_the_first_epoch() -> None:
    lines = course([0.0, 4.0, 3.0, 2.0, 3.0, 4.5])
    assert {name: line["step"] for name, line in stops(lines).items()} == {
        "mean_degree": 60,
        "mean_depth": 120,
        "deep_share": 15,
        "optimum": 30,
        "half": 120,
        "end": 240,
    }
    found = numbers(lines, course([0.0, 4.0, 3.0, 2.0, 2.0, 1.5]))
    assert found["grown"] == pytest.approx(1.5)
    assert found["by heart"] == 1.0
    assert found["by noise"] == pytest.approx(3.0)
    assert found["loss of no stopping"] == pytest.approx(0.21)
    assert found["gain mean_degree"] == pytest.approx(0.2)
    assert found["regret mean_degree"] == pytest.approx(-0.01)
    assert found["gain half"] == pytest.approx(0.1)
    assert found["regret random"] == pytest.approx((0.52 + 0.82 + 0.81 + 0.71 + 0.61) / 5 - 0.82)


def test_a_record_without_a_degree_is_not_chosen_by_it() -> None:
    assert stops(course([0.0, None, 3.0, 2.0, 3.0, 4.5]))["mean_degree"]["step"] == 60
    assert stops(course([None] * 6))["mean_degree"]["step"] == 240
    assert math.isnan(numbers(course([None] * 6), course([None] * 6))["grown"])


# What follows.


def made_up(degree: Sequence[float | None], wrong_depth: float) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {"course": [], "ends": [], "margins": [], "degrees": []}
    for seed in range(5):
        for noise in (0, 40):
            key = {"seed": seed, "noise": noise}
            own = degree if noise else [0.0, 3.0, 2.5, 2.0, 2.0, 1.8]
            lines = course(own)
            for line in lines:
                line["test"] += 0.001 * seed * line["step"] / 240
                line["memorised"] = line["memorised"] if noise else None
                rows["degrees"].append({**key, "step": line["step"], "lowest": 1, "degree": "1", "share": 0.5})
            rows["course"] += [{**key, **line} for line in lines]
            at = wrong_depth + 0.01 * seed if noise else None
            rows["ends"].append({**key, "wrong_depth": at, "right_depth": 6.0, "wrong_against_all": at})
            for name in (WRONG, RIGHT) if noise else (RIGHT,):
                rows["margins"] += [{**key, "samples": name, "depth": depth, "share": 0.5} for depth in (2, 4)]
    return rows


@pytest.mark.parametrize(
    ("degree", "wrong_depth", "verdicts", "titles"),
    [
        ([0.0, 3.0, 2.0, 2.5, 3.0, 4.0], 6.7, ["holds"] * 5, ("gains 0.21", "memorised 0.72 layers deeper")),
        ([0.0, 3.0, 2.5, 2.0, 1.9, 1.0], 5.5, ["fails"] * 5, ("gains nothing", "no deeper")),
        (
            [0.0, 1.0, 2.5, 2.0, 1.9, 1.2],
            6.7,
            ["holds", "fails", "fails", "fails", "fails"],
            ("gains nothing", "deeper"),
        ),
    ],
)
def test_each_claim_is_decided_by_its_number(
    degree: Sequence[float | None], wrong_depth: float, verdicts: list[str], titles: tuple[str, str]
) -> None:
    protocol = Protocol(noise=(0, 40))
    conclusion = conclude(made_up(degree, wrong_depth), protocol)
    decided = [line for line in conclusion.found if line["expected"]]
    assert [line["verdict"] for line in decided] == verdicts
    assert all("40 % noise" in line["quantity"] for line in decided)
    stopping, _, depths, _ = conclusion.charts
    assert titles[0] in str(stopping.title) and titles[1] in str(depths.title)
    assert len(conclusion.notes) == (2 if verdicts[-1] == "fails" else 1)
    tables = {
        name: Table({key: [line[key] for line in each] for key in each[0]}) for name, each in conclusion.tables.items()
    }
    for plot in (plot for chart in conclusion.charts for plot in chart.plots):
        rows = tables[plot.table].where(**plot.where)
        assert len(rows) and {plot.x.column, plot.y.column} <= set(rows.columns)


def test_a_job_records_one_training(tmp_path: Path) -> None:
    protocol = Protocol.quick()
    assert EXPERIMENT.cells(protocol) == ("0", "40")
    rows = measure(Job(0, "40", protocol, tmp_path, lambda line: None))
    assert [line["step"] for line in rows["course"]] == [0, 2, 4]
    assert [line["past_epoch"] for line in rows["course"]] == [False, True, True]
    assert {line["noise"] for each in rows.values() for line in each} == {40}
    for name in (WRONG, RIGHT):
        shares = [line["share"] for line in rows["margins"] if line["samples"] == name]
        assert sum(shares) == pytest.approx(1)
    again = measure(Job(0, "40", protocol, tmp_path, lambda line: None))  # from the records that are there
    assert again["course"] == rows["course"]
