"""Which paths does the gradient of a deep residual network come from?

After Veit, Wilber, Belongie 2016 (arXiv 1605.06431), sections 3 and 4.3, on the embedded digits, with 54 blocks.

1. The number of paths by length, counted by `termwise.expand_gradient`: 0.4537 % of them have length 5 to 17, and
   98.0 % length 19 to 35.
2. Their measure as published.  Of a trained network, random paths of each length are drawn; the forward pass is that of
   the whole network, and the gradient goes back through the branches of the drawn blocks alone, and past all others.
   Its norm at the input, in the mean over paths and samples, falls like r^length, with r = 0.2 to 0.25 expected; the
   norm times the number of paths is expected to be in lengths 5 to 17 for 95 % or more.  A sample has one order of the
   blocks, of which its path of each length takes the first: so neighbouring lengths differ by a block, and by nothing
   else that is random.
3. The coherent sum beside it: the gradient that all paths of a length carry together, by `termwise.expand_gradient`,
   and its norm.  Here paths may cancel or add up, which a product of count and norm cannot show.  Nothing published is
   expected of it.

Of 54 blocks, r in this range and that share are one statement: the product of count and norm is a binomial in r / (1 +
r).  So r fitted over lengths 5 to 17 alone is shown without an expectation of its own.

With the peak learning rate that all experiments share, r comes out smaller.  Two ways were tried to meet it, and are
measured in every run.  The norm of whole batches of training data, each along one path and with batch norms that use
the batch's own statistics, as in the midst of a training: r stays what it was.  A training at a fifth of the peak rate:
r is larger, for the branches stay larger beside the stream.  How strong single branches are is measured too: what one
of them leaves of a random gradient is what a path loses by a block more, so that r is a matter of branches and not of
paths.

Other than there, batch norms use their running statistics.  The gradient is that of each sample's own loss.
"""

from __future__ import annotations

import copy
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
from termwise.charts import Axis, Chart, Plot
from termwise.data import DataSet, load
from termwise.experiments.common import by_quantity, over_seeds, row, trained
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.gradient import expand_gradient
from termwise.loop import Optimiser, Training
from termwise.nets.resnet import Block, ResNet
from termwise.recorder import reestimated
from termwise.seeds import owned_random, stream
from termwise.sentences import Sentence, say
from termwise.verdict.decision import Expected

MODULES = 54  # of the paper
EFFECTIVE, MOST = (5, 17), (19, 35)  # lengths, both ends included
COUNTED = {EFFECTIVE: (0.4537e-2, 0.5e-6), MOST: (0.980, 5e-4)}  # the share as published, and half of its last digit
R, SHARE = "r", "share of count x norm in lengths 5 to 17"
NARROW = "r fitted over lengths 5 to 17"
BATCHES = "r of batches by their own statistics"
ADDED = "spread of a branch over that of the stream"
PASSED = "what a branch leaves of a random gradient"
BEFORE = "before training"
EXPECTED = {R: Expected("0.2 to 0.25", 0.2, 0.25), SHARE: Expected("0.95 or more", 0.95)}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained, and how its paths are sampled; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the residual network, 6n + 2 for 3n blocks.
        width: channels of the first stage.
        size: of the images, in pixels.
        epochs: of the training.
        rates: peaks of the learning rate, a training each; the first is the one that is looked at.
        paths: drawn for each length, each with a sample of its own.
        samples: that the coherent sum is computed on.
        batches: of training data, that the measure is repeated on.
    """

    depth: int = 6 * MODULES // 3 + 2
    width: int = 8
    size: int = 8
    epochs: int = 15
    rates: tuple[float, ...] = (0.1, 0.02)
    paths: int = 128
    samples: int = 64
    batches: int = 4

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=14, width=4, epochs=1, paths=4, samples=4, batches=1)


def measure(job: Job) -> Rows:
    """Train a network, and follow the paths of its gradient: a row for each length, and the measures."""
    protocol, seed = job.protocol, job.seed
    rate = dict(zip(_cells(protocol), protocol.rates, strict=True))[job.cell]
    data = load("digits", size=protocol.size)
    shape: dict[str, Any] = {"classes": data.classes, "channels": data.train_inputs.shape[1], "width": protocol.width}
    job.progress("training")
    make = functools.partial(nets.resnet, protocol.depth, **shape)
    model = trained(make, data, Training(epochs=protocol.epochs, optimiser=Optimiser(learning_rate=rate)), seed)
    assert isinstance(model, ResNet)
    states = {_trained(rate): model.double()}
    if rate == protocol.rates[0]:
        states[BEFORE] = _untrained(make, data, seed)
    lengths, values = [], []
    for state, network in states.items():
        job.progress(f"following the paths, {state}")
        table = by_length(network, data, protocol, seed)
        measured = {**measures(table), **_other(network, data, protocol, seed)}
        lengths += [{"network": state, **line} for line in table]
        values += [{"network": state, "quantity": name, "value": value} for name, value in measured.items()]
    return {"lengths": lengths, "values": values}


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """Both measures, beside what was published."""
    main = _trained(protocol.rates[0])
    counts = {line["length"]: int(line["paths"]) for line in rows["lengths"]}
    found = counted(counts)
    for network in dict.fromkeys(value["network"] for value in rows["values"]):
        of_it = by_quantity([value for value in rows["values"] if value["network"] == network])
        for name, each in of_it.items():
            quantity, expected = (name, EXPECTED.get(name)) if network == main else (f"{name}, {network}", None)
            found.append(row(quantity, each, expected))
    numbers = {each["quantity"]: each for each in found}
    tables = {"counts": _counts(counts), "norms": _norms(rows["lengths"]), "shares": _shares(rows["lengths"], main)}
    return Conclusion(found, _notes(numbers, protocol), tables, (_chart(numbers),))


def _cells(protocol: Protocol) -> tuple[str, ...]:
    return tuple(f"rate-{rate:g}" for rate in protocol.rates)


def _trained(rate: float) -> str:
    return f"trained at {rate:g}"


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
    drawn = torch.randint(len(inputs), (protocol.paths,), generator=generator)
    orders = torch.rand((len(_blocks(model)), protocol.paths), generator=generator).argsort(dim=0)
    along = Paths(model, inputs[drawn], targets[drawn])
    lines = []
    for length, paths in expansion.input.paths.items():
        norms = along.gradient(orders < length).flatten(1).norm(dim=1)
        coherent = float(terms[length].flatten(1).norm(dim=1).mean())
        # As text: most of the counts are larger than a 64-bit integer may be.
        lines.append({"length": length, "paths": str(paths), "norm": float(norms.mean()), "coherent": coherent})
    return lines


class Paths:
    """The gradient of the summed loss at the input along one path for each sample, as often as it is asked for.

    The values are those of the whole network, computed once; every block keeps its own graph, from which the gradient
    goes back through the branch of those samples that take it, and through the shortcut of all others.
    """

    def __init__(self, model: ResNet, x: Tensor, targets: Tensor) -> None:
        """Run `model` on inputs (N, ...) and class numbers (N,)."""
        self._x = x.clone().requires_grad_()
        self._stem = model.relu(model.norm(model.conv(self._x)))
        v, self._blocks = self._stem, list[tuple[Tensor, Tensor, Tensor, Tensor]]()
        for block in _blocks(model):
            v = v.detach().requires_grad_()
            shortcut, branch = block.shortcut(v), _branch(block, v)
            self._blocks.append((v, shortcut, branch, shortcut + branch > 0))
            v = block.relu(shortcut + branch)
        v = v.detach().requires_grad_()
        loss = F.cross_entropy(model.classifier(model.pool(v).flatten(1)), targets, reduction="sum")
        (self._last,) = torch.autograd.grad(loss, v)

    def gradient(self, through: Tensor) -> Tensor:
        """At the input, of its shape; `through` (blocks, N) says which branches a sample's path takes."""
        g = self._last
        for (v, shortcut, branch, gate), chosen in zip(reversed(self._blocks), through.flip(0), strict=True):
            g, taken = g * gate, chosen[:, None, None, None]
            ways = [g * ~taken, g * taken]
            (g,) = torch.autograd.grad([shortcut, branch], v, ways, retain_graph=True)
        return torch.autograd.grad(self._stem, self._x, g, retain_graph=True)[0]


def _blocks(model: ResNet) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


def _branch(block: Block, v: Tensor) -> Tensor:
    return block.norm2(block.conv2(block.relu(block.norm1(block.conv1(v)))))


def _other(model: ResNet, data: DataSet, protocol: Protocol, seed: int) -> dict[str, float]:
    """What else is said of a network: its accuracy, the size of its branches, and the measure on batches."""
    with torch.no_grad():
        right = model(data.test_inputs.double()).argmax(dim=1) == data.test_targets
    return {
        "accuracy": float(right.double().mean()),
        **strengths(model, data.test_inputs.double(), seed),
        BATCHES: of_batches(model, data, protocol, seed),
    }


def strengths(model: ResNet, x: Tensor, seed: int) -> dict[str, float]:
    """How strong the branches are, forwards and backwards: two geometric means over blocks.

    Forwards, the standard deviation over samples of what a branch adds over that of the stream before it; backwards,
    the norm that is left of a random gradient behind the branch when it has come through it.
    """
    generator = torch.Generator().manual_seed(stream(seed, 2))

    def spread(v: Tensor) -> Tensor:
        return v.var(dim=0).mean().sqrt()

    v = model.relu(model.norm(model.conv(x)))
    forwards, backwards = [], []
    for block in _blocks(model):
        v = v.detach().requires_grad_()
        branch = _branch(block, v)
        behind = torch.randn(branch.shape, generator=generator, dtype=branch.dtype)
        (before,) = torch.autograd.grad(branch, v, behind)
        forwards.append(spread(branch.detach()) / spread(v.detach()))
        backwards.append(before.norm() / behind.norm())
        v = block.relu(block.shortcut(v) + branch)
    each = {ADDED: forwards, PASSED: backwards}
    return {name: float(torch.stack(ratios).log().mean().exp()) for name, ratios in each.items()}


def of_batches(model: ResNet, data: DataSet, protocol: Protocol, seed: int, size: int = 32) -> float:
    """The r of batches of training data, each along one path and with batch norms by its own statistics."""
    generator = torch.Generator().manual_seed(stream(seed, 1))
    model = copy.deepcopy(model).train()
    blocks = len(_blocks(model))
    lengths = [*range(0, blocks + 1, max(1, blocks // 9))]
    norms = np.zeros(len(lengths))
    for _ in range(protocol.batches):
        drawn = torch.randperm(len(data.train_inputs), generator=generator)[:size]
        order = torch.randperm(blocks, generator=generator)[:, None].expand(-1, size)
        along = Paths(model, data.train_inputs[drawn].double(), data.train_targets[drawn])
        norms += [float(along.gradient(order < length).norm()) for length in lengths]
    return factor(np.array(lengths), norms)


def factor(length: np.ndarray, norm: np.ndarray) -> float:
    """The r of r^length, by least squares on the logarithms of what is not zero."""
    there = norm > 0
    return math.exp(float(np.polyfit(length[there], np.log(norm[there]), 1)[0])) if there.sum() > 1 else math.nan


def measures(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of one seed, from its table by length."""
    length = np.array([line["length"] for line in lines], dtype=float)
    norm = np.array([line["norm"] for line in lines])
    product = np.array([float(int(line["paths"])) for line in lines]) * norm
    coherent = np.array([line["coherent"] for line in lines])
    effective = (length >= EFFECTIVE[0]) & (length <= EFFECTIVE[1])
    published, together = (float(length @ weight / weight.sum()) for weight in (product, coherent))
    return {
        R: factor(length, norm),
        NARROW: factor(length[effective], norm[effective]),
        SHARE: float(product[effective].sum() / product.sum()),
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


def _counts(counts: Mapping[int, int]) -> list[dict[str, Any]]:
    """The number of paths by length, as a number that can be drawn."""
    return [{"length": length, "log10_paths": math.log10(number)} for length, number in counts.items()]


def _norms(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The norm of a path by length: the geometric mean over seeds, and its interval."""
    logs = [
        {"network": line["network"], "length": line["length"], "norm": math.log(line["norm"])}
        for line in lines
        if line["norm"] > 0
    ]
    ends = ("norm", "norm_low", "norm_high")
    return [
        line | {name: None if line[name] is None else math.exp(line[name]) for name in ends}
        for line in over_seeds(logs, ["network", "length"], ["norm"])
    ]


def _shares(lines: Sequence[Mapping[str, Any]], main: str) -> list[dict[str, Any]]:
    """What each length has of count times norm, and of the norms of the coherent sums; shares of each seed."""
    weights: dict[tuple[str, int], dict[int, float]] = {}
    for line in lines:
        product = float(int(line["paths"])) * line["norm"]
        weights.setdefault((line["network"], line["seed"]), {})[line["length"]] = product
        if line["network"] == main:
            weights.setdefault((f"{main}, coherent sum", line["seed"]), {})[line["length"]] = line["coherent"]
    shares = [
        {"network": network, "length": length, "share": weight / (sum(by_length.values()) or 1.0)}
        for (network, _), by_length in weights.items()
        for length, weight in by_length.items()
    ]
    return over_seeds(shares, ["network", "length"], ["share"])


def _chart(found: Mapping[str, Mapping[str, Any]]) -> Chart:
    """The number of paths, the norm along one, and the product of both: figure 6 of the paper, with one thing added."""
    r, share = found[R]["found"], found[SHARE]["found"]
    template = {
        "holds": "Paths of 5 to 17 blocks have {share:.0%} of count x norm: each block leaves {r:.2f} of the gradient",
        "fails": "Only {share:.0%} of count x norm is in paths of 5 to 17 blocks: each block leaves {r:.2f} of it",
    }.get(found[SHARE]["verdict"], "In paths of 5 to 17 blocks is {share:.0%} of count x norm; r is {r:.2f}")
    length = Axis("length", say("length of the path, in blocks"))
    plots = (
        Plot(
            "counts",
            "lines",
            length,
            Axis("log10_paths", say("number of paths, log10")),
            heading=say("how many there are"),
        ),
        Plot(
            "norms",
            "lines",
            length,
            Axis("norm", say("norm of the gradient at the input"), "log"),
            series="network",
            interval=("norm_low", "norm_high"),
            heading=say("what one of them carries"),
        ),
        Plot(
            "shares",
            "lines",
            length,
            Axis("share", say("share of all lengths"), low=0.0),
            series="network",
            interval=("share_low", "share_high"),
            heading=say("count x norm, and the coherent sum"),
        ),
    )
    reading = say(
        "Lines are means over seeds (of norms the geometric one), bands 95 % intervals. The coherent sum is the norm "
        "of the gradient that all paths of a length carry together."
    )
    return Chart("paths", say(template, share=share, r=r), reading, plots)


def _notes(found: Mapping[str, Mapping[str, Any]], protocol: Protocol) -> tuple[Sentence, ...]:
    """Why r is another than the published one, as far as this run tells."""
    numbers = {name: each["found"] for name, each in found.items()}

    def published(r: float) -> bool:
        return EXPECTED[R].low <= r <= EXPECTED[R].high

    if published(numbers[R]):
        return ()
    notes = [
        say(
            "r is not as published: one block more leaves {r:.3f} of the gradient, before training {before:.3f}. Of a "
            "random gradient a single branch leaves {passed:.3f}, before training {untrained:.3f}; what it adds has "
            "{added:.2f} of the spread of the stream, before training {first:.2f}.",
            r=numbers[R],
            before=numbers[f"{R}, {BEFORE}"],
            passed=numbers[PASSED],
            untrained=numbers[f"{PASSED}, {BEFORE}"],
            added=numbers[ADDED],
            first=numbers[f"{ADDED}, {BEFORE}"],
        )
    ]
    if not published(numbers[BATCHES]):
        notes.append(say("Batches with statistics of their own do not change that: r is {r:.3f}.", r=numbers[BATCHES]))
    for rate in protocol.rates[1:]:
        r, share, spread = (numbers[f"{name}, {_trained(rate)}"] for name in (R, SHARE, ADDED))
        words = "as published" if published(r) else "not as published either"
        notes.append(
            say(
                "It depends on the training: at a peak rate of {rate:g}, and not {first:g}, branches add {spread:.2f} "
                "of the spread of the stream, r is {r:.3f}, {words}, and the share in lengths 5 to 17 is {share:.3f}.",
                rate=rate,
                first=protocol.rates[0],
                spread=spread,
                r=r,
                words=words,
                share=share,
            )
        )
    return tuple(notes)


EXPERIMENT = Experiment(
    "gradient-paths",
    say("Which paths does the gradient of a deep residual network come from?"),
    Protocol,
    measure,
    conclude,
    cells=_cells,
)
