"""The folders that other people's training loops leave, really written by them, as `termwise.trace` reads them."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

import loops_at_hand
from loops_at_hand import PROBE, Classifier, Net
from termwise import Timeline, trace
from termwise.checkpoints import find_checkpoints
from termwise.cli import main
from termwise.errors import DataError, ModelError, UsageError
from termwise.records import read_parquet, read_summary
from termwise.weights import read_weights, stripped


def traced(model: Any, folder: Path, **options: Any) -> Timeline:
    return trace(model, [folder], PROBE, replicates=20, calibration=False, **options)


def loss_of(net: torch.nn.Module) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(net.eval()(PROBE[0]).double(), PROBE[1]))


# --- Hugging Face ---


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """What a Trainer left, the model that it saved at the end included, and the loss of that model."""
    from transformers import Trainer

    folder = tmp_path_factory.mktemp("hf")
    model = loops_at_hand.hugging_face(folder, save_steps=8)
    trainer = Trainer(model)
    trainer.save_model(str(folder))
    shutil.copy(folder / "checkpoint-24" / "trainer_state.json", folder)
    return folder, loss_of(model.net)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def folder(left: tuple[Path, float], tmp_path: Path) -> Path:
    return Path(shutil.copytree(left[0], tmp_path / "out"))


def test_the_folder_of_a_hugging_face_trainer(left: tuple[Path, float]) -> None:
    found = traced(Classifier(), left[0], output="logits")
    assert found.steps == (8, 16, 24)
    assert found.table["loss"][-1] == pytest.approx(left[1], rel=1e-5)
    # The model at the end is the last checkpoint again.
    assert [line.partition(":")[2] for line in found.skipped] == [" of step 24, as checkpoint-24 is."]


def test_the_model_at_the_end_counts_where_its_step_is_no_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoint-24")
    assert [one.step for one in find_checkpoints([folder])[0]] == [8, 16, 24]
    (folder / "trainer_state.json").write_text("{damaged")
    found, (line,) = find_checkpoints([folder])
    assert [one.step for one in found] == [8, 16] and line.startswith(f"{folder}: its name tells no step")


def test_the_step_that_the_trainer_wrote_counts_more_than_the_name(folder: Path) -> None:
    (folder / "checkpoint-8").rename(folder / "checkpoint-9")
    assert [one.step for one in find_checkpoints([folder])[0]] == [8, 16, 24]


def test_a_checkpoint_without_weights_and_a_damaged_one_are_named(folder: Path) -> None:
    (folder / "checkpoint-8" / "model.safetensors").unlink()
    damaged = folder / "checkpoint-16" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(DataError) as caught:
        traced(Classifier(), folder, output="logits")
    assert f"{folder / 'checkpoint-8'}: the weights of a whole model are not in it" in str(caught.value)
    assert f"{damaged}: not readable as weights" in str(caught.value)
    found, (line,) = find_checkpoints([folder / "checkpoint-8", folder / "checkpoint-24"])
    assert [one.step for one in found] == [24] and "optimizer.pt" in line


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": {"a": 5}}', '{"weight_map": {"a": ["b"], "c": 5}}']
)
def test_an_index_that_is_none_is_named(content: str, folder: Path) -> None:
    checkpoint = folder / "checkpoint-8"
    (checkpoint / "model.safetensors").unlink()
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(content)
    found = traced(Classifier(), folder, output="logits")
    assert found.steps == (16, 24)
    assert any(line.startswith(f"{index}: not readable as an index of weights") for line in found.skipped)


def test_a_step_below_zero_is_none(folder: Path) -> None:
    (folder / "checkpoint-8" / "trainer_state.json").write_text('{"global_step": -5}')
    assert [one.step for one in find_checkpoints([folder])[0]] == [8, 16, 24]


def test_weights_that_are_tied_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=0)
    for step in (1, 2):
        GPT2LMHeadModel(config).save_pretrained(tmp_path / f"checkpoint-{step}")
    monkeypatch.setattr(GPT2LMHeadModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("read again"))
    tokens = torch.randint(16, (4, 6))
    found = trace(GPT2LMHeadModel(config), [tmp_path], (tokens, tokens.roll(-1, 1)), replicates=20)
    assert found.steps == (1, 2)


def test_weights_in_several_files_are_those_in_one(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config: Any = {"image_size": 4, "patch_size": 2, "num_channels": 1, "hidden_size": 8, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 16, "num_labels": 3}
    models = [ViTForImageClassification(ViTConfig(**config)) for _ in range(3)]
    whole, sharded = folder / "whole", folder / "sharded"
    for step, model in enumerate(models):
        model.save_pretrained(whole / f"checkpoint-{step}")
        model.save_pretrained(sharded / f"checkpoint-{step}", max_shard_size="1KB")
    assert len(list((sharded / "checkpoint-1").glob("model-*-of-*.safetensors"))) > 2
    probe = torch.randn(6, 1, 4, 4), torch.arange(6) % 3
    one, many = (trace(models[0], [each], probe, replicates=20, output="logits") for each in (whole, sharded))
    assert one.spectrum.rows() == many.spectrum.rows() and many.steps == (0, 1, 2)
    # A part that is missing is named, and the others are used.
    index = json.loads((sharded / "checkpoint-1" / "model.safetensors.index.json").read_text())
    part = sorted(index["weight_map"].values())[0]
    (sharded / "checkpoint-1" / part).unlink()
    lacking = trace(models[0], [sharded], probe, replicates=20, output="logits")
    assert lacking.steps == (0, 2) and part in lacking.skipped[0]


# --- Lightning ---


@pytest.fixture(scope="module")
def lit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """What a Trainer of Lightning left in its folder of checkpoints, and the loss of the last."""
    package = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    place = tmp_path_factory.mktemp("lit")
    module = loops_at_hand.lightning_module(package.LightningModule)
    keep = package.callbacks.ModelCheckpoint(
        place / "checkpoints", save_top_k=-1, every_n_train_steps=8, save_last=True
    )
    loops_at_hand.lightning(place, package, module, [keep])
    return place, loss_of(module.model)


def test_the_folder_of_lightning(lit: tuple[Path, float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "termwise"):
        found = traced(Net(1), lit[0])
    assert found.steps == (8, 16, 24)
    assert found.table["loss"][-1] == pytest.approx(lit[1], rel=1e-5)
    assert [line.partition(": ")[2] for line in found.skipped] == ["of step 24, as epoch=2-step=24.ckpt is."]
    assert any("keys beside the model's are left out: weighing.weight" in line for line in caplog.messages)
    # The last alone: its step is inside of it.
    assert [one.step for one in find_checkpoints([lit[0] / "checkpoints" / "last.ckpt"])[0]] == [24]


def test_broken_checkpoints_of_lightning_are_named(lit: tuple[Path, float], tmp_path: Path) -> None:
    place = Path(shutil.copytree(lit[0], tmp_path / "version_0"))
    cut, inner = place / "checkpoints" / "epoch=1-step=16.ckpt", place / "checkpoints" / "epoch=9-step=99.ckpt"
    cut.write_bytes(cut.read_bytes()[:2000])
    inner.mkdir()
    (inner / ".metadata").touch()
    found = traced(Net(1), place)
    assert found.steps == (8, 24) and len(found.skipped) == 3
    assert sum(str(cut) in line or str(inner) in line for line in found.skipped) == 2
    with pytest.raises(DataError) as caught:
        traced(Net(1), tmp_path)
    assert f"Give one of those that have: {place / 'checkpoints'}" in str(caught.value)


# --- prefixes ---


def test_a_model_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    state = Net().state_dict()
    both = {f"{where}.{key}": value for where in ("model", "average") for key, value in state.items()}
    with pytest.raises(ModelError, match=r"there 2 times, behind 'model\.', 'average\.'"):
        stripped(both, state, tmp_path)
    beside = {f"a.b.{key}": value for key, value in state.items()} | {"a.scale": torch.ones(1)}
    assert {key: id(value) for key, value in stripped(beside, state, tmp_path).items()} == {
        key: id(value) for key, value in state.items()
    }
    assert stripped({"other": torch.ones(1)}, state, tmp_path).keys() == {"other"}


def test_a_checkpoint_whose_step_is_written_twice_is_refused(tmp_path: Path) -> None:
    for name in ("step-3.safetensors", "again-3.safetensors"):
        safetensors.torch.save_file(Net().state_dict(), tmp_path / name)
    with pytest.raises(UsageError, match="both of step 3"):
        find_checkpoints([tmp_path])
    assert read_weights(tmp_path / "step-3.safetensors").keys() == Net().state_dict().keys()


# --- the command ---


@pytest.mark.parametrize(("name", "build"), [("left", "Classifier"), ("lit", "Net")])
def test_the_command_traces_the_folder_of_a_trainer(
    name: str, build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folder, loss = request.getfixturevalue(name)
    monkeypatch.chdir(tmp_path)
    (x, y), (test_x, test_y) = loops_at_hand.task(), PROBE
    np.savez("d.npz", inputs=x, targets=y, test_inputs=test_x, test_targets=test_y)
    Path("model.py").write_text(f"from loops_at_hand import {build} as build\n")
    command = ["trace", "model.py:build", str(folder), "--data", "d.npz", "--directory", "t", "--calibration", "0"]
    main(command)
    summary, table = read_summary(tmp_path / "t"), read_parquet(tmp_path / "t" / "tables" / "steps.parquet")
    assert table["step"].tolist() == [8, 16, 24] and len(summary.skipped) == 1
    assert "of step 24, as" in summary.skipped[0] and (tmp_path / "t" / "report.html").exists()
    assert table["loss"][-1] == pytest.approx(loss, rel=1e-5)
