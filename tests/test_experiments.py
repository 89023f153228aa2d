"""The experiments on paths: what they compute by other means, their statistics by hand, their commands end to end."""

from __future__ import annotations

import math
from pathlib import Path

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
from termwise.nets.resnet import ResNet


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
        for block, taken in zip((b for stage in network.stages for b in stage), through[:, i], strict=True):
            branch = block.norm2(block.conv2(F.relu(block.norm1(block.conv1(v)))))
            whole, way = block.shortcut(v) + branch, branch if taken else block.shortcut(v)
            v = F.relu(whole.detach() + way - way.detach())
        F.cross_entropy(network.classifier(v.mean(dim=(2, 3))), targets[i : i + 1]).backward()
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
