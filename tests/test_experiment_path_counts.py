"""Paths counted by walking along them, and what follows from made-up rows."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction
from math import comb
from typing import Any

import pytest
import torch

import termwise as tw
from termwise import nets
from termwise.data import load
from termwise.experiments import path_counts as experiment
from termwise.experiments import run
from termwise.experiments.experiment import Conclusion
from termwise.experiments.path_counts import FIRST, TRAINED, Protocol

RES, DENSE, WEAKER = experiment.cells(Protocol())
BLOCKS = 18


def walked(layers: int) -> Counter[int]:
    """Every way from the input of a dense network to its output: each layer, and the output, sees all before it."""

    def from_(layer: int, length: int) -> list[int]:
        ends = [length]  # the output sees this one, too
        for later in range(layer + 1, layers + 1):
            ends += from_(later, length + 1)
        return ends

    return Counter(from_(0, 0))


def test_either_network_has_the_paths_that_one_can_walk() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 8)
    chosen = Counter(sum(taken) for taken in itertools.product((0, 1), repeat=9))
    assert chosen == walked(9) and sum(chosen.values()) == 2**9
    for model in (nets.resnet(20, channels=1, width=2), nets.densenet(13, 2, channels=1)):
        paths = tw.expand(model.eval(), x, unit="blocks").paths
        assert dict(paths) == chosen
        assert experiment.off_binomial(paths) == 0
        assert experiment.short_paths(paths) == Fraction(1, 2)


def test_the_networks_have_as_many_blocks_and_nearly_as_many_parameters() -> None:
    protocol = Protocol()
    data = protocol.load()
    made = {name: experiment.network(name, protocol, data).eval() for name in (RES, DENSE, WEAKER)}
    sizes = [sum(p.numel() for p in model.parameters()) for model in made.values()]
    assert max(sizes) < 1.05 * min(sizes)
    for model in made.values():
        found = tw.support(model, data.test_inputs[:1], unit="blocks")
        assert dict(found.paths) == {k: comb(BLOCKS, k) for k in range(BLOCKS + 1)}


def test_the_weaker_network_is_the_same_but_for_the_scales_of_its_last_norms() -> None:
    data, protocol = load("digits", size=8), Protocol.quick()
    res, _, weaker = experiment.cells(protocol)
    states = []
    for name in (res, weaker):
        torch.manual_seed(0)
        states.append(experiment.network(name, protocol, data).state_dict())
    one, other = states
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert differing == {name for name in one if name.endswith("norm2.weight")}
    assert all((other[name] == protocol.weaker).all() for name in differing)


def test_numbers_of_one_seed_by_hand() -> None:
    paths = {0: 1, 1: 5, 2: 3, 3: 1}
    assert experiment.short_paths(paths) == Fraction(6, 10)
    assert experiment.off_binomial(paths) == 2
    assert experiment.off_binomial({0: 1, 2: 1}) == 2  # a length that is missing
    assert experiment.mean_length({0: 0.25, 1: 0.5, 3: 0.25}) == pytest.approx(1.25)
    assert experiment.distance({0: 0.5, 1: 0.5}, {1: 0.25, 2: 0.75}) == pytest.approx(0.75)


def lengths(mean: float) -> dict[int, float]:
    """Shares of two lengths, with this mean."""
    return {0: 1 - mean / BLOCKS, BLOCKS: mean / BLOCKS}


def concluded(means: dict[str, float], losses: dict[str, float], extra: int = 0) -> Conclusion:
    """Of five seeds that differ by little; the DenseNet has so many further paths of length 1."""
    lines: list[dict[str, Any]] = []
    for name, mean in means.items():
        for seed, state in itertools.product(range(5), (FIRST, TRAINED)):
            shares = lengths(mean + 0.01 * seed * (name == DENSE) + 0.02 * seed * (name == WEAKER))
            for k in range(BLOCKS + 1):
                paths = comb(BLOCKS, k) + extra * (name == DENSE and k == 1)
                own = {"network": name, "seed": seed, "state": state, "length": k}
                lines.append({**own, "paths": str(paths), "share": shares.get(k, 0.0)})
    values = [
        {"network": name, "seed": seed, "quantity": quantity, "value": value}
        for name, loss in losses.items()
        for seed in range(5)
        for quantity, value in {experiment.LOSS: loss + 0.001 * seed * (name == WEAKER), "test accuracy": 0.97}.items()
    ]
    return experiment.conclude({"lengths": lines, "values": values}, Protocol())


LENGTHS = {RES: 4.0, DENSE: 3.0, WEAKER: 2.0}
LOSSES = {RES: 0.1, DENSE: 0.08, WEAKER: 0.2}


def verdicts(conclusion: Conclusion) -> dict[str, str]:
    return {line["quantity"]: line["verdict"] for line in conclusion.found if line["expected"]}


def test_the_claim_of_more_short_paths_fails_and_counts_are_binomial() -> None:
    conclusion = concluded(LENGTHS, LOSSES)
    found = verdicts(conclusion)
    assert found.pop(experiment.MORE) == "fails"
    assert found.pop(experiment.BETTER) == "fails"
    assert len(found) == 5 and {*found.values()} == {"holds"}
    first, second, last = map(str, conclusion.notes)
    assert "4.00 at first" in first and "3.02" in first
    assert "resnet-38-weaker is shorter than resnet-38 by 1.96 blocks" in second and second.endswith(
        "higher: that shorter is better is not shown."
    )
    assert last.startswith("Not tested")
    title = "As many paths of each length; by what they carry the trained DenseNet is 1.0 blocks shorter"
    assert str(conclusion.charts[0].title) == title
    assert conclusion.tables["numbers"][9] == {"length": 9, experiment.BINOMIAL: "48620", RES: "48620", DENSE: "48620"}


def test_it_would_hold_if_there_were_more_and_shorter_were_better() -> None:
    conclusion = concluded(LENGTHS, LOSSES | {WEAKER: 0.05}, extra=10)
    found = verdicts(conclusion)
    assert (found[experiment.MORE], found[experiment.BETTER]) == ("holds", "holds")
    assert found[f"largest difference from a binomial coefficient, {DENSE}"] == "fails"
    better, last = map(str, conclusion.notes)
    assert "lower. H4 would have it so, and yet it is no proof" in better and last.startswith("Not tested")
    assert "As many" not in str(conclusion.charts[0].title)


def test_a_longer_densenet_is_called_so() -> None:
    conclusion = concluded(LENGTHS | {DENSE: 6.0}, LOSSES)
    assert verdicts(conclusion)[f"mean length of the ResNet less that of the DenseNet, {TRAINED}"] == "fails"
    assert str(conclusion.charts[0].title).endswith("is 2.0 blocks longer")


def test_what_is_measured_are_the_shares_of_a_profile() -> None:
    table = run(experiment.EXPERIMENT, [0], Protocol.quick()).tables["lengths"]
    for name in experiment.cells(Protocol.quick()):
        for state in (FIRST, TRAINED):
            own = table.where(network=name, state=state)
            assert own["length"].tolist() == [0, 1, 2, 3]
            assert list(own["paths"]) == ["1", "3", "3", "1"]
            assert own["share"].sum() == pytest.approx(1)
