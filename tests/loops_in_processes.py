"""What each of two processes trains, for the tests: `python loops_in_processes.py KIND FOLDER`.

RANK, WORLD_SIZE and where to meet are in the environment.  What a process has on record goes to FOLDER/RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import loops_at_hand
from loops_at_hand import PROBE, Net
from termwise.integrations.watch import Watch

OPTIONS: dict[str, Any] = {"replicates": 20, "schedule": (0, 1, 8, 16)}


def plain(folder: Path, rank: int) -> Watch:
    """A loop of one's own; process 0 writes the checkpoints."""
    dist.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(Net())
    (x, y), optimiser = loops_at_hand.task(), torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(PROBE, directory=folder / "termwise-records", **OPTIONS).begin(model)
    for n in range(1, 25):
        model.train()
        optimiser.zero_grad()
        F.cross_entropy(model(x[rank::2]), y[rank::2]).backward()
        optimiser.step()
        watch.step(n)
        if rank == 0 and n % 8 == 0:
            torch.save(model.module.state_dict(), folder / f"step-{n}.pt")
    watch.finish(24)
    return watch


def hugging_face(folder: Path, rank: int) -> Any:
    from termwise.integrations.huggingface import TermwiseCallback

    callback = TermwiseCallback(PROBE, **OPTIONS)
    loops_at_hand.hugging_face(folder, [callback], save_steps=8, ddp_backend="gloo", per_device_train_batch_size=4)
    return callback


def lightning(folder: Path, rank: int) -> Any:
    import lightning.pytorch as package
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.strategies import DDPStrategy

    from termwise.integrations.lightning import TermwiseCallback

    callback = TermwiseCallback(PROBE, **OPTIONS)
    keep = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_train_steps=8)
    strategy = DDPStrategy(process_group_backend="gloo")
    module = loops_at_hand.lightning_module(package.LightningModule)
    loops_at_hand.lightning(folder, package, module, [keep, callback], devices=2, strategy=strategy)
    return callback


def main(kind: str, folder: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    watched = {"plain": plain, "hugging_face": hugging_face, "lightning": lightning}[kind](folder, rank)
    assert dist.is_initialized() and dist.get_world_size() == 2, "the processes were not together"
    try:
        steps = list(watched.timeline.steps)
    except Exception as error:
        steps = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(steps))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
