"""The experiments on paths: what they compute by other means, their statistics by hand, their commands end to end."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

import termwise as tw
from termwise import nets
from termwise.cli import main
from termwise.data import load
from termwise.experiments import NAMES, find, four_depths, gradient_paths, init_length, run, train_by_paths
from termwise.experiments.common import Expected, by_quantity, row
from termwise.experiments.networks import ResidualMLP
from termwise.nets.resnet import Block, ResNet


@pytest.fixture
def network() -> ResNet:
    torch.manual_seed(0)
    model = nets.resnet(20, channels=1, width=4).double().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([1, 4, 7])


def residual(network: ResNet) -> list[Block]:
    return [module for module in network.modules() if isinstance(module, Block)]


# Statistics.


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.21, 0.22, 0.23, 0.22, 0.23], "holds"),
        ([0.31, 0.32, 0.33, 0.32, 0.33], "fails"),
        ([0.11, 0.12, 0.13, 0.12, 0.13], "fails"),
        ([0.21, 0.22, 0.23, 0.22, 0.29], "undecided"),
        ([0.21, 0.22, 0.23, 0.22], "undecided"),
        ([math.nan] * 5, "undecided"),
        ([math.inf, 0.22, 0.23, 0.22, 0.23], "undecided"),
    ],
)
def test_a_number_between_two_bounds(values: list[float], verdict: str) -> None:
    assert Expected("0.2 to 0.25", 0.2, 0.25).verdict(values) == verdict


def test_a_line_is_the_mean_over_seeds_and_its_interval() -> None:
    (values,) = by_quantity([{"quantity": "r", "seed": s, "value": 0.2 + 0.01 * s} for s in range(5)]).values()
    line = row("r", values, Expected("0.2 or more", 0.2))
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (line["found"], line["low"], line["high"]) == tuple(map(pytest.approx, (np.mean(values), low, high)))
    assert (line["expected"], line["verdict"]) == ("0.2 or more", "holds")


# The gradient's paths.


def test_a_sample_goes_back_through_the_branches_of_its_path_alone(
    network: ResNet, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    # By hand: a network whose blocks are one way of theirs, with the values of the whole network put in.
    x, targets = batch
    through = torch.rand(9, 3, generator=torch.Generator().manual_seed(2)) < 0.5
    found = gradient_paths.Paths(network, x, targets).gradient(through)
    for i in range(3):
        alone = x[i : i + 1].clone().requires_grad_()
        v = F.relu(network.norm(network.conv(alone)))
        for block, taken in zip(residual(network), through[:, i], strict=True):
            branch = block.norm2(block.conv2(F.relu(block.norm1(block.conv1(v)))))
            whole, way = block.shortcut(v) + branch, branch if taken else block.shortcut(v)
            v = F.relu(whole.detach() + way - way.detach())
        F.cross_entropy(network.classifier(v.mean(dim=(2, 3))), targets[i : i + 1]).backward()
        assert alone.grad is not None
        assert torch.allclose(found[i], alone.grad[0], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("length", [0, 9])
def test_where_there_is_one_path_it_is_the_coherent_sum(
    network: ResNet, batch: tuple[torch.Tensor, torch.Tensor], length: int
) -> None:
    x, targets = batch
    found = gradient_paths.Paths(network, x, targets).gradient(torch.full((9, 3), length == 9))
    terms = tw.expand_gradient(
        network, x, lambda y: F.cross_entropy(y, targets, reduction="sum"), unit="blocks", at=[]
    ).input.terms
    assert torch.allclose(found, terms[length], rtol=1e-9, atol=1e-14)


def test_the_paths_of_one_block_add_up_to_their_coherent_sum(
    network: ResNet, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, targets = batch
    along = gradient_paths.Paths(network, x, targets)
    found = sum(along.gradient(torch.eye(9, dtype=torch.bool)[i][:, None].expand(9, 3)) for i in range(9))
    terms = tw.expand_gradient(
        network, x, lambda y: F.cross_entropy(y, targets, reduction="sum"), unit="blocks", at=[]
    ).input.terms
    assert torch.allclose(torch.as_tensor(found), terms[1], rtol=1e-9, atol=1e-14)


def test_the_measures_of_a_binomial() -> None:
    r, lengths = 0.22, range(55)
    lines = [{"length": k, "paths": str(math.comb(54, k)), "norm": 3 * r**k, "coherent": 1.0} for k in lengths]
    found = gradient_paths.measures(lines)
    law = stats.binom(54, r / (1 + r))
    assert found["r"] == pytest.approx(r)
    assert found["mean length by count x norm"] == pytest.approx(law.mean())
    assert found["share of count x norm in lengths 5 to 17"] == pytest.approx(law.cdf(17) - law.cdf(4))
    assert found["mean length by the coherent norms"] == pytest.approx(27)
    assert found["share of the coherent norms in lengths 5 to 17"] == pytest.approx(13 / 55)


def test_the_paths_of_54_blocks_are_counted_exactly() -> None:
    torch.manual_seed(0)
    model, x = nets.resnet(110, channels=1, width=1).eval(), torch.randn(1, 1, 8, 8)
    paths = tw.expand_gradient(model, x, lambda y: y.sum(), unit="blocks", at=[]).input.paths
    assert paths == {k: math.comb(54, k) for k in range(55)}
    found = gradient_paths.counted(paths)
    assert [line["found"] for line in found] == [
        pytest.approx(stats.binom(54, 0.5).cdf(high) - stats.binom(54, 0.5).cdf(low - 1), abs=1e-12)
        for low, high in ((5, 17), (19, 35))
    ]
    assert [line["verdict"] for line in found] == ["holds", "holds"]


# What is concluded of the gradient's paths.


def path_rows(r: Mapping[str, float], batches: float) -> dict[str, list[dict[str, Any]]]:
    """Rows of five seeds in which every network's norms fall as r^length, and coherent sums are alike."""
    lines: list[dict[str, Any]] = [
        {"network": network, "seed": seed, "length": k, "paths": str(math.comb(54, k)), "norm": 3 * factor**k}
        | {"coherent": 1.0}
        for network, factor in r.items()
        for seed in range(5)
        for k in range(55)
    ]
    values = []
    for network in r:
        for seed in range(5):
            own = [line for line in lines if (line["network"], line["seed"]) == (network, seed)]
            numbers = gradient_paths.measures(own) | {gradient_paths.BATCHES: batches}
            numbers |= {gradient_paths.ADDED: 0.2, gradient_paths.PASSED: 0.11}
            values += [{"network": network, "seed": seed, "quantity": q, "value": v} for q, v in numbers.items()]
    return {"lengths": lines, "values": values}


def test_what_is_not_as_published_is_said_with_what_it_depends_on() -> None:
    rows = path_rows({"trained at 0.1": 0.1, "before training": 0.46, "trained at 0.02": 0.22}, batches=0.1)
    conclusion = gradient_paths.conclude(rows, gradient_paths.Protocol())
    found = {line["quantity"]: line for line in conclusion.found}
    assert found["r"]["verdict"] == found[gradient_paths.SHARE]["verdict"] == "fails"
    assert found["r, trained at 0.02"]["verdict"] == ""
    first, second, third = map(str, conclusion.notes)
    assert "leaves 0.100 of the gradient, before training 0.460" in first and "a single branch leaves 0.110" in first
    assert "do not change that: r is 0.100" in second
    assert "at a peak rate of 0.02, and not 0.1" in third and "r is 0.220, as published" in third
    (chart,) = conclusion.charts
    assert str(chart.title).startswith("Only 5")  # 1 - cdf(4) of a binomial of 54 and 1/11
    shares = [line for line in conclusion.tables["shares"] if line["network"] == "trained at 0.02"]
    binomial = [math.comb(54, k) * 0.22**k / 1.22**54 for k in range(55)]
    assert [line["share"] for line in shares] == pytest.approx(binomial)
    norms = [line["norm"] for line in conclusion.tables["norms"] if line["network"] == "before training"]
    assert norms == pytest.approx([3 * 0.46**k for k in range(55)])


def test_what_is_as_published_needs_no_words() -> None:
    rows = path_rows({"trained at 0.1": 0.22, "before training": 0.46, "trained at 0.02": 0.3}, batches=0.1)
    conclusion = gradient_paths.conclude(rows, gradient_paths.Protocol())
    assert conclusion.notes == ()
    assert [line["verdict"] for line in conclusion.found if line["expected"]] == ["holds"] * 4
    assert str(conclusion.charts[0].title).startswith("Paths of 5 to 17 blocks have 97% of count x norm")


def test_what_is_zero_is_left_out_of_the_fit() -> None:
    lengths = np.arange(6)
    norms = 0.3**lengths * (lengths != 2)
    assert gradient_paths.factor(lengths, norms) == pytest.approx(0.3)
    assert math.isnan(gradient_paths.factor(lengths, np.zeros(6)))


def test_how_strong_branches_are(network: ResNet) -> None:
    torch.manual_seed(3)
    x, logs, frobenius = torch.randn(40, 1, 8, 8, dtype=torch.float64), [], []

    def through(block: Block, v: torch.Tensor) -> torch.Tensor:
        return block.norm2(block.conv2(F.relu(block.norm1(block.conv1(v)))))

    with torch.no_grad():
        v = F.relu(network.norm(network.conv(x)))
        for block in residual(network):
            branch = through(block, v)
            squares = [((t - t.mean(dim=0)) ** 2).sum() / 39 / t[0].numel() for t in (branch, v)]
            logs.append(0.5 * math.log(squares[0] / squares[1]))
            # The mean over random gradients is the sum of squares of the Jacobian, here of some samples.
            jacobians = [torch.func.jacrev(functools.partial(through, block))(v[i : i + 1]) for i in range(4)]
            square = sum(float(j.square().sum()) for j in jacobians) / (4 * branch[0].numel())
            frobenius.append(0.5 * math.log(square))
            v = block(v)
    found = gradient_paths.strengths(network, x, 0)
    assert found[gradient_paths.ADDED] == pytest.approx(math.exp(np.mean(logs)))
    assert found[gradient_paths.PASSED] == pytest.approx(math.exp(np.mean(frobenius)), rel=0.05)


# Lengths before training.


def test_the_length_of_independent_paths_is_that_of_all_subsets_of_blocks() -> None:
    strengths = [0.3, 1.7, 0.05, 0.8]
    squares = [0.0] * 5
    for taken in itertools.product((False, True), repeat=4):
        squares[sum(taken)] += math.prod(s for s, there in zip(strengths, taken, strict=True) if there)
    norms = np.sqrt(squares)
    assert init_length.independent(strengths) == pytest.approx(norms @ np.arange(5) / norms.sum())
    assert init_length.independent([1.0] * 24) == pytest.approx(12)


@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.Identity])
def test_a_branch_makes_of_a_stream_what_its_strength_says(activation: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    model = ResidualMLP(4, 256, 3, blocks=1, gain=0.7, activation=activation, norm=True).eval()
    (branch,) = init_length.branches(model)
    branch.norm.running_var.copy_(torch.rand(256) + 0.5)  # type: ignore[union-attr,operator]
    out = branch(torch.randn(10_000, 256)).square().mean()
    assert branch.strength() == pytest.approx(float(out.detach()), rel=0.03)


def test_linear_branches_give_the_lengths_of_independent_paths() -> None:
    torch.manual_seed(0)
    model = ResidualMLP(64, 256, 10, blocks=6, gain=0.5, activation=torch.nn.Identity).eval()
    length = tw.profile(model, (torch.randn(64, 64), torch.zeros(64).long()), unit="blocks", replicates=2).mean_depth
    assert init_length.independent([b.strength() for b in init_length.branches(model)]) == pytest.approx(
        length.value, rel=0.1
    )


def test_lengths_that_are_missed_stand_beside_those_of_linear_branches() -> None:
    numbers = {"He gain": 12.0, "batch norm": 4.6, "branch gain 0.2": 1.4, "zero init": 0.0}
    numbers |= {"batch norm, linear branches": 3.8, "branch gain 0.2, linear branches": 1.4}
    values = [
        {"kind": kind, "quantity": quantity, "value": value + 0.001 * (seed - 2) * (kind != "zero init")}
        | {"seed": seed}
        for kind, length in numbers.items()
        for seed in range(5)
        for quantity, value in (
            (init_length.MEASURED, length),
            (init_length.INDEPENDENT, length - 0.1),
            (init_length.GROWTH, 1.0 if "linear" in kind else 0.7),
        )
    ]
    conclusion = init_length.conclude({"values": values}, init_length.Protocol())
    verdicts = {line["quantity"]: line["verdict"] for line in conclusion.found if line["expected"]}
    assert verdicts == {"He gain": "holds", "batch norm": "fails", "branch gain 0.2": "holds", "zero init": "holds"}
    first, second = map(str, conclusion.notes)
    assert first.startswith("batch norm: 4.60 found.") and "4.50; linear branches were found to give 3.80" in first
    assert "Linear ones add 1.00, these 0.70" in second
    assert str(conclusion.charts[0].title).startswith("Weaker branches, shorter paths: 12.0 blocks")


# Four notions.


def notion_rows(**shares: Sequence[float]) -> dict[str, list[dict[str, Any]]]:
    """Rows of five seeds, with shares by notion as they are given and accuracies that grow with k."""
    names = {"a": four_depths.A, "b": four_depths.B, "w": four_depths.WALSH, "m": four_depths.MOEBIUS}
    values = [
        {"notion": names[name], "k": k, "measure": "share", "value": share, "seed": seed}
        for name, by_k in shares.items()
        for seed in range(5)
        for k, share in enumerate(by_k)
        if not math.isnan(share)
    ]
    accuracies = {four_depths.A: (0.5, 0.95, 1.0), four_depths.B: (0.5, 0.6, 0.7), four_depths.D: (0.2, 0.4, 1.0)}
    values += [
        {"notion": notion, "k": k, "measure": "accuracy", "value": right, "seed": seed}
        for notion, by_k in accuracies.items()
        for seed in range(5)
        for k, right in enumerate(by_k)
    ]
    return {"values": values, "series": [{"seed": seed, "converges": "no"} for seed in range(5)]}


def test_notions_that_differ_hold_and_notions_that_agree_fail() -> None:
    protocol = four_depths.Protocol(blocks=2)
    frozen = (0.2, 0.4, 0.4)
    apart = four_depths.conclude(
        notion_rows(a=frozen, b=(0.6, 0.2, 0.2), w=(math.nan, 0.9, 0.1), m=(0.2, 0.8, 0.0)), protocol
    )
    # Half the sum of |differences|; Walsh has no order 0, so A's from 1 on are shared out anew: a half each.
    assert [line["found"] for line in apart.found] == pytest.approx([0.4, 0.4, 0.4])
    assert {line["verdict"] for line in apart.found} == {"holds"}
    shares, accuracy = apart.charts
    assert str(shares.title).startswith("No other notion agrees")
    assert str(accuracy.title) == (
        "Nine tenths of the accuracy need frozen paths up to 1 blocks, or 2 blocks left in the network"
    )
    alike = four_depths.conclude(notion_rows(a=frozen, b=frozen, w=(math.nan, 0.5, 0.5), m=frozen), protocol)
    assert {line["verdict"] for line in alike.found} == {"fails"}
    assert str(alike.charts[0].title).startswith("B unfrozen is nearest to frozen paths: 0.00")
    assert "C Moebius is not clearly apart from A frozen: shares differ most at k = 0, by +0.000" in str(alike.notes[1])


# Training by paths.


def test_the_middle_of_the_shares() -> None:
    assert train_by_paths.split({1: 0.3, 2: 0.4, 3: 0.3}) == (2, pytest.approx(0.5))
    assert train_by_paths.split({0: 1.2, 1: -0.4, 2: 0.2}) == (0, pytest.approx(0.5 / 1.2))
    assert train_by_paths.split({4: 0.2, 5: 0.2, 6: 0.6}) == (6, pytest.approx(1 / 6))


def test_both_halves_are_half_of_the_gradient_and_make_up_the_whole() -> None:
    torch.manual_seed(0)
    model = ResidualMLP(6, 8, 3, blocks=4).double()
    x, targets = torch.randn(5, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])

    def flat(half: train_by_paths.Half) -> torch.Tensor:
        found = train_by_paths.direction(half, model, x, lambda y: F.cross_entropy(y, targets))
        return torch.cat([found[name].flatten() for name, _ in model.named_parameters()])

    F.cross_entropy(model(x), targets).backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    shorter, longer = flat("shorter"), flat("longer")
    assert torch.allclose(flat("all"), whole, atol=1e-12)
    for half in (shorter, longer):
        assert float(half.norm()) == pytest.approx(float(whole.norm()))
    factors = torch.linalg.lstsq(torch.stack([shorter, longer], dim=1), whole[:, None]).solution.flatten()
    assert torch.allclose(factors[0] * shorter + factors[1] * longer, whole, atol=1e-9)
    assert float(factors[0] * shorter @ whole / (whole @ whole)) == pytest.approx(0.5)


def test_in_training_a_part_of_the_blocks_is_there() -> None:
    torch.manual_seed(0)
    network = nets.resnet(62, channels=1, width=2)  # 30 blocks
    model = train_by_paths.SomeBlocks(network, torch.randn(1, 1, 8, 8), 0.4).train()
    x = torch.randn(4, 1, 8, 8)
    seen = set()
    for _ in range(2):
        network.zero_grad()
        model(x).square().sum().backward()
        weights = [block.norm2.weight for stage in network.stages for block in stage]  # type: ignore[union-attr]
        there = tuple(bool(w.grad is not None and w.grad.abs().sum() > 0) for w in weights)
        assert sum(there) == 12
        seen.add(there)
    assert len(seen) == 2
    assert torch.equal(model.eval()(x), network.eval()(x))


# End to end.


def test_before_training_paths_are_as_long_as_the_branches_are_strong() -> None:
    found = run(init_length.EXPERIMENT, [0], init_length.Protocol(blocks=8, features=32, samples=32)).found
    length = dict(zip(found["quantity"], found["found"], strict=True))
    assert length["zero init"] == 0
    assert length["zero init"] < length["branch gain 0.2"] < length["batch norm"] < length["He gain"]


def test_shares_that_add_up_to_the_network_sum_to_one() -> None:
    values = run(four_depths.EXPERIMENT, [0], four_depths.Protocol.quick()).tables["values"]
    for notion in (four_depths.A, four_depths.MOEBIUS):
        assert values.where(notion=notion, measure="share")["value"].sum() == pytest.approx(1)
    assert np.nansum(values.where(notion=four_depths.WALSH, measure="share")["value"]) == pytest.approx(1)


def test_the_whole_network_is_the_last_of_frozen_paths_and_of_blocks_that_are_left() -> None:
    values = run(four_depths.EXPERIMENT, [0], four_depths.Protocol.quick()).tables["values"]
    last = four_depths.Protocol.quick().blocks
    whole = {n: values.where(notion=n, measure="accuracy", k=last)["value"] for n in (four_depths.A, four_depths.D)}
    assert whole[four_depths.A] == whole[four_depths.D]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_prints_what_was_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["experiment", name, "--quick", "--seeds", "1"])
    printed = capsys.readouterr().out
    result = run(find(name), [0], find(name).protocol.quick())
    assert str(result) in printed
    assert "its numbers and verdicts show nothing" in printed
    assert {"expected", "verdict"} <= set(result.found.columns)
    assert set(result.found["verdict"]) <= {"", "undecided"}
    page = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()
    assert all(words in page for words in result.found["expected"])


def test_the_defaults_are_the_published_sizes() -> None:
    blocks = (gradient_paths.Protocol().depth - 2) // 2
    assert blocks == gradient_paths.MODULES
    assert round(train_by_paths.Protocol().part * blocks) == 23
    assert load("digits", size=8).classes == 10
