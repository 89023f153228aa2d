"""Does a residual network lose by being trained with a random part of its blocks at a time?

After Veit, Wilber, Belongie 2016 (arXiv 1605.06431), section 4.3: a network of 54 blocks with batch norm is trained
from scratch with a random 23 of its blocks in each batch, the others left out, so that no path longer than 23 is ever
used; and once as it is.  Both are measured whole.  Published is an error of 5.96 % against 6.10 %: no difference beyond
noise is expected.

Three things had to be right, and what each does is measured beside the claim.  *How long*: a block that is there in 23
batches of 54 has so much fewer updates, and in a short training it is these that are missing.  So the part is trained
for 54/23 of the epochs that suffice for the whole: each block has as many updates in both, at equal cost.  *What the
batch norms know*: statistics that were collected while blocks were missing do not fit the whole network, so all are
estimated anew with every block there.  *How much a branch brings*: a stream that had 23 branches in training has 54 in
the test, so each is scaled by 23/54, as after stochastic depth (Huang et al. 2016, arXiv 1603.09382, equation 5).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from termwise import nets
from termwise.charts import Axis, Chart, Plot
from termwise.data import DataSet, load
from termwise.experiments.common import Nobody, error, over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Training, train_network
from termwise.nets.resnet import Block, ResNet
from termwise.recorder import reestimated
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say
from termwise.verdict.decision import Expected

DIFFERENCE = "error by a part of the blocks - by all"
TEST, TRAINING = "test data", "training data"
NOISE = 0.01
UNFINISHED = "It has not learned its training data yet."
LOST = "It has learned its training data, and carries over less of them."
# Noise is that of the published error, one run of each: differences up to a percent of the test images.
EXPECTED = Expected(f"within {NOISE:g} of 0", -NOISE, NOISE)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained, and for how long; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the residual network, 6n + 2 for 3n blocks.
        part: of the blocks that are there in a batch.
        epochs: of its training by all blocks.
    """

    depth: int = 110
    part: float = 23 / 54
    epochs: int = 15

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=14, epochs=1)

    @property
    def blocks(self) -> int:
        """Of the network."""
        return (self.depth - 2) // 2

    @property
    def longer(self) -> int:
        """The epochs in which a block that is there by part has as many updates as one that is always there."""
        return round(self.epochs / self.part)

    @property
    def trainings(self) -> dict[str, tuple[float, int]]:
        """The cells: of each, the part of the blocks and the epochs."""
        return {
            "all-blocks": (1.0, self.epochs),
            "some-blocks": (self.part, self.longer),
            "some-blocks-short": (self.part, self.epochs),
        }


def cells(protocol: Protocol) -> tuple[str, ...]:
    """Each training is one."""
    return tuple(protocol.trainings)


def measure(job: Job) -> Rows:
    """Train one network, by all of its blocks or by some."""
    job.progress("training")
    part, epochs = job.protocol.trainings[job.cell]
    return {"errors": by_blocks(part, epochs, load("digits", size=8), job.protocol.depth, job.seed)}


def by_blocks(part: float, epochs: int, data: DataSet, depth: int, seed: int) -> list[dict[str, Any]]:
    """The errors of the whole network, trained by a part of its blocks at a time.

    Returns:
        A row for test and training data; where blocks were missing, also with every branch scaled by the part.
    """
    with owned_random(seed):
        network = nets.resnet(depth, classes=data.classes, channels=data.train_inputs.shape[1], width=8)
    train_network(SomeBlocks(network, part), data, Nobody(), settings=Training(epochs=epochs), seed=seed)
    wholes = {called(part, epochs): network}
    if part < 1:
        wholes[called(part, epochs, "scaled")] = scaled(network, part)
    rows = []
    for name, model in wholes.items():
        whole = reestimated(model, data.train_inputs).eval()
        test = {"data": TEST, "error": error(whole, data.test_inputs, data.test_targets)}
        training = {"data": TRAINING, "error": error(whole, data.train_inputs, data.train_targets)}
        rows += [{"training": name, **test}, {"training": name, **training}]
    return rows


def called(part: float, epochs: int, *more: str) -> str:
    """How a training is called."""
    return ", ".join(["a part" if part < 1 else "all blocks", f"{epochs} epochs", *more])


# A network by some of its blocks.


class SomeBlocks(nn.Module):
    """A network that leaves out other blocks each time that it is called in training mode.

    What is left out is not computed: behind its rectifier a stream passes the shortcut of a missing block as it is.
    """

    def __init__(self, network: ResNet, part: float) -> None:
        super().__init__()
        self.network = network
        self._count = len(blocks_of(network))
        self._kept = round(part * self._count)

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to logits (N, classes)."""
        if not self.training:
            return self.network(x)
        return self.through(x, torch.randperm(self._count)[: self._kept].tolist())

    def through(self, x: Tensor, kept: Collection[int]) -> Tensor:
        """The logits (N, classes) of x (N, ...) by the blocks of these numbers."""
        network = self.network
        v = network.relu(network.norm(network.conv(x)))
        for number, block in enumerate(blocks_of(network)):
            v = block(v) if number in kept else block.shortcut(v)
        return network.classifier(network.pool(v).flatten(1))


def blocks_of(network: nn.Module) -> list[Block]:
    """The blocks, from the input on."""
    return [module for module in network.modules() if isinstance(module, Block)]


@torch.no_grad()
def scaled(network: ResNet, factor: float) -> ResNet:
    """A copy whose every branch brings so much of what it brought."""
    twin = copy.deepcopy(network)
    for block in blocks_of(twin):
        block.norm2.weight.mul_(factor)
        block.norm2.bias.mul_(factor)
    return twin


# What follows.


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The errors of all trainings beside each other."""
    found = _found(rows["errors"], protocol)
    by_training = over_seeds(rows["errors"], ["training", "data"], ["error"])
    notes = tuple(_notes(found, by_training, protocol))
    return Conclusion(found, notes, {"by_training": by_training}, (_chart(found, protocol),))


def _found(rows: Sequence[Mapping[str, Any]], protocol: Protocol) -> list[dict[str, Any]]:
    errors: dict[str, list[float]] = {}
    for each in rows:
        if each["data"] == TEST:
            errors.setdefault(each["training"], []).append(each["error"])
    whole = errors[called(1, protocol.epochs)]
    found = [row(f"error, {name}", each) for name, each in errors.items()]
    for name in errors:
        if name != called(1, protocol.epochs):
            difference = [by_part - by_all for by_part, by_all in zip(errors[name], whole, strict=True)]
            if name == called(protocol.part, protocol.longer, "scaled"):
                found.insert(0, row(DIFFERENCE, difference, EXPECTED))
            else:
                found.append(row(f"{DIFFERENCE}: {name}", difference))
    return found


def _notes(
    found: Sequence[Mapping[str, Any]], by_training: Sequence[Mapping[str, Any]], protocol: Protocol
) -> Iterator[Sentence]:
    """What length and scale do; and where the part stays behind, whether it is at the end of its training."""
    value = {each["quantity"]: each["found"] for each in found}
    short, longer = (called(protocol.part, epochs) for epochs in (protocol.epochs, protocol.longer))
    yield say(
        "Against all blocks after {epochs} epochs, the difference is {difference:+.3f} after {longer} epochs with "
        "branches scaled by the part, and {plain:+.3f} with branches as they are; after {epochs} epochs "
        "{short_scaled:+.3f} and {short_plain:+.3f}.",
        epochs=protocol.epochs,
        longer=protocol.longer,
        difference=value[DIFFERENCE],
        plain=value[f"{DIFFERENCE}: {longer}"],
        short_scaled=value[f"{DIFFERENCE}: {short}, scaled"],
        short_plain=value[f"{DIFFERENCE}: {short}"],
    )
    if value[DIFFERENCE] > NOISE:
        name = called(protocol.part, protocol.longer, "scaled")
        (training,) = (e["error"] for e in by_training if (e["training"], e["data"]) == (name, TRAINING))
        yield say("Trained by a part, the whole network is wrong on {error:.1%} of its training data.", error=training)
        yield say(UNFINISHED if training > NOISE else LOST)


def _chart(found: Sequence[Mapping[str, Any]], protocol: Protocol) -> Chart:
    """The error by training."""
    value = {each["quantity"]: each["found"] for each in found}
    numbers = {
        "kept": round(protocol.part * protocol.blocks),
        "blocks": protocol.blocks,
        "part": value[f"error, {called(protocol.part, protocol.longer, 'scaled')}"],
        "whole": value[f"error, {called(1, protocol.epochs)}"],
    }
    template = {
        "holds": "Trained by {kept} of its {blocks} blocks at a time, a network is as good as by all: wrong on "
        "{part:.1%} against {whole:.1%}",
        "fails": "Trained by {kept} of its {blocks} blocks at a time, a network is not what it is by all: wrong on "
        "{part:.1%} against {whole:.1%}",
    }.get(
        found[0]["verdict"],
        "Trained by {kept} of its {blocks} blocks at a time, a network is wrong on {part:.1%}; by all, on {whole:.1%}",
    )
    plot = Plot(
        "by_training",
        "points",
        Axis("training", say("trained by"), scale="ordinal"),
        Axis("error", say("error of the whole network on test data"), low=0.0),
        interval=("error_low", "error_high"),
        where={"data": TEST},
    )
    reading = say(
        "Points are means over seeds, lines 95 % intervals. A part: a random {kept} of the blocks in each batch. "
        "Scaled: in the test each branch brings that part of what it brought in training.",
        kept=numbers["kept"],
    )
    return Chart("error-by-blocks", say(template, **numbers), reading, (plot,))


EXPERIMENT = Experiment(
    "some-blocks",
    say("Does a residual network lose by being trained with a random part of its blocks at a time?"),
    Protocol,
    measure,
    conclude,
    cells=cells,
)
