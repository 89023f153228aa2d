"""Gradient descent by the shorter or by the longer half of the gradient's paths.

The gradient g is split by the length of whole paths at the length at which half of |g|^2 = sum_k <g, g_k> is reached;
what has this length is split in proportion, so that <g, shorter> = <g, longer> = |g|^2 / 2.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise.data import DataSet
from termwise.lengths import gradient_lengths, path_gradient

Half = Literal["shorter", "longer", "all"]
HALVES: tuple[Half, ...] = ("shorter", "longer", "all")


DIVERGED = 100.0  # nats; beyond, the shares of the gradient are lost in rounding


def descent(half: Half, rate: float, model: nn.Module, data: DataSet, batches: Iterable[Tensor]) -> Iterator[float]:
    """Train a network in place by a half of its paths.

    Args:
        half: of the paths.
        rate: learning rate.
        model: in evaluation mode.
        data: of which the training part is used.
        batches: the rows of the samples of each step.

    Yields:
        The loss on all training data, in nats, before each step and after the last; nothing behind a divergence.
    """
    parameters = dict(model.named_parameters())
    for rows in itertools.chain(batches, [None]):
        with torch.no_grad():
            loss = float(F.cross_entropy(model(data.train_inputs), data.train_targets))
        if not loss <= DIVERGED:
            return
        yield loss
        if rows is None:
            return
        x, targets = data.train_inputs[rows], data.train_targets[rows]
        update = direction(half, model, x, lambda y, targets=targets: F.cross_entropy(y, targets))
        with torch.no_grad():
            for name, gradient in update.items():
                parameters[name].sub_(rate * gradient)


def direction(half: Half, model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The gradient by a half of its paths, at the norm of the whole gradient."""
    parameters = dict(model.named_parameters())
    whole = dict(zip(parameters, torch.autograd.grad(loss(model(x)), [*parameters.values()]), strict=True))
    if half == "all" or not _norm(whole):  # of a network that has died there is nothing to share out
        return whole
    middle, inside = split(gradient_lengths(model, x, loss, unit="blocks").total)
    part = functools.partial(path_gradient, model, x, loss, unit="blocks")
    at = part(middle, middle)
    shorter = {name: inside * gradient for name, gradient in at.items()}
    if middle > 0:
        for name, gradient in part(0, middle - 1).items():
            shorter[name] += gradient
    found = shorter if half == "shorter" else {name: whole[name] - gradient for name, gradient in shorter.items()}
    scale = _norm(whole) / _norm(found)
    return {name: scale * gradient for name, gradient in found.items()}


def split(shares: Mapping[int, float]) -> tuple[int, float]:
    """The length that the shares pass one half at, and how much of it is below."""
    total, below = sum(shares.values()), 0.0
    for length, share in sorted(shares.items()):
        if below + share >= total / 2:
            return length, (total / 2 - below) / share
        below += share
    raise AssertionError("shares that sum to their total pass its half")


def _norm(gradients: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
