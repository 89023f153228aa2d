"""How long are the paths of a residual network before it is trained?

The mean path length, under the norm share of the terms, of networks of 24 blocks at initialisation, by how their
branches begin:

- weights that keep the size of the signal (He et al. 2015): a branch is as large as the stream, and every path as
  large as every other, so that lengths are those of all paths, 12 in the mean;
- a batch norm in front: block l adds 1 to a stream of size l (De & Smith 2020, arXiv 2002.10444): about 4.1;
- branches times 0.2: about 1.4 (Dherin & Munn 2025, arXiv 2510.03470, for the role of the strength of branches);
- last weights of zero: 0.

Beside each stands what its branches would give if all paths were independent of each other, from the strengths of the
branches alone.  Where branch l makes a_l^2 of the mean square of the stream, terms of length k have that of e_k(a_1^2,
..., a_L^2), the elementary symmetric polynomial, and the norm share is that of its square root: 1.41 for 24 branches of
0.2.  With a batch norm in front a_l^2 is the mean of 1 / variance, so what matters is how the variance of the stream
grows.  Linear branches as strong are measured too: they add 1 to it, as the theory says, while of what a rectifier
passes a part is a mean over samples, which the next norm takes away.

Batch norms use statistics estimated on the training data.  A seed's number is the mean over several networks, for
single ones scatter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from termwise.charts import Axis, Chart, Plot
from termwise.data import DataSet, load
from termwise.experiments.common import by_quantity, over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.networks import Branch, ResidualMLP
from termwise.profile import profile
from termwise.recorder import reestimated
from termwise.seeds import owned_random, stream
from termwise.sentences import Sentence, say
from termwise.verdict.decision import Expected

# "About" is taken as within a tenth.
EXPECTED = {
    "He gain": Expected("about 12", 10.8, 13.2),
    "batch norm": Expected("about 4.1", 3.7, 4.5),
    "branch gain 0.2": Expected("about 1.4", 1.26, 1.54),
    "zero init": Expected("0", 0.0, 0.0),
}
LINEAR = "linear branches"
OPTIONS: dict[str, dict[str, Any]] = {
    "He gain": {},
    "batch norm": {"norm": True},
    f"batch norm, {LINEAR}": {"norm": True, "activation": nn.Identity},
    "branch gain 0.2": {"gain": 0.2},
    f"branch gain 0.2, {LINEAR}": {"gain": 0.2, "activation": nn.Identity},
    "zero init": {"norm": True},
}
MEASURED, INDEPENDENT, GROWTH = "mean length", "mean length of independent paths", "variance that a block adds"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is built; `quick` is a job of seconds, and shows nothing.

    Attributes:
        blocks: of each network.
        features: of its stream.
        samples: that the lengths are measured on.
        networks: of each kind, that a seed's number is the mean over.
    """

    blocks: int = 24
    features: int = 128
    samples: int = 256
    networks: int = 4

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(blocks=3, features=8, samples=8, networks=2)


def measure(job: Job) -> Rows:
    """Build networks of each kind, and measure the length of their paths."""
    protocol, data = job.protocol, load("digits", size=8)
    values = []
    for kind in OPTIONS:
        job.progress(kind)
        each = [_measured(kind, data, protocol, stream(job.seed, i)) for i in range(protocol.networks)]
        values += [
            {"kind": kind, "quantity": name, "value": float(np.mean([numbers[name] for numbers in each]))}
            for name in each[0]
        ]
    return {"values": values}


def _measured(kind: str, data: DataSet, protocol: Protocol, seed: int) -> dict[str, float]:
    """The numbers of one network."""
    model = built(kind, data, protocol, seed)
    inputs = data.test_inputs[: protocol.samples], data.test_targets[: protocol.samples]
    length = profile(model, inputs, unit="blocks", replicates=20).mean_depth.value
    assert length is not None
    numbers = {MEASURED: length, INDEPENDENT: independent([branch.strength() for branch in branches(model)])}
    if OPTIONS[kind].get("norm"):
        numbers[GROWTH] = growth(model, inputs[0])
    return numbers


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The mean lengths, beside what is known of them."""
    values = rows["values"]
    found = []
    for quantity in (MEASURED, INDEPENDENT, GROWTH):
        by_kind = {kind: [v for v in values if (v["kind"], v["quantity"]) == (kind, quantity)] for kind in OPTIONS}
        for kind, each in by_kind.items():
            if each:
                name = kind if quantity == MEASURED else f"{quantity}, {kind}"
                expected = EXPECTED.get(kind) if quantity == MEASURED else None
                found.append(row(name, by_quantity(each)[quantity], expected))
    numbers = {each["quantity"]: each for each in found}
    return Conclusion(found, _notes(numbers), {"lengths": _lengths(values)}, (_chart(numbers),))


def built(kind: str, data: DataSet, protocol: Protocol, seed: int) -> ResidualMLP:
    """A network of one kind, in evaluation mode."""
    with owned_random(seed):
        model = ResidualMLP(
            data.train_inputs[0].numel(),
            protocol.features,
            data.classes,
            blocks=protocol.blocks,
            **OPTIONS[kind],
        )
    if kind == "zero init":
        for branch in branches(model):
            torch.nn.init.zeros_(branch.linear.weight)
    with_statistics = reestimated(model, data.train_inputs) if OPTIONS[kind].get("norm") else model
    assert isinstance(with_statistics, ResidualMLP)
    return with_statistics.eval()


def branches(model: ResidualMLP) -> list[Branch]:
    """The branches of a network, in their order."""
    return [branch for branch in model.branches if isinstance(branch, Branch)]


def independent(strengths: Sequence[float]) -> float:
    """The mean length under the norm share where paths are independent, from a_l^2 of each branch."""
    squares = np.array([1.0])
    for strength in strengths:
        squares = np.convolve(squares, [1.0, strength])
    norms = np.sqrt(squares)
    return float(np.arange(len(norms)) @ norms / norms.sum())


@torch.no_grad()
def growth(model: ResidualMLP, x: Tensor) -> float:
    """What a block adds to the variance of the stream over samples, in the mean over features and blocks."""
    v = first = model.stem(torch.flatten(x, 1))
    for branch in model.branches:
        v = v + branch(v)
    return float((v.var(dim=0) - first.var(dim=0)).mean()) / len(model.branches)


def _lengths(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Found over seeds, what independent paths would give, and what was expected of each kind."""
    measured = [
        {"kind": v["kind"], "of": v["quantity"], "length": v["value"]} for v in values if v["quantity"] != GROWTH
    ]
    lines = over_seeds(measured, ["kind", "of"], ["length"])
    expected = [
        {"kind": kind, "of": "expected", "length": (bounds.low + bounds.high) / 2} for kind, bounds in EXPECTED.items()
    ]
    return [*lines, *(line | {"length_low": None, "length_high": None} for line in expected)]


def _chart(found: Mapping[str, Mapping[str, Any]]) -> Chart:
    numbers = {kind: found[kind]["found"] for kind in EXPECTED}
    he, norm, gain, zero = numbers.values()
    template = (
        "Weaker branches, shorter paths: {he:.1f} blocks by He gain, {norm:.1f} by batch norm, {gain:.1f} by gain 0.2"
        if he > norm > gain > zero
        else "Mean length by He gain is {he:.1f}, by batch norm {norm:.1f}, by gain 0.2 {gain:.1f}"
    )
    plot = Plot(
        "lengths",
        "points",
        Axis("kind", say("how branches begin"), "ordinal"),
        Axis("length", say("mean length of paths, in blocks")),
        series="of",
        interval=("length_low", "length_high"),
    )
    reading = say(
        "Points are means over seeds, whiskers 95 % intervals; independent paths are computed from the strengths of "
        "the branches alone."
    )
    return Chart("lengths", say(template, he=he, norm=norm, gain=gain), reading, (plot,))


def _notes(found: Mapping[str, Mapping[str, Any]]) -> tuple[Sentence, ...]:
    """Where what was expected is not within the interval, what linear branches and independent paths give."""
    notes = []
    for kind, expected in EXPECTED.items():
        linear, own = found.get(f"{kind}, {LINEAR}"), found[kind]
        if linear is None or own["low"] <= (expected.low + expected.high) / 2 <= own["high"]:
            continue
        notes.append(
            say(
                "The mean length by {kind} is {length:.2f}. Independent paths of the strengths that these branches "
                "have would give {independent:.2f}; by linear branches it is {linear:.2f}.",
                kind=kind,
                length=own["found"],
                independent=found[f"{INDEPENDENT}, {kind}"]["found"],
                linear=linear["found"],
            )
        )
        rectified, straight = (found.get(f"{GROWTH}, {name}") for name in (kind, f"{kind}, {LINEAR}"))
        if rectified and straight and rectified["found"] < straight["found"]:
            notes.append(
                say(
                    "The theory has each block add 1 to the variance of the stream. Linear ones add {straight:.2f}, "
                    "these {rectified:.2f}, for the mean over samples of what a rectifier passes is no variance: norms "
                    "divide by less, and later branches are stronger.",
                    straight=straight["found"],
                    rectified=rectified["found"],
                )
            )
    return tuple(notes)


EXPERIMENT = Experiment(
    "init-length",
    say("How long are the paths of a residual network before it is trained?"),
    Protocol,
    measure,
    conclude,
)
