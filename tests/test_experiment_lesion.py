"""The lesion experiment: its protocol end to end, its statistics over seeds by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from termwise import nets
from termwise.data import load
from termwise.experiments import Result, find, run
from termwise.experiments.common import trained
from termwise.experiments.experiment import Conclusion
from termwise.experiments.lesion import Protocol, branch_sizes, cells, conclude, directions
from termwise.loop import Optimiser, Training

RESIDUAL, PLAIN, BARE = cells(Protocol())
AS_TRAINED, REESTIMATED = "as trained", "re-estimated"


@pytest.fixture(scope="module")
def quick() -> Result:
    return run(find("lesion"), [0], Protocol.quick())


def rows(
    network: str, removed: int, by_seed: Mapping[int, list[float]], statistics: str = AS_TRAINED
) -> list[dict[str, Any]]:
    return [
        {"network": network, "seed": seed, "removed": removed, "statistics": statistics, "accuracy": accuracy}
        for seed, draws in by_seed.items()
        for accuracy in draws
    ]


def near(accuracy: float) -> dict[int, list[float]]:
    return {seed: [accuracy + 0.001 * (seed % 2)] for seed in range(5)}


def line(conclusion: Conclusion, quantity: str) -> Mapping[str, Any]:
    (found,) = (each for each in conclusion.found if each["quantity"] == quantity)
    return found


def test_one_number_a_seed_and_the_interval_over_seeds() -> None:
    draws = {seed: [0.90 + 0.01 * seed, 0.98 - 0.005 * seed] for seed in range(5)}
    conclusion = conclude({"draws": rows(RESIDUAL, 1, draws)}, Protocol())
    found = line(conclusion, "accuracy of resnet-50, 1 removed, statistics as trained")
    means = np.array([np.mean(values) for values in draws.values()])
    low, high = stats.t.interval(0.95, 4, means.mean(), stats.sem(means))
    assert found["found"] == pytest.approx(means.mean())
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (found["expected"], found["verdict"]) == ("0.92 or more", "holds")
    (left,) = conclusion.tables["left"]
    assert (left["accuracy"], left["accuracy_low"]) == (pytest.approx(means.mean()), pytest.approx(low))
    # The lower draw of seeds 0 to 4: 0.90, 0.91, 0.92, 0.93, 0.94.
    assert left["worst"] == pytest.approx(0.92)
    worst = line(conclusion, "accuracy of resnet-50, 1 removed, the worst draw, statistics as trained")
    assert (worst["found"], worst["verdict"]) == (pytest.approx(0.92), "")


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ([0.95, 0.96, 0.95, 0.96, 0.95], "holds"),
        ([0.85, 0.86, 0.85, 0.86, 0.85], "fails"),
        ([0.85, 0.99, 0.85, 0.99, 0.95], "undecided"),
        ([0.95, 0.96, 0.95, 0.96], "undecided"),
        ([0.2], "undecided"),
    ],
)
def test_the_verdict(accuracies: list[float], verdict: str) -> None:
    draws = rows(RESIDUAL, 0, near(0.97)) + rows(RESIDUAL, 1, {seed: [v] for seed, v in enumerate(accuracies)})
    draws += rows(RESIDUAL, 1, near(0.97), REESTIMATED)
    conclusion = conclude({"draws": draws}, Protocol())
    assert line(conclusion, "accuracy of resnet-50, 1 removed, statistics as trained")["verdict"] == verdict


@pytest.mark.parametrize(("cost", "verdict"), [(0.3, "holds"), (0.05, "fails")])
@pytest.mark.parametrize(
    ("network", "quantity"),
    [
        (PLAIN, "accuracy that a layer costs plain-20, statistics as trained"),
        (BARE, "accuracy that a block costs without-norms-50"),
    ],
)
def test_of_a_control_the_cost_is_judged_against_its_own_whole(
    network: str, quantity: str, cost: float, verdict: str
) -> None:
    whole = {seed: [0.9 + 0.02 * seed] for seed in range(5)}
    cut = {seed: [value - cost + 0.001 * (seed % 2)] for seed, (value,) in whole.items()}
    conclusion = conclude({"draws": [*rows(network, 0, whole), *rows(network, 1, cut)]}, Protocol())
    found = line(conclusion, quantity)
    assert (found["found"], found["verdict"]) == (pytest.approx(cost - 0.0004), verdict)
    (chart,) = conclusion.charts
    words = {PLAIN: "without shortcuts", BARE: "without norms"}[network]
    assert str(chart.title) == f"One block or layer less costs {cost:.2f} {words}"


@pytest.mark.parametrize(
    ("whole", "stale", "anew", "words"),
    [
        (0.98, 0.30, 0.81, ["0.30 is left", "brings it to 0.81", "75% of the loss"]),  # 0.51 of 0.68
        (0.98, 0.30, 0.30, ["0.30 is left", "is 0.30: they are not the reason"]),
        (0.50, 0.30, 0.48, ["the whole network has 0.50 only"]),
        (0.98, 0.60, 0.90, []),
    ],
)
def test_the_reason_why_a_number_is_missed_is_what_the_data_say(
    whole: float, stale: float, anew: float, words: list[str]
) -> None:
    draws = [
        *rows(RESIDUAL, 0, {seed: [whole] for seed in range(5)}),
        *rows(RESIDUAL, 12, {seed: [stale] for seed in range(5)}),
        *rows(RESIDUAL, 12, {seed: [anew + 0.001 * (seed - 2)] for seed in range(5)}, REESTIMATED),
    ]
    notes = [str(note) for note in conclude({"draws": draws}, Protocol()).notes]
    assert len(notes) == bool(words)
    assert all(each in notes[0] for each in words)


@pytest.mark.parametrize(("apart", "said"), [(0.1, True), (0.001, False)])
def test_that_training_without_norms_is_less_sure_is_said_if_it_is(apart: float, said: bool) -> None:
    draws = rows(RESIDUAL, 0, {seed: [0.97 + 0.002 * seed] for seed in range(5)})
    draws += rows(BARE, 0, {seed: [0.9 + apart * seed / 4] for seed in range(5)})
    notes = [str(note) for note in conclude({"draws": draws}, Protocol()).notes]
    assert ["ends at accuracies from 0.90 to 1.00, by seed" in note for note in notes] == [True] * said


def test_of_other_orders_accuracy_goes_with_tau_within_each_seed() -> None:
    # In a seed the accuracy is a line of tau, rising in seeds 0 to 3 and falling in seed 4: correlations 1 and -1.
    orders = [
        {"network": RESIDUAL, "statistics": AS_TRAINED, "seed": seed, "swaps": swaps, "tau": tau}
        | {"accuracy": accuracy}
        for seed in range(5)
        for swaps, tau in [(0, 1.0), (1, 0.6), (1, 0.4), (2, 0.2)]
        for accuracy in [0.5 + 0.1 * seed + (0.1 if seed < 4 else -0.1) * tau]
    ]
    conclusion = conclude({"draws": rows(RESIDUAL, 0, near(0.9)), "orders": orders}, Protocol())
    found = line(conclusion, "correlation of accuracy and order (tau), resnet-50, statistics as trained")
    assert (found["found"], found["verdict"]) == (pytest.approx(3 / 5), "")
    after = line(conclusion, "accuracy of resnet-50 after 2 swaps of blocks, statistics as trained")
    assert after["found"] == pytest.approx(0.5 + 0.1 * 2 + 0.02 * 3 / 5)
    assert [each["tau"] for each in conclusion.tables["reordered"]] == [pytest.approx(t) for t in (1.0, 0.5, 0.2)]
    assert [chart.name for chart in conclusion.charts] == ["left", "reordered"]


def test_every_draw_is_kept(quick: Result) -> None:
    protocol = Protocol.quick()
    draws, orders = quick.tables["draws"], quick.tables["orders"]
    residual, plain, bare = cells(protocol)
    count = {name: len(draws.where(network=name)) for name in (residual, plain, bare)}
    # The whole, two draws of one block less, and none of the six left; with two kinds of statistics.
    assert count == {residual: 2 * (1 + 2 + 1), plain: 2 * (1 + 2), bare: 1 + 2}
    assert {*draws.where(network=residual)["statistics"]} == {AS_TRAINED, REESTIMATED}
    assert {*draws.where(network=bare)["statistics"]} == {AS_TRAINED}
    # The order of the training once, and two draws for each number of swaps.
    assert len(orders) == 2 * (1 + 2 * (len(protocol.swaps) - 1))
    assert {*orders["network"]} == {residual}


def test_a_block_is_deleted_from_the_network_without_norms_as_by_hand(quick: Result) -> None:
    protocol = Protocol.quick()
    draws = quick.tables["draws"].where(network=cells(protocol)[-1], removed=1)
    data = load("digits", size=protocol.size)
    settings = Training(epochs=protocol.epochs, optimiser=Optimiser(learning_rate=protocol.bare_rate))
    width = protocol.bare_width
    model: Any = trained(
        lambda: nets.preact_resnet(protocol.depth, channels=1, width=width, norm=False), data, settings, seed=0
    )
    blocks = [block for stage in model.stages for block in stage]
    for draw in draws.rows():
        gone = int(draw["gone"])
        with torch.no_grad():
            v = model.conv(data.test_inputs)
            for i, block in enumerate(blocks):
                v = block.shortcut(v) if i == gone else block(v)
            y = model.classifier(model.pool(model.relu(v)).flatten(1) / model.growth)
        assert draw["accuracy"] == pytest.approx(float((y.argmax(dim=1) == data.test_targets).double().mean()))


def test_the_size_of_a_branch_is_that_by_hand() -> None:
    torch.manual_seed(0)
    model: Any = nets.preact_resnet(14, channels=1, width=2, norm=False)
    v = model.conv(x := torch.randn(5, 1, 8, 8))
    expected = []
    for block in (block for stage in model.stages for block in stage):
        branch = block.conv2(block.conv1(v.relu()).relu())
        v = block.shortcut(v)
        expected.append((branch.square().mean() / v.square().mean()).sqrt().item())
        v = v + branch
    assert branch_sizes(model, x) == pytest.approx(expected, rel=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("cost", "now", "turned", "words"),
    [
        (
            0.05,
            0.25,
            0.97,
            "0.80 times as large as what passes it at the first weights, 0.25 times after training: smaller",
        ),
        (0.05, 1.2, 0.3, "1.20 times after training: not smaller, so that this is not the reason"),
        (0.3, 0.25, 0.7, None),
    ],
)
def test_how_large_branches_are_is_said_where_a_block_is_cheap(
    cost: float, now: float, turned: float, words: str | None
) -> None:
    turn = "they shrink more than they turn" if turned > 0.9 else "they turn, and yet the class stays"
    draws = [*rows(BARE, 0, near(0.9)), *rows(BARE, 1, near(0.9 - cost))]
    branches = [
        {"network": BARE, "seed": seed, "weights": weights, "block": i, "size": size}
        for seed in range(5)
        for weights, mean in (("first", 0.8), ("trained", now))
        for i, size in enumerate([mean - 0.2, mean + 0.2])
    ]
    without = [
        {"network": BARE, "seed": seed, "block": i, "cosine": cosine, "size": 0.5 if turned > 0.9 else 1.0}
        for seed in range(5)
        for i, cosine in enumerate([turned - 0.02, turned + 0.02])
    ]
    told = {"draws": draws, "branches": branches, "without": without}
    notes = [str(note) for note in conclude(told, Protocol()).notes]
    assert len(notes) == (words is not None)
    assert words is None or (words in notes[0] and turn in notes[0])


@torch.no_grad()
def test_how_logits_turn_without_a_block_is_that_of_the_network_without_its_branch() -> None:
    torch.manual_seed(0)
    model, x = nets.preact_resnet(14, channels=1, width=2, norm=False).double().eval(), torch.randn(5, 1, 8, 8).double()
    found = directions(model, x)

    def logits(missing: int | None) -> np.ndarray:
        v = model.conv(x)
        for number, block in enumerate(block for stage in model.stages for block in stage):  # type: ignore[union-attr]
            v = block.shortcut(v) if number == missing else block(v)
        y = model.classifier(model.relu(v).mean(dim=(2, 3)) / model.growth).numpy()
        return y - y.mean(axis=1, keepdims=True)

    whole = logits(None)
    assert [line["block"] for line in found] == list(range(6))
    for line in found:
        less = logits(line["block"])
        sizes = np.linalg.norm(less, axis=1), np.linalg.norm(whole, axis=1)
        assert line["cosine"] == pytest.approx(((less * whole).sum(axis=1) / (sizes[0] * sizes[1])).mean())
        assert line["size"] == pytest.approx((sizes[0] / sizes[1]).mean())
