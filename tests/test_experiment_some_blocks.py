"""A network by some of its blocks, by other means; and what is concluded from made-up errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from termwise import nets
from termwise.causal import Joins
from termwise.experiments import find, run
from termwise.experiments.some_blocks import (
    DIFFERENCE,
    TEST,
    TRAINING,
    Protocol,
    SomeBlocks,
    blocks_of,
    called,
    conclude,
    scaled,
)
from termwise.nets.resnet import ResNet

# A part of the blocks.


@pytest.fixture
def network() -> ResNet:
    torch.manual_seed(0)
    return nets.resnet(20, channels=1, width=2).double()


@pytest.mark.parametrize("training", [False, True])
def test_a_block_that_is_not_there_brings_nothing(network: ResNet, training: bool) -> None:
    x, missing = torch.randn(4, 1, 8, 8, dtype=torch.float64), (0, 3, 4, 8)  # 3 halves the resolution
    joins = Joins(network.eval(), x[:1])
    network.train(training)
    with joins.without(missing):
        expected = network(x)
    kept = [number for number in range(9) if number not in missing]
    assert torch.allclose(SomeBlocks(network, 5 / 9).through(x, kept), expected, atol=1e-12)


def test_in_training_a_part_of_the_blocks_is_there() -> None:
    torch.manual_seed(0)
    network = nets.resnet(62, channels=1, width=2)  # 30 blocks
    model = SomeBlocks(network, 0.4).train()
    x = torch.randn(4, 1, 8, 8)
    seen = set()
    for _ in range(2):
        network.zero_grad()
        model(x).square().sum().backward()
        weights = [block.norm2.weight for block in blocks_of(network)]
        there = tuple(bool(w.grad is not None and w.grad.abs().sum() > 0) for w in weights)
        assert sum(there) == 12
        seen.add(there)
    assert len(seen) == 2
    assert torch.equal(model.eval()(x), network.eval()(x))


def test_a_scaled_branch_brings_so_much_of_what_it_brought(network: ResNet) -> None:
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    before = network.eval()(x)
    with Joins(network, x[:1]).changed({number: lambda _, branch: 0.3 * branch for number in range(9)}):
        expected = network(x)
    assert torch.allclose(scaled(network, 0.3)(x), expected, atol=1e-12)
    assert torch.equal(network(x), before)


# What is concluded.

LONG, SHORT = called(23 / 54, 35), called(23 / 54, 15)
ALL = called(1, 15)


def errors(name: str, test: Sequence[float], training: float = 0.0) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "training": name, "data": data, "error": error}
        for seed, each in enumerate(test)
        for data, error in ((TEST, each), (TRAINING, training))
    ]


def made_up(part: Sequence[float], training: float = 0.0) -> dict[str, list[dict[str, Any]]]:
    rows = [
        *errors(ALL, [0.02] * 5),
        *errors(LONG, [0.03] * 5),
        *errors(f"{LONG}, scaled", part, training),
        *errors(SHORT, [0.07] * 5),
        *errors(f"{SHORT}, scaled", [0.05] * 5),
    ]
    return {"errors": rows}


def test_a_part_is_as_good_as_the_whole() -> None:
    conclusion = conclude(made_up([0.023, 0.021, 0.022, 0.024, 0.02]), Protocol())
    first, *_ = conclusion.found
    assert (first["quantity"], first["verdict"]) == (DIFFERENCE, "holds")
    assert first["found"] == pytest.approx(0.002)
    lines = {line["quantity"]: line["found"] for line in conclusion.found}
    assert lines[f"{DIFFERENCE}: {LONG}"] == pytest.approx(0.01)
    assert lines[f"{DIFFERENCE}: {SHORT}, scaled"] == pytest.approx(0.03)
    (note,), (chart,) = conclusion.notes, conclusion.charts
    assert "+0.002 after 35 epochs with branches scaled by the part, and +0.010" in str(note)
    assert "by 23 of its 54 blocks at a time" in str(chart.title)
    assert "as good as by all: wrong on 2.2% against 2.0%" in str(chart.title)


@pytest.mark.parametrize(("training", "why"), [(0.03, "not learned"), (0.001, "carries over less")])
def test_a_part_is_worse_and_the_notes_say_why(training: float, why: str) -> None:
    conclusion = conclude(made_up([0.05, 0.051, 0.049, 0.05, 0.05], training), Protocol())
    assert conclusion.found[0]["verdict"] == "fails"
    assert any(why in str(note) for note in conclusion.notes)
    assert "not what it is by all" in str(conclusion.charts[0].title)


def test_every_training_is_there() -> None:
    result = run(find("some-blocks"), [0], dataclasses.replace(Protocol.quick(), part=0.5))
    assert set(result.tables["errors"]["training"]) == {
        "all blocks, 1 epochs",
        *("a part, 2 epochs", "a part, 2 epochs, scaled", "a part, 1 epochs", "a part, 1 epochs, scaled"),
    }
    assert len(result.tables["errors"]) == 5 * 2


def test_each_block_of_the_part_has_as_many_updates_as_of_the_whole() -> None:
    protocol = Protocol()
    assert round(protocol.part * protocol.blocks) == 23
    assert protocol.part * protocol.longer == pytest.approx(protocol.epochs, rel=0.01)
