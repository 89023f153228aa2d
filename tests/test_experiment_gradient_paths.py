"""Which paths the gradient comes from: sampled paths against the expansion, and what is concluded."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

import termwise as tw
from termwise import nets
from termwise.experiments import gradient_paths
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


def test_the_network_has_as_many_blocks_as_that_of_the_paper() -> None:
    assert (gradient_paths.Protocol().depth - 2) // 2 == gradient_paths.MODULES
