"""Small results for figures and cards, made by real runs of a residual network."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import termwise as tw
from termwise.degree import DepthDegrees, depth_degrees
from termwise.deletion import Curve, deletion, reordering
from termwise.timeline import Timeline

WIDTH, CLASSES = 6, 4


class Residual(nn.Module):
    """Five residual blocks between a stem and a head: depths 0 to 5 in blocks."""

    def __init__(self, blocks: int = 5) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(blocks)))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + F.relu(self.inside(x))


def task(samples: int = 60, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    targets = torch.arange(samples) % CLASSES
    centres = 2 * torch.randn(CLASSES, WIDTH, generator=draw)
    return centres[targets] + torch.randn(samples, WIDTH, generator=draw), targets


def network(seed: int = 0, blocks: int = 5) -> Residual:
    torch.manual_seed(seed)
    return Residual(blocks)


@functools.cache
def profile(constants: Any = "pooled", unit: str = "blocks") -> tw.DepthProfile:
    return tw.profile(network(), task(), unit=unit, constants=constants)


@functools.cache
def timeline(seed: int = 0, steps: int = 24, degrees: bool = False, constants: Any = "pooled") -> Timeline:
    """Of a short training."""
    model, (inputs, targets) = network(seed), task()
    recorder = tw.Recorder(model, (inputs, targets), unit="blocks", replicates=20, degrees=degrees, constants=constants)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for n in range(steps):
        recorder.step(n)
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    recorder.finish(steps)
    return recorder.timeline


def still(timeline: Timeline, records: Sequence[int] = (0, 3, 10)) -> Timeline:
    """A training in which nothing ever changes."""
    first = timeline.moments[0]
    return Timeline([dataclasses.replace(first, step=step) for step in records])


@functools.cache
def spectrum() -> tw.DegreeSpectrum:
    return tw.degrees(network(), task()[0], samples=400)


@functools.cache
def tiles() -> DepthDegrees:
    return depth_degrees(network(1), task()[0], initial=network(0), circles=20, angles=64, unit="blocks")


@functools.cache
def curve(kind: str = "deletion") -> Curve:
    cut = deletion if kind == "deletion" else reordering
    return cut(network(), task(), draws=4)


def replaced(profile: tw.DepthProfile, **columns: Any) -> tw.DepthProfile:
    """A profile with other numbers in the table of its shares."""
    table = profile.share.to_arrow()
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, [values])
    return dataclasses.replace(profile, share=type(profile.share)(table))
