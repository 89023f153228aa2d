"""Trackers that are told what is recorded: each is really run, and what it kept is read back."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import logging
import sqlite3
import struct
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import loops_at_hand
from loops_at_hand import PROBE, Net
from termwise import Timeline
from termwise.errors import UsageError
from termwise.integrations.huggingface import TermwiseCallback
from termwise.integrations.sinks import MlflowSink, Sink, TensorBoardSink, TrackioSink, WandbSink
from termwise.integrations.watch import Watch

PNG = b"\x89PNG\r\n\x1a\n"


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def library(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the package says of those that it needs
        return importlib.import_module(name)


def trained(*sinks: Sink, updates: int = 4, **options: Any) -> Timeline:
    """A training of a few updates that is told to the sinks."""
    model, (x, y) = Net(), loops_at_hand.task()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(PROBE, sinks=sinks, replicates=20, **options).begin(model)
    for n in range(1, updates + 1):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        watch.step(n)
    watch.finish(updates)
    return watch.timeline


def expected(timeline: Timeline, name: str) -> dict[int, float]:
    """A measure by step, from the profiles themselves."""
    of = {"loss": lambda p: p.loss, "mean_depth": lambda p: p.mean_depth.value, "closure": lambda p: p.closure}
    of |= {"accuracy": lambda p: p.accuracy, "effective_depth": lambda p: float(p.effective_depth)}
    return {step: of[name](profile) for step, profile in zip(timeline.steps, timeline.profiles, strict=True)}


NAMES = ("loss", "accuracy", "mean_depth", "effective_depth", "closure")


class Kept:
    """A sink of one's own."""

    def __init__(self, breaks: str = "") -> None:
        self.values: dict[int, dict[str, float]] = {}
        self.tables: dict[str, list[dict[str, str]]] = {}
        self.pictures: list[tuple[int, str, bytes]] = []
        self.closed = 0
        self._breaks = breaks

    def _break(self, name: str) -> None:
        if name == self._breaks:
            raise ConnectionError("the tracker is down")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._break("scalars")
        self.values[step] = dict(values)

    def picture(self, step: int, path: Path) -> None:
        self._break("picture")
        self.pictures.append((step, path.stem, path.read_bytes()))

    def table(self, path: Path) -> None:
        self._break("table")
        self.tables[path.stem] = list(csv.DictReader(path.read_text().splitlines()))

    def close(self) -> None:
        self._break("close")
        self.closed += 1


def test_a_sink_is_told_every_record_and_the_end() -> None:
    sink = Kept()
    timeline = trained(sink)
    assert tuple(sink.values) == timeline.steps == (0, 1, 2, 3, 4) and sink.closed == 1
    for name in NAMES:
        assert {step: values[name] for step, values in sink.values.items()} == expected(timeline, name)
    assert sorted(sink.tables) == ["spectrum", "steps"]
    rows = sink.tables["spectrum"]
    assert len(rows) == len(timeline.spectrum)
    assert [float(row["norm_share"]) for row in rows] == timeline.spectrum["norm_share"].tolist()
    ((step, name, content),) = sink.pictures
    assert (step, name) == (4, "depth-map") and content.startswith(PNG) and len(content) > 10_000


def test_a_training_that_stops_early_and_goes_back_to_its_best_weights_closes_its_sinks(tmp_path: Path) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Stopping(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 4

    arguments = TrainingArguments(
        str(tmp_path), max_steps=10, per_device_train_batch_size=8, save_steps=2, eval_steps=2, eval_strategy="steps",
        load_best_model_at_end=True, report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    sink, rows = Kept(), loops_at_hand.Rows()
    callback = TermwiseCallback(PROBE, sinks=[sink], replicates=20, schedule=(0, 2))
    options: dict[str, Any] = {"train_dataset": rows, "eval_dataset": rows, "callbacks": [callback, Stopping()]}
    Trainer(loops_at_hand.Classifier(), arguments, **options).train()
    assert callback.timeline.steps == (0, 2)  # at the end the weights are those of another step
    assert sink.closed == 1 and sorted(sink.tables) == ["spectrum", "steps"] and len(sink.pictures) == 1


@pytest.mark.parametrize("breaks", ["scalars", "picture", "table", "close"])
def test_a_sink_that_is_down_is_told_of_once(breaks: str, caplog: pytest.LogCaptureFixture) -> None:
    broken, whole = Kept(breaks), Kept()
    with caplog.at_level(logging.WARNING, "termwise"):
        timeline = trained(broken, whole)
    assert timeline.steps == (0, 1, 2, 3, 4) and timeline.skipped == ()
    (told,) = caplog.messages
    assert told.startswith("Kept is told no more, and the training goes on: ConnectionError: the tracker is down")
    assert whole.closed == 1 and len(whole.values) == 5 and len(whole.pictures) == 1
    assert len(broken.values) == (0 if breaks == "scalars" else 5)
    with pytest.raises(ConnectionError):
        trained(Kept(breaks), strict=True)


@pytest.mark.parametrize("fails", ["termwise.figures.save", "pyarrow.csv.write_csv"])
def test_sinks_are_closed_where_picture_or_tables_cannot_be_made(
    fails: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fails, full)
    sink = Kept()
    with caplog.at_level(logging.WARNING, "termwise"):
        timeline = trained(sink)
    assert timeline.steps == tuple(sink.values) == (0, 1, 2, 3, 4) and timeline.skipped == () and sink.closed == 1
    (told,) = caplog.messages
    assert told.startswith("the trackers get no picture, or no tables: OSError: ") and "No space left" in told
    assert sorted(sink.tables) == (["spectrum", "steps"] if "figures" in fails else [])
    strict = Kept()
    with pytest.raises(OSError, match="No space left"):
        trained(strict, strict=True)
    assert strict.closed == 1


def test_a_sink_alone_is_no_list_of_them() -> None:
    with pytest.raises(UsageError, match=r"expected a list of them, \[Kept\(\.\.\.\)\]"):
        Watch(PROBE, sinks=Kept())  # type: ignore[arg-type]


def test_sinks_of_a_callback_are_told_once_of_every_training(tmp_path: Path) -> None:
    sink = Kept()
    options: dict[str, Any] = {"replicates": 20, "schedule": (0, 2), "sinks": [sink]}
    callback = TermwiseCallback(PROBE, **options)
    loops_at_hand.hugging_face(tmp_path, [callback], max_steps=4, save_steps=2)
    assert list(sink.values) == [0, 2, 4] and sink.closed == 1
    sink.values.clear()
    loops_at_hand.hugging_face(tmp_path, [callback], max_steps=6, save_steps=2, resume=True)
    assert list(sink.values) == [6] and sink.closed == 2 and callback.timeline.steps == (0, 2, 4, 6)


def test_a_library_that_is_missing_is_told_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("wandb", "trackio", "mlflow", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with caplog.at_level(logging.WARNING, "termwise"):
        timeline = trained(WandbSink(), TrackioSink(), MlflowSink(), TensorBoardSink("nowhere"), updates=1)
    assert timeline.steps == (0, 1) and len(caplog.messages) == 4
    for extra in ("wandb", "trackio", "mlflow", "tensorboard"):
        assert f"pip install 'termwise[{extra}]'" in caplog.text


@needs("tensorboard")
def test_tensorboard_has_scalars_picture_and_tables(tmp_path: Path) -> None:
    library("torch.utils.tensorboard")
    accumulator = library("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    timeline = trained(TensorBoardSink(tmp_path))
    found = accumulator(str(tmp_path))
    found.Reload()
    for name in NAMES:
        events = {event.step: event.value for event in found.Scalars(f"termwise/{name}")}
        assert events == pytest.approx(expected(timeline, name), rel=1e-6)
    (image,) = found.Images("termwise/depth-map")
    assert image.step == 4 and image.encoded_image_string.startswith(PNG) and image.width > 500
    assert len((tmp_path / "termwise-spectrum.csv").read_text().splitlines()) - 1 == len(timeline.spectrum)
    assert "termwise/spectrum/text_summary" in found.Tags()["tensors"]


@needs("wandb")
@pytest.mark.filterwarnings("ignore")
def test_wandb_has_scalars_picture_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    library("wandb")
    timeline = trained(WandbSink(mode="offline", project="termwise-test"))
    (log,) = tmp_path.rglob("run-*.wandb")
    end = time.monotonic() + 60
    while not (records := read_wandb(log))["exit"]:  # another process writes it
        assert time.monotonic() < end, "the log has no end"
        time.sleep(0.2)
    history = records["history"]
    for name in NAMES:
        rows = {row["termwise/step"]: row[f"termwise/{name}"] for row in history if f"termwise/{name}" in row}
        assert rows == pytest.approx(expected(timeline, name))
    (picture,) = [row["termwise/depth-map.path"] for row in history if "termwise/depth-map.path" in row]
    (png,) = tmp_path.rglob("*.png")
    assert str(png).endswith(picture)
    assert png.read_bytes().startswith(PNG)
    assert sorted(name.rpartition("-")[0] for name in records["artifacts"]) == ["termwise-spectrum", "termwise-steps"]


def read_wandb(path: Path) -> dict[str, list[Any]]:
    """The history and the artifacts in the log of an offline run."""
    proto = library("wandb.proto.wandb_internal_pb2")
    found: dict[str, list[Any]] = {"history": [], "artifacts": [], "exit": []}
    for data in records_of(path.read_bytes()):
        record = proto.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            found["history"].append(row)
        elif record.HasField("exit"):
            found["exit"].append(record.exit.exit_code)
        elif record.HasField("artifact"):
            found["artifacts"].append(record.artifact.name)
        elif record.HasField("request") and record.request.HasField("log_artifact"):
            found["artifacts"].append(record.request.log_artifact.artifact.name)
    return found


def records_of(log: bytes) -> Iterator[bytes]:
    """The records of a log of LevelDB's form, after 7 bytes of wandb's own.

    Blocks of 32 KiB hold fragments: checksum (4 bytes), length (2), kind (1: whole, 2: first, 3: middle, 4: last).
    """
    place, parts = 7, b""
    while place < len(log):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", log[place + 4 : place + 7])
        parts += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


@needs("mlflow")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_scalars_picture_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = library("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = f"file:{tmp_path}"
    timeline = trained(MlflowSink(tracking_uri=uri))
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("termwise").experiment_id])
    assert run.info.status == "FINISHED"
    for name in NAMES:
        history = client.get_metric_history(run.info.run_id, f"termwise/{name}")
        assert {one.step: one.value for one in history} == pytest.approx(expected(timeline, name))
    names = {Path(artifact.path).name for artifact in client.list_artifacts(run.info.run_id, "termwise")}
    assert names == {"depth-map.png", "spectrum.csv", "steps.csv"}
    # A run that is under way is used, and not ended.
    other = client.create_run(run.info.experiment_id).info.run_id
    trained(MlflowSink(other, tracking_uri=uri), updates=1)
    assert client.get_run(other).info.status == "RUNNING" and "termwise/loss" in client.get_run(other).data.metrics


@needs("trackio")
@pytest.mark.filterwarnings("ignore")
def test_trackio_has_scalars_picture_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    library("trackio")
    timeline = trained(TrackioSink(project="first"))
    (database,) = tmp_path.rglob("first*.db")
    with sqlite3.connect(database) as opened:
        rows = opened.execute("SELECT step, metrics FROM metrics").fetchall()
    by_step = [(step, json.loads(metrics)) for step, metrics in rows]
    for name in NAMES:
        found = {step: metrics[f"termwise/{name}"] for step, metrics in by_step if f"termwise/{name}" in metrics}
        assert found == pytest.approx(expected(timeline, name))
    assert any("termwise/depth-map" in metrics for _, metrics in by_step)
    pngs = list(tmp_path.rglob("*.png"))
    assert pngs and pngs[0].read_bytes().startswith(PNG)
