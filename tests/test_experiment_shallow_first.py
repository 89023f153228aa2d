"""What a network says, by other means; and what follows from several, from made-up rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import termwise as tw
from termwise import nets
from termwise.data import load
from termwise.experiments import shallow_first, variants
from termwise.experiments.common import CLOSURE
from termwise.experiments.endpoints import (
    ACCURACY,
    AT_FIRST,
    INPUT_BORN,
    TERMS,
    WITH_CONSTANTS,
    cells,
    measure,
    network,
    numbers,
    shuffled,
)
from termwise.experiments.experiment import Conclusion, Job
from termwise.experiments.shallow_first import Protocol
from termwise.loop import Trained, train_network
from termwise.seeds import owned_random

PROTOCOL = Protocol()
CELLS = cells(PROTOCOL)


def concluded(
    sides: dict[str, float], *, of: Any = shallow_first, seeds: int = 5, unknown: int | None = None
) -> Conclusion:
    """What follows from networks whose three numbers are on one side of 0, those of the rest on the other."""
    protocol = of.Protocol()
    values: list[dict[str, Any]] = []
    times: list[dict[str, Any]] = []
    course: list[dict[str, Any]] = []
    for place, name in enumerate(cells(protocol)):
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
            whole = [drift, {"quantity": ACCURACY, "value": 0.9}, {"quantity": CLOSURE, "value": 1e-6}]
            values += [{**own, "terms": "all", **each} for each in whole]
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
    return of.conclude({"values": values, "times": times, "course": course}, protocol)


def test_what_is_on_the_side_of_the_claims() -> None:
    found = concluded({}).found
    verdicts = {line["quantity"]: line["verdict"] for line in found}
    assert verdicts["H1 (by causal), resnet-20"] == "undecided"  # its third endpoint is not measured here
    assert verdicts["H2 (effect), resnet-20"] == "holds"
    assert {each for name, each in verdicts.items() if "exploratory" in name} == {"holds"}
    assert not any("plain" in name for name, verdict in verdicts.items() if verdict)  # one length has no order


def test_what_is_not() -> None:
    against = dict.fromkeys(CELLS, -1.0)
    conclusion = concluded(against)
    verdicts = {line["quantity"]: line["verdict"] for line in conclusion.found}
    primary = [verdict for name, verdict in verdicts.items() if verdict and "exploratory" not in name]
    assert primary == ["fails"] * 2
    assert str(conclusion.charts[0].title) == "Of 9 endpoints 0 are on the side of shallow first, 9 on the other"
    assert str(conclusion.charts[1].title) == "Shallow terms are learned first in 0 of 3 networks, deep ones in 3"
    assert str(conclusion.charts[2].title) == "The mean depth rises in 0 of 3 networks, and falls in 3"
    assert "Of resnet-20 the mean depth goes from 10.0 to 9.0 layers." in map(str, conclusion.notes)
    assert any("In 1 of 25 trainings" in str(note) for note in conclusion.notes)


@pytest.mark.parametrize(("side", "verdict"), [(1.0, "holds"), (-1.0, "fails")])
def test_one_variant_decides_against_h5(side: float, verdict: str) -> None:
    found = concluded({"sk-resnet-20": side}, of=variants).found
    assert str(found[0]["quantity"]).startswith("H5 (by ")
    assert found[0]["verdict"] == verdict
    assert ("sk-resnet-20" in found[0]["quantity"]) or side > 0
    assert [line["verdict"] for line in found if "exploratory" in line["quantity"]] == ["holds"] * 3 + [verdict] * 3


def test_few_seeds_decide_nothing() -> None:
    conclusion = concluded({}, seeds=4)
    assert {line["verdict"] for line in conclusion.found if line["expected"]} == {"undecided"}
    assert str(conclusion.charts[1].title) == "When the terms of each depth are learned"


def test_with_constants_everything_is_told_again_and_corrected_for_nothing() -> None:
    verdicts = concluded({}).tables["verdicts"]
    again = [line for line in verdicts if str(line["of"]).endswith(WITH_CONSTANTS)]
    assert len(again) == 3 * len(CELLS)
    assert {line["role"] for line in again} == {"exploratory"}
    assert [line["role"] for line in verdicts].count("primary") == 2
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
    data, inputs = load("digits", size=8), torch.zeros(1, 1, 8, 8)
    names = (*PROTOCOL.networks, *variants.Protocol().networks)
    made = {name: network(name, PROTOCOL, data, 0).eval() for name in names}
    depths = {name: max(tw.expand(model, inputs).depths) for name, model in made.items()}
    assert depths == {
        "resnet-20": 20,
        "preact-resnet-20": 20,
        "densenet-22-6": 22,
        "plain-8": 8,
        "se-resnet-20": 20,
        "sk-resnet-20": 20,
    }
    assert {next(model.parameters()).shape[0] for name, model in made.items() if "dense" not in name} == {8}
    with owned_random(3):
        again = nets.resnet(20, classes=10, channels=1, width=8)
    own = network("resnet-20", PROTOCOL, data, 3)
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), again.parameters(), strict=True))


def test_the_shuffled_twin_sees_as_many_updates(tmp_path: Path) -> None:
    steps = {}
    for cell in cells(Protocol.quick())[:: len(CELLS) - 1]:
        rows = measure(Job(0, cell, Protocol.quick(), tmp_path / cell, lambda line: None))
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
    assert values["all", CLOSURE] == max(profile.closure for profile in recorder.timeline.profiles)
    assert values["all", ACCURACY] == pytest.approx(recorder.timeline.profiles[-1].accuracy)
    assert [line["mean_depth"] for line in found["course"]] == pytest.approx([first, last])
    credit = recorder.timeline.time_learned
    assert credit is not None
    own = {line["depth"]: line["time"] for line in found["times"] if line["terms"] == INPUT_BORN}
    assert own == {row["depth"]: row["time_50"] for row in credit.where(origin="input").rows()}


def test_a_job_that_was_stopped_goes_on_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = dataclasses.replace(Protocol.quick(), epochs=2, ratio=2)
    whole = measure(Job(0, "resnet-8", protocol, tmp_path / "whole", lambda line: None))
    begun: list[int] = []

    def stopped(*arguments: Any, **options: Any) -> Trained:
        """As the loop, but that it dies after 9 updates, at its first start."""

        def progress(now: Any) -> None:
            begun.append(now.step)
            if len(begun) == 10:
                raise KeyboardInterrupt

        return train_network(*arguments, **options, progress=progress)

    monkeypatch.setattr("termwise.experiments.endpoints.train_network", stopped)
    job = Job(0, "resnet-8", protocol, tmp_path / "parts", lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        measure(job)
    assert repr(measure(job)) == repr(whole)
    assert begun[:10] == [*range(10)]
    assert begun[10] == 8  # the last that was written
