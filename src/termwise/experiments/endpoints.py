"""What networks say of H1 and H2 while they are trained: share, learned and effect, one number a seed.

Networks are trained and recorded on test data, with batch-norm statistics estimated anew for every record; what a seed
says, and how several decide, is fixed in `termwise.verdict`.  Two comparators, which are no nulls: the effect at first
weights; and twins that are trained on a part of the training data whose labels are shuffled, recorded on these samples,
which show what order there is where nothing but single samples can be learned.

A job that was stopped goes on from its last record.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

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
from termwise.experiments.experiment import Conclusion, Job, Rows
from termwise.loop import Optimiser, Training, train_network
from termwise.nets.names import BUILDERS, parse
from termwise.recorder import Recorder, log_spaced
from termwise.seeds import stream
from termwise.sentences import Sentence, say
from termwise.timeline import Timeline
from termwise.training import NetworkConfig, build_network
from termwise.verdict import (
    EFFECT,
    LEARNED,
    SHARE,
    Verdict,
    decided,
    learned,
    mean_depths,
    order,
    shallow_effect,
    share_trend,
    table,
    times_learned,
)

INPUT_BORN, WITH_CONSTANTS = "input-born", "with constants"
AT_FIRST = "first weights"
SHUFFLED = "labels shuffled"
ACCURACY = "accuracy on the probe at the end"

Terms = Literal["input-born", "with constants"]
TERMS: tuple[Terms, ...] = (INPUT_BORN, WITH_CONSTANTS)
_LABELS = "-shuffled"
_REDUCTION = 4  # of the gates of an SE-ResNet: of 8 channels, the usual 16 would leave none
_ONE_LENGTH = ("plain", "mlp", "lstm")


@dataclasses.dataclass(frozen=True)
class Trained(OnImages):
    """What is trained and recorded.

    Attributes:
        size: of the images, in pixels.
        networks: by name, as on the command line.
        shuffled: those that have a twin whose labels are shuffled.
        width: channels of the first stage, of all networks that have stages and no growth.
        epochs: of the training.
        rate: the learning rate at its peak. At the usual 0.1 the first updates overshoot: credits pass their half more
            than once, and fewer than six terms have a time learned. At 0.02 most have one, on a seed that nothing else
            is measured on; the rate was chosen by their number. At 0.1 all endpoints had been seen before.
        batch: samples an update.
        probe: samples that the network is measured on.
        memorised: samples with shuffled labels; they are gone through so often that there are as many updates.
        ratio: between one recorded step and the next, roughly.
    """

    size: int | None = 16
    networks: tuple[str, ...] = ()
    shuffled: tuple[str, ...] = ()
    width: int = 8
    epochs: int = 5
    rate: float = 0.02
    batch: int = 64
    probe: int = 128
    memorised: int = 128
    ratio: float = 2**0.5

    @property
    def branched(self) -> tuple[str, ...]:
        """The networks that have paths of several lengths."""
        return tuple(name for name in self.networks if parse(name)[0] not in _ONE_LENGTH)


def cells(protocol: Trained) -> tuple[str, ...]:
    """The networks, and the twins."""
    return (*protocol.networks, *(name + _LABELS for name in protocol.shuffled))


def network(name: str, protocol: Trained, data: DataSet, seed: int) -> nn.Module:
    """A network of a protocol at its first weights."""
    family, arguments = parse(name)
    more = {"width": protocol.width, "reduction": _REDUCTION} if family == "se_resnet" else {"width": protocol.width}
    known = inspect.signature(BUILDERS[family]).parameters
    of_protocol = {key: value for key, value in more.items() if key in known}
    return build_network(NetworkConfig(name, family, of_protocol | arguments), data, seed)


def measure(job: Job) -> Rows:
    """Train and record one network."""
    protocol, seed = job.protocol, job.seed
    data = protocol.load()
    model = network(job.cell.removesuffix(_LABELS), protocol, data, seed)
    training = data.train_inputs, data.train_targets
    probe, epochs = (data.test_inputs, data.test_targets), protocol.epochs
    if job.cell.endswith(_LABELS):
        batches, own = (count // protocol.batch for count in (len(data.train_inputs), protocol.memorised))
        epochs = epochs * batches // own
        training = probe = shuffled(training, protocol.memorised, seed)
    recorder = Recorder(
        model,
        (probe[0][: protocol.probe], probe[1][: protocol.probe]),
        constants="by_depth",
        schedule=log_spaced(protocol.ratio),
        calibration=training[0][:512],
        directory=job.directory / "records",
        replicates=2,
        seed=seed,
    )
    job.progress("training and recording")
    settings = Training(epochs=epochs, batch_size=protocol.batch, optimiser=Optimiser(learning_rate=protocol.rate))
    directory = job.directory / "training"
    with closure_reported():
        train_network(model, training, recorder, settings=settings, seed=seed, directory=directory, name=job.cell)
    return {
        name: [{"network": job.cell, **line} for line in lines] for name, lines in numbers(recorder.timeline).items()
    }


def shuffled(data: tuple[Tensor, Tensor], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The first samples of a data set, with their labels in another order."""
    generator = torch.Generator().manual_seed(stream(seed, 1))
    inputs, targets = data
    return inputs[:count], targets[:count][torch.randperm(count, generator=generator)]


def numbers(timeline: Timeline) -> dict[str, list[dict[str, Any]]]:
    """What one network says: single values, when each depth was learned, and the course of its mean depth."""
    values, times = [], []
    for terms in TERMS:
        constants = terms == WITH_CONSTANTS
        measured = {
            "share": share_trend(timeline, constants=constants),
            "effect": shallow_effect(timeline, constants=constants),
            f"effect, {AT_FIRST}": shallow_effect(timeline, 0, constants=constants),
        }
        values += [{"terms": terms, "quantity": name, "value": value} for name, value in measured.items()]
        found = times_learned(timeline, constants=constants)
        times += [{"terms": terms, "depth": depth, "time": time} for depth, time in sorted(found.items())]
    whole = {
        ACCURACY: timeline.table["accuracy"][-1],
        CLOSURE: worst_closure(timeline),
        "credit drift": timeline.credit_drift,
    }
    values += [{"terms": "all", "quantity": name, "value": value} for name, value in whole.items()]
    depths = zip(timeline.steps, mean_depths(timeline), strict=True)
    course = [{"step": step, "mean_depth": float(depth)} for step, depth in depths]
    return {"values": values, "times": times, "course": course}


def concluded(rows: Rows, protocol: Trained, claims: Sequence[Verdict]) -> Conclusion:
    """The claims first, then every endpoint of every network, exploratory."""
    kept = [each for name in cells(protocol) for terms in TERMS for each in endpoints(rows, name, terms)]
    exploratory = [each for each in kept if each.of in protocol.branched]
    found = [verdict_row(each) for each in (*claims, *exploratory)]
    for name in cells(protocol):
        own = by_quantity([line for line in rows["values"] if line["network"] == name and line["terms"] == "all"])
        found += [row(f"{quantity}, {name}", own[quantity]) for quantity in (ACCURACY, CLOSURE)]
    lengths = [line for line in rows["times"] if line["network"].removesuffix(_LABELS) in protocol.branched]
    tables = {
        "verdicts": table([*claims, *kept]).rows(),
        "endpoints": [_plotted(each) for each in kept if each.of.partition(",")[0] in protocol.branched],
        "order": over_seeds(_known(lengths), ["network", "depth"], ["time"]),
        "course": over_seeds(_known(rows["course"]), ["network", "step"], ["mean_depth"]),
    }
    return Conclusion(found, _notes(rows, claims, protocol.networks[0]), tables, _charts(exploratory))


def endpoints(rows: Rows, name: str, terms: Terms = INPUT_BORN) -> tuple[Verdict, Verdict, Verdict]:
    """Share, learned and effect of a network; beside them those of its twin with shuffled labels."""
    own, twin = (_numbers(rows, each, terms) for each in (name, name + _LABELS))
    of = name if terms == INPUT_BORN else f"{name}, {terms}"
    beside = {key: {SHUFFLED: values} for key, values in twin.items() if values}
    first = {AT_FIRST: own[f"effect, {AT_FIRST}"]}
    return (
        decided(SHARE, own["share"], of=of, beside=beside.get("share")),
        learned(_times(rows, name, terms), of=of, beside=beside.get("order")),
        decided(EFFECT, own["effect"], of=of, beside=first | beside.get("effect", {})),
    )


def _numbers(rows: Rows, name: str, terms: Terms) -> dict[str, Sequence[float | None]]:
    """Of one network the number of each seed."""
    mine = [line for line in rows["values"] if (line["network"], line["terms"]) == (name, terms)]
    taus = [order(times) for times in _times(rows, name, terms)]
    return {**by_quantity(mine), "order": taus}


def _times(rows: Rows, name: str, terms: Terms) -> list[dict[int, float | None]]:
    """Of one network when each depth was learned, by seed."""
    seeds: dict[int, dict[int, float | None]] = {}
    for line in rows["times"]:
        if (line["network"], line["terms"]) == (name, terms):
            seeds.setdefault(line["seed"], {})[line["depth"]] = line["time"]
    return [*seeds.values()]


def _known(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the input-born terms, what every seed knows."""
    mine = [line for line in rows if line.get("terms", INPUT_BORN) == INPUT_BORN]

    def key(line: Mapping[str, Any]) -> tuple[Any, ...]:
        return line["network"], line.get("depth"), line.get("step")

    missing = {key(line) for line in mine if None in line.values()}
    return [line for line in mine if key(line) not in missing]


def _plotted(verdict: Verdict) -> dict[str, Any]:
    """An endpoint of a network as a point with its interval."""
    name, _, terms = verdict.of.partition(", ")
    ends = {key: getattr(verdict, key) for key in ("endpoint", "estimate", "low", "high")}
    return {"network": name, "terms": terms or INPUT_BORN, **ends}


def _notes(rows: Rows, claims: Sequence[Verdict], residual: str) -> tuple[Sentence, ...]:
    """The claims and endpoints in words, what the mean depth did, and whether the records were dense enough."""
    course = over_seeds(_known(rows["course"]), ["network", "step"], ["mean_depth"])
    ends = [line["mean_depth"] for line in course if line["network"] == residual]
    drifts = [line["value"] for line in rows["values"] if line["quantity"] == "credit drift"]
    coarse = sum(1 for drift in drifts if drift is not None and drift > CONVERGED)
    names = {each.name: each.quantity for each in (SHARE, LEARNED, EFFECT)}
    return (
        *(claim.words for claim in claims),
        say("Endpoints: {names}.", names="; ".join(f"{name}, {quantity}" for name, quantity in names.items())),
        say(
            "Of {name} the mean depth goes from {first:.1f} to {last:.1f} layers.",
            name=residual,
            first=ends[0],
            last=ends[-1],
        ),
        say(
            "In {coarse} of {all} trainings credits move by more than 5 % when every other record is left out.",
            coarse=coarse,
            all=len(drifts),
        ),
    )


def _charts(found: Sequence[Verdict]) -> tuple[Chart, ...]:
    """All endpoints; when each depth was learned; what the mean depth did."""
    panels = {
        "share": "share: rise of the mean depth",
        "learned": "learned: Kendall's tau",
        "effect": "effect: accuracy",
    }
    plots = tuple(
        Plot(
            "endpoints",
            "points",
            Axis("network", say("network"), scale="ordinal"),
            Axis("estimate", say(label)),
            series="terms",
            interval=("low", "high"),
            where={"endpoint": name},
            marks=(Mark(0.0, say("shallow first is above")),),
        )
        for name, label in panels.items()
    )
    lines = Plot(
        "order",
        "lines",
        Axis("depth", say("depth of the term, in layers")),
        Axis("time", say("step at which half of its credit is in"), scale="log"),
        series="network",
        interval=("time_low", "time_high"),
    )
    course = Plot(
        "course",
        "lines",
        Axis("step", say("step"), scale="log"),
        Axis("mean_depth", say("mean depth by norm share, in layers")),
        series="network",
        interval=("mean_depth_low", "mean_depth_high"),
    )
    over = "means over seeds, with 95 % intervals"
    return (
        Chart("endpoints", _title(found), say("Points are {over}; the claims say above 0.", over=over), plots),
        Chart(
            "order",
            _order_title(found),
            say("Lines are {over}; terms that a seed does not know are left out.", over=over),
            (lines,),
        ),
        Chart("mean-depth", _course_title(found), say("Lines are {over}; input-born terms.", over=over), (course,)),
    )


def _counted(found: Sequence[Verdict], endpoint: str) -> dict[str, int]:
    """How many networks an endpoint holds and fails in."""
    verdicts = [each.verdict for each in found if each.endpoint == endpoint]
    return {kind: verdicts.count(kind) for kind in ("holds", "fails")} | {"all": len(verdicts)}


def _title(found: Sequence[Verdict]) -> Sentence:
    verdicts = [each.verdict for each in found]
    return say(
        "Of {all} endpoints {holds} are on the side of shallow first, {fails} on the other",
        all=len(verdicts),
        holds=verdicts.count("holds"),
        fails=verdicts.count("fails"),
    )


def _order_title(found: Sequence[Verdict]) -> Sentence:
    counts = _counted(found, "learned")
    if not counts["holds"] + counts["fails"]:
        return say("When the terms of each depth are learned")
    return say("Shallow terms are learned first in {holds} of {all} networks, deep ones in {fails}", **counts)


def _course_title(found: Sequence[Verdict]) -> Sentence:
    counts = _counted(found, "share")
    if not counts["holds"] + counts["fails"]:
        return say("The mean depth over the training")
    return say("The mean depth rises in {holds} of {all} networks, and falls in {fails}", **counts)
