"""Networks that begin as they are to, what short paths do by hand, and what follows from made-up rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import termwise as tw
from termwise import nets
from termwise.experiments.common import CLOSURE
from termwise.experiments.experiment import Conclusion, Job
from termwise.experiments.networks import Branch
from termwise.experiments.parametrisation import (
    CONV,
    EARLY,
    EXPERIMENT,
    FIRST,
    GAIN,
    HE,
    INPUT_BORN,
    LAST,
    MLP,
    MOST,
    NORM,
    WITH_CONSTANTS,
    ZERO,
    Protocol,
    blocks,
    conclude,
    first_above_half,
    measure,
    network,
    numbers,
    way_of,
)

PROTOCOL = Protocol()
NAMES = EXPERIMENT.cells(PROTOCOL)


@pytest.mark.parametrize("cell", NAMES)
def test_each_network_begins_as_its_name_says(cell: str) -> None:
    protocol, way = Protocol.quick(), way_of(cell)
    data = protocol.load()
    torch.manual_seed(0)
    model = network(cell, protocol, data).eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert bool(norms) == (way in (NORM, ZERO))
    terms = tw.expand(model, data.test_inputs[:4], unit="blocks").terms
    energies = [float(terms[k].square().sum()) for k in range(blocks(protocol) + 1)]
    assert len(terms) == len(energies) == 4
    assert (sum(energies[1:]) == 0) == (way == ZERO)


def test_a_small_gain_gives_a_path_a_factor_for_each_block() -> None:
    protocol = Protocol.quick()
    data = protocol.load()
    terms = []
    for gain in (0.2, 0.1):
        torch.manual_seed(0)
        model = network(f"{MLP}-{GAIN}", dataclasses.replace(protocol, gain=gain), data).eval()
        for module in model.modules():  # linear: gates would differ between the two
            if isinstance(module, Branch):
                module.activation = nn.Identity()
        terms.append(tw.expand(model, data.test_inputs[:4], unit="blocks").terms)
    for k in range(4):
        assert torch.allclose(terms[0][k], 2**k * terms[1][k], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cell", [NAMES[0], NAMES[4]])
def test_the_networks_have_as_many_blocks_as_the_theory_says(cell: str) -> None:
    data = PROTOCOL.load()
    found = tw.support(network(cell, PROTOCOL, data).eval(), data.test_inputs[:1], unit="blocks")
    assert max(found.paths) == blocks(PROTOCOL) == 24
    assert len(PROTOCOL.rates) == len(NAMES)


@pytest.mark.parametrize(
    ("accuracies", "place"),
    [([0.1, 0.4, 0.55, 0.3, 1.0], 2), ([0.1, 0.55, 0.9, 1.0], 1), ([0.5, 0.2, 0.05], None), ([0.1, 0.1], None)],
)
def test_early_is_halfway_from_chance_to_the_end(accuracies: list[float], place: int | None) -> None:
    assert first_above_half(accuracies, 0.1) == place


def test_the_numbers_of_a_training_are_those_of_its_terms() -> None:
    torch.manual_seed(0)
    model = nets.resnet(26, channels=1, width=2)
    x, targets = torch.randn(40, 1, 8, 8), torch.randint(0, 10, (40,))
    recorder = tw.Recorder(model, (x, targets), unit="blocks", constants="by_depth", calibration=False, replicates=2)
    by_hand = []
    for step in (0, 4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        recorder.finish(step)
        expansion = tw.expand(model.eval(), x, unit="blocks")
        assert max(expansion.depths) == 12
        centred = {k: term - term.mean(dim=1, keepdim=True) for k, term in expansion.terms.items()}
        norms = np.array([float(term.norm(dim=1).mean()) for _, term in sorted(centred.items())])
        short = expansion.constant + sum(expansion.terms[k] for k in range(4))
        hits = [(part.argmax(dim=1) == targets).double().mean().item() for part in (short, expansion.total)]
        share = norms / norms.sum()
        by_hand.append((share @ np.arange(13), share[:4].sum(), *hits))
    found = numbers(recorder.timeline, chance=0.0)
    course = [
        [line[c] for c in ("mean_length", "short_share", "short_accuracy", "accuracy")] for line in found["course"]
    ]
    assert np.array(course) == pytest.approx(np.array(by_hand), rel=1e-4)
    values = {line["quantity"]: line["value"] for line in found["values"]}
    early = 0 if by_hand[0][3] >= by_hand[1][3] / 2 else 1
    assert values[EARLY] == pytest.approx(by_hand[early][2] - by_hand[early][3])
    assert values[MOST] == pytest.approx(max(line[1] for line in by_hand))
    assert (values[FIRST], values[LAST]) == (pytest.approx(by_hand[0][0]), pytest.approx(by_hand[1][0]))
    rise = {line["terms"]: line["value"] for line in found["shares"]}
    assert rise[INPUT_BORN] == pytest.approx(by_hand[1][0] - by_hand[0][0])  # a line through two points


def test_a_job_gives_all_rows(tmp_path: Path) -> None:
    cell = f"{CONV}-{NORM}"
    rows = measure(Job(0, cell, Protocol.quick(), tmp_path, lambda line: None))
    assert {*rows} == {"values", "shares", "times", "course"}
    assert {line["cell"] for lines in rows.values() for line in lines} == {cell}
    assert {line["terms"] for line in rows["times"]} == {INPUT_BORN, WITH_CONSTANTS}


# What follows.

THEORY = {NORM: (4.0, 2.0), HE: (12.0, 12.0), GAIN: (1.4, 2.0), ZERO: (0.0, 2.0)}  # mean length, first and last
ORDER = {NORM: -1, HE: 1, GAIN: 1, ZERO: 1}  # in which depths are learned: 1 is shallow first
SHORT = {NORM: -0.3, HE: -0.5, GAIN: 0.0, ZERO: 0.0}


def concluded(ways: dict[str, tuple[float, float]], seeds: int = 5, unknown: str = "") -> Conclusion:
    lengths = {name: ways[way_of(name)] for name in NAMES}
    rows: dict[str, list[dict[str, Any]]] = {"values": [], "shares": [], "times": [], "course": []}
    for name, (first, last) in lengths.items():
        for seed in range(seeds):
            own, end = {"seed": seed, "cell": name}, last + 0.01 * seed
            most = 0.9 if last < 6 else 0.1 + 0.01 * seed
            values = {FIRST: first, LAST: end, EARLY: SHORT[way_of(name)], MOST: most, "accuracy": 0.9, CLOSURE: 1e-6}
            values["credit drift"] = 0.2 if (name, seed) == (NAMES[0], 0) else 0.01
            rows["values"] += [{**own, "quantity": quantity, "value": value} for quantity, value in values.items()]
            noise = np.random.default_rng(seed).uniform(0, 2, size=8)
            for terms in (INPUT_BORN, WITH_CONSTANTS):
                rows["shares"].append({**own, "terms": terms, "value": end - first})
                rows["times"] += [
                    {
                        **own,
                        "terms": terms,
                        "depth": k,
                        "time": None if way_of(name) == unknown else 20 + ORDER[way_of(name)] * k + e,
                    }
                    for k, e in zip(range(1, 9), noise, strict=True)
                ]
            rows["course"] += [
                {**own, "step": step, "mean_length": length, "short_share": 0.5, "short_accuracy": 0.5, "accuracy": 0.6}
                for step, length in ((0, first), (8, end))
            ]
    return conclude(rows, PROTOCOL)


def verdicts(conclusion: Conclusion) -> dict[str, str]:
    return {line["quantity"]: line["verdict"] for line in conclusion.found if line["expected"]}


def by_way(found: dict[str, str], what: str) -> dict[str, set[str]]:
    """The verdicts on a quantity, of all networks that begin in one way."""
    mine = {name: verdict for name, verdict in found.items() if what in name}
    return {way: {verdict for name, verdict in mine.items() if way in name} for way in (NORM, HE, GAIN, ZERO)}


def test_the_claim_fails_with_batch_norms_as_the_theory_says() -> None:
    conclusion = concluded(THEORY)
    found = verdicts(conclusion)
    assert by_way(found, "H1 (share)") == {NORM: {"fails"}, HE: {"holds"}, GAIN: {"holds"}, ZERO: {"holds"}}
    assert by_way(found, "H1 (learned)") == {NORM: {"fails"}, HE: {"holds"}, GAIN: {"holds"}, ZERO: {"holds"}}
    assert by_way(found, EARLY) == {NORM: {"fails"}, HE: {"fails"}, GAIN: {"holds"}, ZERO: {"holds"}}
    theory = [verdict for name, verdict in found.items() if "H1" not in name and EARLY not in name]
    assert theory == ["holds"] * 8
    assert not any("contradicted" in str(note) for note in conclusion.notes)
    assert "In 1 of 35 trainings" in str(conclusion.notes[-1])
    titles = [str(chart.title) for chart in conclusion.charts]
    assert titles[0].endswith(f"and falls with {MLP}-{NORM}, {CONV}-{NORM}")
    assert titles[1] == "Of 14 endpoints of shallow first 10 hold and 4 fail"
    assert titles[2].endswith("lack 0.30 (MLP) and 0.30 (ResNet) of accuracy early on")
    assert len(conclusion.tables["verdicts"]) == 28
    ends = {column: conclusion.tables["ends"][0][column] for column in ("first", "last", "accuracy")}
    assert ends == pytest.approx({"first": 4.0, "last": 2.02, "accuracy": 0.9})


def test_a_theory_that_is_contradicted_is_said_to_be() -> None:
    conclusion = concluded({NORM: (4.0, 5.0), HE: (12.0, 3.0), GAIN: (1.4, 1.3), ZERO: (0.0, 2.0)})
    notes = [str(note) for note in conclusion.notes if "contradicted" in str(note)]
    assert [note.partition(", it goes")[0].rpartition(": ")[2] for note in notes] == [
        "with mlp-batch-norm the mean length does not fall",
        "with mlp-he-gain the mean length does not stay near n/2",
        "with mlp-small-gain the mean length does not rise",
        "with conv-batch-norm the mean length does not fall",
        "with conv-small-gain the mean length does not rise",
    ]
    assert notes[1].endswith("it goes from 12.00 to 3.02 of 24 blocks.")
    found = verdicts(conclusion)
    assert (found[f"{LAST}, {MLP}-{HE}"], found[f"{MOST}, {MLP}-{HE}"]) == ("fails", "fails")


def test_few_seeds_and_unknown_times_decide_nothing() -> None:
    conclusion = concluded(THEORY, seeds=4)
    assert {*verdicts(conclusion).values()} == {"undecided"}
    assert str(conclusion.charts[0].title) == "The mean length over the training, by how branches begin"
    unknown = concluded(THEORY, unknown=GAIN)
    assert by_way(verdicts(unknown), "H1 (learned)")[GAIN] == {"undecided"}
    notes = [str(note) for note in unknown.notes if GAIN in str(note)]
    assert len(notes) == 2 and all("not every seed has a number" in note for note in notes)
    points = [line for line in unknown.tables["endpoints"] if line["estimate"] is None]
    assert [(way_of(line["cell"]), line["endpoint"]) for line in points] == [(GAIN, "learned")] * 2
