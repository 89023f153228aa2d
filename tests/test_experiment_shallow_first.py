"""What a network says, by other means; and what follows from several, from made-up rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import termwise as tw
from termwise import nets
from termwise.data import load
from termwise.experiments.experiment import Conclusion, Job
from termwise.experiments.shallow_first import (
    AT_FIRST,
    EXPERIMENT,
    INPUT_BORN,
    TERMS,
    WITH_CONSTANTS,
    Protocol,
    conclude,
    measure,
    networks,
    numbers,
    shuffled,
)

PROTOCOL = Protocol()
CELLS = EXPERIMENT.cells(PROTOCOL)


def concluded(sides: dict[str, float], *, seeds: int = 5, unknown: int | None = None) -> Conclusion:
    """What follows from networks whose three numbers are on one side of 0, those of the rest on the other."""
    values: list[dict[str, Any]] = []
    times: list[dict[str, Any]] = []
    course: list[dict[str, Any]] = []
    for place, name in enumerate(CELLS):
        side = sides.get(name, 1.0)
        for seed in range(seeds):
            own = {"seed": seed, "network": name}
            found = {"share": side * (1 + 0.1 * seed), "effect": side * (0.2 + 0.01 * seed), f"effect, {AT_FIRST}": 0.0}
            values += [
                {**own, "terms": terms, "quantity": quantity, "value": value}
                for terms in TERMS
                for quantity, value in found.items()
            ]
            drift = {"quantity": "credit drift", "value": 0.06 if place == 0 and seed == 0 else 0.01}
            values.append({**own, "terms": "all", **drift})
            rng = np.random.default_rng(10 * place + seed)
            times += [
                {
                    **own,
                    "terms": terms,
                    "depth": k,
                    "time": None if (seed, k) == (unknown, 2) else 20 + side * k + noise,
                }
                for terms in TERMS
                for k, noise in zip(range(1, 9), rng.uniform(0, 2, size=8), strict=True)
            ]
            course += [{**own, "step": step, "mean_depth": 10 + side * step} for step in (0, 1)]
    return conclude({"values": values, "times": times, "course": course}, PROTOCOL)


def test_what_is_on_the_side_of_the_claims() -> None:
    found = concluded({}).found
    verdicts = {line["quantity"]: line["verdict"] for line in found}
    assert verdicts["H1 (by causal), resnet-20"] == "undecided"  # its third endpoint is not measured here
    assert verdicts["H2 (effect), resnet-20"] == "holds"
    assert [each for name, each in verdicts.items() if name.startswith("H5")] == ["holds"]
    assert {each for name, each in verdicts.items() if "exploratory" in name} == {"holds"}
    assert not any("plain" in name for name in verdicts)  # one length has no order


def test_what_is_not() -> None:
    against = dict.fromkeys(CELLS, -1.0)
    conclusion = concluded(against)
    verdicts = {line["quantity"]: line["verdict"] for line in conclusion.found}
    primary = [verdict for name, verdict in verdicts.items() if "exploratory" not in name]
    assert primary == ["fails"] * 3
    assert str(conclusion.charts[0].title) == "Of 15 endpoints 0 are on the side of shallow first, 15 on the other"
    assert str(conclusion.charts[1].title) == "Shallow terms are learned first in 0 of 5 networks, deep ones in 5"
    assert str(conclusion.charts[2].title) == "The mean depth rises in 0 of 5 networks, and falls in 5"
    assert "Of resnet-20 the mean depth goes from 10.0 to 9.0 layers." in map(str, conclusion.notes)
    assert any("In 1 of 35 trainings" in str(note) for note in conclusion.notes)


def test_one_variant_decides_against_h5() -> None:
    found = concluded({"sk-resnet-20": -1.0}).found
    (line,) = (each for each in found if each["quantity"].startswith("H5"))
    assert line["verdict"] == "fails"
    assert "sk-resnet-20" in line["quantity"]


def test_few_seeds_decide_nothing() -> None:
    conclusion = concluded({}, seeds=4)
    assert {line["verdict"] for line in conclusion.found} == {"undecided"}
    assert str(conclusion.charts[1].title) == "When the terms of each depth are learned"


def test_with_constants_everything_is_told_again_and_corrected_for_nothing() -> None:
    verdicts = concluded({}).tables["verdicts"]
    again = [line for line in verdicts if str(line["of"]).endswith(WITH_CONSTANTS)]
    assert len(again) == 3 * len(CELLS)
    assert {line["role"] for line in again} == {"exploratory"}
    assert [line["role"] for line in verdicts].count("primary") == 3
    (effect,) = (line for line in again if (line["endpoint"], line["of"]) == ("effect", f"resnet-20, {WITH_CONSTANTS}"))
    assert effect["beside"] == "first weights 0; labels shuffled 0.22"


def test_a_term_that_a_seed_does_not_know_is_not_drawn() -> None:
    drawn = concluded({}, unknown=3).tables["order"]
    assert {line["depth"] for line in drawn} == {1, 3, 4, 5, 6, 7, 8}


def test_shuffled_labels_are_the_same_ones_in_another_order() -> None:
    data = load("digits", size=8)
    inputs, targets = shuffled((data.train_inputs, data.train_targets), 100, seed=3)
    assert torch.equal(inputs, data.train_inputs[:100])
    assert torch.equal(targets.sort().values, data.train_targets[:100].sort().values)
    assert 60 < int((targets != data.train_targets[:100]).sum()) < 100
    again = shuffled((data.train_inputs, data.train_targets), 100, seed=4)[1]
    assert not torch.equal(targets, again)


def test_each_network_is_what_its_name_says() -> None:
    made = networks(PROTOCOL, load("digits", size=8))
    assert [*made, "resnet-20-shuffled"] == [*CELLS]
    inputs = torch.zeros(1, 1, 8, 8)
    depths = {name: max(tw.expand(make().eval(), inputs).depths) for name, make in made.items()}
    assert depths["resnet-20"] == depths["preact-20"] == depths["se-resnet-20"] == 20
    assert depths["densenet-22"] == 22
    assert depths["plain-8"] == 8


def test_the_shuffled_twin_sees_as_many_updates(tmp_path: Path) -> None:
    steps = {}
    for cell in EXPERIMENT.cells(Protocol.quick())[:: len(CELLS) - 1]:
        rows = measure(Job(0, cell, Protocol.quick(), {}, tmp_path, lambda line: None))
        steps[cell] = max(line["step"] for line in rows["course"])
        assert {line["network"] for lines in rows.values() for line in lines} == {cell}
    assert len(steps) == 2
    assert len({*steps.values()}) == 1


def test_the_numbers_are_those_of_the_timeline() -> None:
    torch.manual_seed(0)
    model = nets.resnet(8, channels=1, width=4)
    probe = torch.randn(40, 1, 8, 8), torch.randint(0, 10, (40,))
    recorder = tw.Recorder(model, probe, constants="by_depth", replicates=2)
    recorder.step(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    recorder.finish(8)
    found = numbers(recorder.timeline)
    values = {(line["terms"], line["quantity"]): line["value"] for line in found["values"]}
    first, last = (profile.mean_depth.value for profile in recorder.timeline.profiles)
    assert values[INPUT_BORN, "share"] == pytest.approx(last - first)  # a line through two points
    assert values["all", "accuracy"] == pytest.approx(recorder.timeline.profiles[-1].accuracy)
    assert [line["mean_depth"] for line in found["course"]] == pytest.approx([first, last])
    credit = recorder.timeline.time_learned
    assert credit is not None
    own = {line["depth"]: line["time"] for line in found["times"] if line["terms"] == INPUT_BORN}
    assert own == {row["depth"]: row["time_50"] for row in credit.where(origin="input").rows()}
