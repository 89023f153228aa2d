"""Degrees over a training: networks whose Hermite coefficients are set by hand, and times worked out by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import termwise as tw
from snapshots import snapshot, unchanged
from termwise.degree import Gaussian
from termwise.errors import DataError, ModelError, RecordError, RunError, UsageError
from termwise.nets import resnet
from termwise.timeline import Recorder, Timeline, reestimated

WIDTH = 12
COARSE: Any = {"samples": 20, "angles": 32}


class Hermite(nn.Module):
    """sum over k of a_k sum over i of h_k(x_i) / sqrt(d): on N(0, I) the energy of degree k is a_k^2.

    The polynomials are written out, the normalised ones of degree 1 to 4.
    """

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.head = nn.Linear(4, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        square = x * x
        each = [
            x,
            (square - 1) / math.sqrt(2),
            (square * x - 3 * x) / math.sqrt(6),
            (square * square - 6 * square + 3) / math.sqrt(24),
        ]
        return self.head(torch.stack([h.sum(dim=1) for h in each], dim=1) / math.sqrt(x.shape[1]))

    def set(self, *coefficients: float) -> None:
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.weight[0, : len(coefficients)] = torch.tensor(coefficients)


def probe(samples: int = 30, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(samples, width, generator=draw), torch.randn(samples, 1, generator=draw)


def followed(course: dict[int, tuple[float, ...]], **options: Any) -> Timeline:
    """The timeline of a network that has these coefficients at these steps."""
    model = Hermite().double()
    model.set(1.0, 1.0, 1.0, 1.0)
    x, y = probe()
    degrees: Any = {"inputs": "standard", "samples": 256, **options}
    recorder = Recorder(model, (x.double(), y.double()), schedule=list(course), degrees=degrees)
    for step, coefficients in course.items():
        model.set(*coefficients)
        assert recorder.step(step)
    return recorder.timeline


def degrees_of(timeline: Timeline) -> tw.Timeline:
    assert timeline.degrees is not None and timeline.time_learned_by_degree is not None
    return timeline


# What is recorded.

COURSE = {0: (1.0, 0.2, 0.1, 0.1), 1: (1.0, 0.7, 0.1, 0.1), 5: (0.5, 1.0, 0.6, 0.4), 30: (2.0, 1.0, 0.6, 0.9)}


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    return followed(COURSE)


def test_energies_are_those_of_the_coefficients(timeline: Timeline) -> None:
    table = timeline.degrees
    assert table is not None
    for step, coefficients in COURSE.items():
        rows = table.where(step=step)
        expected = np.square([0.0, *coefficients, 0, 0, 0])
        errors = (rows["energy_high"] - rows["energy_low"]) / (2 * 1.96)
        assert (np.abs(rows["energy"] - expected) <= 3 * errors + 1e-12).all()
        variance = float(np.square(coefficients).sum())
        errors = (rows["share_high"] - rows["share_low"])[1:] / (2 * 1.96)
        assert (np.abs(rows["share"][1:] - expected[1:] / variance) <= 3 * errors + 1e-12).all()
        mean = sum(k * a * a for k, a in enumerate(coefficients, 1)) / variance
        row = rows.rows()[0]
        assert abs(row["mean_degree"] - mean) <= 3 * (row["mean_degree_high"] - row["mean_degree_low"]) / (2 * 1.96)


def test_the_table_has_a_row_a_record_and_group(timeline: Timeline) -> None:
    table = timeline.degrees
    assert table is not None and len(table) == 8 * len(COURSE)
    assert list(table.columns) == [
        *("step", "lowest", "highest", "share", "share_low", "share_high", "energy", "energy_low", "energy_high"),
        *("mean_degree", "mean_degree_low", "mean_degree_high", "warnings"),
    ]
    first = table.where(step=0).rows()
    groups = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 9), (10, None)]
    assert [(row["lowest"], row["highest"]) for row in first] == groups
    assert first[0]["share"] is None and first[0]["energy"] is not None
    assert table.units == {"step": "steps", **dict.fromkeys(["energy", "energy_low", "energy_high"], "output^2")}
    spectra = timeline.degree_spectra
    assert [found and found.spectrum["share"][1] for found in spectra] == table.where(lowest=1)["share"].tolist()


def test_every_record_is_made_on_the_same_inputs() -> None:
    # A network that only grows in scale has the same shares to the last digits: no sampling is left between records.
    doubled = followed({0: (1.0, 0.7, 0.5, 0.3), 9: (2.0, 1.4, 1.0, 0.6)})
    table = doubled.degrees
    assert table is not None
    before, after = table.where(step=0), table.where(step=9)
    for name in ("share", "share_low", "share_high"):
        np.testing.assert_allclose(after[name][1:], before[name][1:], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(after["energy"][1:5], 4 * before["energy"][1:5], rtol=1e-6)


def test_the_part_of_a_target_that_is_learned() -> None:
    target = Hermite().double()
    target.set(1.0, 0.7, 0.5)
    found = followed({0: (0.1, 0.7, 0.0, 0.4), 3: (1.0, 0.35, 0.4, 0.0)}, target=target, samples=1000)
    table = found.degrees
    assert table is not None
    for step, parts in {0: (0.1, 1.0, 0.0), 3: (1.0, 0.5, 0.8)}.items():
        rows = table.where(step=step)
        errors = (rows["learned_high"] - rows["learned_low"])[1:4] / (2 * 1.96)
        assert (np.abs(rows["learned"][1:4] - parts) <= 3 * errors + 1e-6).all()
        assert np.isnan(rows["learned"][4:]).all()
    share = table.where(step=3)["target_share"]
    np.testing.assert_allclose(share[1:5], np.array([1, 0.49, 0.25, 0]) / 1.74, atol=0.1)


# When.


def test_times_of_growing_energies_by_hand() -> None:
    # Steps at which log(step + 1) goes up by equal parts; W_1 rises by equal parts, from 0.
    w1, w2, w3 = (0, 0.25, 0.5, 0.75, 1), (0, 0.6, 0.2, 0.6, 0.5), (0.02, 0.0, 0.0, 0.0, 0.0)
    steps = (0, 1, 3, 7, 15)
    course = {s: tuple(math.sqrt(w) for w in each) for s, *each in zip(steps, w1, w2, w3, strict=True)}
    times = followed(course).time_learned_by_degree
    assert times is not None and list(times.columns) == [
        *("lowest", "highest", "gained", "fraction", "time_10", "time_50", "time_90")
    ]
    one, two, three, *others = times.rows()
    # A tenth is 0.4 of the first part of the way, nine tenths 0.6 of the last.
    assert one["time_50"] == pytest.approx(3, rel=1e-2)
    assert one["time_10"] == pytest.approx(2**0.4 - 1, rel=2e-2)
    assert one["time_90"] == pytest.approx(2**3.6 - 1, rel=2e-2)
    assert two["time_50"] is None and two["time_90"] is None  # passed three times
    assert two["time_10"] == pytest.approx(2 ** (0.05 / 0.6) - 1, rel=2e-2)
    assert three["fraction"] == pytest.approx(-0.02 / 1.52, rel=0.3)
    assert all(row[name] is None for row in (three, *others) for name in ("time_10", "time_50", "time_90"))
    assert sum(abs(row["fraction"]) for row in times.rows()) == pytest.approx(1)
    assert times.units["gained"] == "output^2"


def test_times_of_what_is_learned_of_a_target_by_hand() -> None:
    target = Hermite().double()
    target.set(1.0, 0.5)
    # Degree 1 has 0, 1/2, 3/4, 1 of the target's own; degree 2 begins beyond it and comes back.
    course = {0: (0.0, 1.0), 1: (0.5, 1.0), 3: (0.75, 0.75), 7: (1.0, 0.5)}
    times = followed(course, target=target).time_learned_by_degree
    assert times is not None and times.units["gained"] == "of the target"
    one, two, three = times.rows()[:3]
    assert one["gained"] == pytest.approx(1, rel=1e-6) and two["gained"] == pytest.approx(-1, rel=1e-6)
    assert one["time_50"] == pytest.approx(1, abs=1e-6) and one["time_10"] == pytest.approx(2**0.2 - 1, rel=1e-5)
    assert two["time_50"] == pytest.approx(3, rel=1e-6) and two["time_90"] == pytest.approx(2**2.8 - 1, rel=1e-6)
    # Of the target's variance 4 / 5 are of degree 1, 1 / 5 of degree 2.
    assert one["fraction"] == pytest.approx(0.8, abs=0.05) and two["fraction"] == pytest.approx(-0.2, abs=0.05)
    assert three["gained"] is None and three["time_50"] is None  # the target has nothing of it


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_a_network_that_begins_as_a_constant_has_energy_0_then() -> None:
    course = {0: (0.0,), 1: (0.5, 0.5), 3: (1.0, 0.5)}
    target = Hermite().double()
    target.set(1.0)
    for options in ({}, {"target": target}):
        found = followed(course, **options)
        assert found.degree_spectra[0] is None and found.degrees is not None
        first = found.degrees.where(step=0).rows()
        assert all(row["share"] is None and row["warnings"] == "constant output" for row in first)
        assert first[0]["energy"] is None and all(row["energy"] == 0 for row in first[1:])
        times = found.time_learned_by_degree
        assert times is not None
        if options:
            assert first[1]["learned"] == 0 and first[2]["learned"] is None
            assert times["time_50"][0] == pytest.approx(1, abs=1e-3)
        else:
            assert times["gained"][0] == pytest.approx(1, rel=0.2)


def test_print(timeline: Timeline) -> None:
    lines = str(timeline).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("degrees in the input: N(0, I), 12 dimensions"))
    found = timeline.degree_spectra
    assert found[0] is not None and found[-1] is not None
    assert lines[at + 1] == f"mean degree {found[0].mean_degree} at step 0, {found[-1].mean_degree} at step 30"
    text = "\n".join(lines[at:])
    assert "not the same as learning" in text and "share at 30" in text
    row = next(line.split() for line in lines[at:] if line.split()[:1] == ["10+"])
    assert row[1:3] == ["0.00%", "0.00%"] and row[-3:] == ["-", "-", "-"]
    assert len(lines) - at <= 13 and max(map(len, lines[at:])) < 120


def test_without_degrees_there_are_none() -> None:
    model = Hermite()
    recorder = Recorder(model, probe())
    recorder.step(0)
    found = recorder.timeline
    assert found.degrees is None and found.time_learned_by_degree is None and found.degree_spectra == (None,)
    assert "degree" not in str(found) and "degrees" not in found.settings


# What is measured: the network of the depth profile, on inputs like those of the calibration.


def images() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    model = resnet(8, channels=1, width=4, classes=4)
    return model, torch.randn(24, 1, 8, 8), torch.arange(24) % 4, 0.5 + torch.randn(40, 1, 8, 8)


@pytest.mark.parametrize("calibrated", [True, False])
def test_it_is_the_copy_with_its_statistics_estimated_anew(calibrated: bool) -> None:
    model, x, y, other = images()
    recorder = Recorder(model, (x, y), calibration=other if calibrated else False, degrees=COARSE, replicates=20)
    recorder.step(0)
    network = reestimated(model, other) if calibrated else model
    inputs = other if calibrated else x
    expected = tw.degrees(network, inputs, **COARSE, replicates=20)
    (found,) = recorder.timeline.degree_spectra
    assert found is not None and found.spectrum.to_arrow() == expected.spectrum.to_arrow()
    assert (
        found.inputs == f"Gaussian with the mean and covariance of {len(inputs)} samples, rank {len(inputs) - 1} of 64"
    )
    assert calibrated == (tw.degrees(model, inputs, **COARSE).variance != expected.variance)


@pytest.mark.parametrize(
    "options", [True, {"inputs": "standard", "target": lambda x: torch.cat([x.mean((1, 2))] * 4, 1)}]
)
def test_the_model_is_left_as_found(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y, other = images()
    options = COARSE if options is True else {**COARSE, "target": lambda x: x[:, 0, 0, :4]}
    F.cross_entropy(model(x), y).backward()
    before = snapshot(model)
    recorder = Recorder(model, (x, y), calibration=other, replicates=5, degrees=options)
    unchanged(before, snapshot(model))
    assert recorder.step(4)
    unchanged(before, snapshot(model))
    monkeypatch.setattr("termwise.degree.circle.one_sided", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recorder.step(6)
    unchanged(before, snapshot(model))
    assert recorder.recorded == (4,)


class Wave(nn.Module):
    """A wave of a given frequency along the first coordinate."""

    def __init__(self) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.tensor(25.0, dtype=torch.float64))
        self.head = nn.Linear(1, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(self.frequency * x[:, :1]))


def test_as_many_angles_are_used_as_the_first_record_needs(tmp_path: Path) -> None:
    model, data = Wave(), tuple(t.double() for t in probe(width=2))
    options: Any = {"inputs": "standard", "samples": 20}

    def recorder() -> Recorder:
        return Recorder(model, cast(Any, data), schedule=lambda n: True, directory=tmp_path, degrees=options)

    recorder().step(0)
    with torch.no_grad():
        model.frequency.fill_(0.5)
    alone = tw.degrees(model, (2,), inputs="standard", samples=20).details["angles"]
    again = recorder()  # another process: it finds the first record
    again.step(1)
    angles = [found.details["angles"] for found in again.timeline.degree_spectra if found is not None]
    assert angles[0] == angles[1] > alone == 64


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({"inputs": "boolean"}, "walsh"),
        ({"inputs": "real", "data": torch.randn(200, 5, generator=torch.Generator().manual_seed(2))}, "ladder"),
        ({"data": Gaussian.standard((5,)), "samples": 20, "angles": 32, "highest": 8}, "circles"),
    ],
)
def test_other_inputs(options: Any, method: str, tmp_path: Path) -> None:
    options = options if method != "ladder" else {**options, "components": 4, "highest": 2}
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(24, 5), torch.arange(24) % 3
    recorder = Recorder(model, (x, y), schedule=lambda n: True, degrees=options)
    recorder.step(0)
    with torch.no_grad():
        model[2].weight *= 2
        model[2].bias *= 2
    recorder.step(1)
    timeline = recorder.timeline
    table, times = timeline.degrees, timeline.time_learned_by_degree
    assert table is not None and times is not None
    assert [found and found.method for found in timeline.degree_spectra] == [method] * 2
    energies = [table.where(step=step)["energy"] for step in (0, 1)]
    np.testing.assert_allclose(energies[1], 4 * energies[0], rtol=1e-4, atol=1e-6)
    own = tw.degrees(model, **{"data": x, **options}, seed=0)
    if method == "walsh":
        assert len(times) == 5 and energies[1].tolist() == own.spectrum["energy"].tolist()
    if method == "ladder":
        np.testing.assert_allclose(energies[1], own.spectrum["share"] * own.variance, rtol=1e-12)
    timeline.save(tmp_path / "t")
    again = Timeline.load(tmp_path / "t").degrees
    assert again is not None and again.to_arrow() == table.to_arrow()


# Directories.


def task() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    targets = torch.arange(40) % 4
    return 2 * torch.randn(4, 6, generator=draw)[targets] + torch.randn(40, 6, generator=draw), targets


def trained(directory: Path | None, stop: int = 12, degrees: Any = COARSE) -> Recorder:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    (x, y), optimizer = task(), torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = Recorder(model, (x[:20], y[:20]), replicates=20, directory=directory, degrees=degrees)
    for n in range(12):
        recorder.step(n)
        if n == stop:
            return recorder
        model.train()
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    recorder.finish(12)
    return recorder


def test_a_training_that_is_killed_and_resumed_gives_the_same_degrees(tmp_path: Path) -> None:
    whole = trained(tmp_path / "a").timeline
    trained(tmp_path / "b", stop=6)
    again = trained(tmp_path / "b").timeline
    for one in (again, Timeline.from_directory(tmp_path / "b")):
        assert one.degrees is not None and whole.degrees is not None
        assert one.degrees.to_arrow() == whole.degrees.to_arrow() and str(one) == str(whole)
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()


def test_recording_degrees_does_not_touch_the_training() -> None:
    # The records of depth are those of a run without: the weights at each step are the same.
    plain, beside = trained(None, degrees=False).timeline, trained(None).timeline
    assert beside.spectrum.to_arrow() == plain.spectrum.to_arrow()


def other_target(x: Tensor) -> Tensor:
    return x[:, :4] + 0.01


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (False, r"degrees is 'angles 32, data .*' there and None here"),
        ({"samples": 21, "angles": 32}, r"samples 20.*there.*samples 21"),
        ({**COARSE, "inputs": "standard"}, r"inputs fitted.*there.*inputs standard"),
        ({**COARSE, "data": torch.randn(30, 6)}, "there and 'angles 32, data"),
        ({**COARSE, "target": other_target}, "target none' there"),
    ],
)
def test_a_directory_of_other_settings_is_refused(tmp_path: Path, change: Any, named: str) -> None:
    trained(tmp_path, stop=1)
    with pytest.raises(RunError, match=named):
        trained(tmp_path, degrees=change)


def test_another_target_is_another_setting(tmp_path: Path) -> None:
    trained(tmp_path, stop=1, degrees={**COARSE, "target": lambda x: x[:, :4]})
    trained(
        tmp_path, stop=2, degrees={**COARSE, "target": lambda x: 1 * x[:, :4]}
    )  # another function of the same values
    with pytest.raises(RunError, match="target"):
        trained(tmp_path, degrees={**COARSE, "target": other_target})


def test_a_directory_without_degrees_is_not_mixed_with_one(tmp_path: Path) -> None:
    trained(tmp_path, stop=1, degrees=False)
    with pytest.raises(RunError, match="degrees is None there and 'angles 32"):
        trained(tmp_path)


def test_saved_and_loaded(timeline: Timeline, tmp_path: Path) -> None:
    timeline.save(tmp_path / "t.termwise")
    again = Timeline.load(tmp_path / "t.termwise")
    assert timeline.degrees is not None and again.degrees is not None
    assert again.degrees.to_arrow() == timeline.degrees.to_arrow() and str(again) == str(timeline)
    for one, other in zip(again.degree_spectra, timeline.degree_spectra, strict=True):
        assert str(one) == str(other) and one is not None and other is not None and one.details == other.details
        assert one.powers is not None and other.powers is not None
        assert one.powers.to_arrow() == other.powers.to_arrow()
    moment = copy.deepcopy(timeline._moments[0].to_record())
    del moment.metadata["degrees"]["variance"]
    from termwise.moments import moment_of

    with pytest.raises(RecordError, match="here: no degree spectrum"):
        moment_of(moment, "here")


# What is refused, and when: before the training begins.


def test_a_model_of_tokens_is_refused_at_once() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3))
    tokens = torch.randint(9, (12, 5))
    targets = torch.randint(3, (12, 5))
    with pytest.raises(DataError, match=r"int64 of shape \(12, 5\); degrees are of real numbers"):
        Recorder(model, (tokens, targets), degrees=True)
    # On embeddings they have degrees.
    options: Any = {
        "data": torch.randn(30, 5, 4),
        "forward": lambda m, x: m[1](x).flatten(1),
        "centre": False,
        **COARSE,
    }
    recorder = Recorder(model, (tokens, targets), degrees=options)
    recorder.step(0)
    assert recorder.timeline.degrees is not None
    assert recorder.timeline.degrees.where(lowest=1)["share"][0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ("yes", UsageError, "degrees='yes'"),
        ({"circles": 100}, UsageError, "circles is no option; there are data, inputs"),
        ({"samples": 3}, UsageError, "at least 20"),
        ({"inputs": "uniform"}, UsageError, "expected 'fitted'"),
        ({"inputs": "real", "angles": 32}, UsageError, "angles= means nothing"),
        ({"inputs": "real"}, DataError, "too few"),
        ({"data": [torch.randn(4, 12)]}, UsageError, "data is a list"),
        ({"data": torch.randn(30, 12, dtype=torch.float64) * math.nan}, DataError, "NaN"),
        ({"target": lambda x: x}, UsageError, "give a target of the model's shape"),
    ],
)
def test_options_that_are_refused_at_once(options: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        Recorder(Hermite(), probe(), degrees=options)


def test_a_model_of_half_precision_is_refused_at_once() -> None:
    with pytest.raises(ModelError, match="single precision"):
        Recorder(Hermite().half(), probe(), degrees=True)
