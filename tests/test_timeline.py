"""Recorder and Timeline: against hand-computed statistics and losses, resumed trainings, and damaged directories."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import zipfile
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from termwise import profile
from termwise.errors import DataError, ModelError, RecordError, RunError, UsageError
from termwise.nets import mlp, resnet
from termwise.timeline import Recorder, Timeline, log_spaced, reestimated

SPECTRUM = [
    "step",
    "origin",
    "depth",
    "paths",
    "log10_paths",
    "norm_share",
    "norm_share_low",
    "norm_share_high",
    "aligned_share",
    "aligned_share_low",
    "aligned_share_high",
    "margin_share",
    "margin_share_low",
    "margin_share_high",
    "head_accuracy",
    "head_accuracy_low",
    "head_accuracy_high",
    "head_loss",
    "tail_accuracy",
    "tail_accuracy_low",
    "tail_accuracy_high",
    "tail_loss",
    "alone_accuracy",
    "alone_accuracy_low",
    "alone_accuracy_high",
    "alone_loss",
    "learned_norm",
    "credit",
    "credit_cumulative",
    "time_10",
    "time_50",
    "time_90",
]
STEPS = [
    "step",
    "loss",
    "accuracy",
    "train_loss",
    "mean_depth",
    "mean_depth_low",
    "mean_depth_high",
    "mean_depth_constants",
    "depth_p10",
    "depth_p50",
    "depth_p90",
    "cancellation",
    "closure",
    "constant_share",
    "frozen_share",
]


class Residual(nn.Module):
    """A small residual network without batch norm: depths 1 to 4, some of them constants' too."""

    def __init__(self, width: int = 8, classes: int = 4, blocks: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        for block in self.blocks:
            x = x + F.relu(block(x))
        return self.head(x)


def task(samples: int = 48, width: int = 8, classes: int = 4, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    targets = torch.arange(samples) % classes
    centres = 2 * torch.randn(classes, width, generator=draw)
    return centres[targets] + torch.randn(samples, width, generator=draw), targets


def make(seed: int = 0, **options) -> Residual:
    torch.manual_seed(seed)
    return Residual(**options)


def train(model, steps, recorder=None, start=0, optimizer=None, rate=0.05, stop=None):
    """Full-batch descent; `stop` cuts it off after that many updates, as a kill would."""
    inputs, targets = task()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    loss = None
    for n in range(start, steps):
        if recorder is not None:
            recorder.step(n, train_loss=loss)
        if n == stop:
            return optimizer
        model.train()
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if recorder is not None:
        recorder.finish(steps, train_loss=loss)
    return optimizer


def trained(steps=24, **options) -> Recorder:
    model = make()
    recorder = Recorder(model, task(), replicates=20, **options)
    train(model, steps, recorder)
    return recorder


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    return trained(40, constants="by_depth", schedule=log_spaced(2)).timeline


def test_steps_are_log_spaced():
    due = log_spaced()
    assert [n for n in range(100) if due(n)] == [0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91]
    assert [n for n in range(2**12 + 1) if log_spaced(2)(n)] == [0, *(2**i for i in range(13))]
    assert [n for n in range(40) if log_spaced(1.1)(n)] == sorted({0, *(round(1.1**i) for i in range(39))})
    assert due(2**40) and not due(2**40 + 1) and not due(-1)


@pytest.mark.parametrize("ratio", [1, 0.5, -2, float("nan"), float("inf")])
def test_schedules_that_cannot_be(ratio):
    with pytest.raises(UsageError, match="above 1"):
        log_spaced(ratio)


# Batch-norm statistics.


def normed() -> Any:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 4), nn.BatchNorm1d(4)
    )


def by_hand(model, batches):
    """Mean over the batches of each norm's batch mean and unbiased variance; every batch normalised by its own."""
    found = []
    for x in batches:
        u = F.linear(x, model[0].weight, model[0].bias)
        v = (u - u.mean(0)) / (u.var(0, unbiased=False) + model[1].eps).sqrt() * model[1].weight + model[1].bias
        w = F.linear(v.relu(), model[4].weight, model[4].bias)
        found.append([u.mean(0), u.var(0), w.mean(0), w.var(0)])
    return [torch.stack(each).mean(0) for each in zip(*found, strict=True)]


@pytest.mark.parametrize(("batch_size", "sizes"), [(64, [40]), (20, [20, 20]), (15, [14, 13, 13]), (1, [2] * 20)])
def test_statistics_are_estimated_anew(batch_size, sizes):
    model, x = normed(), 2 + 3 * torch.randn(40, 5)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    with torch.no_grad():
        expected = by_hand(model, x.split(sizes))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    twin: Any = reestimated(model, x, batch_size)
    found = [twin[1].running_mean, twin[1].running_var, twin[5].running_mean, twin[5].running_var]
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)
    assert not any(module.training for module in twin.modules()) and twin[1].momentum == 0.1
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_norms_that_are_frozen_on_purpose_keep_their_statistics():
    model, x = normed(), torch.randn(40, 5)
    model[1].eval()
    twin: Any = reestimated(model, x)
    assert torch.equal(twin[1].running_var, torch.ones(6)) and not torch.equal(twin[5].running_var, torch.ones(4))
    twin = reestimated(model.eval(), x)
    assert not torch.equal(twin[1].running_var, torch.ones(6))


def test_a_model_without_batch_norm_comes_back_as_plain_copy():
    model = make()
    twin = reestimated(model, task()[0])
    assert twin is not model and not twin.training and model.training
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))


def test_statistics_that_cannot_be_estimated():
    with pytest.raises(DataError, match="at least two finite samples; got 1"):
        reestimated(normed(), torch.randn(1, 5))
    with pytest.raises(DataError, match="NaN"):
        reestimated(normed(), torch.full((4, 5), torch.nan))
    model = normed()
    model.computed = model[0].weight * 2
    with pytest.raises(ModelError, match="calibration=False"):
        reestimated(model, torch.randn(4, 5))


def test_the_record_is_of_the_copy_with_its_statistics_estimated_anew():
    torch.manual_seed(0)
    model = resnet(8, channels=1, width=4, classes=4)
    x, y = torch.randn(24, 1, 8, 8), torch.arange(24) % 4
    other = torch.randn(32, 1, 8, 8)
    for calibration, network in [(None, reestimated(model, x)), (other, reestimated(model, other)), (False, model)]:
        recorder = Recorder(model, (x, y), calibration=calibration, batch_size=9)
        assert recorder.step(0)
        network = copy.deepcopy(network)
        with torch.no_grad():
            logits = network.eval()(x)
        row = recorder.timeline.table.rows()[0]
        assert row["loss"] == pytest.approx(float(F.cross_entropy(logits.double(), y)), rel=1e-6)
        assert row["accuracy"] == pytest.approx(float((logits.argmax(1) == y).double().mean()))
        words = "as the model had them" if calibration is False else "estimated anew on a copy"
        assert f"batch-norm statistics {words}" in str(recorder.timeline).splitlines()[0]


# What is recorded.


def test_a_record_is_the_profile_of_the_model():
    model = make()
    recorder = Recorder(model, task(), replicates=50, seed=4)
    recorder.step(0)
    expected = profile(model, task(), replicates=50, seed=4, batch_size=48)  # all at once
    found = recorder.timeline.profiles[0]
    assert found.share.to_arrow() == expected.share.to_arrow() and found.mean_depth == expected.mean_depth
    row, share = recorder.timeline.table.rows()[0], expected.share
    assert (row["mean_depth"], row["mean_depth_low"], row["mean_depth_high"]) == tuple(expected.mean_depth)
    assert row["constant_share"] == share.where(origin="constant")["aligned_share"][0] and row["frozen_share"] == 0
    norms = share.where(origin="input")["norm_share"]
    for name, level in [("depth_p10", 0.1), ("depth_p50", 0.5), ("depth_p90", 0.9)]:
        assert row[name] == min(depth for depth in (1, 2, 3, 4) if norms[:depth].sum() >= level)


def test_tables_have_their_columns_and_units(timeline):
    assert list(timeline.spectrum.columns) == SPECTRUM and list(timeline.table.columns) == STEPS
    units = timeline.spectrum.units | timeline.table.units
    expected = {"step": "steps", "depth": "layers", "mean_depth": "layers", "depth_p50": "layers", "loss": "nats"}
    expected |= {"credit": "nats", "time_50": "steps", "head_loss": "nats", "learned_norm": "logits"}
    assert expected.items() <= units.items()
    types = {str(field.type) for field in timeline.spectrum.to_arrow().schema}
    assert types == {"int64", "string", "double"}
    steps, spectrum = timeline.for_network("a net")
    assert steps.columns[0] == spectrum.columns[0] == "network" and set(spectrum["network"]) == {"a net"}
    assert steps.units == timeline.table.units and len(spectrum) == len(timeline.spectrum)


def test_the_spectrum_has_a_row_a_record_and_part(timeline):
    assert timeline.steps == (0, 1, 2, 4, 8, 16, 32, 40)
    parts = [("input", 1), ("input", 2), ("input", 3), ("input", 4), *(("constant", depth) for depth in range(1, 5))]
    last = timeline.spectrum.where(step=40).rows()
    assert [(row["origin"], row["depth"]) for row in last] == parts
    assert [row["paths"] for row in last] == ["1", "3", "3", "1", None, None, None, None]
    assert last[1]["log10_paths"] == pytest.approx(np.log10(3)) and last[4]["log10_paths"] is None
    assert last[3]["head_accuracy"] == pytest.approx(timeline.table["accuracy"][-1])
    assert last[3]["head_loss"] == pytest.approx(timeline.table["loss"][-1])
    assert all(row["head_loss"] is None and row["norm_share"] is not None for row in last[4:])
    constants = timeline.spectrum.where(step=40, origin="constant")
    mean = constants["norm_share"] @ constants["depth"] / constants["norm_share"].sum()
    assert timeline.table["mean_depth_constants"][-1] == pytest.approx(mean)


def test_a_pooled_constant_has_no_depth():
    timeline = trained(2).timeline
    rows = timeline.spectrum.where(origin="constant", depth=None)
    assert len(rows) == 3 and np.isnan(timeline.table["mean_depth_constants"]).all()


class Shifted(nn.Module):
    """Adds what comes out of a softmax: a frozen value that joins the output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        return self.linear(x) + self.gate(x).softmax(dim=-1)


def test_frozen_values_have_their_own_row():
    torch.manual_seed(0)
    recorder = Recorder(Shifted(), task())
    recorder.step(0)
    shares = {row["origin"]: row["aligned_share"] for row in recorder.timeline.spectrum.rows()}
    row = recorder.timeline.table.rows()[0]
    assert set(shares) == {"input", "constant", "frozen"} and row["frozen_share"] == shares["frozen"]
    assert row["constant_share"] == pytest.approx(shares["constant"] + shares["frozen"])
    assert row["constant_share"] + shares["input"] == pytest.approx(1, abs=1e-5)


def test_learned_change_of_a_linear_model_by_hand():
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(8, 4), task()
    recorder = Recorder(model, (x, y), batch_size=10)
    recorder.step(0)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    with torch.no_grad():
        model.weight += torch.randn(4, 8)
        model.bias.add_(torch.randn(4))
        changes = (x @ (model.weight - weight).T, (model.bias - bias).expand(48, 4))
    recorder.step(1)
    expected = [float((c - c.mean(1, keepdim=True)).norm(dim=1).mean()) for c in changes]
    spectrum = recorder.timeline.spectrum
    assert spectrum["learned_norm"] == pytest.approx([0, 0, *expected], rel=1e-5)
    # Two records: their credits are what the loss fell by.
    fell = recorder.timeline.table["loss"][0] - recorder.timeline.table["loss"][1]
    assert spectrum["credit"][2:].sum() == pytest.approx(fell, rel=1e-5)


def test_credits_sum_to_the_fall_of_the_loss(timeline):
    loss = timeline.table["loss"]
    for before, (step, fell) in zip(timeline.steps, zip(timeline.steps[1:], -np.diff(loss), strict=True), strict=False):
        assert before < step
        assert timeline.credit.where(step=step)["credit"].sum() == pytest.approx(fell, abs=1e-6)
    final = timeline.credit.where(step=40)["credit_cumulative"]
    assert final.sum() == pytest.approx(loss[0] - loss[-1], abs=1e-6) and loss[-1] < 0.5 * loss[0]
    assert timeline.credit_closure < 1e-5 and 0 < timeline.credit_drift < 1
    assert timeline.credit_converged == (timeline.credit_drift <= 0.05)
    first = timeline.credit.where(step=0)
    assert np.isnan(first["credit"]).all() and not first["credit_cumulative"].any()


def test_time_learned_stands_in_both_tables(timeline):
    learned = timeline.time_learned
    assert len(learned) == 8 and np.abs(learned["fraction"]).sum() == pytest.approx(1)
    for row in timeline.spectrum.where(step=4).rows():
        where = {"origin": row["origin"], "depth": row["depth"]}
        assert learned.where(**where)["time_50"] == pytest.approx([row["time_50"] or np.nan], nan_ok=True)
    small = np.abs(learned["fraction"]) < 0.02
    assert np.isnan(learned["time_50"][small]).all()
    times = np.stack([learned[f"time_{level}"] for level in (10, 50, 90)])[:, ~small]
    assert np.nanmax(times) <= 40 and (np.isfinite(times).sum() > 4)


def test_print(timeline):
    lines = str(timeline).splitlines()
    assert lines[0].startswith(f"closure at worst {max(timeline.table['closure']):.1e}")
    assert "unit: layers" in lines[0] and "8 records, steps 0 to 40" in lines[0]
    assert lines[2].split() == ["step", "loss", "accuracy", "mean", "path", "length", "constants"]
    assert lines[3].split()[0] == "0" and "[" in lines[3] and lines[3].endswith("%")
    text = str(timeline)
    assert f"credit closure {timeline.credit_closure:.1e}" in text
    assert f"credit drift {timeline.credit_drift:.1%}" in text
    assert ("depend on how densely" in text) != timeline.credit_converged
    assert "time learned" in text and max(map(len, lines)) < 180
    assert repr(timeline) == text


def test_scalars_are_kept():
    timeline = trained(3).timeline
    losses = timeline.table["train_loss"]
    assert np.isnan(losses[0]) and losses[1] == pytest.approx(timeline.table["loss"][0], rel=1e-5)
    recorder = Recorder(make(), task())
    recorder.step(0, rate=0.5, worst=float("nan"), norm=torch.tensor(2.0))
    row = recorder.timeline.table.rows()[0]
    assert (row["rate"], row["worst"], row["norm"]) == (0.5, None, 2.0)
    assert list(recorder.timeline.table.columns) == [*STEPS, "norm", "rate", "worst"]


def test_samples_without_a_target_are_left_out():
    x, y = task()
    left_out = torch.cat([y, torch.full((5,), -100)])
    recorder = Recorder(make(), (torch.cat([x, torch.randn(5, 8)]), left_out))
    recorder.step(0)
    plain = Recorder(make(), (x, y))
    plain.step(0)
    assert recorder.timeline.spectrum.to_arrow() == plain.timeline.spectrum.to_arrow()


def test_regression_has_all_but_the_credit():
    torch.manual_seed(0)
    x = task()[0]
    model: Any = mlp([8, 6, 2])
    y = torch.randn(48, 2)
    recorder = Recorder(model, (x, y), schedule=lambda n: True)
    recorder.step(0)
    with torch.no_grad():
        model[-1].weight += 1
    recorder.step(1)
    timeline = recorder.timeline
    assert timeline.credit is timeline.time_learned is timeline.credit_closure is None
    assert timeline.credit_drift is timeline.credit_converged is None
    with torch.no_grad():
        change = model[:-1](x).sum(dim=1).abs() * 2**0.5
    last = timeline.spectrum.where(step=1, origin="input")
    assert last["learned_norm"] == pytest.approx([float(change.mean())], rel=1e-5)
    assert np.isnan(last["credit"]).all() and np.isnan(last["head_accuracy"]).all() and last["head_loss"][0] > 0
    assert "no loss credit: it needs one integer class" in str(timeline)


def test_one_class_a_token_has_all_but_the_credit():
    torch.manual_seed(0)
    model, x = make(), torch.randn(6, 5, 8)
    y = torch.randint(0, 4, (6, 5))
    y[0, :3], y[1] = -100, -100  # a sample without any target is left out
    recorder = Recorder(model, (x, y), schedule=lambda n: True)
    recorder.step(0)
    recorder.step(1)
    timeline = recorder.timeline
    assert timeline.profiles[0].samples == 5 and timeline.credit is None
    assert not timeline.spectrum["learned_norm"].any()


def test_the_output_can_be_named():
    class Named(Residual):
        def forward(self, x):
            return {"scores": super().forward(x), "other": x}

    torch.manual_seed(0)
    recorder = Recorder(Named(), task(), output="scores")
    train_none = [recorder.step(n) for n in (0, 1, 2, 3, 4, 5)]
    assert train_none == [True] * 5 + [False]  # step 5 is looked at: nothing moved
    plain = Recorder(make(), task())
    plain.step(0)
    assert recorder.timeline.table["loss"][0] == plain.timeline.table["loss"][0]


def test_a_function_can_be_recorded():
    model = make()
    recorder = Recorder(lambda x: model(x), task())
    recorder.step(0)
    assert recorder.timeline.spectrum["depth"][:4].tolist() == [1, 2, 3, 4]


# When.


def test_default_steps_and_the_last_one():
    recorder = trained(10, refine=0)
    assert recorder.recorded == (0, 1, 2, 3, 4, 6, 8, 10) and recorder.timeline.steps == recorder.recorded
    assert recorder.seconds > 0
    assert not recorder.finish(10) and recorder.step(10, force=True) is False


def test_records_are_denser_where_the_loss_moves():
    base, fine = log_spaced(), log_spaced(2**0.25)
    recorder = trained(60)
    loss = dict(zip(recorder.recorded, recorder.timeline.table["loss"], strict=True))
    every = trained(60, schedule=lambda n: True)
    truth = dict(zip(every.recorded, every.timeline.table["loss"], strict=True))
    expected: list[int] = []
    for n in range(60):
        moved = expected and abs(truth[n] - truth[expected[-1]]) > 0.05 * max(truth[m] for m in expected)
        if base(n) or (fine(n) and moved):
            expected.append(n)
    assert recorder.recorded == (*expected, 60)
    assert all(loss[n] == truth[n] for n in loss)
    plain = [n for n in range(60) if base(n)]
    assert len(plain) < len(expected) <= 2 * len(plain)


def test_nothing_is_added_where_the_loss_stands_still():
    model = make()
    recorder = Recorder(model, task(), replicates=2)
    train(model, 30, recorder, rate=0.0)
    assert recorder.recorded == (0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 30)
    assert recorder.timeline.credit_closure == 0 and recorder.timeline.credit_drift == 0


def test_the_look_between_records_counts_as_time_inside():
    model = make()
    recorder = Recorder(model, task(), replicates=2)
    recorder.step(4)
    before = recorder.seconds
    assert not recorder.step(5) and recorder.seconds - before > 1e-4


@pytest.mark.parametrize("bad", [-1, 2, "3", 2.5, None])
def test_steps_go_forwards(bad):
    recorder = Recorder(make(), task())
    recorder.step(3)
    with pytest.raises(UsageError, match=r"forwards|an integer"):
        recorder.step(bad)
    assert recorder.step(cast(int, np.int64(4))) and recorder.recorded == (3, 4)


# The model is left as found.


def found(model) -> dict:
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "random": torch.get_rng_state(),
        "needs": [p.requires_grad for p in model.parameters()],
        "grad mode": torch.is_grad_enabled(),
    }


def assert_same(left: dict, right: dict) -> None:
    for name, value in left.items():
        flat = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        other = (
            right[name].values()
            if isinstance(value, dict)
            else right[name]
            if isinstance(value, list)
            else [right[name]]
        )
        for a, b in zip(flat, other, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


@pytest.mark.parametrize("calibration", [None, False])
def test_the_model_is_left_as_found(calibration, monkeypatch):
    torch.manual_seed(0)
    model: Any = nn.Sequential(resnet(8, channels=1, width=4, classes=4), nn.Dropout(0.5))
    model[0].stages[0].eval()
    x, y = torch.randn(24, 1, 8, 8), torch.arange(24) % 4
    F.cross_entropy(model(x), y).backward()
    before = found(model)
    recorder = Recorder(model, (x, y), calibration=calibration, replicates=5)
    assert recorder.step(4) and not recorder.step(5)
    assert_same(before, found(model))
    monkeypatch.setattr("termwise.recorder._terms", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recorder.step(6)
    assert_same(before, found(model))
    assert recorder.recorded == (4,)


def test_training_is_the_same_with_a_recorder():
    torch.manual_seed(5)
    models = [nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, recorder in zip(models, [None, Recorder(models[1], task(), replicates=2)], strict=True):
        torch.manual_seed(6)
        train(model, 12, recorder)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_the_probe_is_fixed():
    x, y = task()
    recorder = Recorder(make(), (x, y))
    recorder.step(0)
    x.zero_()
    recorder.step(1)
    assert recorder.timeline.table["loss"][0] == recorder.timeline.table["loss"][1]


# Directories.


def tables(recorder_or_timeline) -> tuple:
    timeline = getattr(recorder_or_timeline, "timeline", recorder_or_timeline)
    return timeline.spectrum.to_arrow(), timeline.table.to_arrow(), str(timeline)


def test_a_record_is_on_disk_as_soon_as_it_is_made(tmp_path):
    recorder = Recorder(make(), task(), directory=tmp_path / "new" / "records")
    for n in range(3):
        recorder.step(n)
        assert Timeline.from_directory(tmp_path / "new" / "records").steps == tuple(range(n + 1))
    assert {path.name for path in (tmp_path / "new" / "records").iterdir()} == {
        f"step-{n:08d}.termwise" for n in range(3)
    }


@pytest.mark.parametrize(("stop", "checkpoint"), [(0, 0), (13, 0), (13, 9), (13, 13), (24, 20)])
def test_a_training_that_is_killed_and_resumed_gives_the_same_tables(tmp_path, stop, checkpoint):
    undisturbed = trained(24, directory=tmp_path / "a")
    model = make()
    optimizer = train(model, checkpoint) if checkpoint else torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    fresh = make()
    train(fresh, 24, Recorder(fresh, task(), replicates=20, directory=tmp_path / "b"), stop=stop)
    # What a kill in the middle of a write leaves behind.
    (tmp_path / "b" / ".step-00000016.termwise.abc.part").write_bytes(b"PK half")
    # Another process: a new model, the last checkpoint, the same directory.
    resumed = make(seed=1)
    optimizer = torch.optim.SGD(resumed.parameters(), lr=0.05, momentum=0.9)
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    recorder = Recorder(resumed, task(), replicates=20, directory=tmp_path / "b")
    with_loss = {n for n in recorder.recorded if n > checkpoint}
    assert with_loss == {n for n in undisturbed.recorded if checkpoint < n <= stop}
    train(resumed, 24, recorder, start=checkpoint, optimizer=optimizer)
    assert tables(recorder) == tables(undisturbed)
    assert tables(Timeline.from_directory(tmp_path / "b")) == tables(Timeline.from_directory(tmp_path / "a"))


def test_a_second_run_of_the_same_training_records_nothing_anew(tmp_path):
    first = trained(12, directory=tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = trained(12, directory=tmp_path)
    assert tables(again) == tables(first)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_another_training_in_the_same_directory_is_refused(tmp_path):
    trained(4, directory=tmp_path)
    recorder = Recorder(make(seed=9), task(), replicates=20, directory=tmp_path)
    with pytest.raises(RunError, match="step 0 is on record with other weights"):
        recorder.step(0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"probe": task(seed=1)}, "probe is "),
        ({"unit": "activations"}, "unit is 'layers' there and 'activations' here"),
        ({"constants": "by_depth"}, "constants is 'pooled' there and 'by_depth' here"),
        ({"product": "cauchy"}, "product is 'half' there"),
        ({"seed": 1, "replicates": 3}, "replicates is 20 there and 3 here; seed is 0 there and 1 here"),
    ],
)
def test_a_directory_of_other_records_is_refused(tmp_path, change, named):
    trained(2, directory=tmp_path)
    options = {"probe": task(), "replicates": 20} | change
    with pytest.raises(RunError, match=named):
        Recorder(make(), directory=tmp_path, **options)
    assert len(Timeline.from_directory(tmp_path).steps) == 3


def test_calibration_belongs_to_the_settings_where_it_matters(tmp_path):
    x, y = torch.randn(8, 5), torch.arange(8) % 4
    Recorder(normed(), (x, y), directory=tmp_path).step(0)
    with pytest.raises(RunError, match=r"calibration is .* there and 'off' here"):
        Recorder(normed(), (x, y), directory=tmp_path, calibration=False)
    with pytest.raises(RunError, match="calibration is"):
        Recorder(normed(), (x, y), directory=tmp_path, calibration=x + 1)


def test_records_of_different_networks_make_no_timeline(tmp_path):
    for n, blocks in enumerate((2, 3)):
        recorder = Recorder(make(blocks=blocks), task(), directory=tmp_path / str(n))
        recorder.step(n)
    shutil.copy(tmp_path / "1" / "step-00000001.termwise", tmp_path / "0")
    with pytest.raises(RunError, match="different networks"):
        Timeline.from_directory(tmp_path / "0")
    recorder = Recorder(make(blocks=2), task(), directory=tmp_path / "1")
    with pytest.raises(RunError, match="different networks"):
        recorder.step(2)
    assert recorder.recorded == (1,)


def rewritten(path, change) -> None:
    """The same zip with its record.json changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    head = json.loads(members["record.json"])
    change(head)
    members["record.json"] = json.dumps(head).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda head: head.update(version=99), "format version 99"),
        (lambda head: head.update(kind="depth-profile"), "not a timeline-record"),
        (lambda head: head["metadata"].pop("step"), "step"),
        (lambda head: head["metadata"].update(scalars={"a": "b"}), "float"),
        (lambda head: head["metadata"].pop("profile"), "profile"),
        (lambda head: head.update(arrays=False), "terms"),
    ],
)
def test_records_that_cannot_be_read(tmp_path, change, named):
    trained(2, directory=tmp_path)
    rewritten(tmp_path / "step-00000001.termwise", change)
    for read in (lambda: Timeline.from_directory(tmp_path), lambda: Recorder(make(), task(), directory=tmp_path)):
        with pytest.raises(RecordError, match=named) as caught:
            read()
        assert "step-00000001.termwise" in str(caught.value)


def test_a_record_that_is_cut_off(tmp_path):
    trained(2, directory=tmp_path)
    path = tmp_path / "step-00000001.termwise"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecordError, match="not a readable"):
        Recorder(make(), task(), directory=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_directories_without_records(tmp_path):
    with pytest.raises(RecordError, match="no record of a timeline"):
        Timeline.from_directory(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        Recorder(make(), task(), directory=tmp_path / "file")
    with pytest.raises(UsageError, match="nothing is recorded"):
        _ = Recorder(make(), task(), directory=tmp_path).timeline


def test_saved_and_loaded(timeline, tmp_path):
    timeline.save(tmp_path / "t.termwise")
    again = Timeline.load(tmp_path / "t.termwise")
    assert tables(again) == tables(timeline) and again.settings == timeline.settings
    assert [p.operators for p in again.profiles] == [p.operators for p in timeline.profiles]
    again.save(tmp_path / "u.termwise")
    assert (tmp_path / "u.termwise").read_bytes() == (tmp_path / "t.termwise").read_bytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda head: head.update(version=2), "version 2"),
        (lambda head: head.update(metadata={}), "no timeline"),
        (lambda head: head["metadata"].update(moments=[1]), "no timeline"),
        (lambda head: head["metadata"]["moments"][1].pop("weights"), "record 1"),
    ],
)
def test_timelines_that_cannot_be_loaded(timeline, tmp_path, change, named):
    timeline.save(tmp_path / "t.termwise")
    rewritten(tmp_path / "t.termwise", change)
    with pytest.raises(RecordError, match=named):
        Timeline.load(tmp_path / "t.termwise")


# What is refused.


@pytest.mark.parametrize(
    ("probe", "error", "named"),
    [
        ((torch.zeros(0, 8), torch.zeros(0).long()), DataError, "empty"),
        ((torch.zeros(4, 8), torch.zeros(3).long()), DataError, "pair up"),
        ((torch.full((4, 8), torch.nan), torch.zeros(4).long()), DataError, "NaN"),
        ((torch.zeros(4, 8), torch.full((4,), -100)), DataError, "nothing to measure"),
        (torch.zeros(4, 8), UsageError, "pair of tensors"),
        ((torch.zeros(4, 8), torch.tensor(1)), UsageError, "pair of tensors"),
    ],
)
def test_probes_that_are_refused(probe, error, named):
    with pytest.raises(error, match=named):
        Recorder(make(), probe)


def test_records_that_are_refused(monkeypatch):
    x, y = task()
    with pytest.raises(DataError, match="labels run from 0 to 9"):
        Recorder(make(), (x, y.clone().fill_(9).index_fill(0, torch.tensor([0]), 0))).step(0)
    model = make()
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"head\.weight"):
        Recorder(model, (x, y)).step(0)
    with pytest.raises(UsageError, match="loss would hide"):
        Recorder(make(), (x, y)).step(0, loss=1.0)
    with pytest.raises(UsageError, match="calibration="):
        Recorder(make(), (x, y), calibration=cast(Any, "probe"))
    monkeypatch.setattr("termwise.recorder._LARGEST", 100)
    with pytest.raises(UsageError, match="smaller probe"):
        Recorder(make(), (x, y)).step(0)


def test_timelines_that_are_refused(timeline):
    with pytest.raises(UsageError, match="at least one"):
        Timeline([])
    moment = timeline._moments[0]
    with pytest.raises(UsageError, match="twice"):
        Timeline([moment, dataclasses.replace(moment)])
