"""How long are the paths of a residual network before it is trained?

The mean path length, under the norm share of the terms, of networks of 24 blocks at initialisation, by how their
branches begin:

- weights that keep the size of the signal (He et al. 2015): a branch is as large as the stream, and every path as
  large as every other, so that lengths are those of all paths, 12 in the mean;
- a batch norm in front: block l adds 1 to a stream of size l (De & Smith 2020, arXiv 2002.10444): about 4.1;
- branches times 0.2: about 1.4 (Dherin & Munn 2025, arXiv 2510.03470, for the role of the strength of branches);
- last weights of zero: 0.

Batch norms use statistics estimated on the training data.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from termwise.data import DataSet, load
from termwise.experiments.common import Expected, by_quantity, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.networks import Branch, ResidualMLP
from termwise.profile import profile
from termwise.recorder import reestimated
from termwise.seeds import owned_random
from termwise.sentences import say

# "About" is taken as within a tenth.
EXPECTED = {
    "He gain": Expected("about 12", 10.8, 13.2),
    "batch norm": Expected("about 4.1", 3.7, 4.5),
    "branch gain 0.2": Expected("about 1.4", 1.26, 1.54),
    "zero init": Expected("0", 0.0, 0.0),
}
NOTE = say(
    "Linear branches as strong give about 3.8 with batch norm and 1.4 with gain 0.2. What a rectifier passes has a "
    "mean that all branches share: longer terms, sums of more paths, are larger than those of independent branches."
)
OPTIONS: dict[str, dict[str, Any]] = {
    "He gain": {},
    "batch norm": {"norm": True},
    "branch gain 0.2": {"gain": 0.2},
    "zero init": {"norm": True},
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is built; `quick` is a job of seconds, and shows nothing.

    Attributes:
        blocks: of each network.
        features: of its stream.
        samples: that the lengths are measured on.
    """

    blocks: int = 24
    features: int = 128
    samples: int = 256

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(blocks=3, features=8, samples=8)


def measure(job: Job) -> Rows:
    """Build a network of each kind, and measure the length of its paths."""
    protocol, seed = job.protocol, job.seed
    data = load("digits", size=8)
    values = []
    for kind in OPTIONS:
        job.progress(kind)
        model = built(kind, data, protocol, seed)
        inputs = data.test_inputs[: protocol.samples], data.test_targets[: protocol.samples]
        length = profile(model, inputs, unit="blocks", replicates=20).mean_depth.value
        values.append({"quantity": kind, "value": length})
    return {"values": values}


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The mean lengths, beside what is known of them."""
    return Conclusion([row(kind, each, EXPECTED[kind]) for kind, each in by_quantity(rows["values"]).items()], (NOTE,))


def built(kind: str, data: DataSet, protocol: Protocol, seed: int) -> nn.Module:
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
        for branch in model.branches:
            assert isinstance(branch, Branch)
            torch.nn.init.zeros_(branch.linear.weight)
    return reestimated(model, data.train_inputs).eval() if OPTIONS[kind].get("norm") else model.eval()


EXPERIMENT = Experiment(
    "init-length",
    say("How long are the paths of a residual network before it is trained?"),
    Protocol,
    measure,
    conclude,
)
