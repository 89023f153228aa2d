"""Does the depth of a residual network rise while it learns, however its branches are begun?

A claim that must fail.  H1 of Sun, Ding, Guo 2022 says that shallow subnetworks are trained first, so that the mean
depth rises.  Whether it does is a matter of how branches are begun.  The theory names the cases; they are measured here
on one network of 24 blocks, its branches begun in four ways:

- with batch norms the mean length of paths falls, deep terms are learned first, and early on short paths alone do not
  suffice;
- without norms and by the weights of He et al. 2015 shallow terms never dominate: the mean length stays near n/2;
- without norms, every branch times a small gain, it rises;
- with batch norms, the last weights of every branch zero at first, it rises.

The network is a pre-activation ResNet on 8x8 digits, recorded over its training in blocks, with batch-norm statistics
estimated anew for every record.  Input-born terms decide; the same with constants stands in the table of verdicts.

The rules, fixed before anything was measured, with one number a seed:

1. H1 *share* and *learned* (`termwise.verdict`), for each way: above 0 by the claim.
2. Short paths early on: at the first record whose accuracy is halfway or more from chance to that at the end, the
   accuracy of the constants and the terms of at most a quarter of the blocks, less that of the whole.  If shallow
   subnetworks are trained first they suffice there: at least -0.05.
3. The direction that the theory names: of the mean length its value at the end less that at the first weights, below 0
   with batch norms and above 0 with a small gain and with zeros; by He's weights its value at the end, about n/2, and
   the largest share by norm, at any record, of the terms of at most a quarter of the blocks: at most a half.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from termwise import nets
from termwise.charts import Axis, Chart, Mark, Plot
from termwise.credit import CONVERGED
from termwise.data import DataSet
from termwise.experiments.common import OnImages, by_quantity, over_seeds, row, verdict_row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Optimiser, Training, train_network
from termwise.moments import Moment
from termwise.nets.preact import PreActBlock
from termwise.recorder import Recorder, log_spaced
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say
from termwise.timeline import Timeline
from termwise.verdict import SHARE, Verdict, decided, learned, mean_depths, order, share_trend, table, times_learned
from termwise.verdict.decision import ABOVE, BELOW, Expected

NORM, HE, GAIN, ZERO = "batch-norm", "he-gain", "small-gain", "zero-init"
INPUT_BORN, WITH_CONSTANTS = "input-born", "with constants"
QUARTER = 4  # short paths have at most this part of the blocks
FIRST, LAST = "mean length at the first weights", "mean length at the end"
EARLY = "accuracy of short paths less that of all, early"
MOST = "largest share of short paths at any record"
SUFFICES = Expected("at least -0.05, if short paths suffice", low=-0.05)
NEVER = Expected("at most 0.5", high=0.5)


@dataclasses.dataclass(frozen=True)
class Protocol(OnImages):
    """What is trained and recorded; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the network, 6n + 2 for 3n blocks.
        width: channels of the first stage.
        gain: of the branches that have a small one.
        rates: peaks of the learning rate, of the cells in their order.
        epochs: of the training.
        batch: samples an update.
        probe: samples of the test part that the network is measured on.
        ratio: between one recorded step and the next, roughly.
    """

    depth: int = 50
    width: int = 8
    gain: float = 0.2
    rates: tuple[float, float, float, float] = (0.02, 0.006, 0.02, 0.02)
    epochs: int = 5
    batch: int = 64
    probe: int = 96
    ratio: float = 2**0.5

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=14, width=2, samples=256, epochs=1, probe=32, ratio=2)


def cells(protocol: Protocol) -> tuple[str, str, str, str]:
    """The ways to begin a branch."""
    return NORM, HE, GAIN, ZERO


def network(cell: str, protocol: Protocol, data: DataSet) -> nn.Module:
    """The network whose branches begin in this way; its weights come from torch's global random state."""
    options = {NORM: {}, HE: {"norm": False}, GAIN: {"norm": False, "gain": protocol.gain}, ZERO: {}}[cell]
    channels = data.train_inputs.shape[1]
    model = nets.preact_resnet(protocol.depth, classes=data.classes, channels=channels, width=protocol.width, **options)
    for module in model.modules() if cell == ZERO else ():
        if isinstance(module, PreActBlock):
            nn.init.zeros_(module.conv2.weight)
    return model


def measure(job: Job) -> Rows:
    """Train and record the network begun in one way."""
    protocol, seed, cell = job.protocol, job.seed, job.cell
    data = protocol.load()
    with owned_random(seed):
        model = network(cell, protocol, data)
    recorder = Recorder(
        model,
        (data.test_inputs[: protocol.probe], data.test_targets[: protocol.probe]),
        unit="blocks",
        constants="by_depth",
        schedule=log_spaced(protocol.ratio),
        calibration=data.train_inputs[:512],
        replicates=2,
        seed=seed,
    )
    job.progress("training and recording")
    rate = dict(zip(cells(protocol), protocol.rates, strict=True))[cell]
    optimiser = Optimiser(learning_rate=rate)
    settings = Training(epochs=protocol.epochs, batch_size=protocol.batch, optimiser=optimiser)
    train_network(model, data, recorder, settings=settings, seed=seed)
    found = numbers(recorder.timeline, chance=1 / data.classes)
    return {name: [{"cell": cell, **line} for line in lines] for name, lines in found.items()}


def numbers(timeline: Timeline, chance: float) -> dict[str, list[dict[str, Any]]]:
    """What one training says: single values, when each depth was learned, and the course of its lengths."""
    course = [_at(moment) for moment in timeline.moments]
    early = course[first_above_half([line["accuracy"] for line in course], chance)]
    values = {
        FIRST: course[0]["mean_length"],
        LAST: course[-1]["mean_length"],
        EARLY: early["short_accuracy"] - early["accuracy"],
        MOST: max(line["short_share"] for line in course),
        "accuracy": course[-1]["accuracy"],
        "credit drift": timeline.credit_drift,
    }
    shares, times = [], []
    for terms in (INPUT_BORN, WITH_CONSTANTS):
        constants = terms == WITH_CONSTANTS
        shares.append({"terms": terms, "value": share_trend(timeline, constants=constants)})
        known = times_learned(timeline, constants=constants)
        times += [{"terms": terms, "depth": depth, "time": time} for depth, time in sorted(known.items())]
    single = [{"quantity": name, "value": value} for name, value in values.items()]
    return {"values": single, "shares": shares, "times": times, "course": course}


def first_above_half(accuracies: Sequence[float], chance: float) -> int:
    """The first record whose accuracy is halfway or more from chance to that of the last."""
    half = (chance + accuracies[-1]) / 2
    return next(place for place, accuracy in enumerate(accuracies) if accuracy >= half)


def _at(moment: Moment) -> dict[str, Any]:
    """At one record the mean length, and what short paths are: their share by norm, and their accuracy with all c."""
    profile = moment.profile
    longest = max(profile.depths) // QUARTER
    share = profile.share.where(origin="input")
    held = [origin != "input" or depth <= longest for origin, depth in moment.parts]
    heads = moment.terms[held].sum(axis=0, dtype=np.float64)
    return {
        "step": moment.step,
        "mean_length": float(profile.mean_depth.value),
        "short_share": float(share["norm_share"][share["depth"].astype(int) <= longest].sum()),
        "short_accuracy": float((heads.argmax(axis=1) == moment.targets).mean()),
        "accuracy": float(profile.accuracy),
    }
