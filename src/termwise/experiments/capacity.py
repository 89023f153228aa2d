"""Do deep terms matter more, the more there is to learn?

H3 of Sun, Ding, Guo 2022 says that "deep terms keep the capacity".  If they do, a network that was given more to learn
needs more of them.  So one ResNet is trained on 90 to 1,437 digits (8x8), each time from the same first weights and
with the same number of updates, and its truncations c + terms <= k are measured on the test part, with batch-norm
statistics estimated anew on its own training samples.  The smaller training sets are parts of the larger ones.

Fixed beforehand: the number of a seed is the slope, by least squares over the sizes, of the *effective depth* against
log2 of the training set's size, in layers a doubling.  The effective depth is the smallest depth from which on every
truncation keeps 99 % of the whole network's accuracy; it is relative to that accuracy, so it does not grow merely
because a network with more data is better (an accuracy that is lost would).  H3 expects a slope above 0.

Exploratory, and without a verdict: the same slope of the mean path length, which asks for no labels; of the share of
its accuracy that a network loses with its terms above half of the greatest depth; and of the effective depth on the
training samples themselves.  Beside the numbers of each size stands how far the weights moved from the first ones,
|w - w0| / |w0| over all parameters, and the mean path length at those first weights.

A calibration run (one seed, first samples of the training part, 660 updates) came before the full one, and found the
effective depth to fall; statistic, direction and sizes were chosen before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from termwise import nets
from termwise.charts import Axis, Chart, Mark, Plot
from termwise.data import load
from termwise.experiments.common import over_seeds, row, trained
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Training
from termwise.profile import DepthProfile, profile
from termwise.recorder import reestimated
from termwise.seeds import owned_random, stream
from termwise.sentences import Sentence, say
from termwise.verdict.decision import ABOVE

SLOPES = {
    "effective_depth": "effective depth, layers a doubling of the training set",
    "mean_depth": "mean path length, layers a doubling",
    "lost": "share of the accuracy lost without the terms above half depth, a doubling",
    "fitted_depth": "effective depth on the training samples, layers a doubling",
}
MEANS = ["accuracy", *SLOPES, "moved", "initial_depth"]
_WEIGHTS = 1  # the key of the random stream of first weights; that of the samples is 2
_SAMPLES = 2


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained, on how much, for how long; `quick` is a job of seconds, and shows nothing.

    Attributes:
        sizes: of the training sets, each at least a batch.
        depth: of the residual network, 6n + 2.
        width: channels of its first stage.
        updates: of each training; a multiple of the batches that each size has.
        batch: samples an update.
    """

    sizes: tuple[int, ...] = (90, 180, 360, 720, 1437)
    depth: int = 14
    width: int = 8
    updates: int = 440
    batch: int = 32

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(sizes=(32, 64, 128), depth=8, width=2, updates=4)

    def training(self, size: int) -> Training:
        """As many epochs as make up the updates."""
        return Training(epochs=self.updates // (size // self.batch), batch_size=self.batch)


def measure(job: Job) -> Rows:
    """Train on so many samples, and truncate."""
    protocol, seed, size = job.protocol, job.seed, int(job.cell)
    data = load("digits", size=8)
    order = torch.randperm(len(data.train_inputs), generator=torch.Generator().manual_seed(stream(seed, _SAMPLES)))
    inputs, targets = data.train_inputs[order[:size]], data.train_targets[order[:size]]

    def make() -> nn.Module:
        return nets.resnet(protocol.depth, classes=data.classes, channels=1, width=protocol.width)

    with owned_random(stream(seed, _WEIGHTS)):
        initial = make()
    job.progress("training")
    model = trained(make, (inputs, targets), protocol.training(size), stream(seed, _WEIGHTS))
    moved = _vector(model) - _vector(initial)

    def profiled(network: nn.Module, pair: tuple[Tensor, Tensor]) -> DepthProfile:
        return profile(reestimated(network, inputs).eval(), pair, batch_size=180, replicates=2)

    job.progress("truncating")
    found = profiled(model, (data.test_inputs, data.test_targets))
    line = {
        "size": size,
        **numbers(found),
        "fitted_depth": profiled(model, (inputs, targets)).effective_depth,
        "moved": float(moved.norm() / _vector(initial).norm()),
        "initial_depth": profiled(initial, (data.test_inputs, data.test_targets)).mean_depth.value,
    }
    heads = [
        {"size": size, "depth": each["depth"], "accuracy": each["head_accuracy"]} for each in found.truncated.rows()
    ]
    return {"sizes": [line], "truncated": heads}


def _vector(model: nn.Module) -> Tensor:
    return parameters_to_vector(model.parameters()).detach()


def numbers(found: DepthProfile) -> dict[str, Any]:
    """Of one network: accuracy, effective depth, mean path length, and the share that the upper half of depths adds."""
    accuracy = found.accuracy
    assert accuracy is not None  # there are targets
    lower = [line for line in found.truncated.rows() if line["depth"] <= max(found.depths) / 2]
    return {
        "accuracy": accuracy,
        "effective_depth": found.effective_depth,
        "mean_depth": found.mean_depth.value,
        "lost": 1 - lower[-1]["head_accuracy"] / accuracy if accuracy else None,
    }


def slopes(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Of each seed the least-squares slope of a number against log2 of the size."""
    found = []
    for seed in dict.fromkeys(line["seed"] for line in rows):
        lines = [line for line in rows if line["seed"] == seed]
        values = np.array([line[name] for line in lines], dtype=float)
        x = np.log2([line["size"] for line in lines])
        x -= x.mean()
        found.append(float(x @ values / (x @ x)))
    return found


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The slope that H3 expects to be above 0, others beside it, and the numbers of each size."""
    lines = rows["sizes"]
    primary, *others = SLOPES
    found = [row(f"slope of {SLOPES[primary]}", slopes(lines, primary), ABOVE)]
    found += [row(f"exploratory: slope of {SLOPES[name]}", slopes(lines, name)) for name in others]
    for size in protocol.sizes:
        of_size = [line for line in lines if line["size"] == size]
        for name, words in (("effective_depth", "effective depth"), ("accuracy", "test accuracy")):
            found.append(row(f"{words}, {size:,} samples", [line[name] for line in of_size]))
    by_size = over_seeds(lines, ["size"], MEANS)
    truncated = over_seeds(rows["truncated"], ["size", "depth"], ["accuracy"])
    truncated = [line | {"samples": f"{line['size']:,}"} for line in truncated]
    tables = {"by_size": by_size, "truncated_by_size": truncated}
    return Conclusion(found, _notes(found[0], lines, by_size), tables, (_truncations(), _depths(found[0], by_size)))


def _notes(
    found: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], by_size: Sequence[Mapping[str, Any]]
) -> tuple[Sentence, ...]:
    """What sizes differ in beside their samples; where H3 fails, what moved along with it."""
    small, large = by_size[0], by_size[-1]
    ends = {"small": small["size"], "large": large["size"]}
    notes = [
        say(
            "The effective depth is {few:.1f} layers after {small:,} samples and {many:.1f} after {large:,}; the test "
            "accuracy {low:.2f} and {high:.2f}.",
            few=small["effective_depth"],
            many=large["effective_depth"],
            low=small["accuracy"],
            high=large["accuracy"],
            **ends,
        )
    ]
    farther, shorter = row("", slopes(lines, "moved")), row("", slopes(lines, "mean_depth"))
    if found["verdict"] == "fails" and farther["low"] > 0 and shorter["high"] < 0:
        template = (
            "What goes along with it: paths get shorter as the weights move from the first ones, and more samples "
            "move them further. The weights move by {near:.2f} of their size with {small:,} samples, by {far:.2f} with "
            "{large:,}; the mean path length goes from {first:.1f} at first weights to {long:.1f} and {short:.1f}."
        )
        values = {"near": small["moved"], "far": large["moved"], "first": large["initial_depth"]}
        notes.append(say(template, long=small["mean_depth"], short=large["mean_depth"], **values, **ends))
    return tuple(notes)


def _truncations() -> Chart:
    plot = Plot(
        "truncated_by_size",
        "lines",
        Axis("depth", say("terms up to depth, in layers")),
        Axis("accuracy", say("test accuracy"), low=0.0, high=1.0),
        series="samples",
        interval=("accuracy_low", "accuracy_high"),
    )
    reading = say(
        "A line is a size of the training set: the accuracy of the constants and the terms up to a depth, mean over "
        "seeds, with its 95 % interval. Where a line is level, the deeper terms add nothing to the accuracy."
    )
    return Chart("truncated", say("The accuracy of truncations, by the number of training samples"), reading, (plot,))


def _depths(found: Mapping[str, Any], by_size: Sequence[Mapping[str, Any]]) -> Chart:
    template = {
        "holds": "The more samples, the deeper the terms that are needed: {slope:+.2f} layers a doubling",
        "fails": "More samples need no deeper terms: {slope:+.2f} layers a doubling",
    }.get(found["verdict"], "Depth by the number of training samples; the slope is {slope:+.2f} layers a doubling")
    first = Mark(float(np.mean([line["initial_depth"] for line in by_size])), say("at first weights"))
    size = Axis("size", say("training samples"), scale="log")

    def panel(name: str, heading: str, marks: tuple[Mark, ...] = ()) -> Plot:
        ends = (f"{name}_low", f"{name}_high")
        return Plot(
            "by_size", "lines", size, Axis(name, say("layers")), interval=ends, heading=say(heading), marks=marks
        )

    plots = (panel("effective_depth", "effective depth"), panel("mean_depth", "mean path length", (first,)))
    reading = say("Lines are means over seeds, bands 95 % intervals. H3 asks that the line on the left rises.")
    return Chart("depth-by-size", say(template, slope=found["found"]), reading, plots)


def _cells(protocol: Protocol) -> tuple[str, ...]:
    return tuple(map(str, protocol.sizes))


EXPERIMENT = Experiment(
    "capacity",
    say("Do deep terms matter more, the more there is to learn?"),
    Protocol,
    measure,
    conclude,
    cells=_cells,
)
