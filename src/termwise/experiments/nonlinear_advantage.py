"""Does it cost more to take nonlinearity away early in the training than late?

After C. Mehmeti-Goepel, J. Disselhoff 2023, *Nonlinear Advantage: Trained Networks Might Not Be As Complex as You
Think* (arXiv 2211.17180), who make channels linear while a network trains: the earlier that begins, the more it costs,
while much of what is nonlinear can go in the end.  "Low degree first" (Sun, Ding, Guo 2022), taken as a law, says the
opposite: what is learned early is of low degree, so early on nothing beyond it is used, and what is taken away then
cannot cost more than what is taken away later.

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
when it is taken before the first update.  Half of the channels did, by little that can be seen in the accuracy; so the
same is measured, exploratory and without a verdict, with all channels: what is left is an affine map, whenever it is
done, and only the way there differs.  All else is what other experiments on these images train by.
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

NEVER, TAKEN, ALL, BACK = "never taken", "taken", "all taken", "given back"
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
    share: float = 0.5
    times: tuple[float, ...] = (0.0, 0.125, 0.5, 0.75)
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
    share = {TAKEN: protocol.share, ALL: 1.0}.get(kind, 0.0)
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
    whole = {f"all-{time:g}": (ALL, time) for time in (protocol.early, protocol.late)}
    return {"never": (NEVER, 0.0), **taken, **whole, "back": (BACK, protocol.early)}


# What follows.

Line = Mapping[str, Any]


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """What it costs to take nonlinearity away, by when that is done."""
    lines = [{**line, "network": _words(line["kind"], line["time"])} for line in rows["values"]]
    networks = [_words(*cell) for cell in _cells(protocol).values()]
    loss = {network: _values(lines, network, LOSS) for network in networks}
    early, late = (_words(TAKEN, time) for time in (protocol.early, protocol.late))
    all_early, all_late = (_words(ALL, time) for time in (protocol.early, protocol.late))
    never, back = _words(NEVER, 0.0), _words(BACK, protocol.early)
    difference = loss[early] - loss[late]
    found = [
        row(f"{LOSS}, {early} less {late}", difference, ABOVE),
        row("the same number, by the law of low degree first", difference, BY_LAW),
        row(f"{LOSS}, {back} less {never}", loss[back] - loss[never], BY_LAW),
        row(f"exploratory: {LOSS}, {all_early} less {all_late}", loss[all_early] - loss[all_late]),
        *(row(f"{name}, {network}", _values(lines, network, name)) for name in QUANTITIES for network in networks),
    ]
    means = {name: {n: float(_values(lines, n, name).mean()) for n in networks} for name in QUANTITIES}
    of_taken = [line for line in lines if line["kind"] == TAKEN]
    tables = {
        "by_time": over_seeds(_wide(of_taken), ["time"], [*_COLUMNS.values()]),
        "by_network": over_seeds(_wide(lines), ["network"], [*_COLUMNS.values()]),
    }
    charts = (_by_time(found[0], means, protocol), _by_network(found[2], means, protocol))
    return Conclusion(found, tuple(_notes(found, means, protocol)), tables, charts)


_COLUMNS = {LOSS: "loss", ACCURACY: "accuracy", FITTED: "fitted", LENGTH: "length"}


def _words(kind: str, time: float) -> str:
    """What was done to a network, and when."""
    return kind if kind == NEVER else f"{kind} at {time:g}"


def _values(lines: Sequence[Line], network: str, quantity: str) -> np.ndarray:
    """One number a seed, in the order of the seeds."""
    chosen = [line for line in lines if (line["network"], line["quantity"]) == (network, quantity)]
    return np.array([line["value"] for line in sorted(chosen, key=lambda line: line["seed"])], dtype=float)


def _wide(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """A row for each network and seed, with a column for each quantity."""
    wide: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        each = wide.setdefault((line["network"], line["seed"]), {name: line[name] for name in ("network", "time")})
        each[_COLUMNS[line["quantity"]]] = line["value"]
    return [*wide.values()]


def _notes(found: Sequence[Line], means: Mapping[str, Mapping[str, float]], protocol: Protocol) -> list[Sentence]:
    """What the times make of the network; why the late one is no better, where it is not."""
    published, *_ = found
    early, late = (_words(TAKEN, time) for time in (protocol.early, protocol.late))
    notes = [
        say(
            "Never taken, the test loss is {never:.3f} and the accuracy {accuracy:.3f}. With {share:.0%} of the "
            "channels linear from {first:g} of the training on the loss is {early:.3f}, from {last:g} on {late:.3f}, "
            "and the accuracies are {right:.3f} and {later:.3f}.",
            never=means[LOSS][NEVER],
            accuracy=means[ACCURACY][NEVER],
            share=protocol.share,
            first=protocol.early,
            last=protocol.late,
            early=means[LOSS][early],
            late=means[LOSS][late],
            right=means[ACCURACY][early],
            later=means[ACCURACY][late],
        )
    ]
    if published["verdict"] != "holds" and means[FITTED][late] > means[FITTED][early]:
        notes.append(
            say(
                "What is taken late leaves fewer updates to adapt in, and small ones: the loss on the training data "
                "itself ends at {late:.4f}, and at {early:.4f} where it was taken early. The paper takes slowly "
                "and lets the network choose what; here neither is done.",
                late=means[FITTED][late],
                early=means[FITTED][early],
            )
        )
    return notes


# The figures.


def _by_time(found: Line, means: Mapping[str, Mapping[str, float]], protocol: Protocol) -> Chart:
    template = {
        "holds": "Nonlinearity taken early costs more: a test loss of {early:.3f}, taken late {late:.3f}",
        "fails": "Nonlinearity taken early costs no more: a test loss of {early:.3f}, taken late {late:.3f}",
    }.get(found["verdict"], "The test loss by when nonlinearity is taken: early {early:.3f}, late {late:.3f}")

    def panel(quantity: str, heading: str) -> Plot:
        column = _COLUMNS[quantity]
        return Plot(
            "by_time",
            "lines",
            Axis("time", say("part of the training after which it is taken")),
            Axis(column, say(quantity)),
            interval=(f"{column}_low", f"{column}_high"),
            marks=(Mark(means[quantity][NEVER], say(NEVER)),),
            heading=say(heading),
        )

    plots = (panel(LOSS, "what it costs"), panel(LENGTH, "how deep in nonlinearities the network is"))
    reading = say(
        "{share:.0%} of the channels of every ReLU become linear. Lines are means over seeds, bands 95 % intervals.",
        share=protocol.share,
    )
    early, late = (means[LOSS][_words(TAKEN, time)] for time in (protocol.early, protocol.late))
    return Chart("by-time", say(template, early=early, late=late), reading, plots)


def _by_network(found: Line, means: Mapping[str, Mapping[str, float]], protocol: Protocol) -> Chart:
    template = {
        "fails": "Nonlinearity that is missing at first is never made up for: {back:.3f} nats against {never:.3f}",
        "holds": "Nonlinearity that is missing at first costs nothing: {back:.3f} nats against {never:.3f}",
    }.get(found["verdict"], "Linear at first, the network ends at a test loss of {back:.3f}, else at {never:.3f}")
    plot = Plot(
        "by_network",
        "points",
        Axis("network", say("what was done to nonlinearity"), scale="ordinal"),
        Axis("loss", say(LOSS), low=0.0),
        interval=("loss_low", "loss_high"),
    )
    reading = say(
        "Given back: all channels are linear up to {time:g} of the training, and none after it. Points are means over "
        "seeds, lines 95 % intervals.",
        time=protocol.early,
    )
    values = {"back": means[LOSS][_words(BACK, protocol.early)], "never": means[LOSS][NEVER]}
    return Chart("by-network", say(template, **values), reading, (plot,))


EXPERIMENT = Experiment(
    "nonlinear-advantage",
    say("Does it cost more to take nonlinearity away early in the training than late?"),
    Protocol,
    measure,
    conclude,
    cells=lambda protocol: tuple(_cells(protocol)),
)
