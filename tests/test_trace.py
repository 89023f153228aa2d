"""A timeline from checkpoints: the same as that of a Recorder that was there, and what is refused or left out."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from snapshots import snapshot, unchanged
from termwise import Timeline, nets, trace
from termwise.checkpoints import find_checkpoints
from termwise.cli import main
from termwise.errors import DataError, ModelError, TermwiseError, UsageError
from termwise.loop import Training, train_network
from termwise.records import Table, read_parquet, read_summary
from termwise.timeline import Recorder, log_spaced

STEPS = (0, 1, 2, 4, 8, 12)
UNITS = ("layers", "blocks")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nets.resnet(8, width=4, channels=1, classes=3)


def images(count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(count)
    targets = torch.arange(count) % 3
    return torch.randn(count, 1, 8, 8, generator=draw) + targets[:, None, None, None], targets


PROBE, TRAINING = images(16), images(64)


class Both:
    """Two recorders at one training."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self.recorders = recorders

    @property
    def seconds(self) -> float:
        return 0.0

    @property
    def recorded(self) -> tuple[int, ...]:
        return self.recorders[0].recorded

    def step(self, n: int, **scalars: Any) -> bool:
        return all([each.step(n, **scalars) for each in self.recorders])

    def finish(self, n: int, **scalars: Any) -> bool:
        return all([each.finish(n, **scalars) for each in self.recorders])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Timeline]]:
    """The folder of a training, and what Recorders that were there have of it."""
    torch.set_num_threads(1)
    folder, model = tmp_path_factory.mktemp("trained"), network()
    recorders = [Recorder(model, PROBE, unit=unit, schedule=log_spaced(2.0), replicates=20) for unit in UNITS]
    train_network(model, TRAINING, Both(recorders), settings=Training(epochs=3, batch_size=16), directory=folder)
    return folder, {unit: recorder.timeline for unit, recorder in zip(UNITS, recorders, strict=True)}


@pytest.fixture
def folder(trained: tuple[Path, dict[str, Timeline]], tmp_path: Path) -> Path:
    """A copy of its checkpoints."""
    return Path(shutil.copytree(trained[0] / "checkpoints", tmp_path / "left"))


@pytest.fixture
def few(folder: Path) -> Path:
    """The first and the last alone."""
    for path in folder.iterdir():
        if path.stem not in ("step-00000000", "step-00000012"):
            path.unlink()
    return folder


def measured(checkpoints: Sequence[Any], model: nn.Module | None = None, **options: Any) -> Timeline:
    return trace(network(1) if model is None else model, checkpoints, PROBE, **{"replicates": 20, **options})


def without_scalars(table: Table) -> list[dict[str, Any]]:
    return [{name: repr(value) for name, value in row.items() if name != "train_loss"} for row in table.rows()]


# --- the same as if a Recorder had been there ---


@pytest.mark.parametrize("unit", UNITS)
def test_every_table_is_that_of_a_recorder_that_was_there(trained: tuple[Path, dict[str, Timeline]], unit: str) -> None:
    there, found = trained[1][unit], measured([trained[0]], unit=unit)
    assert found.steps == there.steps == STEPS and found.skipped == ()
    for name in ("table", "spectrum", "credit", "time_learned"):
        assert without_scalars(getattr(found, name)) == without_scalars(getattr(there, name)), name
    for ours, theirs in zip(found.moments, there.moments, strict=True):
        assert ours.weights == theirs.weights and ours.settings == theirs.settings
        assert ours.terms.tobytes() == theirs.terms.tobytes()
        assert str(ours.profile) == str(theirs.profile)


def test_statistics_in_the_checkpoints_are_taken_where_asked_for(few: Path) -> None:
    kept = measured([few], calibration=False)
    assert kept.settings["calibration"] == "off"
    assert kept.table["loss"].tolist() != measured([few]).table["loss"].tolist()


def test_the_model_is_left_as_found(few: Path) -> None:
    torch.save(nets.mlp([2, 2]).state_dict(), few / "step-3.pt")
    model = network(1)
    model.train()
    next(model.children()).register_forward_hook(lambda module, args, out: None)
    model(PROBE[0]).sum().backward()
    before = snapshot(model)
    measured([few / "step-00000000.safetensors", few / "step-00000012.safetensors"], model)
    unchanged(before, snapshot(model))
    with pytest.raises(ModelError):
        measured([few], model)
    unchanged(before, snapshot(model))


def test_records_are_kept_and_taken_over(folder: Path, tmp_path: Path) -> None:
    few = sorted(folder.iterdir())[:2]
    kept = tmp_path / "records"
    first = measured(few, directory=kept)
    written = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert first.steps == (0, 1) and len(written) == 2
    whole = measured([folder], directory=kept)
    assert whole.steps == STEPS
    assert all((kept / name).stat().st_mtime_ns == time for name, time in written.items())
    # What is asked for decides, not what is in the directory.
    assert measured(few, directory=kept).table.rows() == first.table.rows()


def test_progress_is_told_from_none_to_all(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    measured(sorted(folder.iterdir())[:2], progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]


# --- which files, and of which step ---


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch=3-step=1200.ckpt", 1200),
        ("step=1200-val_loss=0.35.ckpt", 1200),
        ("model_epoch_10_acc_0.93.pt", 10),
        ("checkpoint-500.pth", 500),
        ("resnet18-7.pt", 7),
        ("global_step00000064.bin", 64),
        ("1200:last.pt", 1200),
    ],
)
def test_steps_from_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: int) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name.removeprefix("1200:")).touch()
    found, skipped = find_checkpoints([name])
    assert [one.step for one in found] == [step] and not skipped


def test_the_step_inside_a_checkpoint_counts_more_than_its_name(folder: Path) -> None:
    (folder / "step-00000012.safetensors").rename(folder / "best-99.safetensors")
    assert [one.step for one in find_checkpoints([folder])[0]] == list(STEPS)


def test_other_forms_of_the_same_weights_give_the_same(folder: Path, tmp_path: Path) -> None:
    first, last = (safetensors.torch.load_file(folder / f"step-{step:08}.safetensors") for step in (0, 12))
    other = tmp_path / "other"
    (other / "checkpoint-12").mkdir(parents=True)
    wrapped = {f"model.{key}": value for key, value in first.items()}
    torch.save({"state_dict": wrapped, "epoch": 0}, other / "epoch=0.ckpt")
    safetensors.torch.save_file(last, other / "checkpoint-12" / "model.safetensors")
    torch.save({"step": 1}, other / "checkpoint-12" / "optimizer-1.pt")
    expected = measured([folder / "step-00000000.safetensors", folder / "step-00000012.safetensors"])
    assert measured([other]).spectrum.rows() == expected.spectrum.rows()
    assert measured([other / "epoch=0.ckpt", other / "checkpoint-12"]).table.rows() == expected.table.rows()


def test_weights_that_modules_share_may_be_there_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.last.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(x)))

    for step in (1, 2):
        safetensors.torch.save_file({"first.weight": torch.randn(3, 3)}, tmp_path / f"step-{step}.safetensors")
    found = trace(Tied(), [tmp_path], (torch.randn(6, 3), torch.arange(6) % 3), replicates=20)
    assert found.steps == (1, 2)


# --- what is left out, and said so ---


def damage(folder: Path, how: str) -> str:
    """Make one more checkpoint that cannot be used; returns its name."""
    path = folder / "step-00000020.safetensors"
    good = safetensors.torch.load_file(folder / "step-00000012.safetensors")
    if how == "cut short":
        path.write_bytes((folder / "step-00000012.safetensors").read_bytes()[:5000])
    elif how == "no weights":
        path = path.with_suffix(".pt")
        path.write_bytes(b"no weights at all")
    elif how == "objects":
        path = path.with_suffix(".pt")
        torch.save({"weight": Trap(folder / "sprung")}, path)
    elif how == "without a step":
        path = folder / "last.pt"
        torch.save(good, path)
    else:
        name = next(key for key, value in good.items() if value.dim() == 2)
        good[name][:] = float(how)
        safetensors.torch.save_file(good, path)
    return path.name


class Trap:
    """What unpickling would execute."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["cut short", "no weights", "objects", "without a step", "nan", "inf"])
def test_what_cannot_be_used_is_left_out_and_named(few: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    name = damage(few, how)
    with caplog.at_level(logging.WARNING, "termwise"):
        found = measured([few])
    assert found.steps == (0, 12)
    (line,) = found.skipped
    assert name in line and f"left out: {line}" in caplog.messages and f"left out: {line}" in str(found)
    assert not (few / "sprung").exists()
    found.save(few / "t.termwise")
    assert Timeline.load(few / "t.termwise").skipped == found.skipped


def test_a_file_that_is_not_there_is_left_out(few: Path) -> None:
    found = measured([few / "step-00000099.safetensors", *few.iterdir()])
    assert found.steps == (0, 12) and "step-00000099.safetensors: there is no such file" in found.skipped[0]


# --- what is refused ---


def refused(error: type[TermwiseError], checkpoints: Sequence[Any], *words: str) -> None:
    with pytest.raises(error) as caught:
        measured(checkpoints)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_fewer_than_two_are_refused(folder: Path, tmp_path: Path) -> None:
    refused(UsageError, [], "give the checkpoints")
    refused(UsageError, str(folder), "give the checkpoints")
    one = folder / "step-00000000.safetensors"
    refused(DataError, [one], f"only {one}", "termwise profile")
    (tmp_path / "empty").mkdir()
    refused(DataError, [tmp_path / "empty"], "none can be used", f"{tmp_path / 'empty'}: there is no checkpoint in it")
    bad = folder / "step-00000001.safetensors"
    bad.write_bytes(b"damaged")
    refused(DataError, [one, bad, "nowhere-2.pt"], "nowhere-2.pt: there is no such", f"{bad}: not readable")


def test_steps_that_nothing_tells_or_that_are_there_twice_are_refused(folder: Path) -> None:
    shutil.copy(folder / "step-00000012.safetensors", folder.parent / "copy.safetensors")
    good = safetensors.torch.load_file(folder / "step-00000012.safetensors")
    safetensors.torch.save_file(good, folder.parent / "last.safetensors")
    last, same = folder.parent / "last.safetensors", folder.parent / "copy.safetensors"
    refused(UsageError, [folder, last], f"{last}: its name tells no step", f"1200:{last}")
    refused(UsageError, [folder, same], "both of step 12", str(same))
    refused(UsageError, [folder, f"4:{last}"], "both of step 4", str(last))
    assert [one.step for one in find_checkpoints([folder, f"1200:{last}"])[0]] == [*STEPS, 1200]
    refused(UsageError, [f"7:{folder}"], "give STEP:FILE for each")
    refused(UsageError, [folder, __file__], "expected a file of weights")


def test_weights_that_do_not_fit_are_refused_with_their_keys_and_shapes(few: Path) -> None:
    weights = safetensors.torch.load_file(few / "step-00000012.safetensors")
    name = next(key for key, value in weights.items() if value.dim() == 2)
    torch.save({**weights, name: torch.zeros(7, 2)}, few / "step-20.pt")
    refused(ModelError, [few], "step-20.pt does not fit ResNet", f"{name} (7, 2) where the model has (3,")
    del weights[name]
    torch.save({**weights, "other": torch.zeros(2)}, few / "step-20.pt")
    refused(ModelError, [few], f"1 missing ({name})", "1 unexpected (other)")


def test_weights_whose_outputs_are_infinite_are_named(few: Path) -> None:
    weights = safetensors.torch.load_file(few / "step-00000012.safetensors")
    name = next(key for key, value in weights.items() if value.dim() == 2)
    torch.save({**weights, name: torch.full_like(weights[name], 3e38)}, few / "step-20.pt")
    refused(ModelError, [few], "step-20.pt: ")


def test_what_takes_no_weights_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="a function takes no weights"):
        trace(lambda x: x, [folder], PROBE)  # pyright: ignore[reportArgumentType]

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.computed = self.weight * 2

    with pytest.raises(ModelError, match="cannot be copied"):
        trace(Held(), [folder], PROBE)


# --- the command ---


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, and in it `r`: what `termwise train` left."""
    monkeypatch.chdir(tmp_path)
    inputs = torch.randn(90, 6, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez("d.npz", inputs=inputs, targets=np.arange(90) % 3)
    assert run("train", "mlp-6-4-3", "--data", "d.npz", "--directory", "r", "--epochs", "2", "--batch-size", "16") == 0
    return tmp_path


def run(*arguments: str) -> int:
    """The exit code."""
    try:
        main(list(arguments))
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def traced(*checkpoints: str, model: str = "mlp-6-4-3", directory: str = "t") -> int:
    return run("trace", model, *checkpoints, "--data", "d.npz", "--directory", directory)


def test_the_command_writes_the_tables_that_the_training_wrote(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert traced("r/networks/mlp-6-4-3") == 0
    out = capsys.readouterr().out
    there, found = read_summary(ran / "r"), read_summary(ran / "t")
    for name in ("steps", "spectrum"):
        ours, theirs = (read_parquet(ran / run / "tables" / f"{name}.parquet") for run in ("t", "r"))
        assert ours.columns == theirs.columns and without_scalars(ours) == without_scalars(theirs)
    assert found.verdict in out and found.verdict.startswith("From the checkpoint of step 0 to that of step ")
    assert (found.seed, found.skipped, found.networks[0].training_seconds) == (None, [], None)
    assert found.data == there.data and found.networks[0].mean_depth == there.networks[0].mean_depth
    page = (ran / "t" / "report.html").read_text()
    assert "trained elsewhere" in page and "from the checkpoints of a training" in page and "Left out" not in page


def test_the_command_says_on_the_page_what_was_left_out(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = ran / "r" / "networks" / "mlp-6-4-3" / "checkpoints"
    last = max(checkpoints.iterdir())
    last.write_bytes(b"<b>damaged</b>")
    (ran / "model.py").write_text("from termwise import nets\n\n\ndef build():\n    return nets.mlp([6, 4, 3])\n")
    assert (
        run("trace", "model.py:build", str(checkpoints), "--data", "d.npz", "--directory", "t", "--calibration", "0")
        == 0
    )
    assert f"termwise: left out: {last}: not readable as weights" in capsys.readouterr().err
    (line,) = read_summary(ran / "t").skipped
    page = (ran / "t" / "report.html").read_text()
    assert "statistics that they had" in page and "statistics re-estimated" not in page
    assert "Left out" in page and str(last) in page and str(last) in line


def test_the_command_refuses_before_it_writes(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = "r/networks/mlp-6-4-3"
    cases = [
        (traced(folder, model="mlp-6-5-3"), 1, "step-00000000.safetensors does not fit Sequential"),
        (traced("nowhere"), 1, "nowhere: there is no such file or directory"),
        (traced("r/tables"), 1, "there is no checkpoint in it"),
        (traced(folder, model="resnet"), 2, "none of the known forms"),
        (traced(folder, model="mlp-7-4-3"), 1, "fails on one sample of d.npz"),
        (run("trace", "mlp-6-4-3", "--data", "d.npz", "--directory", "t"), 2, "CHECKPOINTS"),
        (
            run("trace", "mlp-6-4-3", folder, "--data", "d.npz", "--directory", "t", "--calibration", "1"),
            2,
            "calibration",
        ),
    ]
    captured = capsys.readouterr()
    for code, expected, message in cases:
        assert code == expected and message in captured.err + captured.out, message
    assert not (ran / "t").exists() and "Traceback" not in captured.err
    assert traced(folder) == 0
    assert run("trace", "mlp-6-4-3", folder, "--data", "d.npz", "--directory", "t", "--unit", "activations") == 1
    assert "a run of other settings" in capsys.readouterr().err
