"""Deletion and reordering curves, against networks that were cut up and reordered by hand."""

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from programs import DOUBLE
from residual import Net
from termwise import nets
from termwise.deletion import Curve, deletion, plain_layers, reordering
from termwise.errors import DataError, ModelError, UsageError


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def made(*, blocks: int = 2) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    model = nets.resnet(6 * blocks + 2, width=4, channels=1, classes=3).double()
    x = torch.randn(40, 1, 8, 8, dtype=DOUBLE)
    with torch.no_grad():
        model(x)  # statistics that are not those of the start
    return model.eval(), (x, torch.randint(3, (40,)))


def by_hand(model: nn.Module, gone: tuple[int, ...]) -> nn.Module:
    twin: Any = copy.deepcopy(model)
    blocks = [block for stage in twin.stages for block in stage]
    for i in gone:
        blocks[i].norm2 = Zero()
    return twin


class Zero(nn.Module):
    def forward(self, v: Tensor) -> Tensor:
        return torch.zeros_like(v)


@torch.no_grad()
def scores(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[float, float]:
    y = model(data[0])
    return float((y.argmax(1) == data[1]).double().mean()), float(F.cross_entropy(y, data[1]))


def test_a_deletion_curve_is_that_of_networks_cut_by_hand() -> None:
    model, data = made()
    curve = deletion(model, data, removed=[0, 1, 2, 6], draws=10, batch_size=16)
    for row in curve.draws.rows():
        gone = tuple(int(i) for i in row["gone"].split())
        assert len(gone) == row["removed"]
        accuracy, loss = scores(by_hand(model, gone), data)
        assert row["accuracy"] == pytest.approx(accuracy, abs=1e-12)
        assert row["loss"] == pytest.approx(loss, rel=1e-10)
    counts = {row["removed"]: (row["draws"], row["exhaustive"], row["kept"]) for row in curve.summary.rows()}
    assert counts == {0: (1, True, 6), 1: (6, True, 5), 2: (10, False, 4), 6: (1, True, 0)}
    losses = curve.draws.where(removed=2)["loss"]
    low, high = stats.t.interval(0.95, 9, losses.mean(), stats.sem(losses))
    (row,) = curve.summary.where(removed=2).rows()
    assert row["loss"] == pytest.approx(losses.mean())
    assert (row["loss_low"], row["loss_high"]) == (pytest.approx(low), pytest.approx(high))
    assert row["loss_worst"] == losses.max()
    assert len(set(curve.draws.where(removed=2)["gone"])) == 10
    assert all(row["loss_low"] is None for row in curve.summary.where(removed=1).rows())


def test_statistics_are_estimated_under_the_lesion() -> None:
    model, data = made(blocks=1)
    calibration = torch.randn(30, 1, 8, 8, dtype=DOUBLE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    curve = deletion(model, data, removed=[1], calibration=calibration)
    for row in curve.draws.rows():
        twin = by_hand(model, (int(row["gone"]),)).train()
        for norm in (m for m in twin.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.momentum = None
        with torch.no_grad():
            twin(calibration)
        assert row["loss"] == pytest.approx(scores(twin.eval(), data)[1], rel=1e-10)
        assert row["statistics"] == "re-estimated"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert deletion(model, data, removed=[1]).draws["statistics"][0] == "as trained"


def test_the_plain_network_loses_a_layer() -> None:
    model = nets.plain(8, width=4, channels=1, classes=3).double().eval()
    data = torch.randn(20, 1, 8, 8, dtype=DOUBLE), torch.randint(3, (20,))
    layers = plain_layers(model, data[0])
    # Of seven convolutions the first changes the channels, and two the resolution.
    assert layers == (("3", "4", "5"), ("6", "7", "8"), ("12", "13", "14"), ("18", "19", "20"))
    curve = deletion(model, data, removed=[1], layers=layers)
    for row in curve.draws.rows():
        gone = layers[int(row["gone"])]
        left = nn.Sequential(*(m for name, m in model.named_children() if name not in gone))
        assert row["loss"] == pytest.approx(scores(left, data)[1], rel=1e-12)
    with pytest.raises(UsageError, match="plain_layers"):
        deletion(model, data)
    with pytest.raises(ModelError, match="'0' cannot be left out"):
        deletion(model, data, removed=[1], layers=[["0"]])


def test_a_reordering_curve_is_that_of_networks_reordered_by_hand() -> None:
    model, data = made(blocks=3)
    modules: Any = model
    whole = scores(model, data)
    curve = reordering(model, data, swaps=[0, 1, 6], draws=6, seed=3)
    # The first blocks of the second and third stage change the shape: 3 + 2 + 2 can move, in 3 + 1 + 1 pairs.
    assert curve.metadata["exchangeable"] == [
        f"stages.{s}.{b}" for s, b in [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    ]
    possible = {}
    for first, second, third in itertools.product(
        itertools.permutations(range(3)), itertools.permutations([1, 2]), itertools.permutations([1, 2])
    ):
        twin = copy.deepcopy(modules)
        for s, order in enumerate((first, (0, *second), (0, *third))):
            twin.stages[s] = nn.Sequential(*(modules.stages[s][i] for i in order))
        taus: list[Any] = [stats.kendalltau(range(len(o)), o)[0] for o in (first, second, third)]
        possible[scores(twin, data)[1]] = (3 * taus[0] + taus[1] + taus[2]) / 5
    for row in curve.draws.rows():
        loss, tau = min(possible.items(), key=lambda item: abs(item[0] - row["loss"]))
        assert row["loss"] == pytest.approx(loss, rel=1e-10)
        assert row["tau"] == pytest.approx(tau)
        assert (row["swaps"] == 0) <= (row["tau"] == 1)
    assert curve.draws.where(swaps=1)["tau"].max() < 1
    assert scores(model, data) == whole
    assert [name for name, _ in modules.stages[0].named_children()] == ["0", "1", "2"]


def test_an_order_that_is_not_the_containers_is_refused() -> None:
    class Backwards(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in [self.blocks[1], self.blocks[1], self.blocks[0]]:
                x = x + block(x)
            return self.head(x)

    data = torch.randn(6, 6, dtype=DOUBLE), torch.randint(3, (6,))
    with pytest.raises(ModelError, match="each once"):
        reordering(Backwards(), data, swaps=[1], draws=1)
    assert reordering(Net(), data, swaps=[1], draws=1).draws["tau"][0] == -1
    model = nets.densenet(10, 4, channels=1, classes=3)
    with pytest.raises(UsageError, match="no two blocks"):
        reordering(model, (torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)))


def test_a_curve_is_saved_read_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    model, data = made()
    one, two = (deletion(model, data, removed=[3], draws=3, seed=5) for _ in range(2))
    assert one.draws.rows() == two.draws.rows()
    assert one.draws["gone"].tolist() != deletion(model, data, removed=[3], draws=3).draws["gone"].tolist()
    read = Curve.load(one.save(tmp_path / "curve.termwise"), "deletion")
    assert read.summary.rows() == one.summary.rows()
    assert read.metadata["samples"] == 40
    assert "accuracy" in str(read)
    assert np.isfinite(one.summary["loss_high"][0])


def test_bad_questions_are_refused() -> None:
    model, (x, y) = made(blocks=1)
    wrong: list[dict[str, Any]] = [{"removed": [4]}, {"removed": [-1]}, {"removed": [], "draws": 3}, {"draws": 0}]
    for bad in wrong:
        with pytest.raises(UsageError, match="deletion: cannot remove"):
            deletion(model, (x, y), **bad)
    with pytest.raises(DataError, match="no class numbers"):
        deletion(model, x)
    with pytest.raises(UsageError, match="plain"):
        deletion(nn.DataParallel(model), (x, y))
    with pytest.raises(UsageError, match="no draws or swaps"):
        reordering(model, (x, y))
