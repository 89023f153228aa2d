"""Training one network: what the recorder is told, what is random, what is saved, and what a kill can cost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise import loop
from termwise.errors import DataError, ModelError, RunError, UsageError
from termwise.loop import Optimiser, Progress, Training, train_network
from termwise.rundir import read_state
from termwise.seeds import owned_random, stream

SETTINGS = Training(epochs=3, batch_size=8)  # 40 samples: 15 steps
STEPS = 15
DUE = (0, 1, 2, 3, 4, 6, 8, 11, STEPS)


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


class Notes:
    """A recorder that notes the weights as a text file a step; it moves the random states, which must not matter."""

    def __init__(self, model: nn.Module, directory: Path | None = None, die_at: int | None = None) -> None:
        self.model, self.directory, self.die_at = model, directory, die_at
        self.seconds = 0.0
        self.told: list[tuple[int, dict[str, float]]] = []
        self.notes: dict[int, str] = {}
        if directory is not None and directory.exists():
            self.notes = {int(path.stem): path.read_text() for path in directory.iterdir()}

    @property
    def recorded(self) -> tuple[int, ...]:
        return tuple(sorted(self.notes))

    def step(self, n: int, **scalars: float) -> bool:
        self.told.append((n, scalars))
        if n == self.die_at:
            raise Killed
        return n in DUE and self._note(n, scalars)

    def finish(self, n: int, **scalars: float) -> bool:
        self.told.append((n, scalars))
        return self._note(n, scalars)

    def _note(self, n: int, scalars: dict[str, float]) -> bool:
        if n in self.notes:
            return False
        torch.rand(3)
        self.seconds += 0.25
        self.notes[n] = f"{float(sum(p.detach().double().sum() for p in self.model.parameters())).hex()} {scalars}"
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / f"{n}.txt").write_text(self.notes[n])
        return True


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    targets = torch.arange(40) % 4
    return torch.randn(40, 6, generator=draw) + 4 * F.one_hot(targets, 6), targets


def network() -> nn.Module:
    """With dropout and a batch norm: both have a state of their own."""
    with owned_random(5):
        return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 4))


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def trained(data: tuple[Tensor, Tensor], **changed: Any) -> tuple[nn.Module, Notes]:
    model = network()
    notes = Notes(model)
    train_network(model, data, notes, **{"settings": SETTINGS, "seed": 7, **changed})
    return model, notes


# --- what is trained ---


def test_it_learns(data: tuple[Tensor, Tensor]) -> None:
    model, _ = trained(data, settings=Training(epochs=12, batch_size=8))
    assert (model.eval()(data[0]).argmax(dim=1) == data[1]).float().mean() >= 0.95


def test_the_recorder_is_told_every_step_once(data: tuple[Tensor, Tensor]) -> None:
    _, notes = trained(data)
    assert [n for n, _ in notes.told] == list(range(STEPS + 1))
    assert notes.told[0][1] == {}  # no update yet, so no loss
    assert all(set(scalars) == {"train_loss"} for _, scalars in notes.told[1:])
    assert notes.recorded == DUE


def test_the_updates_are_those_of_plain_sgd(data: tuple[Tensor, Tensor]) -> None:
    """Momentum, weight decay and the rate, written out by hand in float64 for a linear model."""
    inputs, targets = data[0].double(), data[1]
    model = nn.Linear(6, 4).double()
    weight = torch.cat([model.weight.detach(), model.bias.detach()[:, None]], dim=1)
    optimiser = Optimiser(learning_rate=0.3, momentum=0.8, weight_decay=0.01, warmup=0.25)
    settings = Training(epochs=4, batch_size=40, optimiser=optimiser)
    train_network(model, (inputs, targets), Notes(model), settings=settings)
    extended = torch.cat([inputs, torch.ones(40, 1, dtype=torch.float64)], dim=1)
    velocity = torch.zeros_like(weight)
    half = 0.5 * 0.3
    rates = [half, *(half * (1 + np.cos(np.pi * (s - 0.25) / 0.75)) for s in (0.375, 0.625, 0.875))]
    for rate in rates:
        slope = ((extended @ weight.T).softmax(dim=1) - F.one_hot(targets, 4)).T @ extended / 40 + 0.01 * weight
        velocity = 0.8 * velocity + slope
        weight = weight - rate * (slope + 0.8 * velocity)
    assert torch.allclose(torch.cat([model.weight, model.bias[:, None]], dim=1), weight, atol=1e-12)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.2), (2, 0.3), (66, 0.25), (660, 0.2)])
def test_the_rate_rises_once_and_falls_once(steps: int, warmup: float) -> None:
    optimiser = Optimiser(learning_rate=0.1, warmup=warmup)
    rates = np.array([optimiser.rate(step, steps) for step in range(steps)])
    top = int(rates.argmax())
    assert (rates > 0).all() and rates.max() <= 0.1
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top:]) < 0).all()
    if steps > 50:
        assert top == pytest.approx(warmup * steps, abs=1) and rates.max() > 0.099 and rates[-1] < 1e-4


def test_an_epoch_sees_each_sample_once_in_an_order_of_its_own(data: tuple[Tensor, Tensor]) -> None:
    class Eavesdropper(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.extend(input[:, 0].tolist())
            return super().forward(input)

    def order(seed: int) -> list[list[float]]:
        seen.clear()
        model = Eavesdropper(6, 4)
        train_network(model, data, Notes(model), settings=SETTINGS, seed=seed)
        return [seen[start : start + 40] for start in range(0, 120, 40)]

    seen: list[float] = []
    first, again, other = order(1), order(1), order(2)
    assert all(sorted(epoch) == sorted(data[0][:, 0].tolist()) for epoch in first)
    assert first[0] != first[1] and first[1] != first[2]
    assert first == again and first[0] != other[0]


def test_the_last_batch_is_left_out_unless_it_is_the_only_one() -> None:
    assert Training(epochs=2, batch_size=32).steps(100) == 6
    assert Training(epochs=2, batch_size=32).steps(20) == 2


# --- what is random ---


def test_same_seed_same_bits_whatever_the_caller_draws(data: tuple[Tensor, Tensor]) -> None:
    first, notes = trained(data)
    for draw in (torch.rand, np.random.rand):
        draw(10)
    random.random()
    second, others = trained(data)
    assert bits(first) == bits(second) and notes.notes == others.notes
    assert bits(trained(data, seed=8)[0]) != bits(first)


def test_the_random_states_of_the_caller_are_left_as_they_are(data: tuple[Tensor, Tensor]) -> None:
    def draw() -> list[Any]:
        return [torch.rand(4).tolist(), np.random.rand(4).tolist(), random.random(), np.random.randn()]

    def seed() -> None:
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        np.random.randn()  # leaves a second normal number in store

    seed()
    expected = draw()
    seed()
    trained(data)
    assert draw() == expected
    seed()
    with pytest.raises(ZeroDivisionError), owned_random(4):
        _ = draw()[2] / 0
    assert draw() == expected


def test_streams_differ_and_stay() -> None:
    assert len({stream(0), stream(1), stream(0, 0), stream(0, 1), stream(0, 1, 0), stream(2**32)}) == 6
    assert stream(0, 1) == 4881901421217228719  # the promise of NumPy's SeedSequence


def test_the_model_keeps_its_mode(data: tuple[Tensor, Tensor]) -> None:
    for mode in (True, False):
        model = network().train(mode)
        train_network(model, data, Notes(model), settings=SETTINGS)
        assert model.training is mode


# --- what is saved ---


@pytest.mark.parametrize("die_at", [0, 1, 4, 5, 7, 10, 14])
def test_a_run_cut_short_ends_as_one_that_was_not(data: tuple[Tensor, Tensor], tmp_path: Path, die_at: int) -> None:
    whole, expected = trained(data)
    model = network()
    with pytest.raises(Killed):
        first = Notes(model, tmp_path / "notes", die_at)
        train_network(model, data, first, settings=SETTINGS, seed=7, directory=tmp_path)
    torch.manual_seed(99)  # another process
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 4))
    if die_at == 0:
        model = network()  # nothing was saved: the initial weights are the caller's
    notes = Notes(model, tmp_path / "notes")
    train_network(model, data, notes, settings=SETTINGS, seed=7, directory=tmp_path)
    assert bits(model) == bits(whole)
    assert notes.notes == expected.notes
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(DUE)
    assert notes.told[0][0] == max((n for n in DUE if n < die_at), default=0)  # it did not start over


@pytest.mark.parametrize("moment", ["write_weights", "write_state"])
def test_a_kill_between_record_and_state(
    data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The record of step 6 is written, its checkpoint or its state is not."""
    whole, expected = trained(data)
    real: Callable[..., Any] = getattr(loop, moment)

    def dies(path: Path, content: Any, **more: Any) -> Path:
        if (tmp_path / "notes" / "6.txt").exists():
            raise Killed
        return real(path, content, **more)

    model = network()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, moment, dies)
        train_network(model, data, Notes(model, tmp_path / "notes"), settings=SETTINGS, seed=7, directory=tmp_path)
    state = read_state(tmp_path / "state.pt")
    assert state is not None and state["step"] == 4
    model = network()
    notes = Notes(model, tmp_path / "notes")
    train_network(model, data, notes, settings=SETTINGS, seed=7, directory=tmp_path)
    assert bits(model) == bits(whole) and notes.notes == expected.notes
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {f"step-{n:08}.safetensors" for n in DUE}


def test_checkpoints_hold_the_weights_of_their_step(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    model = network()
    initial = bits(model)
    train_network(model, data, Notes(model), settings=SETTINGS, directory=tmp_path)
    for step, expected in {0: initial, STEPS: bits(model)}.items():
        copy = network()
        copy.load_state_dict(safetensors.torch.load_file(tmp_path / "checkpoints" / f"step-{step:08}.safetensors"))
        assert bits(copy) == expected


def test_tied_weights_are_saved(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)
            self.b = nn.Linear(6, 6)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu())

    model = Tied()
    train_network(model, data, Notes(model), settings=SETTINGS, directory=tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "checkpoints" / f"step-{STEPS:08}.safetensors")
    assert torch.equal(weights["a.weight"], weights["b.weight"])


@pytest.mark.parametrize(("save_every", "expected"), [(1e9, len(DUE)), (0.0, STEPS + 1)])
def test_how_often_the_state_is_saved(
    data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: float, expected: int
) -> None:
    steps = []
    monkeypatch.setattr(loop, "write_state", lambda path, state: steps.append(state["step"]))
    trained(data, directory=tmp_path, save_every=save_every)
    assert len(steps) == expected and steps == sorted(set(steps))


def test_seconds_are_those_of_all_starts(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    model = network()
    with pytest.raises(Killed):
        first = Notes(model, tmp_path / "notes", die_at=7)
        train_network(model, data, first, settings=SETTINGS, directory=tmp_path)
    before = read_state(tmp_path / "state.pt")
    assert before is not None and before["recording_seconds"] == 0.25 * 6
    progress: list[Progress] = []
    time.sleep(0.05)  # between two starts: counts for nothing
    model = network()
    notes = Notes(model, tmp_path / "notes")
    start = time.monotonic()
    result = train_network(
        model, data, notes, settings=SETTINGS, directory=tmp_path, name="a", progress=progress.append
    )
    # The stand-in's seconds are made up, so they come off the real ones.
    spent = time.monotonic() - start - notes.seconds
    assert result.recording_seconds == 0.25 * len(DUE)
    assert result.training_seconds == pytest.approx(before["training_seconds"] + spent, abs=0.02)
    assert [p.step for p in progress] == list(range(6, STEPS + 1))
    assert {(p.network, p.steps) for p in progress} == {("a", STEPS)}
    assert [p.step for p in progress if p.recorded] == [n for n in DUE if n > 6]


def test_a_finished_run_is_not_trained_again(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    model = network()
    train_network(model, data, Notes(model, tmp_path / "notes"), settings=SETTINGS, directory=tmp_path)
    copy = network()
    notes = Notes(copy, tmp_path / "notes")
    result = train_network(copy, data, notes, settings=SETTINGS, directory=tmp_path)
    assert bits(copy) == bits(model) and result.steps == STEPS
    assert [n for n, _ in notes.told] == [STEPS]


# --- what is refused ---


def test_a_state_of_another_training(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    model = network()
    train_network(model, data, Notes(model), settings=SETTINGS, directory=tmp_path)
    with pytest.raises(RunError, match=r"another training.*\n.*'seed': 0.*\n.*'seed': 1"):
        train_network(model, data, Notes(model), settings=SETTINGS, directory=tmp_path, seed=1)
    with pytest.raises(RunError, match="does not fit network"):
        other = nn.Linear(6, 4)
        train_network(other, data, Notes(other), settings=SETTINGS, directory=tmp_path)


def test_a_corrupt_state(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    model = network()
    train_network(model, data, Notes(model, tmp_path / "notes"), settings=SETTINGS, directory=tmp_path)
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    again = network()
    with pytest.raises(RunError, match="Delete this file"):
        train_network(again, data, Notes(again), settings=SETTINGS, directory=tmp_path)
    state.unlink()  # as it said
    train_network(again, data, Notes(again, tmp_path / "notes"), settings=SETTINGS, directory=tmp_path)
    assert bits(again) == bits(model)


def test_a_divergence_says_where_and_keeps_what_was_written(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    settings = Training(epochs=3, batch_size=8, optimiser=Optimiser(learning_rate=1e30))
    model = network()
    notes = Notes(model, tmp_path / "notes")
    with pytest.raises(ModelError) as refusal:
        train_network(model, data, notes, settings=settings, directory=tmp_path, name="ResNet-20")
    message = str(refusal.value)
    at = notes.told[-1][0] + 1
    assert f"ResNet-20: the training diverged: the loss of update {at} of {STEPS} is nan" in message
    assert "a lower learning rate (it is 1e+30" in message and "in another directory" in message
    assert (tmp_path / "state.pt").exists() and (tmp_path / "notes" / "0.txt").exists()
    again = network()
    with pytest.raises(ModelError, match=f"update {at} of"):
        train_network(again, data, Notes(again, tmp_path / "notes"), settings=settings, directory=tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, y: (x.where(x < 2, torch.nan), y), "NaN or infinity"),
        (lambda x, y: (x[:0], y[:0]), "0 inputs and 0 targets"),
        (lambda x, y: (x, y[:7]), "40 inputs and 7 targets"),
        (lambda x, y: (x, y + 1), "label 4 in the data, but the model has 4 outputs"),
        (lambda x, y: (x, y - 1), "class numbers from 0"),
        (lambda x, y: (x, y.float()), "class numbers from 0"),
    ],
)
def test_bad_data(data: tuple[Tensor, Tensor], change: Callable[[Tensor, Tensor], Any], reason: str) -> None:
    model = network()
    with pytest.raises(DataError, match=reason):
        train_network(model, change(*data), Notes(model), settings=SETTINGS)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Optimiser(learning_rate=0.0),
        lambda: Optimiser(learning_rate=float("nan")),
        lambda: Optimiser(momentum=1.0),
        lambda: Optimiser(weight_decay=-1.0),
        lambda: Optimiser(warmup=0.0),
        lambda: Training(epochs=0),
        lambda: Training(batch_size=1),
    ],
)
def test_bad_settings(make: Callable[[], Any]) -> None:
    with pytest.raises(UsageError, match="it must be"):
        make()
