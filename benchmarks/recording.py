"""What recording costs: time inside the Recorder over the rest of a training.

    python -m benchmarks.recording [--data fashion-mnist:DIR] [--epochs 3] [--probe 128] [--threads 2] [--unlimited]
                                   [--loop plain | huggingface | lightning]

ResNet-20 is trained on Fashion-MNIST for three epochs with the default schedule and the budget of the bar: 5 % with at
least 128 probe samples and 20 checkpoints.  With --unlimited there is no budget, and the bar is the same.  --loop: the
same training in the Trainer of another library, and the time inside the callback over the rest of it.

A budget never denies the first 19 ticks and the last record, and this training has room for little more: it is these 20
that the ratio is of, whatever the loop.  Two thirds of them are made in the first tenth of the training, so that a
machine which has more to do then than later shows another ratio; its load is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from termwise import Recorder, Timeline, nets
from termwise.data import DataSet, load
from termwise.training import Training, train_network

BAR = 0.05
BATCH = 128


class Clock:
    """Seconds spent inside of something."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count what is inside."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def timed(kind: type, clock: Clock, hooks: tuple[str, ...]) -> type:
    """The callback with its hooks on the clock."""

    def on(name: str) -> Any:
        def hook(self: Any, *arguments: Any, **named: Any) -> Any:
            with clock.running():
                return getattr(kind, name)(self, *arguments, **named)

        return hook

    return type("Timed", (kind,), {name: on(name) for name in hooks})


def huggingface(model: nn.Module, data: DataSet, probe: tuple[Tensor, Tensor], epochs: int, **options: Any) -> Any:
    """Train in the Trainer of transformers; returns the timeline, seconds inside the callback, and seconds in all."""
    import transformers

    from termwise.integrations.huggingface import TermwiseCallback

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = self.net(pixel_values)
            return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}

    samples = [{"pixel_values": x, "labels": y} for x, y in zip(data.train_inputs, data.train_targets, strict=True)]
    clock = Clock()
    hooks = ("on_train_begin", "on_step_end", "on_train_end")
    callback = timed(TermwiseCallback, clock, hooks)(probe, **options)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = transformers.TrainingArguments(
            output_dir=scratch, num_train_epochs=epochs, per_device_train_batch_size=BATCH, learning_rate=0.1,
            optim="sgd", optim_args="momentum=0.9", save_strategy="no", report_to=[], use_cpu=True,
            disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        trainer = transformers.Trainer(Classifier(), arguments, train_dataset=samples, callbacks=[callback])
        start = time.perf_counter()
        trainer.train()
        whole = time.perf_counter() - start
        return callback.timeline, clock.seconds, whole


def lightning(model: nn.Module, data: DataSet, probe: tuple[Tensor, Tensor], epochs: int, **options: Any) -> Any:
    """The same in the Trainer of Lightning."""
    import lightning.pytorch as pl

    from termwise.integrations.lightning import TermwiseCallback

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    clock = Clock()
    hooks = ("on_train_start", "on_train_batch_end", "on_train_end")
    callback = timed(TermwiseCallback, clock, hooks)(probe, module="net", **options)
    loader = DataLoader(TensorDataset(data.train_inputs, data.train_targets), batch_size=BATCH, shuffle=True)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = pl.Trainer(
            default_root_dir=scratch, max_epochs=epochs, callbacks=[callback], accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        start = time.perf_counter()
        trainer.fit(Classifier(), loader)
        whole = time.perf_counter() - start
        return callback.timeline, clock.seconds, whole


def plain(model: nn.Module, data: DataSet, probe: tuple[Tensor, Tensor], epochs: int, **options: Any) -> Any:
    """The same in the loop of Termwise, with a Recorder."""
    recorder = Recorder(model, probe, **options)
    done = train_network(model, data, recorder, settings=Training(epochs=epochs, batch_size=BATCH), name="ResNet-20")
    return recorder.timeline, done.recording_seconds, done.recording_seconds + done.training_seconds


LOOPS = {"plain": plain, "huggingface": huggingface, "lightning": lightning}


def main() -> None:
    """Train once and print the ratio."""
    parser = argparse.ArgumentParser(description="Time inside the Recorder over the rest of a training.")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--probe", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--unlimited", action="store_true", help="the default schedule without a budget")
    parser.add_argument("--loop", choices=LOOPS, default="plain", help="whose loop trains")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = load(options.data)
    model = nets.resnet(20, channels=data.train_inputs.shape[1], classes=data.classes)
    probe = (data.test_inputs[: options.probe], data.test_targets[: options.probe])
    budget = None if options.unlimited else BAR
    timeline: Timeline
    busy = os.getloadavg()[0]
    timeline, recording, whole = LOOPS[options.loop](model, data, probe, options.epochs, budget=budget)
    training = whole - recording
    ratio, records = recording / training, len(timeline.steps)
    enough = ratio <= BAR and records >= 20 and options.probe >= 128
    closure = max(profile.closure for profile in timeline.profiles)
    print(f"torch {torch.__version__}, {options.threads} thread(s); ResNet-20 on {data.title}, {options.epochs} epochs")
    print(
        f"loop: {options.loop}; budget: {'none' if budget is None else format(budget, '.0%')}; steps: {timeline.steps}"
    )
    print(f"{timeline.steps[-1]} updates of {BATCH} in {training:.0f} s; {records} records of {options.probe} samples")
    print(f"in {recording:.1f} s = {ratio:.1%} (bar {BAR:.0%}: {'met' if enough else 'NOT MET'});")
    last = timeline.timings[-1]
    if last is not None:
        print(f"by the budget's own account {last.recording_seconds:.1f} s beside {last.training_seconds:.0f} s;")
    print(f"worst closure {closure:.1e}; load average {busy:.1f} before and {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
