"""The loss of each sample, of one output and of many beside it; means with intervals.

integer targets          cross-entropy in nats, over all targets of a sample (-100 is left out), and accuracy
floating-point targets   squared error, mean over the numbers of a sample, times a scale
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from termwise.errors import DataError
from termwise.profile import IGNORED, Estimate, classes_last, estimate, resampled


@dataclasses.dataclass(frozen=True)
class Losses:
    """Sums over the targets of each sample, of K outputs.

    Attributes:
        sums: of the loss, (K, N).
        right: of right answers, (K, N); None where there are no classes.
        counts: targets of each sample, (N,).
    """

    sums: np.ndarray
    right: np.ndarray | None
    counts: np.ndarray

    @staticmethod
    def joined(parts: Sequence[Losses]) -> Losses:
        """Those of all samples."""
        right = [part.right for part in parts if part.right is not None]
        return Losses(
            np.concatenate([part.sums for part in parts], axis=1),
            np.concatenate(right, axis=1) if right else None,
            np.concatenate([part.counts for part in parts]),
        )

    def mean(self) -> np.ndarray:
        """The mean loss of each output, (K,)."""
        return self.sums.sum(axis=1) / self.counts.sum()

    def accuracy(self) -> float | None:
        """The share of right answers of the first output."""
        return None if self.right is None else float(self.right[0].sum() / self.counts.sum())

    def interval(self, replicates: int, seed: int) -> Estimate:
        """The mean loss of the first output with a 95 % interval, by a Poisson bootstrap over samples."""
        weights = resampled(len(self.counts), replicates, np.random.Generator(np.random.PCG64(seed)))
        drawn = self.counts @ weights
        weights = weights[:, drawn > 0]
        return estimate((self.sums[0] @ weights) / (self.counts @ weights))


def losses_of(outputs: Iterable[Tensor], y: Tensor, targets: Tensor, scale: float = 1.0) -> Losses:
    """The losses of several outputs of the shape of y (N, ...), one after another: each takes its own memory.

    Raises:
        DataError: when the targets do not fit.
        ModelError: when classes are given and the output has none.
    """
    targets = targets.to(y.device)
    found = [_one(output, y, targets, scale) for output in outputs]
    sums, right, counts = (np.stack([each[i] for each in found]) for i in range(3))
    return Losses(sums, None if targets.is_floating_point() else right, counts[0])


def _one(output: Tensor, y: Tensor, targets: Tensor, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if targets.is_floating_point():
        loss = scale * (output.double() - _regressed(y, targets)).square().flatten(1).mean(dim=1)
        return _array(loss), np.zeros(len(y)), np.ones(len(y))
    stack, _, labels = classes_last(output[None], y, targets)
    logits, valid = stack[0].double(), labels != IGNORED
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    right = (logits.argmax(dim=-1) == labels) & valid
    return _array(loss.reshape(labels.shape).sum(dim=1)), _array(right.sum(dim=1)), _array(valid.sum(dim=1))


def _regressed(y: Tensor, targets: Tensor) -> Tensor:
    if targets.shape != y.shape:
        raise DataError(
            f"floating-point targets of shape {tuple(targets.shape)} for an output of shape {tuple(y.shape)}: "
            "give equal shapes; classes must be integers (targets.long())."
        )
    return targets.double()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.to(torch.float64).cpu().numpy()
