"""Termwise in the loops of others: what is recorded is what the checkpoints of the same steps are, and nothing breaks.

The oracle is `termwise.profile` of a fresh model with the weights that the loop itself wrote at that step.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import logging
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loops_at_hand
from loops_at_hand import PROBE, Classifier, Net
from snapshots import snapshot, unchanged
from termwise import Timeline, profile
from termwise.checkpoints import find_checkpoints
from termwise.errors import UsageError
from termwise.integrations.huggingface import TermwiseCallback as ForHuggingFace
from termwise.integrations.lightning import TermwiseCallback as ForLightning
from termwise.integrations.watch import Options, Watch
from termwise.timeline import Recorder, reestimated
from termwise.weights import fit_weights

STEPS = (8, 16, 24)
OPTIONS: dict[str, Any] = {"replicates": 20, "schedule": (0, 1, 8, 16)}


def require_same(timeline: Timeline, folder: Path, model: nn.Module, part: str = "") -> None:
    """The records are the profiles of the checkpoints of the same steps, bit by bit."""
    found, _ = find_checkpoints([folder])
    assert {one.step for one in found} == set(STEPS) <= set(timeline.steps)
    for checkpoint in found:
        fresh = copy.deepcopy(model).train()
        fit_weights(fresh, checkpoint.weights(), "model", checkpoint.path)
        network = reestimated(fresh.get_submodule(part), PROBE[0])
        expected = profile(network, PROBE, replicates=20, output=None)
        record = timeline.profiles[timeline.steps.index(checkpoint.step)]
        assert record.share.rows() == expected.share.rows() and record.loss == expected.loss
        assert record.truncated.rows() == expected.truncated.rows() and record.closure < 1e-5


def require_same_training(model: nn.Module, alone: nn.Module) -> None:
    """Random states, gradients, modes and buffers were left alone: every number that follows from them is the same."""
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == [module.training for module in alone.modules()]
    assert [sorted(vars(module)) for module in model.modules()] == [sorted(vars(module)) for module in alone.modules()]


class Stop(Exception):
    """A kill in the middle of a training."""


def test_no_library_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, termwise, termwise.integrations.huggingface, termwise.integrations.lightning; "
        "print([m for m in ('transformers', 'lightning', 'pytorch_lightning', 'matplotlib', 'wandb') "
        "if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- Hugging Face ---


@pytest.mark.parametrize("more", [{}, {"bf16": True}, {"gradient_accumulation_steps": 2}], ids=str)
def test_the_trainer_of_hugging_face_is_recorded_as_its_checkpoints_are(tmp_path: Path, more: dict[str, Any]) -> None:
    callback = ForHuggingFace(PROBE, **OPTIONS)
    model = loops_at_hand.hugging_face(tmp_path / "with", [callback], save_steps=8, **more)
    timeline = callback.timeline
    assert timeline.steps == (0, 1, *STEPS) and timeline.skipped == ()
    require_same(timeline, tmp_path / "with", Classifier())
    first = profile(reestimated(Classifier().train(), PROBE[0]), PROBE, replicates=20)
    assert timeline.profiles[0].share.rows() == first.share.rows()
    assert sorted(path.name for path in (tmp_path / "with" / "termwise-records").iterdir()) == [
        f"step-{step:08}.termwise" for step in timeline.steps
    ]
    # The training is what it is without it: random states, gradients, modes and buffers were left alone.
    alone = loops_at_hand.hugging_face(tmp_path / "without", **more, save_strategy="no")
    require_same_training(model, alone)


class Kill:
    """A callback of Hugging Face that ends the training after an update."""

    def __new__(cls, step: int) -> Any:
        from transformers import TrainerCallback

        class Killing(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == step:
                    raise Stop

        return Killing()


def test_a_training_of_hugging_face_that_is_resumed_goes_on_with_its_records(tmp_path: Path) -> None:
    options: dict[str, Any] = {"replicates": 20, "schedule": range(0, 25, 2)}
    whole = ForHuggingFace(PROBE, **options)
    loops_at_hand.hugging_face(tmp_path / "whole", [whole], save_steps=8)
    with pytest.raises(Stop):
        loops_at_hand.hugging_face(tmp_path / "cut", [ForHuggingFace(PROBE, **options), Kill(13)], save_steps=8)
    records = tmp_path / "cut" / "termwise-records"
    kept = {path.name: path.stat().st_mtime_ns for path in records.glob("step-*") if path.name < "step-00000009"}
    again = ForHuggingFace(PROBE, **options)
    loops_at_hand.hugging_face(tmp_path / "cut", [again], resume=True, save_steps=8)
    assert again.timeline.spectrum.rows() == whole.timeline.spectrum.rows()
    assert again.timeline.table.rows() == whole.timeline.table.rows()
    # What came after the checkpoint was measured again; nothing is lost.
    assert sorted(path.name for path in (records / "earlier-1").iterdir()) == [
        "step-00000010.termwise",
        "step-00000012.termwise",
    ]
    assert len(kept) == 5 and all((records / name).stat().st_mtime_ns == time for name, time in kept.items())


def test_the_last_record_is_not_that_of_the_best_model(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=24,
        per_device_train_batch_size=8,
        learning_rate=0.05,
        save_steps=8,
        eval_steps=8,
        eval_strategy="steps",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # the first one is the "best"
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    callback, model = ForHuggingFace(PROBE, **OPTIONS), Classifier()
    rows: Any = loops_at_hand.Rows()
    Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[callback]).train()
    require_same(callback.timeline, tmp_path, Classifier())
    assert callback.timeline.skipped == ()


# --- what fails ---


class Breaking(Classifier):
    """A model that can be trained, and not recorded from some update on."""

    calls = 0

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        self.calls += 1
        if labels is None and self.calls > 4:
            raise RuntimeError("no more of this")
        return super().forward(x, labels)


def test_what_fails_while_recording_is_told_once_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = ForHuggingFace(PROBE, **OPTIONS)
    with caplog.at_level(logging.WARNING, "termwise"):
        model = loops_at_hand.hugging_face(tmp_path / "a", [callback], Breaking(), save_strategy="no")
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("termwise")]
    assert "no more of this" in told and "strict=True" in told and "the training goes on" in told
    assert len(callback.timeline.skipped) > 1 and 0 < len(callback.timeline.steps) < 5
    alone = loops_at_hand.hugging_face(tmp_path / "b", [], Breaking(), save_strategy="no")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))
    strict = ForHuggingFace(PROBE, strict=True, **OPTIONS)
    with pytest.raises(RuntimeError, match="no more of this"):
        loops_at_hand.hugging_face(tmp_path / "c", [strict], Breaking())


def test_a_recorder_that_cannot_begin_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch(PROBE, unit="nonsense")
    with caplog.at_level(logging.WARNING, "termwise"):
        watch.begin(Net())
        assert not watch.step(1) and not watch.finish(2)
    assert len(caplog.messages) == 1 and "nonsense" in caplog.text
    with pytest.raises(UsageError, match="nothing is recorded: step 0: UsageError"):
        _ = watch.timeline
    with pytest.raises(UsageError, match="nonsense"):
        Watch(PROBE, unit="nonsense", strict=True).begin(Net())
    missing = Watch(PROBE, module="nowhere")
    missing.begin(Net())
    assert "Net has no such part" in missing.failures[0]


@pytest.mark.parametrize("make", [Watch, ForHuggingFace])
def test_arguments_that_are_wrong_are_refused_before_the_training(make: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="sheep: no option of a Recorder"):
        make(PROBE, sheep=1)
    with pytest.raises(UsageError, match="group: no option"):
        make(PROBE, group=None)
    with pytest.raises(UsageError, match="pair of tensors"):
        make(PROBE[0])
    with pytest.raises(UsageError, match="nothing is recorded: records are made by the first process"):
        _ = make(PROBE).timeline


def test_the_options_are_those_of_a_recorder() -> None:
    of_recorder = inspect.signature(Recorder).parameters.keys() - {"model", "probe", "directory", "group"}
    assert of_recorder == Options.__annotations__.keys()


def test_weights_in_pieces_are_refused_before_anything_waits(caplog: pytest.LogCaptureFixture) -> None:
    model = Net()
    vars(model.head.weight)["ds_id"] = 3
    watch = Watch(PROBE).begin(model)
    assert "zero_to_fp32.py" in watch.failures[0]


# --- a loop of one's own ---


def trained(watch: Watch, updates: int, seed: int = 0) -> Net:
    model, (x, y) = Net(seed), loops_at_hand.task()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    watch.begin(model)
    for n in range(updates):
        model.train()
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        watch.step(n + 1)
        watch.step(n + 1)  # as after a batch that is accumulated
    watch.finish(updates)
    return model


def test_a_training_that_starts_anew_has_records_of_its_own(tmp_path: Path) -> None:
    options: dict[str, Any] = {"directory": tmp_path, **OPTIONS}
    first, second = Watch(PROBE, **options), Watch(PROBE, **options)
    trained(first, 4)
    trained(second, 3, seed=1)
    assert first.timeline.steps == (0, 1, 4) and second.timeline.steps == (0, 1, 3)
    assert Timeline.from_directory(tmp_path).spectrum.rows() == second.timeline.spectrum.rows()
    olds = [sorted(path.name for path in (tmp_path / f"earlier-{k}").iterdir()) for k in (1, 2)]
    assert olds == [["step-00000001.termwise", "step-00000004.termwise"], ["step-00000000.termwise"]]
    # Other options, the same start: anew as well.
    third = Watch(PROBE, unit="blocks", **options)
    trained(third, 2, seed=1)
    assert third.timeline.steps == (0, 1, 2) and third.failures == []
    # Gone on in the middle of a training with other weights: nothing is recorded, and nothing touched.
    fourth = Watch(PROBE, unit="blocks", **options).begin(Net(5), step=1)
    assert "on record with other weights" in fourth.failures[0] and not fourth.finish(9)


def test_every_training_has_the_records_in_its_own_folder(tmp_path: Path) -> None:
    callback = ForHuggingFace(PROBE, replicates=20, schedule=(0,))
    for folder in (tmp_path / "a", tmp_path / "b"):
        loops_at_hand.hugging_face(folder, [callback], max_steps=2, save_strategy="no")
        assert Timeline.from_directory(folder / "termwise-records").steps == callback.timeline.steps == (0, 2)


def test_all_that_is_done_in_the_hooks_counts_as_recording(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a clock that only stands still in between: 3 s to begin, 2 s a record for a tracker, 40 s to close it."""
    now = [100.0]

    class Slow:
        def scalars(self, step: int, values: Any) -> None:
            now[0] += 2

        def picture(self, step: int, path: Path) -> None: ...

        def table(self, path: Path) -> None: ...

        def close(self) -> None:
            now[0] += 40

    def part(model: nn.Module, name: str) -> nn.Module:
        now[0] += 3
        return model

    for module in ("budget", "integrations.watch"):
        monkeypatch.setattr(f"termwise.{module}.clock", lambda: now[0])
    monkeypatch.setattr("termwise.integrations.watch._part", part)
    watch = Watch(PROBE, budget=0.1, replicates=2, schedule=range(0, 500, 5), sinks=[Slow()])
    watch.begin(Net())
    with caplog.at_level(logging.WARNING, "termwise"):
        for n in range(1, 501):
            now[0] += 1
            watch.step(n)
        watch.finish(500)
        watch.finish(500)
    # The rule again: after n updates n seconds of training, 3 + 2 r of recording for r records, 2 s a record.
    expected = [0]
    for n in range(5, 500, 5):
        if len(expected) < 19 or 3 + 2 * len(expected) + 2 * 2 <= 0.1 * n:
            expected.append(n)
    steps, timings = watch.timeline.steps, watch.timeline.timings
    assert steps == (*expected, 500) and len(steps) < 30
    told = [(timing.training_seconds, timing.recording_seconds) for timing in timings if timing is not None]
    assert told == [(n, 3 + 2 * r) for r, n in enumerate(steps)]
    # What it takes to close is known when it is over, and said once.
    spent = 3 + 2 * len(steps) + 40
    assert [f"recording took {spent:.1f} s beside 500.0 s of training" in text for text in caplog.messages] == [True]


def test_the_model_is_left_as_found() -> None:
    model, (x, y) = Net().train(), loops_at_hand.task()
    nn.functional.cross_entropy(model(x), y).backward()
    before, state = snapshot(model), torch.get_rng_state()
    watch = Watch(PROBE, budget=0.05, **OPTIONS).begin(model)
    watch.finish(1)
    unchanged(before, snapshot(model))
    assert torch.equal(state, torch.get_rng_state()) and watch.timeline.timings[0] is not None


def test_a_callback_can_be_copied_and_sent() -> None:
    from transformers import TrainerCallback

    callback = ForHuggingFace(PROBE, unit="blocks")
    assert isinstance(callback, TrainerCallback) and isinstance(callback, ForHuggingFace)
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert type(other) is type(callback) and vars(other).keys() == vars(callback).keys()


# --- Lightning ---

PACKAGES = [
    pytest.param(
        name, marks=pytest.mark.skipif(not importlib.util.find_spec(name.partition(".")[0]), reason=f"no {name}")
    )
    for name in ("lightning.pytorch", "pytorch_lightning")
]


def lit(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the package says of those that it needs
        return importlib.import_module(name)


def checkpoints(package: Any, folder: Path) -> Any:
    return package.callbacks.ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_train_steps=8)


@pytest.mark.parametrize("more", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}], ids=str)
@pytest.mark.parametrize("name", PACKAGES)
def test_the_trainer_of_lightning_is_recorded_as_its_checkpoints_are(
    name: str, more: dict[str, Any], tmp_path: Path
) -> None:
    package = lit(name)
    callback, module = (
        ForLightning(PROBE, module="model", **OPTIONS),
        loops_at_hand.lightning_module(package.LightningModule),
    )
    assert isinstance(callback, package.Callback)
    loops_at_hand.lightning(
        tmp_path / "with", package, module, [callback, checkpoints(package, tmp_path / "with")], **more
    )
    timeline = callback.timeline
    assert timeline.steps == (0, 1, *STEPS) and timeline.skipped == ()
    fresh = loops_at_hand.lightning_module(package.LightningModule, seed=1)
    require_same(timeline, tmp_path / "with", fresh, "model")
    first = profile(reestimated(Net().train(), PROBE[0]), PROBE, replicates=20)
    assert timeline.profiles[0].share.rows() == first.share.rows()
    losses = timeline.table["train_loss"]
    assert losses[0] != losses[0] and all(0 < loss < 3 for loss in losses[1:])
    alone = loops_at_hand.lightning_module(package.LightningModule)
    loops_at_hand.lightning(tmp_path / "without", package, alone, enable_checkpointing=False, **more)
    require_same_training(module, alone)


@pytest.mark.parametrize("name", PACKAGES[:1])
def test_a_training_of_lightning_that_is_resumed_goes_on_with_its_records(name: str, tmp_path: Path) -> None:
    package = lit(name)
    options: dict[str, Any] = {"replicates": 20, "schedule": range(0, 25, 2)}

    class Killing(package.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step == 13:
                raise Stop

    def run(folder: Path, *more: Any, resume: Path | None = None) -> Any:
        callback, module = ForLightning(PROBE, **options), loops_at_hand.lightning_module(package.LightningModule)
        module.model.drop.p = 0.0  # Lightning does not put random states back
        callbacks = [callback, *more, checkpoints(package, folder)]
        loops_at_hand.lightning(folder, package, module, callbacks, resume=resume)
        return callback

    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "cut", Killing())
    again = run(tmp_path / "cut", resume=tmp_path / "cut" / "checkpoints" / "epoch=0-step=8.ckpt")
    assert again.timeline.spectrum.rows() == whole.timeline.spectrum.rows()
    assert again.timeline.steps == tuple(range(0, 25, 2)) and again.timeline.skipped == ()
    earlier = tmp_path / "cut" / "termwise-records" / "earlier-1"
    assert sorted(path.name for path in earlier.iterdir()) == ["step-00000010.termwise", "step-00000012.termwise"]


@pytest.mark.parametrize("name", PACKAGES[:1])
def test_a_module_that_cannot_be_called_is_told_and_trained(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = lit(name)
    callback, module = ForLightning(PROBE, **OPTIONS), loops_at_hand.lightning_module(package.LightningModule)
    del type(module).forward
    with caplog.at_level(logging.WARNING, "termwise"):
        trainer = loops_at_hand.lightning(tmp_path, package, module, [callback], enable_checkpointing=False)
    assert trainer.global_step == 24 and len(caplog.messages) == 1 and "module=" in caplog.text
    with pytest.raises(UsageError, match="nothing is recorded: step 0"):
        _ = callback.timeline
