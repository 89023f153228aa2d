"""Times in turns, peak memory in fresh processes, and a row of the table that they end in."""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class Run:
    """Something to be timed.

    Attributes:
        call: is given a batch.
        sizes: of the batches that are tried; the one with the least time per sample counts.
        parts: how many samples' worth of work one sample of a batch is: below 1 where only a slice of it is run.
    """

    call: Callable[[Any], object]
    sizes: tuple[int, ...]
    parts: float = 1.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        measure: what is compared with what.
        network: on which network.
        ours: Termwise's figure, in the unit that `measure` implies (plain passes for times).
        other: the floor's or the peer's.
        ratio: what the bar is for; None where it was not measured.
        bar: the bound on the ratio.
        bound: on which side of the bar the ratio must be.
        moonshot: a bar beyond the bar.
        interval: of the ratio, of 95 %, where there is one.
        note: what a reader must know to believe the line; where it was not measured, why.
    """

    measure: str
    network: str
    ours: float | None
    other: float | None
    ratio: float | None
    bar: float
    bound: Literal["at most", "at least"]
    moonshot: float | None = None
    interval: tuple[float, float] | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the bar is met; "not measured" where there is no ratio."""
        if self.ratio is None:
            return "not measured"
        if self._keeps(self.bar):
            return "met" if self.moonshot is None or not self._keeps(self.moonshot) else "met, and the moonshot"
        return "NOT MET"

    def _keeps(self, bar: float) -> bool:
        assert self.ratio is not None
        return self.ratio <= bar if self.bound == "at most" else self.ratio >= bar


def medians(runs: Mapping[str, Run], batch: Callable[[int], Any], repeats: int) -> dict[str, float]:
    """For each run the least median time per sample over its batch sizes, in seconds.

    The runs take turns, so that a machine that slows down slows all of them; the first turn warms up.

    Args:
        runs: by name.
        batch: makes a batch of a size.
        repeats: how many timed calls a median is of.
    """
    batches = {size: batch(size) for size in sorted({size for run in runs.values() for size in run.sizes})}
    times: dict[tuple[str, int], list[float]] = {}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            for size in run.sizes:
                start = time.perf_counter()
                run.call(batches[size])
                if turn:
                    times.setdefault((name, size), []).append((time.perf_counter() - start) / size / run.parts)
    return {name: min(statistics.median(times[name, size]) for size in run.sizes) for name, run in runs.items()}


def plain_pass(model: nn.Module) -> Callable[[Any], object]:
    """One forward pass without gradients."""

    def run(x: Any) -> object:
        with torch.no_grad():
            return model(x)

    return run


def images(size: int, channels: int = 3) -> Callable[[int], torch.Tensor]:
    """Makes batches of random images; the same batch for the same number."""
    return lambda n: torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(n))


def peak_bytes(*command: str) -> int:
    """The peak memory of a fresh Python process, which prints it last (`print_peak`)."""
    done = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def print_peak() -> None:
    """Print the peak resident size of this process in bytes."""
    # VmHWM belongs to this program alone; ru_maxrss would count the parent's memory at the fork.
    status = Path("/proc/self/status").read_text()
    print(int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024)
