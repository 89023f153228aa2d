"""Does it cost more to take nonlinearity away early in the training than late?

After C. Mehmeti-Goepel, J. Disselhoff 2023, *Nonlinear Advantage: Trained Networks Might Not Be As Complex as You
Think* (arXiv 2211.17180), who make channels linear while a network trains: the earlier that begins, the more it costs,
while much of what is nonlinear can go in the end.  "Low degree first" (Sun, Ding, Guo 2022), taken as a law, says the
opposite: what is learned early is of low degree, so early on nothing beyond it is used, and nonlinearity that is missing
then cannot cost more than nonlinearity that is missing later.

A residual network is trained on the digits.  At a given part of the training the same share of the channels of every
ReLU, drawn at random, becomes the identity, and the training goes on to its end, with as many updates in all.  (The
paper lets a sparsity prior choose the channels and bends them slowly; here chance chooses, at one blow, so that the
time is all that differs.  Weights, order of samples and channels of a seed are the same for all times.)  In one more
network *all* channels are linear at first, and all are given back.  The numbers of a seed, of test losses at the end:

- taken at 1/8 of the training less taken at 3/4: by the paper above 0, by the law at most 0;
- linear up to 1/8 of the training and given back, less never taken: by the law at most 0.

The mean path length (norm share, in activations) says how deep in nonlinearities the networks are in the end; a linear
channel is no step.

The share was chosen on seed 1000 alone, of 1/2, 3/4, 7/8 and 1: the least that raises the test loss by a half or more
when it is taken before the first update.  All else is what other experiments on these images train by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise import nets
from termwise.charts import Axis, Chart, Mark, Plot
from termwise.experiments.common import OnImages, over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Training, train_network
from termwise.profile import profile
from termwise.seeds import owned_random, stream
from termwise.sentences import Sentence, say
from termwise.verdict.decision import ABOVE, Expected

NEVER, TAKEN, BACK = "never taken", "taken", "given back"
LOSS, ACCURACY, FITTED, LENGTH = (
    "test loss, nats",
    "test accuracy",
    "training loss, nats",
    "mean path length, activations",
)
QUANTITIES = (LOSS, ACCURACY, FITTED, LENGTH)
BY_LAW = Expected("at most 0, if nonlinearity is not needed early", high=0.0)
_CHANNELS = 1  # the key of the random stream of channels


@dataclasses.dataclass(frozen=True)
class Protocol(OnImages):
    """What is trained, and when it becomes linear; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the residual network, 6n + 2.
        width: channels of its first stage.
        epochs: of each training.
        share: of the channels that become linear.
        times: parts of the training after which they do.
        early: the one of the times that counts as early; also when all channels are given back.
        late: the one that counts as late.
    """

    depth: int = 14
    width: int = 8
    epochs: int = 15
    share: float = 0.75
    times: tuple[float, ...] = (0.0, 0.125, 0.25, 0.5, 0.75)
    early: float = 0.125
    late: float = 0.75

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=8, width=4, epochs=1, samples=256, times=(0.125, 0.75))


class PartlyLinear(nn.Module):
    """A ReLU, some channels of which pass what they get."""

    linear: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("linear", torch.zeros(channels, 1, 1))

    def forward(self, v: Tensor) -> Tensor:
        """(N, channels, H, W) to the same."""
        return self.linear * v + (1 - self.linear) * F.relu(v)


def with_channels(model: nets.ResNet) -> nets.ResNet:
    """Each ReLU as one whose channels can be made linear; a block's two have the same."""
    model.relu = PartlyLinear(model.conv.out_channels)  # type: ignore[assignment]
    for stage in model.stages:
        for block in stage:  # type: ignore[attr-defined]
            block.relu = PartlyLinear(block.conv2.out_channels)
    return model


def drawn(model: nn.Module, share: float, seed: int) -> list[Tensor]:
    """Which channels become linear, for each ReLU: so large a share of them, 1 where they do."""
    generator = torch.Generator().manual_seed(stream(seed, _CHANNELS))
    chosen = []
    for relu in rectifiers(model):
        channels = torch.zeros_like(relu.linear)
        channels[torch.randperm(len(channels), generator=generator)[: round(share * len(channels))]] = 1
        chosen.append(channels)
    return chosen


def rectifiers(model: nn.Module) -> list[PartlyLinear]:
    """In their order."""
    return [module for module in model.modules() if isinstance(module, PartlyLinear)]


@torch.no_grad()
def make_linear(model: nn.Module, channels: Sequence[Tensor]) -> None:
    """From now on these channels are linear, and no others."""
    for relu, each in zip(rectifiers(model), channels, strict=True):
        relu.linear.copy_(each)


class Switch:
    """Stands where a recorder does, and makes channels linear before one of the updates."""

    seconds = 0.0
    recorded: Collection[int] = ()

    def __init__(self, model: nn.Module, at: int, channels: Sequence[Tensor]) -> None:
        self.model, self.at, self.channels = model, at, channels

    def step(self, n: int, **scalars: Any) -> bool:
        """Switch if due; nothing is recorded."""
        if n == self.at:
            make_linear(self.model, self.channels)
        return False

    def finish(self, n: int, **scalars: Any) -> None:
        """Nothing is kept."""


def measure(job: Job) -> Rows:
    """Train one of the networks, and measure it at the end."""
    protocol, seed = job.protocol, job.seed
    kind, time = _cells(protocol)[job.cell]
    data = protocol.load()
    with owned_random(seed):
        made = nets.resnet(
            protocol.depth, classes=data.classes, channels=data.train_inputs.shape[1], width=protocol.width
        )
    model = with_channels(made)
    settings = Training(epochs=protocol.epochs)
    if kind == BACK:
        make_linear(model, drawn(model, 1.0, seed))
    share = protocol.share if kind == TAKEN else 0.0
    at = round(time * settings.steps(len(data.train_inputs)))
    job.progress("training")
    train_network(model, data, Switch(model, at, drawn(model, share, seed)), settings=settings, seed=seed)
    job.progress("measuring")
    model.eval()
    found = profile(model, (data.test_inputs, data.test_targets), unit="activations", batch_size=180, replicates=2)
    with torch.no_grad():
        fitted = float(F.cross_entropy(model(data.train_inputs), data.train_targets))
    values = {LOSS: found.loss, ACCURACY: found.accuracy, FITTED: fitted, LENGTH: found.mean_depth.value}
    return {
        "values": [{"kind": kind, "time": time, "quantity": name, "value": value} for name, value in values.items()]
    }


def _cells(protocol: Protocol) -> dict[str, tuple[str, float]]:
    """What is done to a network, and when, by the name of its cell."""
    taken = {f"taken-{time:g}": (TAKEN, time) for time in protocol.times}
    return {"never": (NEVER, 0.0), **taken, "back": (BACK, protocol.early)}
