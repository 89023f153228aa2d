"""Which paths does the gradient of a deep residual network come from?

After Veit, Wilber, Belongie 2016 (arXiv 1605.06431), sections 3 and 4.3, on the embedded digits, with 54 blocks.

1. The number of paths by length, counted by `termwise.expand_gradient`: 0.4537 % of them have length 5 to 17, and
   98.0 % length 19 to 35.
2. Their measure as published.  Of a trained network, random paths of each length are drawn; the forward pass is that of
   the whole network, and the gradient goes back through the branches of the drawn blocks alone, and past all others.
   Its norm at the input, in the mean over paths and samples, falls like r^length, with r = 0.2 to 0.25 expected; the
   norm times the number of paths is expected to be in lengths 5 to 17 for 95 % or more.
3. The coherent sum beside it: the gradient that all paths of a length carry together, by `termwise.expand_gradient`,
   and its norm.  Here paths may cancel or add up, which a product of count and norm cannot show.  Nothing published is
   expected of it.

Batch norms use their running statistics.  The gradient is that of each sample's own loss.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from termwise import nets
from termwise.data import DataSet, load
from termwise.experiments.common import Expected, by_quantity, row, trained
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.gradient import expand_gradient
from termwise.loop import Training
from termwise.nets.resnet import Block, ResNet
from termwise.recorder import reestimated
from termwise.seeds import owned_random, stream
from termwise.sentences import Sentence, say

MODULES = 54  # of the paper
EFFECTIVE, MOST = (5, 17), (19, 35)  # lengths, both ends included
COUNTED = {EFFECTIVE: (0.4537e-2, 0.5e-6), MOST: (0.980, 5e-4)}  # the share as published, and half of its last digit
BEFORE = "r before training"
EXPECTED = {
    "r": Expected("0.2 to 0.25", 0.2, 0.25),
    "share of count x norm in lengths 5 to 17": Expected("0.95 or more", 0.95),
}


SMALLER = "Training has made the branches smaller beside the stream."
LARGER = "Training has made the branches larger beside the stream."


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained, and how its paths are sampled; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the residual network, 6n + 2 for 3n blocks.
        width: channels of the first stage.
        size: of the images, in pixels.
        epochs: of the training.
        paths: drawn for each length, each with a sample of its own.
        samples: that the coherent sum is computed on.
    """

    depth: int = 6 * MODULES // 3 + 2
    width: int = 8
    size: int = 8
    epochs: int = 15
    paths: int = 128
    samples: int = 64

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=14, width=4, epochs=1, paths=4, samples=4)


def measure(job: Job) -> Rows:
    """Train a network, and follow the paths of its gradient: a row for each length, and the measures."""
    protocol, seed = job.protocol, job.seed
    data = load("digits", size=protocol.size)
    shape: dict[str, Any] = {"classes": data.classes, "channels": data.train_inputs.shape[1], "width": protocol.width}
    job.progress("training")
    make = functools.partial(nets.resnet, protocol.depth, **shape)
    model = trained(make, data, Training(epochs=protocol.epochs), seed)
    assert isinstance(model, ResNet)
    job.progress("following its paths")
    table = by_length(model.double(), data, protocol, seed)
    with torch.no_grad():
        right = model(data.test_inputs.double()).argmax(dim=1) == data.test_targets
    before = by_length(_untrained(make, data, seed), data, protocol, seed)
    measured = {**measures(table), "accuracy": float(right.double().mean()), BEFORE: measures(before)["r"]}
    lengths = [{"trained": done, **line} for done, lines in ((True, table), (False, before)) for line in lines]
    return {"lengths": lengths, "values": [{"quantity": name, "value": value} for name, value in measured.items()]}


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """Both measures, beside what was published."""
    counts = {line["length"]: int(line["paths"]) for line in rows["lengths"]}
    values = by_quantity(rows["values"])
    found = [*counted(counts), *(row(name, each, EXPECTED.get(name)) for name, each in values.items())]
    return Conclusion(found, _notes(found))


def _untrained(make: Callable[[], ResNet], data: DataSet, seed: int) -> ResNet:
    """The network before its training, with batch statistics of the training data."""
    with owned_random(seed):
        model = make()
    with_statistics = reestimated(model, data.train_inputs).double().eval()
    assert isinstance(with_statistics, ResNet)
    return with_statistics


def by_length(model: ResNet, data: DataSet, protocol: Protocol, seed: int) -> list[dict[str, Any]]:
    """A line for each length: the number of paths, the mean norm of one, and that of all of them together."""
    generator = torch.Generator().manual_seed(stream(seed, 0))
    inputs, targets = data.test_inputs.to(torch.float64), data.test_targets
    chosen = torch.randperm(len(inputs), generator=generator)[: protocol.samples]
    expansion = expand_gradient(
        model, inputs[chosen], lambda y: F.cross_entropy(y, targets[chosen], reduction="sum"), unit="blocks", at=[]
    )
    terms = expansion.input.terms
    lines = []
    for length, paths in expansion.input.paths.items():
        drawn = torch.randint(len(inputs), (protocol.paths,), generator=generator)
        norms = sampled(model, inputs[drawn], targets[drawn], length, generator)
        coherent = float(terms[length].flatten(1).norm(dim=1).mean())
        # As text: most of the counts are larger than a 64-bit integer may be.
        lines.append({"length": length, "paths": str(paths), "norm": float(norms.mean()), "coherent": coherent})
    return lines


def sampled(model: ResNet, x: Tensor, targets: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """The norm of the gradient at the input along a random path for each sample, (N,).

    The values are those of the whole network; the gradient goes back through the branch of `length` blocks of each
    sample, drawn anew, and through the shortcuts of all others.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    order = torch.rand((len(x), len(blocks)), generator=generator, dtype=torch.float64).argsort(dim=1)
    through = (order < length).T[..., None, None, None]
    x = x.clone().requires_grad_()
    v = model.relu(model.norm(model.conv(x)))
    for block, chosen in zip(blocks, through, strict=True):
        shortcut = block.shortcut(v)
        branch = block.norm2(block.conv2(block.relu(block.norm1(block.conv1(v)))))
        way = torch.where(chosen, branch, shortcut)
        v = block.relu((shortcut + branch).detach() + (way - way.detach()))
    loss = F.cross_entropy(model.classifier(model.pool(v).flatten(1)), targets, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient.flatten(1).norm(dim=1)


def measures(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of one seed, from its table by length."""
    length = np.array([line["length"] for line in lines], dtype=float)
    norm = np.array([line["norm"] for line in lines])
    product = np.array([float(int(line["paths"])) for line in lines]) * norm
    coherent = np.array([line["coherent"] for line in lines])
    there = norm > 0
    slope = float(np.polyfit(length[there], np.log(norm[there]), 1)[0])
    effective = (length >= EFFECTIVE[0]) & (length <= EFFECTIVE[1])
    published, together = (float(length @ weight / weight.sum()) for weight in (product, coherent))
    return {
        "r": math.exp(slope),
        "share of count x norm in lengths 5 to 17": float(product[effective].sum() / product.sum()),
        "mean length by count x norm": published,
        "share of the coherent norms in lengths 5 to 17": float(coherent[effective].sum() / coherent.sum()),
        "mean length by the coherent norms": together,
        "count x norm over the coherent norm, all lengths": float(product.sum() / coherent.sum()),
    }


def counted(counts: Mapping[int, int]) -> list[dict[str, Any]]:
    """The shares of the number of paths, exactly; only 54 blocks are of the paper."""
    rows = []
    for (low, high), (share, half) in COUNTED.items():
        value = sum(n for length, n in counts.items() if low <= length <= high) / sum(counts.values())
        of_paper = sum(counts.values()) == 2**MODULES
        verdict = ("holds" if abs(value - share) <= half else "fails") if of_paper else ""
        expected = f"{share:.4g}" if of_paper else ""
        name = f"share of all paths in lengths {low} to {high}"
        rows.append(
            {"quantity": name, "found": value, "low": value, "high": value} | {"expected": expected, "verdict": verdict}
        )
    return rows


def _notes(found: Sequence[Mapping[str, Any]]) -> tuple[Sentence, ...]:
    """Why r is another than the published one, as far as this run tells."""
    rows = {each["quantity"]: each for each in found}
    r, before = rows["r"]["found"], rows[BEFORE]["found"]
    if EXPECTED["r"].low <= r <= EXPECTED["r"].high:
        return ()
    missed = say(
        "r is not the published one: one block more leaves {r:.2f} of the gradient. Before training it left "
        "{before:.2f}. The share of count x norm in lengths 5 to 17 follows from r.",
        r=r,
        before=before,
    )
    return missed, say(SMALLER if r < before else LARGER)


EXPERIMENT = Experiment(
    "gradient-paths",
    say("Which paths does the gradient of a deep residual network come from?"),
    Protocol,
    measure,
    conclude,
)
