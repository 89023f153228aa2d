"""Does it matter by which paths a network is trained?

1. By few blocks at a time.  After Veit, Wilber, Belongie 2016 (arXiv 1605.06431), section 4.3: a network of 54 blocks
   with batch norm is trained from scratch with a random 23 of its blocks in each batch, the others left out, so that
   no path longer than 23 is ever used; and once as it is.  Both are measured whole.  Published is an error of 5.96 %
   against 6.10 %: no difference beyond noise is expected.
2. By short or by long paths.  In each step of gradient descent the gradient g is split by the length of whole paths at
   the length at which half of |g|^2 = sum_k <g, g_k> is reached (the length that holds the middle is split in
   proportion).  One network is trained by the shorter half alone, one by the longer, one by all; each update is scaled
   to the norm of the whole gradient, and each has the best of several learning rates, chosen on a seed of its own by
   the fewest steps.  If short paths are what is learned first, the shorter half needs fewer steps to a given loss.

The second network has no norms and no biases, so that every gradient is one of paths and its steps are those of the
mode that it is measured in.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise import nets
from termwise.causal import Joins
from termwise.data import DataSet, load
from termwise.experiments.common import Expected, Nobody, by_quantity, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Progress, Rows
from termwise.experiments.networks import ResidualMLP
from termwise.lengths import gradient_lengths, path_gradient
from termwise.loop import Training, train_network
from termwise.recorder import reestimated
from termwise.seeds import owned_random, stream
from termwise.sentences import Sentence, say

Half = Literal["shorter", "longer", "all"]
HALVES: tuple[Half, ...] = ("shorter", "longer", "all")
DIFFERENCE, RATIO = "error by a part of the blocks - by all", "steps by shorter over steps by longer paths"
ON_TRAINING = "error on training data"
NOISE = 0.01
UNFINISHED = "It has not learned its training data yet."
LOST = "It has learned its training data, and carries over less of them."
TUNING = 2**31 - 1  # the seed that learning rates are chosen on
DIVERGED = 100.0  # nats; beyond, the shares of the gradient are lost in rounding
# Noise is that of the published error, one run of each: differences up to a percent of the test images.
EXPECTED = {
    DIFFERENCE: Expected(f"within {NOISE:g} of 0", -NOISE, NOISE),
    RATIO: Expected("below 1 if short is first", high=1.0),
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained, and how; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the residual network, 6n + 2 for 3n blocks.
        part: of the blocks that are there in a batch.
        epochs: of its trainings.
        blocks: of the network that is trained by halves of its gradient.
        features: of its stream.
        steps: of its trainings, at most.
        batch: samples a step.
        rates: that each half chooses from.
        target: the loss on all training data, in nats, that is to be reached.
    """

    depth: int = 110
    part: float = 23 / 54
    epochs: int = 15
    blocks: int = 8
    features: int = 32
    steps: int = 150
    batch: int = 128
    rates: tuple[float, ...] = (0.025, 0.05, 0.1)  # from 0.14 on the network dies on some seeds
    target: float = 0.3

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=14, epochs=1, blocks=2, features=8, steps=2, batch=16, rates=(0.1, 0.2), target=2.0)


def prepare(protocol: Protocol, progress: Progress) -> Rows:
    """Choose a learning rate for each half, on a seed that no network is measured on."""
    data = load("digits", size=8)
    rates = [{"half": half, "rate": _best_rate(half, data, protocol, TUNING, progress)} for half in HALVES]
    return {"rates": rates}


def measure(job: Job) -> Rows:
    """Train by all blocks and by some, by all paths and by some."""
    protocol, seed = job.protocol, job.seed
    data = load("digits", size=8)
    measured: dict[str, float] = {}
    for name, part in (("all", 1.0), ("a part", protocol.part)):
        job.progress(f"training by {name} of the blocks")
        test, train = _by_blocks(part, data, protocol, seed)
        measured[f"error, trained by {name} of the blocks"] = test
        measured[f"{ON_TRAINING}, trained by {name} of the blocks"] = train
    measured[DIFFERENCE] = test - measured["error, trained by all of the blocks"]
    steps: dict[str, float] = {}
    for half, rate in _rates(job.prepared).items():
        job.progress(f"training by {half} paths, at rate {rate:g}")
        steps[half], error = by_half(half, rate, data, protocol, seed)
        measured[f"steps to a loss of {protocol.target:g}, {half} paths"] = steps[half]
        measured[f"error, trained by {half} paths"] = error
    measured[RATIO] = steps["shorter"] / steps["longer"]
    return {"values": [{"quantity": name, "value": value} for name, value in measured.items()]}


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The outcomes beside each other."""
    found = [row(name, each, EXPECTED.get(name)) for name, each in by_quantity(rows["values"]).items()]
    rates = _rates(rows)
    chosen = say("Learning rates: {rates}.", rates=", ".join(f"{half} {rate:g}" for half, rate in rates.items()))
    return Conclusion(found, (chosen, *_edges(rates, protocol), *_missed(found, protocol)))


def _rates(rows: Rows) -> dict[Half, float]:
    return {line["half"]: line["rate"] for line in rows["rates"]}


# A random part of the blocks.


class SomeBlocks(nn.Module):
    """A network that leaves out other blocks each time that it is called in training mode."""

    def __init__(self, network: nn.Module, example: Tensor, part: float) -> None:
        super().__init__()
        self.network = network
        self._joins = Joins(network.eval(), example)
        self._kept = round(part * len(self._joins.blocks))

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to logits (N, classes)."""
        if not self.training:
            return self.network(x)
        order = torch.randperm(len(self._joins.blocks)).tolist()
        with self._joins.without(order[self._kept :]):
            return self.network(x)


def _by_blocks(part: float, data: DataSet, protocol: Protocol, seed: int) -> tuple[float, float]:
    """The errors of the whole network on test and training data, trained by a part of its blocks at a time.

    Its batch statistics are those of the whole.
    """
    with owned_random(seed):
        network = nets.resnet(protocol.depth, classes=data.classes, channels=data.train_inputs.shape[1], width=8)
    model = SomeBlocks(network, data.train_inputs[:1], part)
    train_network(model, data, Nobody(), settings=Training(epochs=protocol.epochs), seed=seed)
    whole = reestimated(network, data.train_inputs).eval()
    return _error(whole, data), _error(whole, data, training=True)


@torch.no_grad()
def _error(model: nn.Module, data: DataSet, *, training: bool = False) -> float:
    inputs, targets = (data.train_inputs, data.train_targets) if training else (data.test_inputs, data.test_targets)
    return float((model(inputs).argmax(dim=1) != targets).double().mean())


# Halves of the gradient.


def by_half(half: Half, rate: float, data: DataSet, protocol: Protocol, seed: int) -> tuple[float, float]:
    """The steps to the loss that is wanted (infinite where it is not reached), and the error on test data then.

    A loss that is there before the first step counts as one step.
    """
    with owned_random(seed):
        shape = data.train_inputs[0].numel(), protocol.features, data.classes
        model = ResidualMLP(*shape, blocks=protocol.blocks, gain=0.5).eval()
    parameters = dict(model.named_parameters())
    for step, rows in enumerate(_batches(data, protocol, seed)):
        with torch.no_grad():
            loss = float(F.cross_entropy(model(data.train_inputs), data.train_targets))
        if loss <= protocol.target:
            return max(step, 1), _error(model, data)
        if not loss <= DIVERGED:
            break
        x, targets = data.train_inputs[rows], data.train_targets[rows]
        update = direction(half, model, x, lambda y, targets=targets: F.cross_entropy(y, targets))
        with torch.no_grad():
            for name, gradient in update.items():
                parameters[name].sub_(rate * gradient)
    return math.inf, _error(model, data)


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


def _batches(data: DataSet, protocol: Protocol, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(stream(seed, 1))
    for _ in range(protocol.steps):
        yield torch.randint(len(data.train_inputs), (protocol.batch,), generator=generator)


def _best_rate(half: Half, data: DataSet, protocol: Protocol, seed: int, progress: Progress) -> float:
    progress(f"choosing a learning rate for {half} paths")
    best, fewest = protocol.rates[0], math.inf
    for rate in reversed(protocol.rates):
        # Who is not there when the best so far was need not go on.
        limited = dataclasses.replace(protocol, steps=int(min(fewest, protocol.steps)))
        steps, _ = by_half(half, rate, data, limited, seed)
        if steps < fewest:
            best, fewest = rate, steps
    return best


def _edges(rates: dict[Half, float], protocol: Protocol) -> Iterator[Sentence]:
    for half, rate in rates.items():
        if rate in (protocol.rates[0], protocol.rates[-1]):
            yield say(
                "The best rate for {half} paths is at the end of those tried: a better one may lie beyond.", half=half
            )


def _missed(found: Sequence[Mapping[str, Any]], protocol: Protocol) -> Iterator[Sentence]:
    """Whether the network that was trained by a part of its blocks is at the end of its training."""
    value = {each["quantity"]: each["found"] for each in found}
    train = value[f"{ON_TRAINING}, trained by a part of the blocks"]
    if value[DIFFERENCE] > NOISE:
        yield say(
            "Trained by a part of its blocks for {epochs} epochs, the whole network is wrong on {train:.1%} of its "
            "training data.",
            epochs=protocol.epochs,
            train=train,
        )
        yield say(UNFINISHED if train > NOISE else LOST)


EXPERIMENT = Experiment(
    "train-by-paths",
    say("Does it matter by which paths a network is trained?"),
    Protocol,
    measure,
    conclude,
    prepare,
)
