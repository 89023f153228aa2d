"""A short training of a shortened network, by labels or by the output of the network that it was made of."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from termwise.batches import batches
from termwise.deletion import to_home
from termwise.errors import DataError, ModelError, UsageError
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


class Lessons:
    """A healing and its batches, looked at before anything is pruned: what cannot be done is refused at once.

    Attributes:
        healing: how the network is trained.
        batches: inputs and targets.

    Raises:
        UsageError: when there is nothing to do.
        ModelError: when no parameter may be trained.
        DataError: when labels are to be learned and there are none, or no batch is large enough for batch norm.
    """

    def __init__(self, healing: Healing, model: Any) -> None:
        if not isinstance(healing, Healing):
            raise UsageError(f"healing={healing!r}: expected a termwise.pruning.Healing(data, steps=300), or None.")
        if healing.steps < 1 or not 0 < healing.rate < math.inf or healing.seed < 0:
            told = f"steps={healing.steps}, rate={healing.rate}, seed={healing.seed}"
            raise UsageError(f"healing: {told}: expected steps and rate above 0, and a seed of 0 or more.")
        modules = [*model.modules()] if isinstance(model, nn.Module) else []
        if modules and not any(parameter.requires_grad for parameter in modules[0].parameters()):
            raise ModelError("healing: every parameter of the model is frozen: model.requires_grad_() frees them.")
        self.healing = healing
        self.batches = [*batches(healing.data, healing.batch_size)]
        if not healing.distil and any(targets is None for _, targets in self.batches):
            raise DataError("healing: the data have no targets to learn. Give them, or distil=True.")
        if any(isinstance(module, _BatchNorm) for module in modules):  # one sample alone has no variance
            self.batches = [batch for batch in self.batches if _samples(batch[0]) > 1]
            if not self.batches:
                raise DataError("healing: batch norm cannot be trained on single samples: give a larger batch_size=.")


def _samples(inputs: Any) -> int:
    return next((len(leaf) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()), 1)


def heal(model: nn.Module, teacher: nn.Module, lessons: Lessons, output: Output = None) -> None:
    """Train `model` in place; it is in evaluation mode before and after.

    Raises:
        ModelError: when the loss does not stay finite.
    """
    healing, data = lessons.healing, lessons.batches
    optimiser = torch.optim.AdamW(model.parameters(), lr=healing.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, healing.steps)
    draws = np.random.default_rng(healing.seed)
    order: list[int] = []
    model.train()
    try:
        with owned_random(healing.seed), torch.enable_grad():
            for step in range(healing.steps):
                order = order or draws.permutation(len(data)).tolist()
                inputs, targets = data[order.pop()]
                x = to_home(inputs, model)
                y = pick_output(call(model, x), output)
                optimiser.zero_grad()
                loss = _loss(y, _taught(teacher, x, output) if healing.distil else None, targets)
                if not bool(torch.isfinite(loss)):
                    told = f"after {step} steps at rate={healing.rate:g}"
                    raise ModelError(f"healing: the loss is not finite {told}: give a lower rate.")
                loss.backward()
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
    assert targets is not None  # see `Lessons`
    if not classes:
        return F.mse_loss(y, targets.to(y))
    _, logits, labels = classes_last(y[None], y, targets.to(y.device))
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
