"""What each of several processes does in tests/test_distributed.py: `python several_processes.py WORK DIRECTORY`.

RANK, WORLD_SIZE and where to meet are in the environment.  What a process found goes to DIRECTORY/RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from termwise import DepthProfile, Recorder, chunks, nets, profile, support
from termwise.budget import Spending
from termwise.degree.repeated import DegreeOptions
from termwise.distributed import Group
from termwise.errors import TermwiseError
from termwise.series import Series
from termwise.timeline import reestimated

Pair = tuple[Tensor, Tensor]


def digits_like(samples: int, seed: int = 0) -> Pair:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 3, 8, 8, generator=draw), torch.arange(samples) % 5


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nets.resnet(8, width=4, classes=5)


def said(call: Callable[[], object]) -> list[str]:
    """The name of the error and what it says."""
    try:
        call()
    except (TermwiseError, RuntimeError) as error:
        return [type(error).__name__, str(error)]
    return []


class Fails(nn.Module):
    """A model that calls `harm` when it is run."""

    def __init__(self, harm: Callable[[], object]) -> None:
        super().__init__()
        self.net, self.harm = nn.Linear(4, 3), harm
        nn.init.ones_(self.net.weight)
        nn.init.zeros_(self.net.bias)

    def forward(self, x: Tensor) -> Tensor:
        self.harm()
        return self.net(x)


class Tight(nn.Module):
    """A model on a machine that holds the terms of so many samples."""

    def __init__(self, holds: int) -> None:
        super().__init__()
        self.net, self.holds = network(), holds

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Series) and len(x) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(x)


# Profiles.

WAY = ((0, 8), (10, 2), (35, 4))


def profiles(group: dist.ProcessGroup | None) -> dict[str, DepthProfile]:
    """Uneven ends, fewer batches than processes, the forms of data and of units."""
    model, (x, y) = network(), digits_like(45)
    return {
        "uneven": profile(model, (x, y), batch_size=8, group=group, replicates=50),
        "few": profile(model, (x[:5], y[:5]), batch_size=4, group=group, replicates=50),
        "loader": profile(model, DataLoader(TensorDataset(x, y), 10), unit="blocks", group=group, replicates=50),
        "agreement": profile(model, list(x.split(10)), group=group, replicates=50),
        "chunks": profile(model, (x, y), batch_size=16, chunk=4, group=group, replicates=50),
        "chunks on the way": profile(model, (x, y), batch_size=10, chunk=WAY, group=group, replicates=50),
        "by_depth": profile(model, [{"x": x, "labels": y}], constants="by_depth", group=group, replicates=50),
        "regression": profile(nn.Linear(4, 2), (torch.ones(9, 4), torch.ones(9, 2)), batch_size=2, group=group),
    }


def chosen(model: nn.Module, data: Pair, rank: int) -> list[Any]:
    """The chunk of one process with so much free memory, of three that share it, and where one of them has less."""
    free_memory, each = chunks.free_memory, chunks._PEAK * support(model, data[0][:2]).memory / 2
    try:
        chunks.free_memory = lambda device: int(2 * 9 * each)
        alone, shared = (profile(model, data, replicates=2, group=group).chunk for group in (None, dist.group.WORLD))
        chunks.free_memory = lambda device: int(2 * 9 * each) if rank else 1
        return [alone, shared, profile(model, data, replicates=2, group=dist.group.WORLD).chunk]
    finally:
        chunks.free_memory = free_memory


def profiling(directory: Path, rank: int, size: int) -> dict[str, Any]:
    world = dist.group.WORLD
    for name, found in profiles(world).items():
        found.save(directory / f"{name}-{rank}.termwise")
    model, (x, y) = network(), digits_like(45)
    bad = x.clone()
    bad[10] = float("nan")  # in the second batch
    data = TensorDataset(x, y)
    sampled = DataLoader(data, 8, sampler=DistributedSampler(data, size, rank, shuffle=False))
    shuffled = DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(rank))

    def refuse() -> None:
        if rank == 1:
            raise RuntimeError("out of luck")

    outside: Any = dist.new_group([0, 2])

    def told(model: nn.Module, data: Any) -> list[str]:
        return said(lambda: profile(model, data, batch_size=8, group=world))

    found = {
        "alone": profile(model, (x[rank:], y[rank:])).samples,
        "bad data": told(model, (bad, y)),
        "bad for one": told(model, (bad if rank == 1 else x, y)),
        "empty for one": told(model, [] if rank == 2 else [(x, y)]),
        "sampled": told(model, sampled),
        "shuffled": told(model, shuffled),
        "shorter": told(model, (x[: 45 - rank], y[: 45 - rank])),
        "other weights": told(network(seed=rank), (x, y)),
        "other seed": said(lambda: profile(model, (x, y), seed=rank, group=world)),
        "error": told(Fails(refuse), torch.ones(30, 4)),
        "in two of three": said(lambda: profile(model, x, group=outside)),
        "other chunk": said(lambda: profile(model, (x, y), chunk=2**rank, group=world)),
        "chosen": chosen(model, (x, y), rank),
    }
    halved = profile(Tight(4 if rank == 1 else 8), (x, y), batch_size=8, chunk=8, group=world, replicates=50)
    halved.save(directory / f"halved-{rank}.termwise")
    # After all this the processes are still together.
    again = profile(model, (x, y), batch_size=8, group=world, replicates=50)
    again.save(directory / f"again-{rank}.termwise")
    return found


# Recorders.


def task() -> Pair:
    draw = torch.Generator().manual_seed(0)
    targets = torch.arange(50) % 4
    return torch.randn(4, 6, generator=draw)[targets] + 0.5 * torch.randn(50, 6, generator=draw), targets


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.block, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(x + F.relu(self.block(x)))


def trained(directory: Path, group: dist.ProcessGroup | None, rank: int = 0) -> Recorder:
    torch.manual_seed(0)
    model: nn.Module = Normed()
    if group is not None:
        model = nn.parallel.DistributedDataParallel(model)
    (x, y), norm = task(), next(module for module in model.modules() if isinstance(module, nn.BatchNorm1d))
    least: DegreeOptions = {"samples": 20, "angles": 32}
    common: dict[str, Any] = {"batch_size": 8, "replicates": 20, "directory": directory, "group": group}
    recorder = Recorder(model, (x[:20], y[:20]), degrees=least, **common)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    loss = torch.zeros(())
    for n in range(20):
        recorder.step(n, train_loss=loss + rank)
        model.train()
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        norm.get_buffer("running_mean").add_(rank)  # as it is where each process has other data
    recorder.finish(20, train_loss=loss + rank)
    return recorder


def watched(cost: float, group: dist.ProcessGroup | None) -> list[list[Any]]:
    """Steps and times of a training whose loss moves, on a clock by which each update takes 1 s and a record `cost`."""
    torch.manual_seed(0)
    model, clock = nets.mlp([4, 3, 3]), [0.0]
    draw = torch.Generator().manual_seed(1)
    probe = torch.randn(6, 4, generator=draw), torch.arange(6) % 3
    spending = Spending(0.05, Group(group))
    spending._clock = lambda: clock[0]
    recorder = Recorder(model, probe, batch_size=2, budget=spending, replicates=2, group=group)
    for n in range(400):
        spending.enter()
        made = recorder._step(n, False, {})
        clock[0] += cost * made
        spending.leave(made)
        clock[0] += 1
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1 + 1 / (n + 2))
    moments = zip(recorder.recorded, recorder.timeline.timings, strict=True)
    return [[n, t.training_seconds, t.recording_seconds] for n, t in moments if t is not None]


def recording(directory: Path, rank: int, size: int) -> dict[str, Any]:
    world = dist.group.WORLD
    recorder = trained(directory / "records", world, rank)
    recorder.timeline.save(directory / f"timeline-{rank}.termwise")
    (x, y), model = task(), Normed()
    dist.barrier()
    again = trained(directory / "records", world, rank)  # everything is on record already
    written = sorted(path.name for path in (directory / "records").iterdir())
    torch.manual_seed(0)
    model = Normed()
    moody = Recorder(model, (x, y), schedule=lambda n: (n + rank) % 2 == 0, replicates=2, group=world)
    with torch.no_grad():
        model.norm.get_buffer("running_mean").add_(rank)
    kept = Recorder(model, (x, y), calibration=False, replicates=2, group=world)
    plain, synced = reestimated(model, x), reestimated(nn.SyncBatchNorm.convert_sync_batchnorm(model), x)
    return {
        "recorded": again.recorded,
        "within a budget": watched(0.3 if rank == 0 else 5.0, world),
        "other budget": said(lambda: Recorder(model, (x, y), budget=0.1 * (rank + 1), group=world)),
        "written": written,
        "moody": [moody.step(n) for n in range(4)],
        "kept": said(lambda: kept.step(0)),
        "other step": said(lambda: moody.step(4 + rank, force=True)),
        "other probe": said(lambda: Recorder(model, (x + rank, y), group=world)),
        "bad probe": said(lambda: Recorder(model, (x, y[: len(y) - rank]), group=world)),
        "one statistic": all(torch.equal(a, b) for a, b in zip(plain.buffers(), synced.buffers(), strict=True)),
    }


# What is lost.


def losing(directory: Path, rank: int, size: int, lost: int) -> dict[str, Any]:
    """One process hangs, and then ends in the middle of its work, without a word."""
    world = dist.group.WORLD
    if lost != 0:
        waiting = Group(cast(Any, dist.new_group(timeout=timedelta(seconds=1))))
        start = time.monotonic()
        found = said(lambda: waiting.together(lambda: time.sleep(4) if rank == lost else None))
        Path(directory / f"hung-{rank}.json").write_text(json.dumps([found, time.monotonic() - start]))
    profile(Fails(lambda: os._exit(7) if rank == lost else None), torch.ones(640, 4), batch_size=4, group=world)
    return {}


def main(work: str, directory: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(minutes=1))
    rank, size = dist.get_rank(), dist.get_world_size()
    name, _, lost = work.partition(":")
    if name == "losing":
        found = losing(directory, rank, size, int(lost))
    else:
        found = {"profiling": profiling, "recording": recording}[name](directory, rank, size)
    (directory / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
