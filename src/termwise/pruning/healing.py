"""A short training of a shortened network, by labels or by the output of the network that it was made of."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise.batches import batches
from termwise.deletion import to_home
from termwise.errors import DataError, UsageError
from termwise.expand import Output, call, pick_output
from termwise.pinning import pinned
from termwise.profile import IGNORED, classes_last
from termwise.seeds import owned_random


@dataclasses.dataclass(frozen=True)
class Healing:
    """How a shortened network is trained for a while; the same seed gives the same network.

    Attributes:
        data: what it is trained on, in any form that `termwise.profile` takes; never the data that it is measured on.
        steps: updates by AdamW, the rate falling to zero by half a cosine.
        rate: the first one.
        distil: whether it learns the output of the network before pruning (its probabilities, where the data have class
            numbers; else its numbers) or, if not, the targets of the data.
        batch_size: samples an update, where the data come as tensors.
        seed: of the order of the batches, and of dropout.
    """

    data: Any
    steps: int = 300
    rate: float = 1e-3
    distil: bool = True
    batch_size: int = 64
    seed: int = 0


def heal(model: nn.Module, teacher: nn.Module, healing: Healing, output: Output = None) -> None:
    """Train `model` in place; it is in evaluation mode before and after.

    Raises:
        UsageError: when there is nothing to do.
        DataError: when labels are to be learned and there are none.
    """
    if healing.steps < 1 or not 0 < healing.rate < math.inf:
        raise UsageError(f"healing: steps={healing.steps}, rate={healing.rate}: expected both above 0.")
    data = [*batches(healing.data, healing.batch_size)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=healing.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, healing.steps)
    draws = np.random.default_rng(healing.seed)
    order: list[int] = []
    model.train()
    try:
        with owned_random(healing.seed), torch.enable_grad():
            for _ in range(healing.steps):
                order = order or draws.permutation(len(data)).tolist()
                inputs, targets = data[order.pop()]
                x = to_home(inputs, model)
                y = pick_output(call(model, x), output)
                optimiser.zero_grad()
                _loss(y, _taught(teacher, x, output) if healing.distil else None, targets).backward()
                optimiser.step()
                schedule.step()
    finally:
        model.eval()
        model.zero_grad(set_to_none=True)


def _taught(teacher: nn.Module, x: Any, output: Output) -> Tensor:
    with pinned(teacher):
        return pick_output(call(teacher, x), output)


def _loss(y: Tensor, taught: Tensor | None, targets: Tensor | None) -> Tensor:
    classes = targets is not None and not targets.is_floating_point()
    if taught is not None:
        if not classes:
            return F.mse_loss(y, taught)
        stack, logits, labels = classes_last(taught[None], y, targets.to(y.device) if targets is not None else None)
        valid = labels != IGNORED
        return F.kl_div(
            logits[valid].log_softmax(-1), stack[0][valid].log_softmax(-1), reduction="batchmean", log_target=True
        )
    if targets is None:
        raise DataError("healing: the data have no targets to learn. Give them, or distil=True.")
    if not classes:
        return F.mse_loss(y, targets.to(y))
    _, logits, labels = classes_last(y[None], y, targets.to(y.device))
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
