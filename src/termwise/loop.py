"""Training one network so that it can be killed at any moment.

Stochastic gradient descent with momentum and weight decay on the cross-entropy; the learning rate rises linearly over
the first steps and falls along half a cosine to zero (one cycle, after L. Smith, arXiv 1708.07120).  With T steps in
all, w the warm-up's share of them, and s = (step + 1/2) / T,

    rate(s) = learning_rate * min( s / w, (1 + cos(pi (s - w) / (1 - w))) / 2 ).

The rate is a function of the step, and the order of the samples one of seed and epoch: of a run's state, the step tells
both.  What else there is (weights, momenta, random states) is written to the resume state after every record and every
`save_every` seconds.  A run that is killed goes back to its last state and repeats what came after; records of that
stretch may be there already, and are not written again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise.data import DataSet
from termwise.errors import DataError, ModelError, RunError, UsageError, first_line
from termwise.rundir import read_state, write_state, write_weights
from termwise.seeds import owned_random, random_states, set_random_states, stream, untouched_random


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch on so many threads, as long as the context lasts: with another number the last bits differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _require(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise UsageError(f"training: {name} is {value}; it must be {expected}.")


class Optimiser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stochastic gradient descent and its one cycle.

    The defaults bring small networks of the CIFAR kind above 97 % on the digits within 3 to 15 epochs.

    Attributes:
        learning_rate: at its peak.
        momentum: of Nesterov's kind.
        weight_decay: on all parameters.
        warmup: the share of the steps over which the rate rises.
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        _require("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "above 0")
        _require("momentum", self.momentum, 0 < self.momentum < 1, "between 0 and 1")
        _require("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or above")
        _require("warmup", self.warmup, 0 < self.warmup < 1, "between 0 and 1")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of the update that follows `step` updates, of `steps` in all."""
        s = (step + 0.5) / steps
        fall = (1 + math.cos(math.pi * (s - self.warmup) / (1 - self.warmup))) / 2
        return self.learning_rate * (s / self.warmup if s < self.warmup else fall)


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long and in what portions; the last batch of an epoch is left out where it is not full."""

    epochs: int = 15
    batch_size: int = 32
    optimiser: Optimiser = Optimiser()

    def __post_init__(self) -> None:
        """Refuse what is no training."""
        _require("epochs", self.epochs, self.epochs >= 1, "at least 1")
        _require("batch_size", self.batch_size, self.batch_size >= 2, "at least 2")

    def steps(self, samples: int) -> int:
        """Number of updates on so many training samples."""
        return self.epochs * self.batches(samples)

    def batches(self, samples: int) -> int:
        """Number of updates in one epoch."""
        return max(samples // self.batch_size, 1)


class StepRecorder(Protocol):
    """What the loop needs of a `termwise.timeline.Recorder`."""

    @property
    def seconds(self) -> float:
        """Time spent inside."""
        ...

    @property
    def recorded(self) -> Collection[int]:
        """Steps of which there is a record."""
        ...

    def step(self, n: int, **scalars: Any) -> bool:
        """Record if due."""
        ...

    def finish(self, n: int, **scalars: Any) -> Any:
        """Record the last step unless it is there."""
        ...


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a training stands, after every update.

    Attributes:
        network: its name.
        step: updates done.
        steps: updates in all.
        loss: of the last batch, in nats; None before the first.
        recording_seconds: time inside the recorder, of all its starts.
        training_seconds: all other time, of all its starts.
        recorded: whether this step was recorded just now.
        accuracy: at the last record, on the probe; None before the first, and where nobody has looked.
        mean_depth: mean path length at the last record.
    """

    network: str
    step: int
    steps: int
    loss: float | None
    recording_seconds: float
    training_seconds: float
    recorded: bool
    accuracy: float | None = None
    mean_depth: float | None = None


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a finished training reports; seconds are those of all its starts together."""

    steps: int
    loss: float | None
    training_seconds: float
    recording_seconds: float


def train_network(
    model: nn.Module,
    data: DataSet | tuple[Tensor, Tensor],
    recorder: StepRecorder,
    *,
    settings: Training | None = None,
    seed: int = 0,
    directory: Path | None = None,
    save_every: float = 30.0,
    name: str = "network",
    progress: Callable[[Progress], Any] | None = None,
) -> Trained:
    """Train `model` in place, and go on from the state in `directory` where there is one.

    Args:
        model: with its initial weights; returns logits (N, classes).
        data: its training part is used, or (inputs, targets): (N, ...) and class numbers (N,).
        recorder: told of every step, from 0 (before the first update) to the last.
        settings: epochs, batch size, optimiser.
        seed: of the order of the samples and of all that is random in the model.  The random states of the caller are
            left as they are.
        directory: for the resume state and the checkpoints; None keeps nothing.
        save_every: seconds between resume states, besides the one after each record.
        name: of the network, for progress and messages.
        progress: called after every step.

    Returns:
        The seconds and the last loss.

    Raises:
        DataError: the data are empty, not finite, or their labels do not fit the model.
        ModelError: the loss is NaN or infinite; all that was written stays.
        RunError: the state in `directory` is corrupt or of another training.
    """
    inputs, targets = (data.train_inputs, data.train_targets) if isinstance(data, DataSet) else data
    _check(inputs, targets)
    mode = model.training
    loop = _Loop(model, inputs, targets, recorder, settings or Training(), seed, directory, save_every, name, progress)
    try:
        with owned_random(seed):
            return loop.run()
    finally:
        model.train(mode)


def _check(inputs: Tensor, targets: Tensor) -> None:
    if not len(inputs) or len(inputs) != len(targets):
        raise DataError(f"training: {len(inputs)} inputs and {len(targets)} targets; give as many, and at least one.")
    if not math.isfinite(inputs.sum(dtype=torch.float64).item()):
        raise DataError("training: the inputs hold NaN or infinity. Clean the data before training.")
    if targets.is_floating_point() or int(targets.min()) < 0:
        raise DataError("training: targets must be class numbers from 0, as integers (targets.long()).")


class _Loop:
    """The state of one training and what is done with it."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        recorder: StepRecorder,
        settings: Training,
        seed: int,
        directory: Path | None,
        save_every: float,
        name: str,
        progress: Callable[[Progress], Any] | None,
    ) -> None:
        self.model, self.inputs, self.targets, self.recorder = model, inputs, targets, recorder
        self.settings, self.seed, self.directory, self.name = settings, seed, directory, name
        self.save_every, self.progress = save_every, progress
        self.steps = settings.steps(len(inputs))
        self.optimiser = torch.optim.SGD(
            model.parameters(),
            lr=settings.optimiser.learning_rate,
            momentum=settings.optimiser.momentum,
            weight_decay=settings.optimiser.weight_decay,
            nesterov=True,
        )
        self.step, self.saved = 0, -1
        self.loss: float | None = None
        self.order: tuple[int, Tensor] = (-1, targets)
        self.clock = _Clock(recorder)

    def run(self) -> Trained:
        """From the last state to the end."""
        self._restore()
        while self.step < self.steps:
            self._record(last=False)
            self._update()
        self._record(last=True)
        seconds = self.clock.read()
        return Trained(self.steps, self.loss, seconds.training, seconds.recording)

    def _record(self, last: bool) -> None:
        """Tell the recorder, write what belongs to a record, save, and report."""
        scalars = {} if self.loss is None else {"train_loss": self.loss}
        with untouched_random():
            tell = self.recorder.finish if last else self.recorder.step
            try:
                made = bool(tell(self.step, **scalars))
            except ModelError as error:
                raise self._unrecorded(error) from error
        self._checkpoint()
        if (made or last or self.clock.since_save() >= self.save_every) and self.step != self.saved:
            self._save()
        if self.progress is not None:
            seconds = self.clock.read()
            self.progress(
                Progress(self.name, self.step, self.steps, self.loss, seconds.recording, seconds.training, made)
            )

    def _update(self) -> None:
        rows = self._rows()
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.optimiser.rate(self.step, self.steps)
        self.model.train()
        logits = self.model(self.inputs[rows])
        if int(self.targets[rows].max()) >= logits.shape[-1]:
            raise DataError(
                f"{self.name}: label {int(self.targets[rows].max())} in the data, but the model has {logits.shape[-1]} "
                "outputs. Renumber the labels, or give the model as many classes."
            )
        loss = F.cross_entropy(logits, self.targets[rows])
        self.loss = loss.item()
        if not math.isfinite(self.loss):
            raise self._diverged()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.step += 1

    def _rows(self) -> Tensor:
        """The samples of the next batch: their order depends on seed and epoch alone."""
        per_epoch = self.settings.batches(len(self.inputs))
        epoch, batch = divmod(self.step, per_epoch)
        if self.order[0] != epoch:
            generator = torch.Generator().manual_seed(stream(self.seed, epoch))
            self.order = epoch, torch.randperm(len(self.inputs), generator=generator)
        size = self.settings.batch_size
        return self.order[1][batch * size : (batch + 1) * size]

    def _diverged(self) -> ModelError:
        kept = f" What was recorded before stays in {self.directory}." if self.directory else ""
        return ModelError(
            f"{self.name}: the training diverged: the loss of update {self.step + 1} of {self.steps} is {self.loss}."
            f"{kept} Train it with {self._milder()}."
        )

    def _unrecorded(self, error: ModelError) -> ModelError:
        told = f"{self.name}, after update {self.step} of {self.steps}: {error}"
        return ModelError(f"{told} If the training diverged, train with {self._milder()}." if self.step else told)

    def _milder(self) -> str:
        rate = self.settings.optimiser.learning_rate
        elsewhere = ", in another directory" if self.directory else ""
        return f"a lower learning rate (it is {rate:g}; try {rate / 3:.1g}) or a longer warm-up{elsewhere}"

    # --- what is written ---

    def _checkpoint(self) -> None:
        """The weights at a record; also where a kill came between record and checkpoint."""
        if self.directory is None or self.step not in self.recorder.recorded:
            return
        path = self.directory / "checkpoints" / f"step-{self.step:08}.safetensors"
        if not path.exists():
            write_weights(path, self.model.state_dict(), network=self.name, step=self.step)

    def _identity(self) -> dict[str, Any]:
        """What the state of this training cannot be mixed with."""
        return {"settings": msgspec.to_builtins(self.settings), "seed": self.seed, "samples": len(self.inputs)}

    def _save(self) -> None:
        self.clock.saved()
        self.saved = self.step
        if self.directory is None:
            return
        seconds = self.clock.read()
        state = {
            "identity": self._identity(),
            "step": self.step,
            "loss": self.loss,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": random_states(),
            "training_seconds": seconds.training,
            "recording_seconds": seconds.recording,
        }
        write_state(self.directory / "state.pt", state)

    def _restore(self) -> None:
        state = None if self.directory is None else read_state(self.directory / "state.pt")
        if state is None:
            return
        if state["identity"] != self._identity():
            raise RunError(
                f"{self.directory}: the resume state is of another training:\n  {state['identity']} there,\n"
                f"  {self._identity()} now\nGive another directory, or the same settings."
            )
        try:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise RunError(
                f"{self.directory}: the resume state does not fit {self.name} ({first_line(error)}). "
                "Give another directory, or the same model."
            ) from error
        self.step = self.saved = state["step"]
        self.loss = state["loss"]
        set_random_states(state["random"])
        self.clock.add(state["training_seconds"], state["recording_seconds"])


@dataclasses.dataclass
class _Seconds:
    training: float
    recording: float


class _Clock:
    """Time inside and outside the recorder, added to that of earlier starts."""

    def __init__(self, recorder: StepRecorder) -> None:
        self._recorder = recorder
        self._start = self._saved = time.monotonic()
        self._recorded = recorder.seconds
        self._before = _Seconds(0.0, 0.0)

    def add(self, training: float, recording: float) -> None:
        self._before = _Seconds(training, recording)

    def read(self) -> _Seconds:
        recording = self._recorder.seconds - self._recorded
        training = time.monotonic() - self._start - recording
        return _Seconds(self._before.training + training, self._before.recording + recording)

    def saved(self) -> None:
        self._saved = time.monotonic()

    def since_save(self) -> float:
        return time.monotonic() - self._saved
