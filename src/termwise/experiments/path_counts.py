"""Has a DenseNet more short paths than a ResNet, and is it better for having shorter ones?

H4 of Sun, Ding, Guo 2022 has it that the subnetworks that matter are shallower in DenseNets, and that this is why they
are better.  A tempting reason would be that a DenseNet, in which every layer sees all others, has more short paths.  It
has not.  A block of a ResNet and a layer of a DenseNet are passed by or passed through, each by itself, so that of L of
them binom(L, k) paths go through k: in either.  Only what paths carry can differ.

A ResNet-38 and a DenseNet-22, which have 18 blocks each and nearly as many parameters, are counted, and measured in
blocks on test digits: at their first weights, and trained.  Batch norms have statistics estimated anew.  The rules,
fixed before anything was measured, with one number a seed:

1. The share of paths that are not longer than half of the blocks, DenseNet less ResNet: above 0 if a DenseNet had more
   short paths.  The numbers of paths by length, beside the binomial coefficients: no difference.
2. The mean length under the norm share, ResNet less DenseNet: above 0 by H4.  Between the two norm shares the total
   variation distance, of which nothing is expected: magnitudes can differ, and it is seen by how much.
3. A third network: the same ResNet whose branches begin weaker, the scales of their last norms at a fifth.  Its mean
   length after training is to be below that of the ResNet, or it tells nothing; its loss on test data, ResNet less the
   shortened one, is above 0 if shorter is better.  That is no proof of the opposite: weaker branches are not shorter
   paths and nothing else, and nobody has shortened the DenseNet, or lengthened it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from termwise import nets
from termwise.charts import Axis, Chart, Plot
from termwise.data import DataSet
from termwise.experiments.common import Nobody, OnImages, by_quantity, over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Training, train_network
from termwise.nets.resnet import Block
from termwise.profile import profile
from termwise.recorder import reestimated
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say
from termwise.verdict.decision import ABOVE, Expected

FIRST, TRAINED = "first weights", "trained"
STATES = (FIRST, TRAINED)
NUMBER, BINOMIAL = "number", "binomial coefficient"
LOSS = "test loss"
MORE = "share of paths through at most half of the blocks, DenseNet less ResNet"
SHORTER = "mean length of the ResNet less that of the weaker one, trained"
BETTER = "test loss of the ResNet less that of the weaker one"
NOTHING = Expected("0", 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Protocol(OnImages):
    """What is counted and trained; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the ResNet, 6n + 2 for 3n blocks.
        width: channels of its first stage.
        dense_depth: of the DenseNet, 3n + 4 for 3n layers.
        growth: channels that each of them appends.
        weaker: what the last norms of the shortened ResNet begin with.
        epochs: of the training.
        batch: samples an update.
        probe: samples of the test part that lengths are measured on.
    """

    depth: int = 38
    width: int = 11
    dense_depth: int = 22
    growth: int = 12
    weaker: float = 0.2
    epochs: int = 5
    batch: int = 64
    probe: int = 256

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=8, width=4, dense_depth=7, growth=4, samples=256, epochs=1, probe=32)


def cells(protocol: Protocol) -> tuple[str, str, str]:
    """The ResNet, the DenseNet, and the ResNet whose branches begin weaker."""
    residual = f"resnet-{protocol.depth}"
    return residual, f"densenet-{protocol.dense_depth}", f"{residual}-weaker"


def network(cell: str, protocol: Protocol, data: DataSet) -> nn.Module:
    """One of them; its weights come from torch's global random state."""
    _, dense, weaker = cells(protocol)
    shape: dict[str, Any] = {"classes": data.classes, "channels": data.train_inputs.shape[1]}
    if cell == dense:
        return nets.densenet(protocol.dense_depth, protocol.growth, **shape)
    model = nets.resnet(protocol.depth, width=protocol.width, **shape)
    for module in model.modules() if cell == weaker else ():
        if isinstance(module, Block):
            nn.init.constant_(module.norm2.weight, protocol.weaker)
    return model


def measure(job: Job) -> Rows:
    """Count and measure the paths of one network, before and after training."""
    protocol, seed = job.protocol, job.seed
    data = protocol.load()
    with owned_random(seed):
        model = network(job.cell, protocol, data)
    lines = _lengths(model, FIRST, protocol, data)
    job.progress("training")
    settings = Training(epochs=protocol.epochs, batch_size=protocol.batch)
    train_network(model, data, Nobody(), settings=settings, seed=seed)
    lines += _lengths(model, TRAINED, protocol, data)
    values = {"parameters": float(sum(p.numel() for p in model.parameters())), **_on_test(model, data)}
    return {
        "lengths": [{"network": job.cell, **line} for line in lines],
        "values": [{"network": job.cell, "quantity": name, "value": value} for name, value in values.items()],
    }


def _lengths(model: nn.Module, state: str, protocol: Protocol, data: DataSet) -> list[dict[str, Any]]:
    """A row for each length: the number of paths and the norm share of their sum."""
    anew = reestimated(model, data.train_inputs[:512])
    probe = data.test_inputs[: protocol.probe], data.test_targets[: protocol.probe]
    share = profile(anew, probe, unit="blocks", replicates=2).share.where(origin="input")
    # As text, for numbers of paths have no bound.
    return [
        {"state": state, "length": int(line["depth"]), "paths": str(line["paths"]), "share": line["norm_share"]}
        for line in share.rows()
    ]


@torch.no_grad()
def _on_test(model: nn.Module, data: DataSet) -> dict[str, float]:
    """Loss, in nats, and accuracy on the test part, with batch-norm statistics estimated anew."""
    logits = reestimated(model, data.train_inputs[:512])(data.test_inputs)
    right = logits.argmax(dim=1) == data.test_targets
    return {
        LOSS: float(F.cross_entropy(logits.double(), data.test_targets)),
        "test accuracy": float(right.double().mean()),
    }


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """How many paths there are, what they carry, and whether shorter is better."""
    names = cells(protocol)
    counts = {name: _by_seed(rows["lengths"], name, FIRST, "paths") for name in names[:2]}
    shares = {(name, state): _by_seed(rows["lengths"], name, state, "share") for name in names for state in STATES}
    values = {name: by_quantity([v for v in rows["values"] if v["network"] == name]) for name in names}
    found = [*_of_counts(counts), *_of_norms(shares, names), *_of_contrast(shares, values, names)]
    found += [row(f"{quantity}, {name}", each) for name in names for quantity, each in values[name].items()]
    numbers = {line["quantity"]: line for line in found}
    tables = {"numbers": _number_table(counts), "by_length": _share_table(rows["lengths"], counts)}
    return Conclusion(found, _notes(numbers, names), tables, (_chart(numbers, names),), beside="numbers")


# One number a seed.

Line = Mapping[str, Any]
ByLength = Mapping[int, Any]


def _by_seed(lines: Sequence[Line], name: str, state: str, column: str) -> list[dict[int, Any]]:
    """Of each seed a column by length; numbers of paths are whole ones again."""
    seeds: dict[int, dict[int, Any]] = {}
    for line in lines:
        if (line["network"], line["state"]) == (name, state):
            value = line[column]
            seeds.setdefault(line["seed"], {})[line["length"]] = int(value) if column == "paths" else value
    return [*seeds.values()]


def short_paths(paths: ByLength) -> Fraction:
    """The share of the paths that lead through at most half of the blocks, exactly."""
    return Fraction(sum(n for length, n in paths.items() if 2 * length <= max(paths)), sum(paths.values()))


def off_binomial(paths: ByLength) -> int:
    """The largest difference of a number of paths from the binomial coefficient, over all lengths."""
    longest = max(paths)
    return max(abs(paths.get(k, 0) - math.comb(longest, k)) for k in range(longest + 1))


def mean_length(shares: ByLength) -> float:
    """Under the norm share."""
    return float(sum(length * share for length, share in shares.items()))


def distance(one: ByLength, other: ByLength) -> float:
    """Total variation: half of the sum of all differences, between 0 and 1."""
    return sum(abs(one.get(k, 0.0) - other.get(k, 0.0)) for k in {*one, *other}) / 2


def _of_counts(counts: Mapping[str, Sequence[ByLength]]) -> list[dict[str, Any]]:
    residual, dense = counts.values()
    more = [float(short_paths(d) - short_paths(r)) for r, d in zip(residual, dense, strict=True)]
    off = {name: [off_binomial(paths) for paths in seeds] for name, seeds in counts.items()}
    return [
        row(MORE, more, ABOVE),
        *(row(f"largest difference from a binomial coefficient, {name}", each, NOTHING) for name, each in off.items()),
    ]


def _of_norms(shares: Mapping[tuple[str, str], Sequence[ByLength]], names: Sequence[str]) -> list[dict[str, Any]]:
    residual, dense, _ = names
    found = []
    for state in STATES:
        pairs = [*zip(shares[residual, state], shares[dense, state], strict=True)]
        lengths = [mean_length(r) - mean_length(d) for r, d in pairs]
        found.append(row(f"mean length of the ResNet less that of the DenseNet, {state}", lengths, ABOVE))
        found.append(row(f"distance of their shares by norm, {state}", [distance(r, d) for r, d in pairs]))
    return found + [
        row(f"mean length of {name}, {state}", [mean_length(each) for each in shares[name, state]])
        for name in names
        for state in STATES
    ]


def _of_contrast(
    shares: Mapping[tuple[str, str], Sequence[ByLength]],
    values: Mapping[str, Mapping[str, Sequence[float]]],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    residual, dense, weaker = names
    pairs = zip(shares[residual, TRAINED], shares[weaker, TRAINED], strict=True)
    shorter = [mean_length(r) - mean_length(w) for r, w in pairs]
    losses = {name: np.array(values[name][LOSS]) for name in names}
    return [
        row(SHORTER, shorter, ABOVE),
        row(BETTER, losses[residual] - losses[weaker], ABOVE),
        row("test loss of the ResNet less that of the DenseNet", losses[residual] - losses[dense]),
    ]


# Tables, the reason, and the figure.


def _number_table(counts: Mapping[str, Sequence[ByLength]]) -> list[dict[str, Any]]:
    """The numbers of paths of each length in the first seed, beside the binomial coefficients, as text."""
    (residual, *_), (dense, *_) = counts.values()
    longest = max(*residual, *dense)
    return [
        {"length": k, BINOMIAL: str(math.comb(longest, k))}
        | {name: str(paths.get(k, 0)) for name, (paths, *_) in counts.items()}
        for k in range(longest + 1)
    ]


def _share_table(lines: Sequence[Line], counts: Mapping[str, Sequence[ByLength]]) -> list[dict[str, Any]]:
    """Shares by length: of the number of paths, and of their norms at first and trained."""
    norms = over_seeds(lines, ["network", "state", "length"], ["share"])
    by_number = [
        {"network": name, "state": NUMBER, "length": k, "share": n / sum(paths.values())}
        | {"share_low": None, "share_high": None}
        for name, (paths, *_) in counts.items()
        for k, n in sorted(paths.items())
    ]
    return [*by_number, *norms]


def _notes(found: Mapping[str, Line], names: Sequence[str]) -> tuple[Sentence, ...]:
    """Why there are not more short paths, and what the contrast says, if anything."""
    residual, dense, weaker = names
    notes = []
    if found[MORE]["verdict"] == "fails" and found[MORE]["found"] == 0:
        notes.append(
            say(
                "A DenseNet has not more short paths: of as many blocks either network has as many paths of each "
                "length, and what differs is what they carry. By norm the mean length of {residual} is {first:.2f} at "
                "first and {last:.2f} when trained, that of {dense} {dense_first:.2f} and {dense_last:.2f}.",
                residual=residual,
                dense=dense,
                **{
                    key: found[f"mean length of {name}, {state}"]["found"]
                    for key, name, state in (
                        ("first", residual, FIRST),
                        ("last", residual, TRAINED),
                        ("dense_first", dense, FIRST),
                        ("dense_last", dense, TRAINED),
                    )
                },
            )
        )
    if found[SHORTER]["verdict"] == "holds":
        template = {
            "holds": "lower. H4 would have it so, and yet it is no proof: branches that begin weaker change more than "
            "the length of paths.",
            "fails": "higher: that shorter is better is not shown.",
        }.get(found[BETTER]["verdict"], "not clearly apart: that shorter is better is not shown.")
        notes.append(
            say(
                "{weaker} is shorter than {residual} by {shorter:.2f} blocks in the mean, and its loss on test data is "
                + template,
                weaker=weaker,
                residual=residual,
                shorter=found[SHORTER]["found"],
            )
        )
    notes.append(
        say(
            "Not tested: a DenseNet whose paths are made shorter or longer and that is the same otherwise. Two "
            "architectures differ in more than the length of their paths."
        )
    )
    return tuple(notes)


def _chart(found: Mapping[str, Line], names: Sequence[str]) -> Chart:
    apart = found[f"mean length of the ResNet less that of the DenseNet, {TRAINED}"]
    same = found[MORE]["found"] == 0
    template = {
        "holds": "As many paths of each length; by what they carry the trained DenseNet is {blocks:.1f} blocks shorter",
        "fails": "As many paths of each length; by what they carry the trained DenseNet is {blocks:.1f} blocks longer",
    }.get(apart["verdict"] if same else "", "Paths by their length: how many there are, and what they carry")
    plots = tuple(
        Plot(
            "by_length",
            "lines",
            Axis("length", say("length of the paths, in blocks")),
            Axis("share", say("share"), low=0.0),
            series="network",
            interval=("share_low", "share_high"),
            where={"state": state},
            heading=say(heading),
        )
        for state, heading in {
            NUMBER: "of all paths",
            FIRST: "by norm, first weights",
            TRAINED: "by norm, trained",
        }.items()
    )
    reading = say(
        "Of all paths the lines of both networks lie on each other. By norm, lines are means over seeds, bands 95 % "
        "intervals."
    )
    return Chart("by-length", say(template, blocks=abs(apart["found"])), reading, plots)


EXPERIMENT = Experiment(
    "path-counts",
    say("Has a DenseNet more short paths than a ResNet, and is it better for having shorter ones?"),
    Protocol,
    measure,
    conclude,
    cells=cells,
)
