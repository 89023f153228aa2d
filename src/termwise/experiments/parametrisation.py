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
import math
from collections.abc import Mapping, Sequence
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
from termwise.verdict import SHARE, Verdict, decided, learned, share_trend, table, times_learned
from termwise.verdict.decision import ABOVE, BELOW, Expected

NORM, HE, GAIN, ZERO = "batch-norm", "he-gain", "small-gain", "zero-init"
INPUT_BORN, WITH_CONSTANTS = "input-born", "with constants"
QUARTER = 4  # short paths have at most this part of the blocks
FIRST, LAST = "mean length at the first weights", "mean length at the end"
EARLY = "accuracy of short paths less that of all, early"
MOST = "largest share of short paths at any record"
SUFFICES = Expected("at least -0.05, if short paths suffice", low=-0.05)
CHANGE = "mean length at the end less that at the first weights"
DRIFT = "credit drift"
DIRECTION = {NORM: BELOW, GAIN: ABOVE, ZERO: ABOVE}  # of the change, as the theory names it
NEVER = Expected("at most 0.5", high=0.5)


@dataclasses.dataclass(frozen=True)
class Protocol(OnImages):
    """What is trained and recorded; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the network, 6n + 2 for 3n blocks.
        width: channels of the first stage.
        gain: of the branches that have a small one.
        epochs: of the training.
        rate: the learning rate at its peak. Of 0.006, 0.02 and 0.06 the last gave the lowest loss on training data in
            all four ways, on a seed that nothing else is measured on.
        batch: samples an update.
        probe: samples of the test part that the network is measured on.
        ratio: between one recorded step and the next, roughly.
    """

    depth: int = 50
    width: int = 8
    gain: float = 0.2
    epochs: int = 10
    rate: float = 0.06
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


def blocks(protocol: Protocol) -> int:
    """Of the network."""
    return (protocol.depth - 2) // 2


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
    optimiser = Optimiser(learning_rate=protocol.rate)
    settings = Training(epochs=protocol.epochs, batch_size=protocol.batch, optimiser=optimiser)
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
        "accuracy": course[-1]["accuracy"],
        DRIFT: timeline.credit_drift,
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
    found += [row(f"{quantity}, {name}", values[name][quantity]) for name in names for quantity in (FIRST, "accuracy")]
    numbers = {line["quantity"]: line for line in found}
    course = over_seeds(rows["course"], ["cell", "step"], ["mean_length"])
    tables = {
        "verdicts": table([each for both in kept.values() for each in both]).rows(),
        "endpoints": [_plotted(each) for each in endpoints],
        "lengths": course,
        "accuracies": _accuracies(rows["course"]),
    }
    notes = (*_notes(numbers, protocol), *(each.words for each in endpoints if each.endpoint == "learned"))
    return Conclusion(found, (*notes, _drift(rows["values"])), tables, _charts(numbers, endpoints, protocol))


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
    changes = {name: np.subtract(own[LAST], own[FIRST]) for name, own in values.items()}
    ends = {name: about if name == HE else None for name in values}
    return [
        *(row(f"{CHANGE}, {name}", each, DIRECTION.get(name)) for name, each in changes.items()),
        *(row(f"{LAST}, {name}", values[name][LAST], each) for name, each in ends.items()),
        row(f"{MOST}, {HE}", values[HE][MOST], NEVER),
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


def _notes(found: Mapping[str, Mapping[str, Any]], protocol: Protocol) -> tuple[Sentence, ...]:
    """Where the length does not do what the theory says: what it does instead."""
    expected = {NORM: "fall", GAIN: "rise", ZERO: "rise", HE: "stay near n/2"}
    notes = []
    for name, words in expected.items():
        decider = found[f"{LAST if name == HE else CHANGE}, {name}"]
        if decider["verdict"] == "fails":
            notes.append(
                say(
                    "The theory is contradicted: with {name} the mean length does not {words}, it goes from "
                    "{first:.2f} to {last:.2f} of {blocks} blocks.",
                    name=name,
                    words=words,
                    first=found[f"{FIRST}, {name}"]["found"],
                    last=found[f"{LAST}, {name}"]["found"],
                    blocks=blocks(protocol),
                )
            )
    return tuple(notes)


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
    lengths = Plot(
        "lengths",
        "lines",
        Axis("step", say("step"), scale="log"),
        Axis("mean_length", say("mean length of paths by norm, in blocks"), low=0.0),
        series="cell",
        interval=("mean_length_low", "mean_length_high"),
        marks=(Mark(blocks(protocol) / 2, say("n/2")),),
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
    )
    reading = say(
        "Points are means over seeds, with 95 % intervals; a way to begin is missing where a seed has no number."
    )
    short = say(
        "Short paths are the constants and the terms of at most a quarter of the blocks, with the gates of the whole."
    )
    charts = (
        Chart("lengths", _length_title(endpoints), over, (lengths,)),
        Chart("endpoints", _title(endpoints), reading, points),
        Chart("short-paths", _early_title(found[f"{EARLY}, {NORM}"]), short, accuracies),
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


def _early_title(line: Mapping[str, Any]) -> Sentence:
    template = {
        "fails": "With batch norms short paths alone do not suffice early on: their accuracy is {less:.2f} lower",
        "holds": "With batch norms short paths alone suffice early on",
    }.get(line["verdict"], "What short paths alone can do, over the training")
    return say(template, less=abs(line["found"]))


EXPERIMENT = Experiment(
    "parametrisation",
    say("Does the depth of a residual network rise while it learns, however its branches are begun?"),
    Protocol,
    measure,
    conclude,
    cells=cells,
)
