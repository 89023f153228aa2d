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
from termwise.experiments import NAMES, find, four_depths, gradient_paths, init_length, run
from termwise.experiments.common import Expected, by_quantity, row
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


@pytest.mark.parametrize("length", [0, 9])
def test_where_there_is_one_path_it_is_the_coherent_sum(
    network: ResNet, batch: tuple[torch.Tensor, torch.Tensor], length: int
) -> None:
    x, targets = batch
    found = gradient_paths.sampled(network, x, targets, length, torch.Generator().manual_seed(0))
    terms = tw.expand_gradient(
        network, x, lambda y: F.cross_entropy(y, targets, reduction="sum"), unit="blocks", at=[]
    ).input.terms
    assert torch.allclose(found, terms[length].flatten(1).norm(dim=1), rtol=1e-9)


def test_each_sample_has_a_path_of_its_own_through_so_many_blocks(network: ResNet) -> None:
    # All samples are one, so that their norms differ by their paths alone: nine of one block each.
    torch.manual_seed(1)
    x, targets = torch.randn(1, 1, 8, 8, dtype=torch.float64).expand(200, -1, -1, -1), torch.zeros(200).long()
    found = gradient_paths.sampled(network, x, targets, 1, torch.Generator().manual_seed(0))
    assert len(found.mul(1e9).round().unique()) == 9


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
    assert load("digits", size=8).classes == 10
