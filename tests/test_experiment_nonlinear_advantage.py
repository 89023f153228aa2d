"""Channels made linear: against a PReLU and affine maps, when it is done, and what is concluded of made-up rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import termwise as tw
from termwise import nets
from termwise.experiments import nonlinear_advantage as advantage
from termwise.loop import Training, train_network


def network(seed: int = 0) -> nets.ResNet:
    torch.manual_seed(seed)
    return advantage.with_channels(nets.resnet(8, channels=1, width=4))


def test_a_linear_channel_is_a_prelu_of_slope_one() -> None:
    torch.manual_seed(0)
    relu, v = advantage.PartlyLinear(6), torch.randn(3, 6, 2, 2)
    relu.linear[[1, 4]] = 1
    torch.testing.assert_close(relu(v), F.prelu(v, relu.linear.flatten()))


def test_without_linear_channels_it_is_the_network_as_it_was() -> None:
    torch.manual_seed(1)
    usual, x = nets.resnet(8, channels=1, width=4), torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(network(1).eval()(x), usual.eval()(x))


def test_with_all_channels_linear_it_is_an_affine_map_whose_paths_have_no_length() -> None:
    model, (x, y) = network().eval(), torch.randn(2, 5, 1, 8, 8)
    whole = tw.profile(model, (x, torch.zeros(5).long()), unit="activations", replicates=2)
    assert max(whole.depths) == 7 and whole.mean_depth.value > 1 and whole.closure < 5e-6
    advantage.make_linear(model, advantage.drawn(model, 1.0, 0))
    torch.testing.assert_close(model(0.3 * x + 0.7 * y), 0.3 * model(x) + 0.7 * model(y), atol=1e-5, rtol=1e-4)
    assert tw.profile(model, (x, torch.zeros(5).long()), unit="activations", replicates=2).mean_depth.value == 0


def test_the_same_share_of_every_rectifier_is_drawn() -> None:
    model = network()
    counts = [(int(each.sum()), len(each)) for each in advantage.drawn(model, 0.75, 0)]
    assert counts == [(3, 4), (3, 4), (6, 8), (12, 16)]
    assert [relu.linear.shape[0] for relu in advantage.rectifiers(model)] == [n for _, n in counts]
    draws = [torch.cat([each.flatten() for each in advantage.drawn(model, 0.5, seed)]) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_channels_become_linear_just_before_the_update_that_is_named() -> None:
    data = advantage.Protocol.quick().load()
    pair = data.train_inputs[:64], data.train_targets[:64]

    def losses(at: int) -> list[float]:
        model, seen = network(), []
        switch = advantage.Switch(model, at, advantage.drawn(model, 0.75, 0))
        settings = Training(epochs=2, batch_size=16)
        train_network(model, pair, switch, settings=settings, progress=lambda told: seen.append(told.loss))
        return seen[1:]  # the loss of each update, in its order

    never, at_three = losses(99), losses(3)
    assert len(never) == 8 and at_three[:3] == never[:3] and at_three[3] != never[3]


def rows(loss: dict[str, float], fitted: dict[str, float]) -> dict[str, list[dict[str, Any]]]:
    protocol = advantage.Protocol()
    numbers = {advantage.LOSS: loss, advantage.FITTED: fitted, advantage.ACCURACY: {}, advantage.LENGTH: {}}
    return {
        "values": [
            {"seed": seed, "kind": kind, "time": time, "quantity": quantity}
            | {"value": each.get(cell, 0.5) + 0.001 * (seed % (2 + len(cell) % 2))}
            for cell, (kind, time) in advantage._cells(protocol).items()
            for seed in range(5)
            for quantity, each in numbers.items()
        ]
    }


def test_as_published_the_law_fails() -> None:
    made = rows({"never": 0.1, "taken-0.125": 0.4, "taken-0.75": 0.2, "back": 0.3}, {"taken-0.75": 0.1})
    concluded = advantage.conclude(made, advantage.Protocol())
    assert [line["verdict"] for line in concluded.found[:3]] == ["holds", "fails", "fails"]
    assert [line["found"] for line in concluded.found[:3]] == pytest.approx([0.2, 0.2, 0.2], abs=2e-3)
    (note,) = concluded.notes
    assert str(note).startswith("Never taken, the test loss is 0.10")
    by_time, by_network = (str(chart.title) for chart in concluded.charts)
    assert by_time.startswith("Nonlinearity taken early costs more: a test loss of 0.40")
    assert by_network.startswith("Nonlinearity that is missing at first is never made up for")
    assert [line["time"] for line in concluded.tables["by_time"]] == [0.0, 0.125, 0.5, 0.75]


def test_what_costs_more_late_is_said_with_its_reason() -> None:
    made = rows(
        {"never": 0.2, "taken-0.125": 0.2, "taken-0.75": 0.4, "back": 0.1}, {"taken-0.125": 0.01, "taken-0.75": 0.2}
    )
    concluded = advantage.conclude(made, advantage.Protocol())
    assert [line["verdict"] for line in concluded.found[:3]] == ["fails", "holds", "holds"]
    assert "leaves fewer updates to adapt in" in str(concluded.notes[-1])
    by_time, by_network = (str(chart.title) for chart in concluded.charts)
    assert by_time.startswith("Nonlinearity taken early costs no more") and "costs nothing" in by_network


def test_where_nothing_is_clear_titles_are_neutral() -> None:
    made = rows({}, {})
    for value in made["values"]:
        value["value"] += 0.1 * (-1) ** value["seed"] * (value["time"] == 0.125)
    concluded = advantage.conclude(made, advantage.Protocol())
    assert {line["verdict"] for line in concluded.found[:3]} == {"undecided"}
    assert str(concluded.charts[0].title).startswith("The test loss by when nonlinearity is taken")


def test_a_part_of_the_training_is_a_number_of_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    switched: list[tuple[str, int]] = []
    protocol = dataclasses.replace(advantage.Protocol.quick(), epochs=2)  # of 8 batches each
    monkeypatch.setattr(
        advantage, "train_network", lambda model, data, switch, **more: switched.append((cell, switch.at))
    )
    for cell in ("never", "taken-0.125", "all-0.75", "back"):
        job: Any = advantage.Job(0, cell, protocol, None, lambda line: None)  # type: ignore[arg-type]
        advantage.measure(job)
    assert dict(switched) == {"never": 0, "taken-0.125": 2, "all-0.75": 12, "back": 2}
