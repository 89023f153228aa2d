"""Transformers with and without scaled norms: their layers by hand, and what is concluded of made-up rows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from termwise.data import load
from termwise.experiments import pre_norm
from termwise.experiments.pre_norm import PLAIN, SAME, SCALED

SMALL = pre_norm.Protocol(depth=3, width=8, length=24, updates=2, batch=4)


@pytest.fixture(scope="module")
def data() -> Any:
    return load("induction", size=24)


def test_scaling_a_norm_is_scaling_its_parameters(data: Any) -> None:
    plain, scaled = (pre_norm.built(network, data, SMALL, 3) for network in (PLAIN, SCALED))
    tokens = data.test_inputs[:5]
    assert not torch.allclose(plain(tokens), scaled(tokens), atol=1e-3)
    with torch.no_grad():
        for number, layer in enumerate(plain.blocks, 1):
            for name in ("norm1", "norm2"):
                layer.get_submodule(name).weight.div_(math.sqrt(number))  # type: ignore[operator,union-attr]
                layer.get_submodule(name).bias.div_(math.sqrt(number))  # type: ignore[operator,union-attr]
    torch.testing.assert_close(plain(tokens), scaled(tokens))


def test_a_layer_costs_what_the_network_built_without_it_loses(data: Any) -> None:
    model = pre_norm.built(SCALED, data, SMALL, 0).eval()
    tokens, targets = data.test_inputs[:6], data.test_targets[:6]
    layers = [*model.blocks]

    def loss() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()))

    found = pre_norm.by_layer(model, (tokens, targets))
    whole = loss()
    for i, line in enumerate(found):
        model.blocks = nn.Sequential(*(layer for layer in layers if layer is not layers[i]))
        assert line["cost"] == pytest.approx(loss() - whole, abs=1e-6)
    with torch.no_grad():
        v = model.tokens(tokens) + model.positions.weight[:24]
        for layer, line in zip(layers, found, strict=True):
            assert line["added"] == pytest.approx(float((layer(v) - v).norm() / v.norm()), rel=1e-5)
            v = layer(v)


def test_training_is_adam_over_one_cycle_and_both_see_the_same_batches(data: Any) -> None:
    losses = [
        pre_norm.descend(pre_norm.built(network, data, SMALL, 0), data, SMALL, 1e-12, 0) for network in (PLAIN, PLAIN)
    ]
    assert losses[0] == losses[1] and losses[0][0] != losses[0][1]
    model = pre_norm.built(PLAIN, data, SMALL, 0)
    before = model.head.weight.detach().clone()  # type: ignore[union-attr]
    one = pre_norm.Protocol(depth=3, width=8, length=24, updates=1, batch=4)
    pre_norm.descend(model, data, one, 1e-2, 0)
    # Adam's first step is the rate for every weight whose gradient is not tiny; of one step the middle is on the fall.
    rate = 1e-2 * (1 + math.cos(math.pi * 0.3 / 0.8)) / 2
    moved = (model.head.weight.detach() - before).abs()  # type: ignore[union-attr]
    assert float(moved.median()) == pytest.approx(rate, rel=1e-3)


def rows(
    plain: dict[str, float], scaled: dict[str, float], same: dict[str, float] | None = None
) -> dict[str, list[dict[str, Any]]]:
    each = {PLAIN: plain, SCALED: scaled, SAME: plain if same is None else same}
    places = [{"seed": seed, "network": network} for network in each for seed in range(5)]
    return {
        "values": [
            {**place, "quantity": name, "value": each[place["network"]].get(name, 1.0) + 0.001 * (place["seed"] % 3)}
            for place in places
            for name in pre_norm.QUANTITIES
        ],
        "layers": [{**place, "layer": layer, "cost": 0.1, "added": 0.2} for place in places for layer in (1, 12)],
        "lengths": [{**place, "length": 1, "share": 1.0} for place in places],
        "course": [{**place, "step": 25, "loss": 1.0} for place in places],
    }


def wobbling(made: dict[str, list[dict[str, Any]]], name: str, by: float) -> dict[str, list[dict[str, Any]]]:
    """With a quantity of the scaled network moved up in some seeds and down in others."""
    for value in made["values"]:
        if (value["network"], value["quantity"]) == (SCALED, name):
            value["value"] += by * (-1) ** value["seed"]
    return made


LONG = {pre_norm.LENGTH: 6.0, pre_norm.FIRST_LENGTH: 3.0}
SHORT = {pre_norm.LENGTH: 4.0, pre_norm.FIRST_LENGTH: 4.0}


def test_as_published_the_claim_fails() -> None:
    made = rows(SHORT | {pre_norm.LOSS: 0.8, pre_norm.DEEP: 0.01}, LONG | {pre_norm.LOSS: 0.7, pre_norm.DEEP: 0.3})
    concluded = pre_norm.conclude(made, pre_norm.Protocol())
    assert [line["verdict"] for line in concluded.found[:4]] == ["holds", "holds", "holds", "fails"]
    assert [line["found"] for line in concluded.found[:4]] == pytest.approx([2.0, 0.1, 0.29, -0.1])
    assert "shallow terms dominate is no merit" in str(concluded.notes[-1])
    assert not any("learning rate" in str(note) for note in concluded.notes)
    assert {line["layer"] for line in concluded.tables["deeper"]} == {12}
    course, layers, lengths = (str(chart.title) for chart in concluded.charts)
    assert course.startswith("With scaled norms the loss ends lower: at 0.701 nats a token, without them at 0.801")
    assert layers.startswith("Scaled norms give deep layers work: without one the loss grows by 0.301")
    assert lengths.startswith("Paths are longer with scaled norms: 6.00 blocks in the mean, 4.00 without")


def test_a_better_network_of_shorter_paths_is_no_example_against_the_claim() -> None:
    made = rows(LONG | {pre_norm.LOSS: 0.8, pre_norm.DEEP: 0.3}, SHORT | {pre_norm.LOSS: 0.7, pre_norm.DEEP: 0.1})
    made = wobbling(made, pre_norm.FIRST_LENGTH, -1.5)
    concluded = pre_norm.conclude(made, pre_norm.Protocol())
    assert [line["verdict"] for line in concluded.found[:4]] == ["fails", "holds", "fails", "holds"]
    said = " ".join(map(str, concluded.notes))
    assert "in the mean 4.00 blocks against 6.00" in said and "are not the idle ones" in said
    assert "Scaling shortens the paths to begin with" not in said  # at first weights they are longer here


def test_where_the_loss_is_the_same_nothing_is_decided_and_that_is_said() -> None:
    same = {pre_norm.LOSS: 0.7, pre_norm.DEEP: 0.1}
    made = wobbling(rows(LONG | same, SHORT | {pre_norm.FIRST_LENGTH: 2.0} | same), pre_norm.LOSS, 0.01)
    concluded = pre_norm.conclude(made, pre_norm.Protocol())
    assert [line["verdict"] for line in concluded.found[:4]][1::2] == ["undecided", "undecided"]
    said = " ".join(map(str, concluded.notes))
    assert "no evidence for the defect, and none against it" in said
    assert "at first weights the mean length is 3.00 blocks without it and 2.00 with" in said


def test_a_difference_that_is_gone_at_the_same_rate_is_said_to_be_that_of_the_rate() -> None:
    made = rows(SHORT | {pre_norm.LOSS: 1.9}, LONG | {pre_norm.LOSS: 1.1}, SHORT | {pre_norm.LOSS: 1.2})
    concluded = pre_norm.conclude(made, pre_norm.Protocol())
    assert concluded.found[5]["found"] == pytest.approx(0.1)
    said = " ".join(map(str, concluded.notes))
    assert (
        "at the rate of the scaled network the plain one ends at 1.201, and of a difference of 0.80 nats 0.10" in said
    )


def test_each_network_has_its_rate() -> None:
    rates = [pre_norm.Protocol(plain_rate=1.0, scaled_rate=2.0).rate(network) for network in (PLAIN, SCALED, SAME)]
    assert rates == [1.0, 2.0, 2.0]
