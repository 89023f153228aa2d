"""The measures against plain loops; the guards, the intervals, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from termwise import DepthProfile, expand, nets, profile
from termwise.errors import DataError, ModelError, RecordError, UsageError
from termwise.profile import Measures
from termwise.records import write_record


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = nets.resnet(8, width=4, classes=5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    return model.eval()


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(40, 3, 8, 8, generator=generator), torch.randint(0, 5, (40,), generator=generator)


def test_every_measure_agrees_with_plain_loops(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, targets = data
    result = profile(network, data, batch_size=16)
    e = expand(network, x)

    def centred(part: Tensor) -> np.ndarray:
        values = part.double().numpy()
        return values - values.mean(axis=1, keepdims=True)

    y, c = centred(e.total), centred(e.constant)
    terms = {k: centred(part) for k, part in e.terms.items()}
    n, labels = len(y), targets.numpy()
    mean_norm = {k: np.mean([np.linalg.norm(term[i]) for i in range(n)]) for k, term in terms.items()}
    whole = sum(mean_norm.values())
    assert dict(zip(result.depths, result.share.where(origin="input")["norm_share"], strict=True)) == pytest.approx(
        {k: norm / whole for k, norm in mean_norm.items()}
    )
    assert result.mean_depth.value == pytest.approx(sum(k * norm for k, norm in mean_norm.items()) / whole)
    assert result.cancellation == pytest.approx(whole / np.mean([np.linalg.norm(y[i]) for i in range(n)]))
    square = np.mean([y[i] @ y[i] for i in range(n)])
    margin = np.mean([y[i, labels[i]] for i in range(n)])
    for row in result.share.rows():
        part = terms[row["depth"]] if row["origin"] == "input" else c
        assert row["aligned_share"] == pytest.approx(np.mean([part[i] @ y[i] for i in range(n)]) / square)
        assert row["margin_share"] == pytest.approx(np.mean([part[i, labels[i]] for i in range(n)]) / margin)
    for row in result.truncated.rows():
        k = row["depth"]
        for name, logits in {
            "head": c + sum(term for depth, term in terms.items() if depth <= k),
            "tail": sum(term for depth, term in terms.items() if depth >= k),
            "alone": terms[k],
        }.items():
            logits = np.asarray(logits)
            assert row[f"{name}_accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == labels))
            log_sum = np.log(np.exp(logits).sum(axis=1))
            assert row[f"{name}_loss"] == pytest.approx(np.mean(log_sum - logits[np.arange(n), labels]))


def test_signed_shares_sum_to_one_with_the_constants(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    for constants in ("pooled", "by_depth"):
        share = profile(network, data, constants=constants).share
        assert share["aligned_share"].sum() == pytest.approx(1, abs=1e-5)
        assert share["margin_share"].sum() == pytest.approx(1, abs=1e-5)
        assert share.where(origin="input")["norm_share"].sum() == pytest.approx(1)


def test_batches_do_not_matter(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, targets = data
    forms: dict[str, Any] = {
        "pair": data,
        "list of pairs": [(x[:7], targets[:7]), (x[7:], targets[7:])],
        "dictionaries": [{"x": x[:7], "labels": targets[:7]}, {"x": x[7:], "labels": targets[7:]}],
        "generator": ((x[i : i + 10], targets[i : i + 10]) for i in range(0, 40, 10)),
    }
    whole = profile(network, data, batch_size=40)
    for form in forms.values():
        result = profile(network, form)
        assert result.samples == 40
        # The same draws for the same samples: intervals too are the same, whatever the batches.
        for column in ("norm_share", "norm_share_low", "aligned_share_high"):
            np.testing.assert_allclose(result.share[column], whole.share[column], rtol=1e-4, atol=1e-6)


def test_calling_twice_gives_the_same_bits(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    first, second = profile(network, data), profile(network, data)
    assert first.share.to_arrow().equals(second.share.to_arrow())
    assert first.truncated.to_arrow().equals(second.truncated.to_arrow())


def test_the_intervals_cover(network: nn.Module) -> None:
    # 100 data sets of 60 samples: the 95 % intervals of the mean path length should hold the truth about as often.
    generator = torch.Generator().manual_seed(0)
    expansion = expand(network, torch.randn(1500, 3, 8, 8, generator=generator))
    terms = torch.stack(list(expansion.terms.values())).double()
    terms = terms - terms.mean(dim=-1, keepdim=True)
    norms = terms.norm(dim=-1).mean(dim=1)
    truth = float((norms * torch.tensor(expansion.depths)).sum() / norms.sum())
    covered = 0
    for trial in range(100):
        x = torch.randn(60, 3, 8, 8, generator=generator)
        estimate = profile(network, x, batch_size=60, seed=trial, replicates=100).mean_depth
        covered += estimate.low <= truth <= estimate.high
    assert 85 <= covered <= 100


def test_effective_depth_needs_every_longer_truncation() -> None:
    # Terms built by hand: depth 2 alone is right, depth 3 spoils it, depth 4 repairs it.
    class Source(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = torch.tensor([[1.0], [-1.0]])
            self.first = nn.Linear(1, 2, bias=False)
            self.first.weight.data = weight
            self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(3))
            for layer, scale in zip(self.layers, (1.0, -3.0, -2.0), strict=True):
                layer.weight.data = scale * torch.eye(2)

        def forward(self, x: Tensor) -> Tensor:
            a = self.layers[0](self.first(x))  # depth 2: +1
            b = self.layers[1](a)  # depth 3: -3
            return a + b + self.layers[2](b)  # depth 4: +6

    x = torch.rand(20, 1) + 0.5
    result = profile(Source(), (x, torch.zeros(20, dtype=torch.long)))
    assert result.depths == (2, 3, 4)
    np.testing.assert_array_equal(result.truncated["head_accuracy"], [1, 0, 1])
    assert result.effective_depth == 4
    assert result.aligned_depth is None  # a third of the mass is negative: no mean
    assert "undefined" in str(result)


def test_regression_projects_on_the_target(data: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    x, targets = torch.randn(30, 4), torch.randn(30, 2)
    result = profile(model, (x, targets))
    with torch.no_grad():
        y = model(x)
    e = expand(model, x)
    assert result.task == "regression" and result.effective_depth is None and result.accuracy is None
    assert result.loss == pytest.approx(float((y - targets).square().mean()), rel=1e-5)
    expected = float((e.terms[2] * targets).sum() / (y * targets).sum())
    assert result.share.where(origin="input")["margin_share"][0] == pytest.approx(expected, rel=1e-4)


def test_dense_outputs_average_over_positions_and_leave_ignored_ones_out() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(2, 3, 1)
    x, targets = torch.randn(6, 2, 4, 4), torch.randint(0, 3, (6, 4, 4))
    targets[:, 0] = -100
    result = profile(model, (x, targets))
    with torch.no_grad():
        y = model(x)
    expected = nn.functional.cross_entropy(y, targets)
    assert result.loss == pytest.approx(float(expected), rel=1e-5)


def test_ignored_samples_do_not_count(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, targets = data
    partly = targets.clone()
    partly[::2] = -100
    some, alone = profile(network, (x, partly)), profile(network, (x[1::2], targets[1::2]))
    assert some.loss == pytest.approx(alone.loss) and some.accuracy == pytest.approx(alone.accuracy)
    np.testing.assert_allclose(some.share["norm_share"], alone.share["norm_share"], rtol=1e-6)


def test_without_targets_accuracy_is_agreement(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    result = profile(network, data[0])
    assert result.task == "agreement" and result.accuracy is None
    assert result.truncated["head_accuracy"][-1] == 1.0
    assert "agreement with the whole network" in str(result).splitlines()[0]


def test_the_text_begins_with_the_closure(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    result = profile(network, data)
    assert str(result).splitlines()[0].startswith(f"closure {result.closure:.1e}")
    assert result.closure < 5e-6


def test_a_saved_profile_comes_back(network: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    result = profile(network, data, constants="by_depth")
    result.save(tmp_path / "a.termwise")
    back = DepthProfile.load(tmp_path / "a.termwise")
    assert str(back) == str(result)
    assert back.paths == result.paths and back.operators == result.operators
    assert back.share.to_arrow().equals(result.share.to_arrow())


def test_a_record_without_a_profile_is_refused(network: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    record = profile(network, data).to_record()
    del record.metadata["profile"]["unit"]
    write_record(tmp_path / "a.termwise", record)
    with pytest.raises(RecordError, match="no depth profile is in it"):
        DepthProfile.load(tmp_path / "a.termwise")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "the data set is empty"),
        ((torch.zeros(0, 3, 8, 8), torch.zeros(0).long()), "the data set is empty"),
        ((torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 5])), "labels run from 0 to 5, but the model has 5 classes"),
        ((torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, -1])), "labels run from -1"),
        ((torch.zeros(4, 3, 8, 8), torch.zeros(3).long()), "4 inputs but 3 targets"),
        ((torch.full((4, 3, 8, 8), float("nan")), torch.zeros(4).long()), "NaN or infinite"),
        ((torch.zeros(4, 3, 8, 8), torch.zeros(4)), "regression needs equal shapes"),
        (3, "data is a int"),
        ([(1, 2, 3)], "a batch is a tuple of 3"),
        ([{"x": torch.zeros(2, 3, 8, 8), "labels": torch.zeros(2, 2).long()}], "do not fit an output"),
    ],
    ids=["no batch", "no sample", "high", "negative", "unpaired", "nan", "float", "number", "triple", "shape"],
)
def test_bad_data_are_refused(network: nn.Module, bad: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        profile(network, bad)


def test_targets_in_one_batch_only_are_refused(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(DataError, match="give targets with all batches or with none"):
        profile(network, [data, data[0]])


def test_depths_that_change_between_batches_are_refused() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            return self.layer(x) if len(x) > 2 else x

    with pytest.raises(ModelError, match="control flow depends on the data"):
        profile(Fickle(), [torch.randn(4, 3), torch.randn(2, 3)])


def test_measures_need_a_batch() -> None:
    with pytest.raises(DataError, match="no batch was measured"):
        Measures().result()


def test_a_single_number_a_sample_has_no_classes() -> None:
    model = nn.Linear(4, 1)
    with pytest.raises(ModelError, match=r"single number.*floating-point targets"):
        profile(model, torch.randn(5, 4))
    assert profile(model, (torch.randn(5, 4), torch.randn(5, 1))).task == "regression"


def test_labels_may_be_small_integers(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, targets = data
    assert profile(network, (x, targets.to(torch.uint8))).loss == profile(network, data).loss


def test_options_that_give_no_numbers_are_refused(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UsageError, match="replicates=1: an interval needs at least 2"):
        profile(network, data, replicates=1)
    with pytest.raises(UsageError, match="batch_size=0: give at least 1"):
        profile(network, data, batch_size=0)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_few_samples_have_wide_intervals_and_a_table(samples: int) -> None:
    """A replicate of the bootstrap may draw none of them."""
    torch.manual_seed(0)
    found = profile(nets.mlp([12, 8, 3]), torch.randn(samples, 12))
    assert found.samples == samples
    for row in found.share.rows():
        assert row["norm_share_low"] <= row["norm_share"] <= row["norm_share_high"]
    assert "nan" not in str(found)
