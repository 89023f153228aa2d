"""The budget of a Recorder: what it takes by a clock that the test moves, what it says, and how it is replayed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from termwise import Recorder, Timeline, budget, nets
from termwise import recorder as recorder_module
from termwise.budget import LEAST, Spending
from termwise.distributed import Group
from termwise.errors import UsageError
from termwise.timeline import log_spaced

TICKS = [n for n in range(10**5) if log_spaced()(n)]


class Clock:
    """Time that passes only when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A training of which each update takes a second, and each record `cost` seconds."""

    def __init__(self, cost: float, *, still: bool = True, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nets.mlp([4, 3, 3])
        generator = torch.Generator().manual_seed(1)
        probe = torch.randn(6, 4, generator=generator), torch.arange(6) % 3
        self.clock, self.cost, self.still, self.n = Clock(), cost, still, 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("termwise.budget.clock", self.clock)
            self.recorder = Recorder(self.model, probe, replicates=2, **options)
        self.inside = 0.0
        measure = self.recorder._measure

        def slow(*arguments: Any) -> Any:
            self.clock.now += self.cost
            self.inside += self.cost
            return measure(*arguments)

        setattr(self.recorder, "_measure", slow)  # noqa: B010

    def to(self, last: int, *, finish: bool = True) -> Run:
        for n in range(self.n, last):
            self.recorder.step(n)
            self.clock.now += 1
            if not self.still:
                with torch.no_grad():
                    for weight in self.model.parameters():
                        weight.mul_(1 + 1 / (n + 2))
        self.n = last
        if finish:
            self.recorder.finish(last)
        return self

    @property
    def recorded(self) -> list[int]:
        return list(self.recorder.recorded)


def expected(cost: float, budget: float, last: int) -> list[int]:
    """The rule again, from its description: the model stands still, so nothing is recorded between ticks."""
    recorded: list[int] = []
    for n in [tick for tick in TICKS if tick < last]:
        # n updates were made in n seconds.
        if len(recorded) < 19 or (len(recorded) + 2) * cost <= budget * n:
            recorded.append(n)
    return [*recorded, last]


@pytest.mark.parametrize(("cost", "last"), [(0.5, 3000), (3.0, 3000), (8.0, 6000), (30.0, 1407), (30.0, 18000)])
def test_twenty_records_and_then_what_the_budget_holds(cost: float, last: int) -> None:
    run = Run(cost, budget=0.05).to(last)
    assert run.recorded == expected(cost, 0.05, last)
    assert run.recorded[:LEAST] == TICKS[:LEAST] and len(run.recorded) >= LEAST + 1 == 20
    if last >= 20 * cost / 0.05:
        assert run.inside <= 0.05 * last  # as soon as the run holds the least records, it holds the budget
    everything = Run(cost).to(last)
    assert everything.recorded == [n for n in TICKS if n < last] + [last]
    assert set(run.recorded) <= set(everything.recorded)


def test_no_record_after_the_first_ticks_ever_brings_it_above_the_budget() -> None:
    run = Run(2.0, budget=0.05, schedule=lambda n: n % 7 == 0).to(2500, finish=False)
    timings = run.recorder.timeline.timings
    assert len(timings) > 25
    for n, timing in list(zip(run.recorded, timings, strict=True))[19:]:
        assert timing is not None and timing.chosen == "within the budget"
        assert timing.training_seconds == n and timing.held
    # Of an even schedule what is left is even too: as often as the budget holds.
    gaps = [b - a for a, b in zip(run.recorded[21:], run.recorded[22:], strict=False)]
    assert set(gaps) <= {35, 42}


def test_looks_between_ticks_are_within_the_budget() -> None:
    """The loss moves all the time: without a budget every look becomes a record."""
    free = Run(0.4, still=False).to(40)
    assert len(free.recorded) > 15
    poor = Run(0.4, still=False, budget=0.05).to(40)
    assert poor.recorded == [n for n in TICKS if n < 40] + [40]
    rich = Run(0.4, still=False, budget=0.9).to(40)
    assert set(poor.recorded) < set(rich.recorded)


def test_every_record_says_what_it_was_chosen_by(tmp_path: Path) -> None:
    run = Run(1.0, budget=0.05, directory=tmp_path).to(1030, finish=False)
    run.recorder.step(1030, force=True)
    timeline = Timeline.from_directory(tmp_path)
    assert timeline.timings == run.recorder.timeline.timings
    chosen = dict(zip(timeline.steps, timeline.timings, strict=True))
    assert {timing.chosen for n, timing in chosen.items() if n <= TICKS[18] and timing} == {"one of the first 19"}
    last = chosen[1030]
    assert chosen[1024] and chosen[1024].chosen == "within the budget"
    assert last and last.chosen == "asked for" and last.budget == 0.05
    assert last.training_seconds == 1030 and last.recording_seconds == 22
    line = "steps chosen by the clock: 22.0 s of recording beside 1030.0 s of training (budget 5%, held)"
    assert str(timeline).splitlines()[1] == line
    timeline.save(tmp_path / "t.termwise")
    assert Timeline.load(tmp_path / "t.termwise").timings == timeline.timings


def test_a_budget_that_cannot_hold_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="termwise"):
        Run(1.0, budget=0.05).to(1000)
        assert not caplog.records
        run = Run(10.0, budget=0.05).to(1000)
    assert "above the budget of 5 %: the first 19 ticks and the last record are made in any case" in caplog.text
    assert len(run.recorded) == 20
    assert "budget 5%, not held: the first 19 ticks" in str(run.recorder.timeline)


def test_without_a_budget_nothing_depends_on_the_clock() -> None:
    quick, slow = Run(0.0).to(30), Run(1000.0).to(30)
    assert quick.recorded == slow.recorded
    assert quick.recorder.timeline.timings == (None,) * len(quick.recorded)
    assert "clock" not in str(quick.recorder.timeline)
    assert slow.recorder.seconds == slow.inside


def test_what_the_clock_chose_can_be_replayed() -> None:
    run = Run(3.0, still=False, budget=0.2).to(300)
    for steps in (run.recorder.timeline.steps, set(run.recorded), [*run.recorded]):
        again = Run(0.0, still=False, schedule=steps).to(300)
        assert again.recorded == run.recorded
    left, right = run.recorder.timeline, again.recorder.timeline
    assert left.table.to_arrow().equals(right.table.to_arrow())
    assert left.spectrum.to_arrow().equals(right.spectrum.to_arrow())


def test_a_run_that_is_resumed_goes_on_with_what_was_spent(tmp_path: Path) -> None:
    whole = Run(3.0, budget=0.05).to(3000)
    Run(3.0, budget=0.05, directory=tmp_path).to(800, finish=False)
    resumed = Run(3.0, budget=0.05, directory=tmp_path)
    resumed.n = 512  # from the checkpoint at the last record
    resumed.to(3000)
    assert resumed.recorded == whole.recorded
    last = resumed.recorder.timeline.timings[-1]
    assert last is not None and last.recording_seconds == 3.0 * len(whole.recorded)


def test_an_error_inside_counts_as_time_and_as_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(1.0, budget=0.05).to(3, finish=False)

    def fail(*arguments: Any) -> Any:
        run.clock.now += 5
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(run.recorder, "_measure", fail)
        with pytest.raises(ZeroDivisionError):
            run.recorder.step(3)
    assert run.recorder.seconds == 3 + 5 and run.recorded == [0, 1, 2]
    assert run.recorder.step(3)


def test_what_it_takes_to_make_a_recorder_is_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier records are read for 4 s, and 60 s pass before the training begins."""
    Run(1.0, budget=0.05, directory=tmp_path).to(10, finish=False)
    read, clocks = recorder_module.read_directory, []

    def slow(directory: Path) -> Any:
        clocks.append(budget.clock)
        clocks[0].now += 4
        return read(directory)

    monkeypatch.setattr(recorder_module, "read_directory", slow)
    run = Run(1.0, budget=0.05, directory=tmp_path)
    assert run.recorder.seconds == 4
    run.clock.now += 60
    run.n = 9
    run.to(12, finish=False)
    last = run.recorder.timeline.timings[-1]
    # 8 s and 8 records until step 8; then step 9 to 11, of which the last one is a tick.
    assert run.recorded[-1] == 11 and last is not None
    assert (last.training_seconds, last.recording_seconds) == (8 + 2, 7 + 4 + 1)


def test_stretches_inside_of_each_other_count_once() -> None:
    clock, spending = Clock(), Spending(0.05, Group())
    spending._clock = clock
    with spending.inside(since=97.0):
        with spending.inside(since=0.0, begun=False):
            clock.now += 2
        spending.enter()
        clock.now += 1
        spending.leave(True)
        clock.now += 0.5
    clock.now += 10
    with pytest.raises(ZeroDivisionError), spending.inside():
        clock.now += 1
        raise ZeroDivisionError
    clock.now += 5
    spending.enter()
    assert (spending.seconds, spending.recording, spending.training) == (7.5, 7.5, 15.0)


SAMPLES = torch.arange(128).remainder(2)


@pytest.mark.parametrize(("channels", "at_once"), [(1, 128), (14, 64), (64, 32)])
def test_as_many_samples_are_expanded_at_once_as_their_terms_take_little_memory(channels: int, at_once: int) -> None:
    """Two parts go in and two come out of the ReLU, each of channels x 16 KiB a sample; they may take 96 MiB."""
    kib = 4 * channels * 16
    assert at_once == next(n for n in (128, 64, 32) if n == 32 or n * kib <= 96 * 1024)
    model = nn.Sequential(nn.Conv2d(1, channels, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 1, 64, 64))
    recorder = Recorder(model, (torch.randn(128, 1, 64, 64), SAMPLES), replicates=2)
    recorder.step(0)
    assert recorder.timeline.profiles[0].chunk == at_once
    given = Recorder(model, (torch.randn(24, 1, 64, 64), SAMPLES[:24]), replicates=2, batch_size=9)
    given.step(0)
    assert given.timeline.profiles[0].chunk == 16


@pytest.mark.parametrize("bad", [0, -0.1, float("nan"), float("inf"), "5 %"])
def test_budgets_that_are_refused(bad: Any) -> None:
    with pytest.raises(UsageError, match=r"budget=.*a fraction|budget=.*the fraction"):
        Run(1.0, budget=bad)


def test_a_schedule_may_be_any_collection_of_steps() -> None:
    assert Run(1.0, schedule=range(0, 10, 4)).to(10).recorded == [0, 4, 8, 10]
