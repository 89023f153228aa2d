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
BINOMIAL = "binomial coefficients"
SHORT = "share of paths through at most half of the blocks"
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
