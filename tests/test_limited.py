"""Gaussian clones against moments by numpy, within standard errors by Isserlis' theorem; networks on them by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from termwise import nets
from termwise.data import DataSet, load
from termwise.errors import DataError, UsageError
from termwise.limited import compared, gaussian_clone, isotropic_clone

CLONES = [isotropic_clone, gaussian_clone]
DRAWN = 40_000  # samples of the test part, whose number is free: the moments come from the training part


def made(samples: int = 12, shape: tuple[int, ...] = (2, 3), classes: int = 3, drawn: int = 7) -> DataSet:
    """Skewed and correlated inputs, unlike from class to class."""
    generator = torch.Generator().manual_seed(5)

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        targets = torch.arange(count) % classes
        x = torch.rand(count, *shape, generator=generator).exp()
        x = x + 0.7 * x.roll(1, dims=1) * (1 + targets.reshape(-1, *[1] * len(shape)))
        return x, targets

    return DataSet("made", "Made up", "nobody", *part(samples), *part(drawn), classes)


def flat(data: DataSet, label: int, part: str = "train") -> np.ndarray:
    inputs, targets = getattr(data, f"{part}_inputs"), getattr(data, f"{part}_targets")
    return inputs[targets == label].flatten(1).double().numpy()


@pytest.mark.parametrize("clone", CLONES)
def test_many_samples_have_the_moments_of_the_class(clone: Callable[..., DataSet]) -> None:
    data = made(samples=30, drawn=DRAWN)
    found = clone(data, seed=1)
    for label in range(3):
        real, x = flat(data, label), flat(found, label, "test")
        n, mean, covariance = len(x), real.mean(axis=0), np.cov(real.T)
        if clone is isotropic_clone:
            covariance = np.trace(covariance) / 6 * np.eye(6)
        variances = np.diag(covariance)
        assert (np.abs(x.mean(axis=0) - mean) < 5 * np.sqrt(variances / n)).all()
        # Of a Gaussian, Var of the sample covariance is (S_ii S_jj + S_ij^2) / (n - 1).
        error = np.sqrt((np.outer(variances, variances) + covariance**2) / (n - 1))
        assert (np.abs(np.cov(x.T) - covariance) < 5 * error).all()
        # No moments beyond: the third of what is along any direction is 0, its variance 15 s^6 / n and less.
        deviations = (x - mean) / np.sqrt(variances)
        assert (np.abs((deviations**3).mean(axis=0)) < 5 * np.sqrt(15 / n)).all()


def test_the_order_of_samples_and_their_form_are_kept() -> None:
    data = made()
    for clone in CLONES:
        found = clone(data, seed=2)
        assert torch.equal(found.train_targets, data.train_targets)
        assert torch.equal(found.test_targets, data.test_targets)
        assert (found.train_inputs.shape, found.test_inputs.shape) == (data.train_inputs.shape, data.test_inputs.shape)
        assert found.train_inputs.dtype == torch.float32
        assert found.classes == data.classes
        assert not np.isin(found.train_inputs.numpy(), data.train_inputs.numpy()).any()


@pytest.mark.parametrize("clone", CLONES)
def test_a_seed_gives_the_same_bits_and_another_others(clone: Callable[..., DataSet]) -> None:
    data = made()
    state = torch.get_rng_state()
    first = clone(data, seed=3)
    assert first.sha256 == clone(data, seed=3).sha256 != clone(data, seed=4).sha256
    assert torch.equal(torch.get_rng_state(), state)
    assert not np.isin(first.test_inputs.numpy(), first.train_inputs.numpy()).any()


@pytest.mark.parametrize("clone", CLONES)
def test_nothing_of_the_test_part_is_used_but_its_labels(clone: Callable[..., DataSet]) -> None:
    data = made()
    other = DataSet("other", "", "", data.train_inputs, data.train_targets, data.test_inputs + 9, data.test_targets, 3)
    assert torch.equal(clone(data).test_inputs, clone(other).test_inputs)
    assert torch.equal(clone(data).train_inputs, clone(other).train_inputs)


def test_of_few_samples_the_clones_stay_in_their_affine_span() -> None:
    data = made(samples=12, shape=(1, 6, 5), drawn=60)  # four samples a class: three dimensions of thirty
    found = gaussian_clone(data)
    for label in range(3):
        real = flat(data, label)
        mean = real.mean(axis=0)
        span = np.linalg.svd(real - mean)[2][:3]
        x = flat(found, label, "test") - mean
        assert np.abs(x - x @ span.T @ span).max() < 1e-5
        assert np.linalg.matrix_rank(x, tol=1e-3) == 3


def test_what_never_varies_in_a_class_does_not_vary_in_its_clone() -> None:
    data = made(samples=30)
    data.train_inputs[data.train_targets == 1, 0, 2] = 0.25
    found = gaussian_clone(data)
    assert (found.train_inputs[found.train_targets == 1, 0, 2] == 0.25).all()
    assert (found.train_inputs[found.train_targets == 0, 0, 2] != 0.25).all()
    spread = isotropic_clone(data).train_inputs[data.train_targets == 1, 0, 2]
    assert len(spread.unique()) == len(spread)


def test_the_digits_are_cloned_class_by_class() -> None:
    data = load("digits", size=8)
    found = gaussian_clone(data)
    # The mean of n draws is off by S / n, so that n (m - mean)' S^+ (m - mean) is chi-squared with rank(S) degrees.
    for label in range(10):
        real, x = flat(data, label), flat(found, label)
        covariance = np.cov(real.T)
        rank = np.linalg.matrix_rank(covariance)
        away = x.mean(axis=0) - real.mean(axis=0)
        statistic = len(x) * away @ np.linalg.pinv(covariance, rcond=1e-8) @ away
        assert abs(statistic - rank) < 5 * np.sqrt(2 * rank)


class Fixed(nn.Module):
    """Logits that are the inputs, times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def test_loss_accuracy_and_agreement_by_hand() -> None:
    x = torch.tensor([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0], [0.5, 1.0]])
    data = DataSet("hand", "", "", x, torch.tensor([0, 1, 0, 1]), x, torch.tensor([0, 1, 1, 1]), 2)
    (same, opposite) = compared({"a": Fixed(1.0), "b": Fixed(-1.0)}, {"hand": data}, "a", batch_size=3).rows()
    assert (same["network"], same["data"], same["accuracy"], same["agreement"]) == ("a", "hand", 0.75, 1.0)
    assert (opposite["network"], opposite["accuracy"], opposite["agreement"]) == ("b", 0.25, 0.0)
    margins = np.array([2.0, 2.0, -1.0, 0.5])
    assert same["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean())
    assert opposite["loss"] == pytest.approx(np.log1p(np.exp(margins)).mean())


def test_networks_are_compared_in_evaluation_mode_and_left_as_found() -> None:
    data = made()
    torch.manual_seed(0)
    model = nets.mlp([6, 8, 3], norm=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = compared({"m": model}, {"real": data, "clone": gaussian_clone(data)}, "m").rows()
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [row["data"] for row in rows] == ["real", "clone"]
    with torch.no_grad():
        expected = F.cross_entropy(model.eval()(data.test_inputs), data.test_targets).item()
    assert rows[0]["loss"] == pytest.approx(expected)


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(UsageError, match=r"reference='real' is none of the networks 'm'"):
        compared({"m": Fixed(1.0)}, {"data": made()}, "real")


@pytest.mark.parametrize("clone", CLONES)
def test_what_has_no_moments_by_class_is_refused(clone: Callable[..., DataSet]) -> None:
    pair: Any = (torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(UsageError, match=r"tuple has no classes.*termwise\.data\.DataSet"):
        clone(pair)
    with pytest.raises(DataError, match=r"induction.*token numbers.*embeddings"):
        clone(load("induction"))


@pytest.mark.parametrize("clone", CLONES)
def test_a_class_of_one_sample_has_no_variance(clone: Callable[..., DataSet]) -> None:
    x = torch.rand(5, 2)
    data = DataSet("few", "", "", x, torch.tensor([0, 0, 1, 2, 2]), x, torch.tensor([0, 0, 1, 3, 3]), 4)
    with pytest.raises(DataError, match=r"class 1 has 1 training sample\(s\), and 1 more classes"):
        clone(data)
    # A class that is in neither part is none of anybody's business.
    fine = DataSet("fine", "", "", x, torch.tensor([0, 0, 2, 2, 2]), x, torch.tensor([0, 0, 2, 2, 2]), 4)
    assert len(clone(fine).train_inputs) == 5
