"""A whole run: its directory, its resume after a kill at any moment, its sentence."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from termwise import nets, records
from termwise.data import DataSet
from termwise.errors import DataError, ModelError, RunError, UsageError
from termwise.profile import Estimate, profile
from termwise.records import Finding, NetworkSummary, RunSummary, read_parquet, read_summary
from termwise.report.conclusion import sentence
from termwise.rundir import Manifest, RunDirectory, read_manifest
from termwise.summary import depth_difference, mean_depth_with_constants
from termwise.timeline import Timeline, log_spaced
from termwise.training import (
    NetworkConfig,
    Optimiser,
    Progress,
    Recording,
    RunConfig,
    Training,
    build_network,
    demo_config,
    run_training,
)

RESNET = NetworkConfig("Little ResNet", "resnet", {"depth": 8, "width": 4, "shortcut": "projection"})
MLP = NetworkConfig("MLP", "mlp", {"sizes": [64, 12, 3]})
STEPS = 12
DUE = (0, 1, 2, 4, 8, 12)
TABLES = ("steps", "spectrum")
ENDING = ("lesions", "routes")


def config(**changed: Any) -> RunConfig:
    plain: dict[str, Any] = {
        "name": "a small run",
        "networks": (RESNET, MLP),
        "data": "made here",
        "training": Training(epochs=3, batch_size=16),
        "recording": Recording(probe=16, calibration=32, ratio=2.0, batch_size=16, replicates=20),
        "threads": 1,
    }
    return RunConfig(**{**plain, **changed})


def images() -> DataSet:
    """Three classes of 8x8 images, each with a pattern of its own under noise."""
    draw = torch.Generator().manual_seed(0)
    patterns = torch.randn(3, 1, 8, 8, generator=draw)
    targets = torch.arange(96) % 3
    inputs = patterns[targets] + 0.7 * torch.randn(96, 1, 8, 8, generator=draw)
    return DataSet("made here", "patterns", "nobody", inputs[:64], targets[:64], inputs[64:], targets[64:], 3)


def run(directory: Path, **changed: Any) -> RunSummary:
    return run_training(config(**changed), directory, data=images())


def tables(directory: Path) -> dict[str, bytes]:
    return {name: (directory / "tables" / f"{name}.parquet").read_bytes() for name in (*TABLES, *ENDING)}


def timeless(summary: RunSummary) -> dict[str, Any]:
    """All but the clock's."""
    plain = msgspec.to_builtins(summary)
    del plain["created"]
    for network in plain["networks"]:
        del network["training_seconds"], network["recording_seconds"]
    return plain


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    run(directory)
    return directory


# --- what a run leaves ---


def test_everything_is_where_it_belongs(whole: Path) -> None:
    files = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file())
    expected = ["lock", "manifest.json", "summary.json", *(f"tables/{name}.parquet" for name in (*TABLES, *ENDING))]
    for slug in ("little-resnet", "mlp"):
        expected += [f"networks/{slug}/state.pt", f"networks/{slug}/ending.termwise"]
        expected += [f"networks/{slug}/checkpoints/step-{step:08}.safetensors" for step in DUE]
        expected += [f"networks/{slug}/records/step-{step:08}.termwise" for step in DUE]
    assert files == sorted(expected)


def test_the_tables_hold_both_networks(whole: Path) -> None:
    steps, spectrum = (read_parquet(whole / "tables" / f"{name}.parquet") for name in TABLES)
    for name, depths in (("Little ResNet", [2, 3, 4, 5, 6, 7, 8]), ("MLP", [2])):
        own = steps.where(network=name)
        assert own["step"].tolist() == list(DUE)
        assert np.isnan(own["train_loss"][0]) and (own["train_loss"][1:] > 0).all()
        timeline = Timeline.from_directory(whole / "networks" / name.lower().replace(" ", "-") / "records")
        assert timeline.table["mean_depth"].tolist() == own["mean_depth"].tolist()
        last = spectrum.where(network=name, step=STEPS, origin="input")
        assert set(last["depth"]) <= set(depths) and last["norm_share"].sum() == pytest.approx(1)
    assert steps.columns[0] == spectrum.columns[0] == "network"


def test_the_recipe_leaves_out_the_seed_alone(whole: Path, tmp_path: Path) -> None:
    def recipes(summary: RunSummary) -> list[str | None]:
        return [network.recipe for network in summary.networks]

    first = recipes(read_summary(whole))
    assert len(set(first)) == len(first) and None not in first
    assert recipes(run(tmp_path / "seed", seed=1)) == first
    other = recipes(run(tmp_path / "rate", training=Training(epochs=3, batch_size=8)))
    assert not set(other) & set(first)


def test_the_summary_says_what_the_tables_say(whole: Path) -> None:
    summary = read_summary(whole)
    steps = read_parquet(whole / "tables" / "steps.parquet")
    assert (summary.name, summary.threads, summary.seed, summary.unit) == ("a small run", 1, 0, "layers")
    assert (summary.data.train, summary.data.probe, summary.data.classes) == (64, 16, 3)
    assert summary.created == read_manifest(whole).created
    for network in summary.networks:
        rows = steps.where(network=network.name).rows()
        assert network.steps == STEPS
        assert (network.accuracy, network.loss) == (rows[-1]["accuracy"], rows[-1]["loss"])
        assert network.mean_depth == (rows[0]["mean_depth"], rows[-1]["mean_depth"])
        assert network.mean_depth_interval[1] == (rows[-1]["mean_depth_low"], rows[-1]["mean_depth_high"])
        assert network.closure == max(row["closure"] for row in rows) < 5e-6
        assert (network.training_seconds or 0) > 0 and network.recording_seconds > 0
        assert network.credit_closure is not None and network.credit_closure < 1e-3
    assert [network.parameters for network in summary.networks] == [
        sum(p.numel() for p in build_network(part, images(), 0).parameters()) for part in (RESNET, MLP)
    ]
    assert "Little ResNet" in summary.verdict and "the only length it has" in summary.verdict
    assert summary.verdict.endswith("One seed: H1 stays undecided.")


def test_it_learned(whole: Path) -> None:
    assert all(network.accuracy >= 0.9 for network in read_summary(whole).networks)


def test_a_finished_run_given_again_is_read_not_trained(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, summary = tables(whole), read_summary(whole)
    monkeypatch.setattr("torch.optim.SGD.step", lambda *_: pytest.fail("it trained again"))
    again = run(whole)
    assert tables(whole) == before
    assert timeless(again) == timeless(summary) and again.created == summary.created


def test_a_network_does_not_depend_on_its_company(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", networks=(MLP,))
    alone = read_parquet(tmp_path / "run" / "tables" / "spectrum.parquet")
    together = read_parquet(whole / "tables" / "spectrum.parquet").where(network="MLP")
    assert alone.rows() == together.rows()
    assert run(tmp_path / "other", networks=(MLP,), seed=1).networks[0].loss != read_summary(whole).networks[1].loss


def test_progress_tells_what_a_display_needs(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run_training(config(), tmp_path / "run", data=images(), progress=seen.append)
    assert [(p.network, p.step) for p in seen] == [(n, s) for n in ("Little ResNet", "MLP") for s in range(STEPS + 1)]
    rows = {(r["network"], r["step"]): r for r in read_parquet(tmp_path / "run" / "tables" / "steps.parquet").rows()}
    last: dict[str, Any] = {}
    for now in seen:
        last = rows.get((now.network, now.step), last)
        assert now.steps == STEPS and now.recorded == ((now.network, now.step) in rows)
        assert (now.accuracy, now.mean_depth) == (last["accuracy"], last["mean_depth"])
        assert now.loss == rows[now.network, now.step]["train_loss"] if now.recorded else now.loss is not None
    for one, other in itertools.pairwise(seen[:STEPS]):
        assert one.training_seconds <= other.training_seconds and one.recording_seconds <= other.recording_seconds


def test_by_depth_constants_and_other_units(tmp_path: Path) -> None:
    own = Recording(probe=16, calibration=32, ratio=4.0, replicates=20, constants="by_depth", unit="activations")
    summary = run(tmp_path / "run", networks=(RESNET,), recording=own)
    assert (summary.unit, summary.constants) == ("activations", "by_depth")
    spectrum = read_parquet(tmp_path / "run" / "tables" / "spectrum.parquet")
    assert len(set(spectrum.where(origin="constant")["depth"])) > 2
    assert "activations (of 7)" in summary.verdict
    named = Recording(probe=16, calibration=32, ratio=4.0, replicates=20, unit=("stages.0", "stages.1"))
    assert run(tmp_path / "named", networks=(RESNET,), recording=named).unit == "modules"


def test_degrees_are_recorded_where_they_are_asked_for(whole: Path, tmp_path: Path) -> None:
    own = Recording(probe=16, calibration=32, ratio=4.0, batch_size=16, replicates=20, degrees=True)
    run(tmp_path / "run", networks=(MLP,), recording=own)
    table = read_parquet(tmp_path / "run" / "tables" / "degrees.parquet")
    recorded = Timeline.from_directory(tmp_path / "run" / "networks" / "mlp" / "records")
    assert table.columns[0] == "network" and set(table["network"]) == {"MLP"}
    assert recorded.degrees is not None and table["share"][1:] == pytest.approx(
        recorded.degrees["share"][1:], nan_ok=True
    )
    for found in recorded.degree_spectra:
        assert found is not None and found.inputs.startswith("Gaussian with the mean and covariance of 32 samples")
        assert found.details["circles"] == 256 and found.details["replicates"] == 20
    # Beside the degrees nothing changes.
    spectrum = read_parquet(tmp_path / "run" / "tables" / "spectrum.parquet")
    steps = sorted(set(spectrum["step"]))
    plain = [row for row in read_parquet(whole / "tables" / "spectrum.parquet").where(network="MLP").rows()]
    shares = {(row["step"], row["origin"], row["depth"]): row["norm_share"] for row in plain}
    assert steps == [0, 1, 4, 12]
    assert all(shares[r["step"], r["origin"], r["depth"]] == r["norm_share"] for r in spectrum.rows())


# --- threads ---


def test_threads_are_set_and_given_back(tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), set()
    try:
        torch.set_num_threads(1)
        run_training(
            config(threads=2, networks=(MLP,)),
            tmp_path / "run",
            data=images(),
            progress=lambda _: seen.add(torch.get_num_threads()),
        )
        assert seen == {2} and torch.get_num_threads() == 1
        with pytest.raises(DataError):
            run_training(config(threads=2, data="nothing.npz"), tmp_path / "other")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert read_manifest(tmp_path / "run").config["threads"] == 2


# --- what is refused ---


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 1}, "config.seed: 0 there, 1 now"),
        ({"threads": 2}, "config.threads: 1 there, 2 now"),
        ({"training": Training(epochs=4, batch_size=16)}, "config.training.epochs: 3 there, 4 now"),
        ({"recording": Recording(probe=8)}, "config.recording.probe: 16 there, 8 now"),
        ({"networks": (MLP,)}, r"config.networks\[1\].name: 'MLP' there, absent now"),
    ],
)
def test_other_settings_in_the_same_directory(whole: Path, changed: dict[str, Any], told: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != "lock"}
    with pytest.raises(RunError, match=told):
        run(whole, **changed)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != "lock"} == before


def test_other_data_in_the_same_directory(whole: Path) -> None:
    made = images()
    other = msgspec.structs.replace(config())
    made.test_inputs[0, 0, 0, 0] += 1
    changed = DataSet(
        made.name, made.title, "", made.train_inputs, made.train_targets, made.test_inputs, made.test_targets, 3
    )
    with pytest.raises(RunError, match="data_sha256"):
        run_training(other, whole, data=changed)


def test_a_directory_that_another_process_is_writing(whole: Path) -> None:
    with (
        RunDirectory(whole, read_manifest(whole)),
        pytest.raises(RunError, match=f"being written by process {os.getpid()}"),
    ):
        run(whole)


def test_names_are_plain_text(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>/../../escape"
    summary = run(tmp_path / "run", name=name, networks=(NetworkConfig(name, "mlp", MLP.arguments),))
    assert (summary.name, summary.networks[0].name) == (name, name)
    assert summary.networks[0].slug == "script-alert-1-script-escape"
    assert os.listdir(tmp_path) == ["run"] and os.listdir(tmp_path / "run" / "networks") == [summary.networks[0].slug]


def test_a_divergence_keeps_what_is_written(tmp_path: Path) -> None:
    wild = Training(epochs=3, batch_size=16, optimiser=Optimiser(learning_rate=1e25))
    with pytest.raises(ModelError, match=r"Little ResNet, after update \d+ of 12: .* a lower learning rate"):
        run(tmp_path / "run", training=wild)
    records_kept = list((tmp_path / "run" / "networks" / "little-resnet" / "records").iterdir())
    assert "step-00000000.termwise" in {path.name for path in records_kept}
    with pytest.raises(ModelError, match="Little ResNet"):  # and the lock is free again
        run(tmp_path / "run", training=wild)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: NetworkConfig("a", "nothing"), "family 'nothing' is unknown; one of densenet, lstm"),
        (lambda: config(networks=()), "at least one"),
        (lambda: config(networks=(MLP, MLP)), "a name of its own"),
        (lambda: config(seed=-1), "seed -1"),
        (lambda: config(threads=0), "threads 0"),
        (lambda: Recording(probe=1), "probe is 1"),
        (lambda: Recording(replicates=5), "at least 20"),
        (lambda: Recording(ratio=1.0), "above 1"),
        (lambda: build_network(NetworkConfig("a", "resnet"), images(), 0), "missing.*'depth'"),
        (lambda: build_network(NetworkConfig("a", "mlp", {"deep": 8}), images(), 0), "mlp takes sizes"),
    ],
)
def test_bad_configurations(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make()


def test_networks_take_classes_and_channels_from_the_data() -> None:
    model = build_network(NetworkConfig("a", "resnet", {"depth": 8, "width": 4}), images(), 0)
    assert model(images().test_inputs[:2]).shape == (2, 3)
    before = torch.get_rng_state()
    weights = [build_network(MLP, images(), seed).state_dict()["1.weight"] for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_networks_for_one_size_of_image_take_it_from_the_data() -> None:
    for name, arguments in {"vit": {"depth": 1, "width": 8}, "lstm": {"hidden": 4}}.items():
        model = build_network(NetworkConfig("a", name, arguments), images(), 0)
        assert model(images().test_inputs[:2]).shape == (2, 3)


# --- kills ---


def _child(directory: Path, writes: int | None) -> None:
    """Run; with a number of writes, die by SIGKILL just before the rename of the next one."""
    torch.set_num_threads(1)
    if writes is not None:
        left, rename = [writes], os.replace

        def counted(source: Any, target: Any) -> None:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            rename(source, target)

        records.os.replace = counted
    run(directory)


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[Path, int | None], Any]]:
    """Starts `_child` in a process of its own: forked from one that has torch imported, so that it starts fast."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["termwise.training", "torch._dynamo"])  # the second: as torch.optim does when used

    def begin(directory: Path, writes: int | None) -> Any:
        process = context.Process(target=_child, args=(directory, writes))
        process.start()
        return process

    yield begin


def test_killed_at_every_write(whole: Path, tmp_path: Path, start: Callable[[Path, int | None], Any]) -> None:
    """One write a life, or two: every moment between a record, its checkpoint and its state, and no progress but by
    what was written; and as many as there are tables, which are written whenever a run ends."""
    directory, lives = tmp_path / "run", 0
    for writes in itertools.cycle((1, 1, 1, 2, 1, 1, 1, 5)):
        process = start(directory, writes)
        process.join()
        lives += 1
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL and lives < 60
    assert lives >= 20
    assert tables(directory) == tables(whole)
    assert timeless(read_summary(directory)) == timeless(read_summary(whole))
    for pattern in ("checkpoints/*", "records/*"):
        paths = sorted(directory.glob(f"networks/*/{pattern}"))
        assert len(paths) == 2 * len(DUE)
        assert all(path.read_bytes() == (whole / path.relative_to(directory)).read_bytes() for path in paths)
    assert not list(directory.rglob(".*.part"))


def test_killed_at_any_time(whole: Path, tmp_path: Path, start: Callable[[Path, int | None], Any]) -> None:
    """Killed from outside, wherever it is, some time after it has written something."""
    directory, waits = tmp_path / "run", []
    draw = random.Random(time.time_ns())
    while len(waits) < 12:
        before = {path for path in directory.rglob("*") if path.is_file()}
        process = start(directory, None)
        while process.is_alive() and not {path for path in directory.rglob("*") if path.is_file()} - before:
            time.sleep(0.001)
        waits.append(draw.uniform(0, 0.08))
        process.join(waits[-1])
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
    process = start(directory, None)
    process.join()
    assert process.exitcode == 0, waits
    assert len(waits) >= 3
    assert tables(directory) == tables(whole), waits
    assert timeless(read_summary(directory)) == timeless(read_summary(whole)), waits


# --- the sentence ---


def numbers(name: str, first: tuple[float, ...], last: tuple[float, ...], **changed: Any) -> NetworkSummary:
    plain: dict[str, Any] = {
        "name": name, "slug": name, "parameters": 1, "steps": 10, "accuracy": 0.98, "loss": 0.1,
        "mean_depth": (first[0], last[0]), "mean_depth_interval": (first[1:], last[1:]), "effective_depth": 3,
        "mean_depth_with_constants": None,
        "shortest": 2, "longest": 20, "depths": [2, 20], "closure": 1e-7, "constant_share": 0.1, "frozen_share": 0.0,
        "cancellation": 2.0, "credit_closure": 0.0, "credit_drift": 0.0, "training_seconds": 1.0,
        "recording_seconds": 1.0, "operators": [],
    }  # fmt: skip
    return NetworkSummary(**{**plain, **changed})


FELL = numbers("A", (13.0, 12.8, 13.2), (10.0, 9.7, 10.3), accuracy=0.9803)
ROSE = numbers("B", (4.0, 3.8, 4.2), (5.0, 4.9, 5.2), accuracy=0.982)
STAYED = numbers("C", (4.0, 3.8, 4.2), (4.3, 4.1, 4.5))
PLAIN = numbers("P", (9.0, 9.0, 9.0), (9.0, 9.0, 9.0), depths=[9], longest=9)


@pytest.mark.parametrize(
    ("networks", "difference", "hypotheses", "expected"),
    [
        (
            [FELL, ROSE], Estimate(0.7, 0.5, 0.9), ["H1", "H4"],
            "While training, the mean path length of A fell from 13.0 [12.8, 13.2] to 10.0 [9.7, 10.3] layers (of 20), "
            "and that of B rose from 4.0 [3.8, 4.2] to 5.0 [4.9, 5.2] layers (of 20); at the end B is shorter by "
            "0.7 [0.5, 0.9] layers at 98.2 % accuracy against the 98.0 % of A (95 % intervals over 256 probe samples). "
            "One seed: H1 and H4 stay undecided.",
        ),
        (
            [FELL], None, ["H1"],
            "While training, the mean path length of A fell from 13.0 [12.8, 13.2] to 10.0 [9.7, 10.3] layers (of 20); "
            "at the end it reaches 98.0 % accuracy (95 % intervals over 256 probe samples). "
            "One seed: H1 stays undecided.",
        ),
    ],
)  # fmt: skip
def test_the_sentence(
    networks: list[NetworkSummary], difference: Estimate | None, hypotheses: list[str], expected: str
) -> None:
    assert sentence(networks, Finding(difference, hypotheses), samples=256) == expected


def test_the_sentence_claims_no_more_than_its_numbers() -> None:
    def say(networks: list[NetworkSummary], difference: Estimate | None) -> str:
        return sentence(networks, Finding(difference, ["H1"]), samples=256)

    text = say([STAYED, FELL], Estimate(0.1, -0.1, 0.3))
    assert "C went from 4.0 [3.8, 4.2] to 4.3 [4.1, 4.5] layers (of 20), no clear change" in text
    assert "cannot be told apart" in text and "0.1 [−0.1, 0.3]" in text and "shorter" not in text
    assert "A is shorter by 0.70 [0.65, 0.75] layers" in say([FELL, ROSE], Estimate(-0.7, -0.75, -0.65))
    assert "P stayed 9 (counted in layers), the only length it has" in say([PLAIN], None)
    three = say([FELL, ROSE, PLAIN], None)
    assert "accuracies are A 98.0 %, B 98.2 % and P 98.0 %" in three and "shorter" not in three


def test_the_difference_is_that_of_the_profiles() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 1, 8, 8), torch.arange(40) % 3
    models = [build_network(RESNET, images(), seed).eval() for seed in (0, 1)]
    profiles = [profile(model, (inputs, targets)) for model in models]
    parts = [_terms(model, inputs) for model in models]
    found = depth_difference(*parts)
    assert found.value == pytest.approx(profiles[0].mean_depth.value - profiles[1].mean_depth.value, rel=1e-5)
    assert found.low < found.value < found.high
    assert depth_difference(parts[0], parts[0]) == Estimate(0.0, 0.0, 0.0)  # paired: the draws cancel
    swapped = depth_difference(parts[1], parts[0])
    assert swapped == pytest.approx((-found.value, -found.high, -found.low))
    # The interval, from resampling by hand.
    draw, values = np.random.default_rng(1), []
    for _ in range(1000):
        weights = draw.poisson(1.0, 40)
        norms = [np.linalg.norm(t - t.mean(-1, keepdims=True), axis=-1) @ weights for _, t in parts]
        values.append(np.subtract(*(np.dot(d, n) / n.sum() for (d, _), n in zip(parts, norms, strict=True))))
    assert np.percentile(values, [2.5, 97.5]) == pytest.approx(
        [found.low, found.high], abs=0.25 * float(np.std(values))
    )


def _terms(model: torch.nn.Module, inputs: torch.Tensor) -> tuple[tuple[int, ...], np.ndarray]:
    from termwise import expand

    expansion = expand(model, inputs)
    return expansion.depths, torch.stack(list(expansion.terms.values())).detach().numpy()


# --- the demonstration ---


def test_the_demonstration_is_the_one_that_is_promised() -> None:
    data = DataSet(
        name="zeros",
        title="",
        attribution="",
        train_inputs=torch.zeros(20, 1, 16, 16),
        train_targets=torch.arange(20) % 10,
        test_inputs=torch.zeros(10, 1, 16, 16),
        test_targets=torch.arange(10),
        classes=10,
    )
    full, quick = demo_config(), demo_config(quick=True)
    for made in (full, quick):
        sizes = [sum(p.numel() for p in build_network(n, data, 0).parameters()) for n in made.networks]
        assert sizes == [272186, 270418]
        assert made.data == "digits" and made.seed == 0
    assert [n.name for n in full.networks] == ["ResNet-20", "DenseNet-22"]
    assert (full.recording.probe, quick.recording.probe) == (256, 128)
    due = log_spaced()
    assert sum(due(n) for n in range(full.training.steps(1438))) + 1 >= 20
    assert quick.training.steps(1438) < full.training.steps(1438) / 5


def test_the_configuration_survives_json() -> None:
    for made in (demo_config(), demo_config(quick=True), config(recording=Recording(unit=("a", "b")))):
        assert msgspec.json.decode(msgspec.json.encode(made), type=RunConfig) == made


def test_a_manifest_is_complete(whole: Path) -> None:
    manifest = read_manifest(whole)
    assert isinstance(manifest, Manifest) and manifest.name == "a small run"
    assert manifest.data_sha256 == images().sha256 and len(manifest.probe_sha256) == 64
    assert manifest.torch == torch.__version__
    assert set(manifest.config) == {"networks", "data", "size", "training", "recording", "seed", "threads"}


def test_the_verdict_says_what_counting_constants_would_show() -> None:
    """One hidden layer, by hand: the terms are W2 g W1 x, the constants W2 g b1 at depth 2 and b2 at depth 1."""
    torch.manual_seed(0)
    model = nets.mlp([4, 6, 3])
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias)
    x = torch.randn(20, 4)
    measured = profile(model, x, constants="by_depth")
    first, second = (module for module in model.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        open_ = (first(x) > 0).float()
        parts = [(open_ * (x @ first.weight.t())) @ second.weight.t(), (open_ * first.bias) @ second.weight.t()]
        parts.append(second.bias.expand_as(parts[0]))
        norms = [float((part - part.mean(dim=1, keepdim=True)).norm(dim=1).mean()) for part in parts]
    expected = (2 * norms[0] + 2 * norms[1] + norms[2]) / sum(norms)
    assert mean_depth_with_constants(measured) == pytest.approx(expected, rel=1e-5)
    assert mean_depth_with_constants(profile(model, x)) is None
    told = [
        msgspec.structs.replace(network, mean_depth_with_constants=counted)
        for network, counted in ((FELL, (12.0, 6.04)), (ROSE, (7.0, 5.0)))
    ]
    said = sentence(told, Finding(None, ["H1"]), samples=20)
    assert "With the paths of constants counted in, it would be 12.0 to 6.0 and 7.0 to 5.0." in said
