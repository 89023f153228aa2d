"""Does the depth of a residual network rise while it learns, however its branches are begun?

A claim that must fail.  H1 of Sun, Ding, Guo 2022 says that shallow subnetworks are trained first, so that the mean
depth rises.  Whether it does is a matter of how branches are begun.  The theory names the cases; they are measured here
on networks of 24 blocks on 8x8 digits, recorded over their training in blocks:

- with batch norms the mean length of paths falls, deep terms are learned first, and early on short paths alone do not
  suffice;
- without norms and by the weights of He et al. 2015 shallow terms never dominate: the mean length stays near n/2;
- without norms, every branch times a small gain, it rises;
- with batch norms, the last weights of every branch zero at first, it rises.

There are two kinds of network: the residual MLP of `init-length`, for which the theory's lengths at the first weights
are known to hold, and a pre-activation ResNet.  The latter is not begun by He's weights: at every rate that was tried
some of its trainings ended at chance, by the seed, and what learns nothing tells nothing of learning.  (One of these
was the first seed of a run of the ResNet alone, which was then stopped.  The rules are those of that run.)
Batch-norm statistics are estimated anew for every record.  Input-born terms decide; the same with constants stands in
the table of verdicts.

The rules, fixed before anything was measured on the seeds of the verdicts, with one number a seed:

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
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from termwise import nets
from termwise.charts import Axis, Chart, Mark, Plot
from termwise.credit import CONVERGED
from termwise.data import DataSet
from termwise.experiments.common import (
    CLOSURE,
    OnImages,
    by_quantity,
    closure_reported,
    over_seeds,
    row,
    verdict_row,
    worst_closure,
)
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.networks import Branch, ResidualMLP
from termwise.loop import Optimiser, Training, train_network
from termwise.moments import Moment
from termwise.nets.preact import PreActBlock
from termwise.recorder import Recorder, log_spaced
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say
from termwise.timeline import Timeline
from termwise.verdict import SHARE, Verdict, decided, learned, share_trend, table, times_learned
from termwise.verdict.decision import ABOVE, BELOW, Expected

MLP, CONV = "mlp", "conv"
NORM, HE, GAIN, ZERO = "batch-norm", "he-gain", "small-gain", "zero-init"
INPUT_BORN, WITH_CONSTANTS = "input-born", "with constants"
QUARTER = 4  # short paths have at most this part of the blocks
FIRST, LAST = "mean length at the first weights", "mean length at the end"
EARLY = "accuracy of short paths less that of all, early"
MOST = "largest share of short paths at any record"
SUFFICES = Expected("at least -0.05, if short paths suffice", low=-0.05)
CHANGE = "mean length at the end less that at the first weights"
ACCURACY, DRIFT = "accuracy", "credit drift"
ENDS = ("cell", "first", "last")
DIRECTION = {NORM: BELOW, GAIN: ABOVE, ZERO: ABOVE}  # of the change, as the theory names it
NEVER = Expected("at most 0.5", high=0.5)


@dataclasses.dataclass(frozen=True)
class Protocol(OnImages):
    """What is trained and recorded; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the ResNet, 6n + 2 for 3n blocks, which the MLP has, too.
        width: channels of the ResNet's first stage.
        features: of the MLP's stream.
        gain: of the branches that have a small one.
        epochs: of the training.
        rates: peaks of the learning rate, of the cells in their order.  Each is that one of two or three, a factor of 3
            apart, by which the loss on training data was lowest in the end, on a seed that nothing else is measured on.
            By He's weights it is the next lower one: at three times as much one training in eight diverged, on such
            seeds, and so did the first seed of a verdict.
        batch: samples an update.
        probe: samples of the test part that the network is measured on.
        ratio: between one recorded step and the next, roughly.
    """

    depth: int = 50
    width: int = 8
    features: int = 64
    gain: float = 0.2
    epochs: int = 10
    rates: tuple[float, ...] = (0.03, 0.0001, 0.1, 0.03, 0.06, 0.06, 0.06)
    batch: int = 64
    probe: int = 96
    ratio: float = 2**0.5

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=8, width=2, features=8, samples=256, epochs=1, probe=32, ratio=4)


def cells(protocol: Protocol) -> tuple[str, ...]:
    """Kinds of network and ways to begin its branches."""
    return *(f"{MLP}-{way}" for way in (NORM, HE, GAIN, ZERO)), *(f"{CONV}-{way}" for way in (NORM, GAIN, ZERO))


def kind_of(cell: str) -> str:
    """Of which kind a cell's network is."""
    return cell.partition("-")[0]


def way_of(cell: str) -> str:
    """In which way the branches of a cell's network begin."""
    return cell.partition("-")[2]


def blocks(protocol: Protocol) -> int:
    """Of each network."""
    return (protocol.depth - 2) // 2


def network(cell: str, protocol: Protocol, data: DataSet) -> nn.Module:
    """The network of a cell; its weights come from torch's global random state."""
    way, shape = way_of(cell), data.train_inputs[0].shape
    options: dict[str, Any] = {"norm": way in (NORM, ZERO), "gain": protocol.gain if way == GAIN else 1.0}
    if kind_of(cell) == MLP:
        model = ResidualMLP(shape.numel(), protocol.features, data.classes, blocks=blocks(protocol), **options)
    else:
        model = nets.preact_resnet(
            protocol.depth, classes=data.classes, channels=shape[0], width=protocol.width, **options
        )
    for module in model.modules() if way == ZERO else ():
        if isinstance(module, PreActBlock | Branch):
            nn.init.zeros_((module.conv2 if isinstance(module, PreActBlock) else module.linear).weight)
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
    with closure_reported():
        train_network(model, data, recorder, settings=settings, seed=seed)
    found = numbers(recorder.timeline, chance=1 / data.classes)
    return {name: [{"cell": cell, **line} for line in lines] for name, lines in found.items()}


def numbers(timeline: Timeline, chance: float) -> dict[str, list[dict[str, Any]]]:
    """What one training says: single values, when each depth was learned, and the course of its lengths."""
    course = [_at(moment) for moment in timeline.moments]
    early = first_above_half([line["accuracy"] for line in course], chance)
    values = {
        FIRST: course[0]["mean_length"],
        LAST: course[-1]["mean_length"],
        EARLY: None if early is None else course[early]["short_accuracy"] - course[early]["accuracy"],
        MOST: max(line["short_share"] for line in course),
        ACCURACY: course[-1]["accuracy"],
        DRIFT: timeline.credit_drift,
        CLOSURE: worst_closure(timeline),
    }
    shares, times = [], []
    for terms in (INPUT_BORN, WITH_CONSTANTS):
        constants = terms == WITH_CONSTANTS
        shares.append({"terms": terms, "value": share_trend(timeline, constants=constants)})
        known = times_learned(timeline, constants=constants)
        times += [{"terms": terms, "depth": depth, "time": time} for depth, time in sorted(known.items())]
    single = [{"quantity": name, "value": value} for name, value in values.items()]
    return {"values": single, "shares": shares, "times": times, "course": course}


def first_above_half(accuracies: Sequence[float], chance: float) -> int | None:
    """The first record whose accuracy is halfway or more from chance to that of the last; None if that is below it."""
    half = (chance + accuracies[-1]) / 2
    return next((place for place, accuracy in enumerate(accuracies) if accuracy >= half > chance), None)


def _at(moment: Moment) -> dict[str, Any]:
    """At one record the mean length, and what short paths are: their share by norm, and their accuracy with all c."""
    profile = moment.profile
    assert profile.accuracy is not None  # the probe has classes
    longest = max(profile.depths) // QUARTER
    share = profile.share.where(origin="input")
    held = [origin != "input" or depth is None or depth <= longest for origin, depth in moment.parts]
    heads = moment.terms[held].sum(axis=0, dtype=np.float64)
    return {
        "step": moment.step,
        "mean_length": profile.mean_depth.value,
        "short_share": float(share["norm_share"][share["depth"].astype(int) <= longest].sum()),
        "short_accuracy": float((heads.argmax(axis=1) == moment.targets).mean()),
        "accuracy": profile.accuracy,
    }


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The claim first, for each way to begin; then the directions that the theory names; then the numbers."""
    names = cells(protocol)
    kept = {(name, terms): _endpoints(rows, name, terms) for name in names for terms in (INPUT_BORN, WITH_CONSTANTS)}
    endpoints = [each for name in names for each in kept[name, INPUT_BORN]]
    values = {name: by_quantity([v for v in rows["values"] if v["cell"] == name]) for name in names}
    found = [verdict_row(each) for each in endpoints]
    found += [row(f"{EARLY}, {name}", values[name][EARLY], SUFFICES) for name in names]
    found += _directions(values, protocol)
    found += [row(f"{CLOSURE}, {name}", values[name][CLOSURE]) for name in names]
    numbers = {line["quantity"]: line for line in found}
    ends = _ends(values)
    lines = [{"kind": kind_of(line["cell"]), "way": way_of(line["cell"]), **line} for line in rows["course"]]
    tables = {
        "ends": ends,
        "verdicts": table([each for both in kept.values() for each in both]).rows(),
        "endpoints": [_plotted(each) for each in endpoints],
        "lengths": over_seeds(lines, ["kind", "way", "step"], ["mean_length"]),
        "accuracies": _accuracies(rows["course"]),
    }
    orders = (each.words for each in endpoints if each.endpoint == "learned")
    notes = (*_notes(numbers, ends, protocol), *orders, _drift(rows["values"]))
    return Conclusion(found, notes, tables, _charts(numbers, endpoints, protocol), beside="ends")


def _endpoints(rows: Rows, name: str, terms: str) -> tuple[Verdict, Verdict]:
    """H1 share and learned of a cell."""
    of = name if terms == INPUT_BORN else f"{name}, {terms}"
    shares = [line["value"] for line in rows["shares"] if (line["cell"], line["terms"]) == (name, terms)]
    seeds: dict[int, dict[int, float | None]] = {}
    for line in rows["times"]:
        if (line["cell"], line["terms"]) == (name, terms):
            seeds.setdefault(line["seed"], {})[line["depth"]] = line["time"]
    return decided(SHARE, shares, of=of), learned([*seeds.values()], of=of)


def _directions(values: Mapping[str, Mapping[str, Sequence[float]]], protocol: Protocol) -> list[dict[str, Any]]:
    """What the theory says of each way."""
    half = blocks(protocol) / 2
    about = Expected("about n/2", 0.9 * half, 1.1 * half)  # within a tenth, as `init-length` takes it
    changes = [
        row(f"{CHANGE}, {name}", np.subtract(own[LAST], own[FIRST]), DIRECTION[way_of(name)])
        for name, own in values.items()
        if way_of(name) in DIRECTION
    ]
    bounds = {LAST: about, MOST: NEVER}
    return changes + [
        row(f"{quantity}, {name}", own[quantity], expected)
        for name, own in values.items()
        if way_of(name) == HE
        for quantity, expected in bounds.items()
    ]


def _ends(values: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Of each cell the mean length at first and in the end, and the accuracy there; means over seeds."""
    names = {"first": FIRST, "last": LAST, "accuracy": ACCURACY}
    return [
        {"cell": name, **{column: float(np.mean(own[quantity])) for column, quantity in names.items()}}
        for name, own in values.items()
    ]


def _accuracies(course: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Over the steps, of all terms and of short paths."""
    lines = [
        {"cell": line["cell"], "step": line["step"], "of": of, "accuracy": line[column]}
        for line in course
        for of, column in (("all", "accuracy"), ("short paths", "short_accuracy"))
    ]
    return over_seeds(lines, ["cell", "of", "step"], ["accuracy"])


def _plotted(verdict: Verdict) -> dict[str, Any]:
    """An endpoint as a point with its interval; a number that is not known is missing."""
    known = math.isfinite(verdict.low)
    ends = {key: getattr(verdict, key) if known else None for key in ("estimate", "low", "high")}
    return {"cell": verdict.of, "endpoint": verdict.endpoint, **ends}


def _notes(
    found: Mapping[str, Mapping[str, Any]], ends: Sequence[Mapping[str, Any]], protocol: Protocol
) -> tuple[Sentence, ...]:
    """Where the length does not do what the theory says: what it does instead."""
    expected = {NORM: "fall", GAIN: "rise", ZERO: "rise", HE: "stay near n/2"}
    template = (
        "The theory is contradicted: with {cell} the mean length does not {words}, it goes from {first:.2f} to "
        "{last:.2f} of {blocks} blocks."
    )
    return tuple(
        say(template, words=expected[way], blocks=blocks(protocol), **{key: line[key] for key in ENDS})
        for line in ends
        if found[f"{LAST if (way := way_of(line['cell'])) == HE else CHANGE}, {line['cell']}"]["verdict"] == "fails"
    )


def _drift(values: Sequence[Mapping[str, Any]]) -> Sentence:
    """Whether the records were dense enough for credits."""
    drifts = [line["value"] for line in values if line["quantity"] == DRIFT]
    return say(
        "In {coarse} of {all} trainings credits move by more than 5 % when every other record is left out.",
        coarse=sum(1 for drift in drifts if drift is not None and drift > CONVERGED),
        all=len(drifts),
    )


def _charts(
    found: Mapping[str, Mapping[str, Any]], endpoints: Sequence[Verdict], protocol: Protocol
) -> tuple[Chart, ...]:
    """The mean length over the training; both endpoints; what short paths alone can do."""
    over = say("Lines are means over seeds, bands 95 % intervals; input-born terms.")
    lengths = tuple(
        Plot(
            "lengths",
            "lines",
            Axis("step", say("step"), scale="log"),
            Axis("mean_length", say("mean length of paths by norm, in blocks"), low=0.0),
            series="way",
            interval=("mean_length_low", "mean_length_high"),
            where={"kind": kind},
            marks=(Mark(blocks(protocol) / 2, say("n/2")),),
            heading=say(words),
        )
        for kind, words in {MLP: "residual MLP", CONV: "pre-activation ResNet"}.items()
    )
    panels = {"share": "rise of the mean depth, in blocks", "learned": "Kendall's tau of depth and time learned"}
    points = tuple(
        Plot(
            "endpoints",
            "points",
            Axis("cell", say("how branches begin"), scale="ordinal"),
            Axis("estimate", say(label)),
            interval=("low", "high"),
            where={"endpoint": name},
            marks=(Mark(0.0, say("shallow first is above")),),
        )
        for name, label in panels.items()
        if any(each.endpoint == name and math.isfinite(each.low) for each in endpoints)
    )
    accuracies = tuple(
        Plot(
            "accuracies",
            "lines",
            Axis("step", say("step"), scale="log"),
            Axis("accuracy", say("accuracy on the probe"), low=0.0, high=1.0),
            series="of",
            interval=("accuracy_low", "accuracy_high"),
            where={"cell": name},
            heading=say(name),
        )
        for name in cells(protocol)
        if way_of(name) in (NORM, HE)
    )
    reading = say(
        "Points are means over seeds, with 95 % intervals; a way to begin is missing where a seed has no number."
    )
    short = say(
        "Short paths are the constants and the terms of at most a quarter of the blocks, with the gates of the whole."
    )
    charts = (
        Chart("lengths", _length_title(endpoints), over, lengths),
        Chart("endpoints", _title(endpoints), reading, points),
        Chart(
            "short-paths", _early_title([found[f"{EARLY}, {kind}-{NORM}"] for kind in (MLP, CONV)]), short, accuracies
        ),
    )
    return tuple(chart for chart in charts if chart.plots)


def _title(endpoints: Sequence[Verdict]) -> Sentence:
    verdicts = [each.verdict for each in endpoints]
    return say(
        "Of {all} endpoints of shallow first {holds} hold and {fails} fail",
        all=len(verdicts),
        holds=verdicts.count("holds"),
        fails=verdicts.count("fails"),
    )


def _length_title(endpoints: Sequence[Verdict]) -> Sentence:
    ways = {
        verdict: ", ".join(each.of for each in endpoints if (each.endpoint, each.verdict) == ("share", verdict))
        for verdict in ("holds", "fails")
    }
    rises, falls = ways.values()
    if rises and falls:
        return say("The mean length rises with {rises}, and falls with {falls}", rises=rises, falls=falls)
    if rises or falls:
        way = "rises" if rises else "falls"
        return say("The mean length {way} with {names}", way=way, names=rises or falls)
    return say("The mean length over the training, by how branches begin")


def _early_title(lines: Sequence[Mapping[str, Any]]) -> Sentence:
    mlp, conv = (abs(line["found"]) for line in lines)
    template = {
        (
            "fails",
        ): "With batch norms short paths alone lack {mlp:.2f} (MLP) and {conv:.2f} (ResNet) of accuracy early on",
        ("holds",): "With batch norms short paths alone suffice early on",
    }.get((*{line["verdict"] for line in lines},), "What short paths alone can do, over the training")
    return say(template, mlp=mlp, conv=conv)


EXPERIMENT = Experiment(
    "parametrisation",
    say("Does the depth of a residual network rise while it learns, however its branches are begun?"),
    Protocol,
    measure,
    conclude,
    cells=cells,
)
