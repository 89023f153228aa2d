"""Is the transformer of the shorter paths the better one?

After W. Sun et al. 2025, *The Curse of Depth in Large Language Models* (arXiv 2502.05795).  Behind each branch of a
Pre-LN transformer the stream has a larger variance, while a norm gives each branch an input of the same size: the
deeper a layer, the less it adds to what passes it, until it is nearly the identity, and little is lost without it.
There it is a *defect* that shallow terms dominate.  Their remedy, LayerNorm scaling, multiplies what both norms of the
l-th layer give by 1 / sqrt(l), which leaves more to the deep layers, and the loss at equal steps is lower.  Sun, Ding,
Guo 2022 (H2 to H4) hold that the network whose terms are shallower is the better one for it.

Two transformers of twelve layers, alike but for the scaling, learn the synthetic language of `termwise.sequences` from
the same first weights and the same batches, by Adam over one cycle.  One number a seed of each, at the end:

- the mean path length (norm share, in residual branches, of which a layer has two) with scaling less that without.
  Published is that deep layers bring more with scaling; that paths are then longer is how this project reads it;
- the test loss without scaling less that with it;
- the loss that a layer of the deeper half costs when it alone is taken away, in the mean over these layers, with
  scaling less that without.

All three are expected above 0, from that paper.  The claim is the fourth: of the two networks of a seed, the test loss
of the one with the longer paths less that of the other is above 0, if it is the shallower one that is better.

Each network has the learning rate that was best for it on seed 1000 alone, of 0.001, 0.002, 0.004 and 0.008, by the
mean training loss of the last 50 updates; updates and batch were set by what ten minutes of one core allow.  The first
run over all seeds showed the network without scaling far worse than on the seed that its rate was chosen on.  So a
third one was added after it, exploratory and without a verdict: without scaling, at the rate of the scaled one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise import nets
from termwise.charts import Axis, Chart, Mark, Plot
from termwise.data import DataSet, load
from termwise.deletion import deletion
from termwise.errors import ModelError
from termwise.experiments.common import over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Optimiser
from termwise.profile import profile
from termwise.seeds import owned_random, stream
from termwise.sentences import Sentence, say
from termwise.sequences import least_loss
from termwise.verdict.decision import ABOVE, Expected

PLAIN, SCALED, SAME = "plain", "scaled", "plain at the rate of scaled"
CELLS = {"plain": PLAIN, "scaled": SCALED, "plain-same-rate": SAME}
LENGTH, FIRST_LENGTH = "mean path length, blocks", "mean path length at first weights, blocks"
LOSS, ACCURACY = "test loss, nats a token", "test accuracy"
DEEP, SHALLOW = "loss that a layer of the deeper half costs", "loss that a layer of the other half costs"
ADDED = "what a layer of the deeper half adds, over what passes it"
CLAIM = f"{LOSS}, of the network of longer paths less the other"
QUANTITIES = (LENGTH, FIRST_LENGTH, LOSS, ACCURACY, DEEP, SHALLOW, ADDED)
SHALLOWER = Expected("above 0, if the shallower is better", ABOVE.low)
_BATCHES = 1  # the key of the random stream of batches


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained and measured; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: layers, of two residual branches each.
        width: features of a token.
        length: of the sequences, in tokens.
        updates: of each training.
        batch: sequences an update.
        plain_rate: of Adam at its peak, without scaling.
        scaled_rate: with it.
        window: updates whose losses make one point of the course.
        probe: test sequences that paths and layers are measured on; the test loss is that of all.
    """

    depth: int = 12
    width: int = 32
    length: int = 32
    updates: int = 500
    batch: int = 32
    plain_rate: float = 4e-3
    scaled_rate: float = 2e-3
    window: int = 25
    probe: int = 128

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=2, width=8, length=24, updates=4, batch=4, window=2, probe=8)

    def rate(self, network: str) -> float:
        """Of a network."""
        return self.plain_rate if network == PLAIN else self.scaled_rate


class ScaledNorm(nn.Module):
    """A norm, and a constant factor behind it."""

    def __init__(self, norm: nn.Module, factor: float) -> None:
        super().__init__()
        self.norm, self.factor = norm, factor

    def forward(self, v: Tensor) -> Tensor:
        """As the norm."""
        return self.factor * self.norm(v)


def scale_norms(model: nets.Transformer) -> nets.Transformer:
    """Put 1 / sqrt(l) behind both norms of the l-th layer, counted from 1; the last norm of all stays as it is."""
    for number, layer in enumerate(model.blocks, 1):
        for name in ("norm1", "norm2"):
            setattr(layer, name, ScaledNorm(getattr(layer, name), 1 / math.sqrt(number)))
    return model


def built(network: str, data: DataSet, protocol: Protocol, seed: int) -> nets.Transformer:
    """A network at its first weights, which are the same for all."""
    with owned_random(seed):
        model = nets.transformer(
            protocol.depth, protocol.width, vocabulary=data.classes, length=protocol.length, tied=False
        )
    return scale_norms(model) if network == SCALED else model


def descend(model: nn.Module, data: DataSet, protocol: Protocol, rate: float, seed: int) -> list[float]:
    """Train in place, by Adam over one cycle (`termwise.loop.Optimiser`); the loss of each update.

    Raises:
        ModelError: when the loss is not finite.
    """
    generator = torch.Generator().manual_seed(stream(seed, _BATCHES))
    optimiser, cycle, losses = torch.optim.Adam(model.parameters()), Optimiser(learning_rate=rate), []
    for n in range(protocol.updates):
        for group in optimiser.param_groups:
            group["lr"] = cycle.rate(n, protocol.updates)
        rows = torch.randint(len(data.train_inputs), (protocol.batch,), generator=generator)
        loss = F.cross_entropy(model(data.train_inputs[rows]).flatten(0, 1), data.train_targets[rows].flatten())
        if not bool(torch.isfinite(loss)):
            raise ModelError(f"the loss is {loss.item()} after {n} updates: a rate of {rate:g} is too high.")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def measure(job: Job) -> Rows:
    """Train a network, and take it apart: by path length, and layer by layer."""
    protocol, network = job.protocol, CELLS[job.cell]
    data = load("induction", size=protocol.length)
    probe = data.test_inputs[: protocol.probe], data.test_targets[: protocol.probe]
    model = built(network, data, protocol, job.seed).eval()
    first = profile(model, probe, unit="blocks", replicates=2)
    job.progress("training")
    losses = descend(model.train(), data, protocol, protocol.rate(network), job.seed)
    job.progress("measuring its paths")
    last = profile(model.eval(), probe, unit="blocks", replicates=2)
    layers = by_layer(model, probe)
    half = protocol.depth // 2
    values = {
        LENGTH: last.mean_depth.value,
        FIRST_LENGTH: first.mean_depth.value,
        **tested(model, data),
        DEEP: float(np.mean([line["cost"] for line in layers[half:]])),
        SHALLOW: float(np.mean([line["cost"] for line in layers[:half]])),
        ADDED: float(np.mean([line["added"] for line in layers[half:]])),
    }
    lengths = [
        {"length": line["depth"], "share": line["norm_share"]} for line in last.share.where(origin="input").rows()
    ]
    course = [
        {"step": n + protocol.window, "loss": float(np.mean(losses[n : n + protocol.window]))}
        for n in range(0, protocol.updates, protocol.window)
    ]
    quantities = [{"quantity": name, "value": value} for name, value in values.items()]
    rows = {"values": quantities, "layers": layers, "lengths": lengths, "course": course}
    return {table: [{"network": network, **line} for line in lines] for table, lines in rows.items()}


@torch.no_grad()
def tested(model: nn.Module, data: DataSet) -> dict[str, float]:
    """Mean loss in nats and accuracy over all tokens of the test part."""
    logits, targets = model(data.test_inputs).flatten(0, 1), data.test_targets.flatten()
    right = (logits.argmax(dim=1) == targets).double().mean()
    return {LOSS: float(F.cross_entropy(logits.double(), targets)), ACCURACY: float(right)}


def by_layer(model: nets.Transformer, probe: tuple[Tensor, Tensor]) -> list[dict[str, Any]]:
    """A row a layer, from 1: the loss without it less that with it, and the size of what it adds over what passes."""
    count = len(model.blocks)
    names = [[f"blocks.{i}"] for i in range(count)]
    draws = deletion(model, probe, removed=(0, 1), draws=count, layers=names).draws.rows()
    whole = draws[0]["loss"]
    costs = {int(line["gone"]): line["loss"] - whole for line in draws[1:]}
    return [{"layer": i + 1, "cost": costs[i], "added": added} for i, added in enumerate(additions(model, probe[0]))]


def additions(model: nets.Transformer, inputs: Tensor) -> list[float]:
    """Of each layer, the norm of what it adds to the stream over the norm of the stream that it gets."""
    found: list[float] = []

    def note(_layer: nn.Module, args: tuple[Tensor], result: Tensor) -> None:
        found.append(float((result - args[0]).norm() / args[0].norm()))

    hooks = [layer.register_forward_hook(note) for layer in model.blocks]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


# What follows.

Line = Mapping[str, Any]


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The differences of the two networks, beside what was published and what is claimed."""
    numbers = {
        name: {network: _values(rows["values"], name, network) for network in CELLS.values()} for name in QUANTITIES
    }
    gained = {name: each[SCALED] - each[PLAIN] for name, each in numbers.items()}
    found = [
        row(f"{LENGTH}, scaled less plain", gained[LENGTH], ABOVE),
        row(f"{LOSS}, plain less scaled", -gained[LOSS], ABOVE),
        row(f"{DEEP}, scaled less plain", gained[DEEP], ABOVE),
        row(CLAIM, np.sign(gained[LENGTH]) * gained[LOSS], SHALLOWER),
        *(
            row(f"exploratory: {name}, {SAME} less scaled", numbers[name][SAME] - numbers[name][SCALED])
            for name in (LENGTH, LOSS, DEEP)
        ),
        *(row(f"{name}, {network}", each[network]) for name, each in numbers.items() for network in each),
    ]
    layers = over_seeds(rows["layers"], ["network", "layer"], ["cost", "added"])
    tables = {
        "by_layer": layers,
        "deeper": [line for line in layers if line["layer"] > protocol.depth // 2],
        "by_length": over_seeds(rows["lengths"], ["network", "length"], ["share"]),
        "by_step": over_seeds(rows["course"], ["network", "step"], ["loss"]),
    }
    means = {name: {network: float(each.mean()) for network, each in two.items()} for name, two in numbers.items()}
    charts = (_course(found[1], means, protocol), _layers(found[2], means), _lengths(found[0], means))
    return Conclusion(found, tuple(_notes(found, means, protocol)), tables, charts)


def _values(values: Sequence[Line], quantity: str, network: str) -> np.ndarray:
    """One number a seed, in the order of the seeds."""
    chosen = [v for v in values if (v["quantity"], v["network"]) == (quantity, network)]
    return np.array([v["value"] for v in sorted(chosen, key=lambda v: v["seed"])], dtype=float)


def _pair(means: Mapping[str, Mapping[str, float]], name: str) -> dict[str, float]:
    return {"plain": means[name][PLAIN], "scaled": means[name][SCALED]}


def _notes(found: Sequence[Line], means: Mapping[str, Mapping[str, float]], protocol: Protocol) -> list[Sentence]:
    """Where the two end; what came out otherwise than published, and what was measured of it."""
    length, loss, deep, claim, *_ = found
    notes = [
        say(
            "The least possible loss is {least:.3f}; without scaling it ends at {plain:.3f}, with scaling at "
            "{scaled:.3f}.",
            least=least_loss(protocol.length),
            **_pair(means, LOSS),
        ),
        say(
            "A layer of the deeper half adds {plain:.2f} of what passes it without scaling, {scaled:.2f} with: the "
            "nearer to 0, the nearer it is to the identity.",
            **_pair(means, ADDED),
        ),
    ]
    gap, left = loss["found"], means[LOSS][SAME] - means[LOSS][SCALED]
    if loss["verdict"] == "holds" and left < gap / 2:
        notes.append(
            say(
                "Most of that is the learning rate and not the scaling: at the rate of the scaled network the plain "
                "one ends at {same:.3f}, and of a difference of {gap:.2f} nats {left:.2f} are left.",
                same=means[LOSS][SAME],
                gap=gap,
                left=left,
            )
        )
    first = _pair(means, FIRST_LENGTH)
    if length["found"] < 0 and first["scaled"] < first["plain"]:
        notes.append(
            say(
                "Scaling shortens the paths to begin with, for a deep branch of a scaled input is smaller: at first "
                "weights the mean length is {plain:.2f} blocks without it and {scaled:.2f} with. Training takes these "
                "to {plain_end:.2f} and {scaled_end:.2f}.",
                **first,
                plain_end=means[LENGTH][PLAIN],
                scaled_end=means[LENGTH][SCALED],
            )
        )
    if deep["verdict"] == "fails":
        notes.append(
            say(
                "The deep layers of the network without scaling are not the idle ones: without one of them its loss "
                "grows by {plain:.3f}, that of the scaled network by {scaled:.3f}.",
                **_pair(means, DEEP),
            )
        )
    if claim["verdict"] == "fails":
        notes.append(
            say("The better of the two networks is the one of longer paths: that shallow terms dominate is no merit.")
        )
    elif claim["verdict"] == "holds":
        notes.append(
            say(
                "The better of the two networks is the one of shorter paths, in the mean {short:.2f} blocks against "
                "{long:.2f}: it is no example against the claim.",
                short=min(means[LENGTH].values()),
                long=max(means[LENGTH].values()),
            )
        )
    elif loss["verdict"] != "holds":
        notes.append(
            say(
                "That scaling lowers the loss is not found with {depth} layers and {updates} updates, so these "
                "networks are no evidence for the defect, and none against it in networks of another size.",
                depth=protocol.depth,
                updates=protocol.updates,
            )
        )
    return notes


# The figures.


def _course(found: Line, means: Mapping[str, Mapping[str, float]], protocol: Protocol) -> Chart:
    template = {
        "holds": "With scaled norms the loss ends lower: at {scaled:.3f} nats a token, without them at {plain:.3f}",
        "fails": "With scaled norms the loss ends no lower: at {scaled:.3f} nats a token, without them at {plain:.3f}",
    }.get(found["verdict"], "The loss over the training ends at {scaled:.3f} with scaled norms, at {plain:.3f} without")
    plot = Plot(
        "by_step",
        "lines",
        Axis("step", say("updates")),
        Axis("loss", say("training loss, nats a token")),
        series="network",
        interval=("loss_low", "loss_high"),
        marks=(Mark(least_loss(protocol.length), say("least possible")),),
    )
    reading = say(
        "A point is the mean loss of the last {window} updates. Lines are means over seeds, bands 95 % intervals. The "
        "title is about the test loss at the end.",
        window=protocol.window,
    )
    return Chart("course", say(template, **_pair(means, LOSS)), reading, (plot,))


def _layers(found: Line, means: Mapping[str, Mapping[str, float]]) -> Chart:
    template = {
        "holds": "Scaled norms give deep layers work: without one the loss grows by {scaled:.3f}, else by {plain:.3f}",
        "fails": "Scaled norms give deep layers no more work: without one the loss grows by {scaled:.3f}, else by "
        "{plain:.3f}",
    }.get(found["verdict"], "Without a layer of the deeper half the loss grows by {plain:.3f}, scaled by {scaled:.3f}")

    def panel(column: str, label: str, heading: str) -> Plot:
        return Plot(
            "deeper",
            "lines",
            Axis("layer", say("layer of the deeper half")),
            Axis(column, say(label)),
            series="network",
            interval=(f"{column}_low", f"{column}_high"),
            heading=say(heading),
        )

    plots = (
        panel("cost", "loss without it less loss with it, nats", "what a layer is worth"),
        panel("added", "norm of what it adds over what passes", "how far it is from the identity"),
    )
    reading = say(
        "Each layer of the deeper half is taken away alone; those before it are in the saved tables. Lines are means "
        "over seeds, bands 95 % intervals."
    )
    return Chart("by-layer", say(template, **_pair(means, DEEP)), reading, plots)


def _lengths(found: Line, means: Mapping[str, Mapping[str, float]]) -> Chart:
    template = {
        "holds": "Paths are longer with scaled norms: {scaled:.2f} blocks in the mean, {plain:.2f} without",
        "fails": "Paths are not longer with scaled norms: {scaled:.2f} blocks in the mean, {plain:.2f} without",
    }.get(found["verdict"], "How long paths are: in the mean {scaled:.2f} blocks by scaled norms, {plain:.2f} without")
    plot = Plot(
        "by_length",
        "lines",
        Axis("length", say("blocks on the path")),
        Axis("share", say("share of the norms"), low=0.0),
        series="network",
        interval=("share_low", "share_high"),
    )
    reading = say("After training. Lines are means over seeds, bands 95 % intervals.")
    return Chart("lengths", say(template, **_pair(means, LENGTH)), reading, (plot,))


EXPERIMENT = Experiment(
    "pre-norm",
    say("Is the transformer of the shorter paths the better one?"),
    Protocol,
    measure,
    conclude,
    cells=lambda protocol: tuple(CELLS),
)
