"""Networks that begin as they are to, what short paths do by hand, and what follows from made-up rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import termwise as tw
from termwise import nets
from termwise.experiments.experiment import Conclusion, Job
from termwise.experiments.parametrisation import (
    EARLY,
    EXPERIMENT,
    FIRST,
    GAIN,
    HE,
    INPUT_BORN,
    LAST,
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
)

PROTOCOL = Protocol()
NAMES = EXPERIMENT.cells(PROTOCOL)


@pytest.mark.parametrize("cell", NAMES)
def test_each_network_begins_as_its_name_says(cell: str) -> None:
    protocol = Protocol.quick()
    data = protocol.load()
    torch.manual_seed(0)
    model = network(cell, protocol, data).eval()
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == (cell in (NORM, ZERO))
    lengths = tw.expand(model, data.test_inputs[:4], unit="blocks")
    assert max(lengths.depths) == blocks(protocol) == 6
    energies = {k: float(lengths.terms[k].square().sum()) for k in lengths.depths}
    assert (sum(energies[k] for k in range(1, 7)) == 0) == (cell == ZERO)
    # A branch times 0.2 gives the term of length k a factor of 0.2^k, apart from a constant in front of the classifier.
    torch.manual_seed(0)
    plain = tw.expand(network(HE, protocol, data).eval(), data.test_inputs[:4], unit="blocks")
    if cell == GAIN:
        ratios = [energies[k] / float(plain.terms[k].square().sum()) for k in (0, 1)]
        assert ratios[1] / ratios[0] < 0.2


def test_the_network_has_as_many_blocks_as_the_theory_says() -> None:
    data = PROTOCOL.load()
    assert blocks(PROTOCOL) == 24
    for cell in (NORM, HE):
        found = tw.support(network(cell, PROTOCOL, data).eval(), data.test_inputs[:1], unit="blocks")
        assert max(found.paths) == 24


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
    rows = measure(Job(0, NORM, Protocol.quick(), {}, tmp_path, lambda line: None))
    assert {*rows} == {"values", "shares", "times", "course"}
    assert {line["cell"] for lines in rows.values() for line in lines} == {NORM}
    assert {line["terms"] for line in rows["times"]} == {INPUT_BORN, WITH_CONSTANTS}


# What follows.

THEORY = {NORM: (4.0, 2.0), HE: (12.0, 12.0), GAIN: (1.4, 2.0), ZERO: (0.0, 2.0)}  # mean length, first and last
ORDER = {NORM: -1, HE: 1, GAIN: 1, ZERO: 1}  # in which depths are learned: 1 is shallow first
SHORT = {NORM: -0.3, HE: -0.5, GAIN: 0.0, ZERO: 0.0}


def concluded(lengths: dict[str, tuple[float, float]], seeds: int = 5, unknown: str = "") -> Conclusion:
    rows: dict[str, list[dict[str, Any]]] = {"values": [], "shares": [], "times": [], "course": []}
    for name, (first, last) in lengths.items():
        for seed in range(seeds):
            own, end = {"seed": seed, "cell": name}, last + 0.01 * seed
            most = 0.9 if last < 6 else 0.1 + 0.01 * seed
            values = {FIRST: first, LAST: end, EARLY: SHORT[name], MOST: most, "accuracy": 0.9}
            values["credit drift"] = 0.2 if (name, seed) == (HE, 0) else 0.01
            rows["values"] += [{**own, "quantity": quantity, "value": value} for quantity, value in values.items()]
            noise = np.random.default_rng(seed).uniform(0, 2, size=8)
            for terms in (INPUT_BORN, WITH_CONSTANTS):
                rows["shares"].append({**own, "terms": terms, "value": end - first})
                rows["times"] += [
                    {**own, "terms": terms, "depth": k, "time": None if name == unknown else 20 + ORDER[name] * k + e}
                    for k, e in zip(range(1, 9), noise, strict=True)
                ]
            rows["course"] += [
                {**own, "step": step, "mean_length": length, "short_share": 0.5, "short_accuracy": 0.5, "accuracy": 0.6}
                for step, length in ((0, first), (8, end))
            ]
    return conclude(rows, PROTOCOL)


def verdicts(conclusion: Conclusion) -> dict[str, str]:
    return {line["quantity"]: line["verdict"] for line in conclusion.found if line["expected"]}


def test_the_claim_fails_with_batch_norms_as_the_theory_says() -> None:
    conclusion = concluded(THEORY)
    found = verdicts(conclusion)
    assert [found[f"H1 (share), {name}, exploratory"] for name in NAMES] == ["fails", "holds", "holds", "holds"]
    assert [found[f"H1 (learned), {name}, exploratory"] for name in NAMES] == ["fails", "holds", "holds", "holds"]
    assert [found[f"{EARLY}, {name}"] for name in NAMES] == ["fails", "fails", "holds", "holds"]
    theory = [verdict for name, verdict in found.items() if "H1" not in name and EARLY not in name]
    assert theory == ["holds"] * 5
    assert not any("contradicted" in str(note) for note in conclusion.notes)
    assert "In 1 of 20 trainings" in str(conclusion.notes[-1])
    titles = [str(chart.title) for chart in conclusion.charts]
    assert titles[0] == "The mean length rises with he-gain, small-gain, zero-init, and falls with batch-norm"
    assert titles[1] == "Of 8 endpoints of shallow first 6 hold and 2 fail"
    assert titles[2].endswith("their accuracy is 0.30 lower")
    assert len(conclusion.tables["verdicts"]) == 16


def test_a_theory_that_is_contradicted_is_said_to_be() -> None:
    conclusion = concluded({NORM: (4.0, 5.0), HE: (12.0, 3.0), GAIN: (1.4, 1.3), ZERO: (0.0, 2.0)})
    notes = [str(note) for note in conclusion.notes if "contradicted" in str(note)]
    assert [note.partition(", it goes")[0].rpartition(": ")[2] for note in notes] == [
        "with batch-norm the mean length does not fall",
        "with small-gain the mean length does not rise",
        "with he-gain the mean length does not stay near n/2",
    ]
    assert notes[2].endswith("it goes from 12.00 to 3.02 of 24 blocks.")
    found = verdicts(conclusion)
    assert (found[f"{LAST}, {HE}"], found[f"{MOST}, {HE}"]) == ("fails", "fails")


def test_few_seeds_and_unknown_times_decide_nothing() -> None:
    conclusion = concluded(THEORY, seeds=4)
    assert {*verdicts(conclusion).values()} == {"undecided"}
    assert str(conclusion.charts[0].title) == "The mean length over the training, by how branches begin"
    unknown = concluded(THEORY, unknown=GAIN)
    assert verdicts(unknown)[f"H1 (learned), {GAIN}, exploratory"] == "undecided"
    (note,) = (str(note) for note in unknown.notes if f"of {GAIN}" in str(note))
    assert "not every seed has a number" in note
    points = [line for line in unknown.tables["endpoints"] if line["estimate"] is None]
    assert [(line["cell"], line["endpoint"]) for line in points] == [(GAIN, "learned")]
