"""Spectra over block subsets: against their definition, and functions whose spectrum is known."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from programs import DOUBLE, Written, dense
from residual import Net
from termwise import nets
from termwise.errors import ModelError, UsageError
from termwise.interactions import (
    Interactions,
    all_masks,
    interactions,
    krawtchouk,
    moebius_sums,
    pair_kernels,
    walsh_energies,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def sets(count: int) -> list[tuple[int, ...]]:
    return [s for k in range(count + 1) for s in itertools.combinations(range(count), k)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_both_expansions_are_what_their_definitions_say(count: int) -> None:
    masks = all_masks(count)
    values = np.random.default_rng(count).normal(size=(2**count, 3))
    energies, sums = np.zeros(count + 1), np.zeros((count + 1, 3))
    f = {tuple(np.flatnonzero(mask)): value for mask, value in zip(masks, values, strict=True)}
    assert len(f) == 2**count
    for s in sets(count):
        character = [math.prod(1 if i in m else -1 for i in s) for m in f]
        energies[len(s)] += (np.mean([c * v for c, v in zip(character, f.values(), strict=True)], axis=0) ** 2).sum()
        sums[len(s)] += sum((-1) ** (len(s) - len(m)) * v for m, v in f.items() if set(m) <= set(s))
    np.testing.assert_allclose(walsh_energies(values), energies, rtol=1e-12)
    np.testing.assert_allclose(moebius_sums(values), sums, atol=1e-12 * 3**count)
    np.testing.assert_allclose(moebius_sums(values).sum(axis=0), values[-1], atol=1e-12 * 3**count)


def test_krawtchouk_is_the_sum_over_sets() -> None:
    for k in range(6):
        for d in range(6):
            signs = [-1] * d + [1] * (5 - d)
            assert krawtchouk(5, k)[d] == sum(
                math.prod(signs[i] for i in s) for s in itertools.combinations(range(5), k)
            )


def known(masks: np.ndarray) -> np.ndarray:
    """Two components with energies 1 of order 0, 4 + 1 of order 1, 2.25 of order 2, 0.25 of order 3."""
    s = 2.0 * masks - 1
    one = 1 + 2 * s[:, 0] + 1.5 * s[:, 1] * s[:, 2]
    return np.stack([one, s[:, 3] + 0.5 * s[:, 0] * s[:, 4] * s[:, 5]], axis=1)


def test_a_known_spectrum_exactly() -> None:
    np.testing.assert_allclose(walsh_energies(known(all_masks(6))), [1, 5, 2.25, 0.25, 0, 0, 0], atol=1e-12)


def test_the_mean_over_pairs_is_unbiased() -> None:
    """Over all equally likely triples of masks of three blocks, so that nothing is left to chance."""
    masks = all_masks(3)
    values = np.random.default_rng(0).normal(size=(8, 2))
    totals = np.zeros(5)
    for triple in itertools.product(range(8), repeat=3):
        kernels, variance = pair_kernels(masks[list(triple)], values[list(triple)], 3)
        totals += [kernel.sum() / 6 for kernel in (*kernels, variance)]
    expected = walsh_energies(values)
    np.testing.assert_allclose(totals / 8**3, [*expected, expected[1:].sum()], rtol=1e-10)


def small(layer: nn.Linear, factor: float) -> nn.Linear:
    layer.weight.data.mul_(factor)
    return layer


class Additive(nn.Module):
    """Blocks that do not see each other: each adds a number of its own to the logits."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(small(nn.Linear(2, 2, dtype=DOUBLE), 1e-9) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return x


def test_blocks_that_do_not_see_each_other_have_order_one_alone() -> None:
    model = Additive(18)
    x = torch.randn(4, 2, dtype=DOUBLE)
    found = interactions(model, x, masks=300, orders=2)
    biases = torch.stack([value.detach() for name, value in model.named_parameters() if name.endswith("bias")])
    expected = float(((biases - biases.mean(dim=1, keepdim=True)) ** 2).sum()) / 4
    spectrum = {row["order"]: row for row in found.spectrum.rows()}
    assert list(spectrum) == [0, 1, 2, None]
    assert spectrum[1]["energy_low"] < expected < spectrum[1]["energy_high"]
    for order in (2, None):
        assert spectrum[order]["energy_low"] < 0 < spectrum[order]["energy_high"]
    assert spectrum[1]["share_low"] < 1 < spectrum[1]["share_high"]
    assert found.moebius is None
    assert not found.metadata["exact"]


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    model = nets.resnet(20, width=4, channels=1, classes=3).double().eval()
    x = torch.randn(4, 1, 8, 8, dtype=DOUBLE)
    exact = interactions(model, x)
    assert exact.metadata["exact"]
    truth = exact.spectrum["energy"]
    held = np.zeros(4)
    for seed in range(20):
        rows = interactions(model, x, masks=40, orders=3, seed=seed).spectrum.rows()
        held += [row["energy_low"] <= truth[k] <= row["energy_high"] for k, row in enumerate(rows[:4])]
    # At 95 % each, fewer than 16 of 20 happen in 3 of 1000 such tests.
    assert (held >= 16).all()


def test_a_network_against_hand_written_subsets() -> None:
    net: Any = Net().eval()
    x = torch.randn(5, 6, dtype=DOUBLE)
    outputs = {}
    with torch.no_grad():
        for on in itertools.product([0, 1], repeat=2):
            v = net.stem(x)
            for there, block in zip(on, net.blocks, strict=True):
                v = v + there * block(v)
            y = net.head(v)
            outputs[on] = (y - y.mean(dim=1, keepdim=True)).numpy()
    f = outputs
    second = f[1, 1] - f[1, 0] - f[0, 1] + f[0, 0]
    found = interactions(net, x)
    assert found.spectrum["energy"][2] == pytest.approx(((second / 4) ** 2).sum() / 5, rel=1e-10)
    assert found.spectrum["energy"].sum() == pytest.approx(sum((y**2).sum() for y in f.values()) / 4 / 5)
    assert found.spectrum["share"][1:].sum() == pytest.approx(1)
    assert found.moebius is not None
    terms = [f[0, 0], f[1, 0] + f[0, 1] - 2 * f[0, 0], second]
    for row, term in zip(found.moebius.rows(), terms, strict=True):
        assert row["share"] == pytest.approx((term * f[1, 1]).sum() / (f[1, 1] ** 2).sum(), rel=1e-9)
        assert row["norm"] == pytest.approx(np.linalg.norm(term) / np.linalg.norm(f[1, 1]), rel=1e-9)
        assert row["rounding"] < 1e-12


def test_terms_that_are_lost_in_rounding_are_missing() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(small(nn.Linear(3, 3), 1e-4) for _ in range(12))

        def forward(self, x: Tensor) -> Tensor:
            for branch in self.branches:
                x = x + branch(x)
            return x

    found = interactions(Late(), torch.randn(2, 3))
    assert found.moebius is not None
    rows = found.moebius.rows()
    assert rows[1]["share"] is not None
    assert rows[6]["share"] is None
    assert rows[6]["rounding"] > 0.01


def test_it_is_saved_read_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    net = Net().eval()
    x = torch.randn(3, 6, dtype=DOUBLE)
    for masks in (None, 8):
        found = interactions(net, x, masks=masks)
        read = Interactions.load(found.save(tmp_path / f"{masks}.termwise"))
        assert str(read) == str(found) == str(interactions(net, x, masks=masks))
        assert read.metadata == found.metadata
        assert (read.moebius is None) == (masks is not None)


def test_what_has_no_spectrum_is_refused() -> None:
    x = torch.randn(3, 4, dtype=DOUBLE)
    with pytest.raises(UsageError, match="no residual blocks"):
        interactions(dense(4, 4), x)
    for bad in ({"masks": 3}, {"orders": 0}, {"replicates": 3}):
        with pytest.raises(UsageError, match="too few"):
            interactions(Net(), torch.randn(3, 6, dtype=DOUBLE), **bad)

    def inverse(m: Any, v: Tensor) -> Tensor:
        u = 0 * v + m.f(v)
        return u / u.norm(dim=-1, keepdim=True)

    with pytest.raises(ModelError, match=r"without the blocks \[0\] the output is not finite"):
        interactions(Written(inverse, f=nn.Sequential(dense(4, 4), nn.Tanh(), dense(4, 4))), x)
