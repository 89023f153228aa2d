"""Are the subnetworks that matter shallower in a DenseNet than in a ResNet?

H4 of Sun, Ding, Guo 2022, who take it as the reason why DenseNets are better.  A ResNet-20 and a DenseNet-22 of nearly
as many parameters are trained on images, the embedded digits by default, and recorded on test data in both units, with
batch-norm statistics estimated anew.  The number of a seed is the mean depth (under the norm share of the input-born
terms) of the ResNet less that of the DenseNet: at the last step of both, and at the lowest loss that both reach, in
layers and in blocks; how these four decide is fixed in `termwise.verdict`.  Expected, from calibration runs on the
digits: the DenseNet is shorter in layers and nearly as long in blocks, at equal accuracy, so that the units need not
agree and H4 stays undecided.

A shorter DenseNet would not be shown to be better *because* of it.  The number of paths of each length in blocks is the
same binomial for both, if they have as many blocks: only what the paths carry can differ.  Here the ResNet has 9 blocks
and the DenseNet 18, so that in blocks a depth is also given as a share of the longest path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from termwise import nets
from termwise.charts import Axis, Chart, Plot
from termwise.data import DataSet
from termwise.experiments.common import OnImages, Together, by_quantity, over_seeds, row, verdict_row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Optimiser, Training, train_network
from termwise.recorder import Recorder, log_spaced
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say
from termwise.verdict import SHALLOWER, Course, Expected, Verdict, corrected, course, decided, h4, shallower, table
from termwise.verdict.measures import At

UNITS = ("layers", "blocks")
INPUT_BORN, WITH_CONSTANTS = "input-born", "with constants"
COLUMNS = ("loss", "mean_depth")
ALIKE = "accuracy of the DenseNet less that of the ResNet, at the end"
EXPECTED_ALIKE = Expected("within 0.02 of 0", -0.02, 0.02)
PARAMETERS, ACCURACY, LONGEST = "parameters", "accuracy at the end", "longest path, in"


@dataclasses.dataclass(frozen=True)
class Protocol(OnImages):
    """What is trained on which images, and recorded; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the ResNet, 6n + 2.
        width: channels of its first stage.
        dense_depth: of the DenseNet, 3n + 4.
        growth: channels that each of its layers appends.
        epochs: of the training.
        rate: the learning rate at its peak.
        batch: samples an update.
        probe: samples that the networks are measured on.
        ratio: between one recorded step and the next, roughly.
    """

    depth: int = 20
    width: int = 16
    dense_depth: int = 22
    growth: int = 12
    epochs: int = 5
    rate: float = 0.1
    batch: int = 64
    probe: int = 128
    ratio: float = 2.0

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=8, width=5, dense_depth=7, growth=8, epochs=1, batch=256, probe=16, ratio=8)


def _cells(protocol: Protocol) -> tuple[str, str]:
    """The ResNet and the DenseNet."""
    return f"resnet-{protocol.depth}", f"densenet-{protocol.dense_depth}"


def _networks(protocol: Protocol, data: DataSet) -> dict[str, Callable[[], nn.Module]]:
    shape: dict[str, Any] = {"classes": data.classes, "channels": data.train_inputs.shape[1]}
    residual, dense = _cells(protocol)
    return {
        residual: lambda: nets.resnet(protocol.depth, width=protocol.width, **shape),
        dense: lambda: nets.densenet(protocol.dense_depth, protocol.growth, **shape),
    }


def measure(job: Job) -> Rows:
    """Train one of the networks, recorded in both units: a row for each step, unit and kind of terms.

    A job that was killed goes on from its last record.
    """
    protocol, seed = job.protocol, job.seed
    data = protocol.load()
    with owned_random(seed):
        model = _networks(protocol, data)[job.cell]()
    probe = data.test_inputs[: protocol.probe], data.test_targets[: protocol.probe]
    options: dict[str, Any] = {
        "constants": "by_depth",
        "schedule": log_spaced(protocol.ratio),
        "calibration": data.train_inputs[:512],
        "replicates": 2,
        "seed": seed,
    }
    recorders = {unit: Recorder(model, probe, unit=unit, directory=job.directory / unit, **options) for unit in UNITS}
    job.progress("training and recording")
    settings = Training(protocol.epochs, protocol.batch, Optimiser(learning_rate=protocol.rate))
    kept = job.directory / "training"
    train_network(model, data, Together(recorders), settings=settings, seed=seed, directory=kept)
    courses, values = [], {PARAMETERS: float(sum(p.numel() for p in model.parameters()))}
    for unit, recorder in recorders.items():
        timeline = recorder.timeline
        for terms in (INPUT_BORN, WITH_CONSTANTS):
            found = course(timeline, constants=terms == WITH_CONSTANTS)
            courses += [
                {"unit": unit, "terms": terms, "step": step, "loss": float(loss), "mean_depth": float(depth)}
                for step, loss, depth in zip(*found, strict=True)
            ]
        values[ACCURACY] = float(timeline.table["accuracy"][-1])
        values[f"{LONGEST} {unit}"] = float(max(timeline.profiles[-1].depths))
    return {
        "courses": [{"network": job.cell, **line} for line in courses],
        "values": [{"network": job.cell, "quantity": name, "value": value} for name, value in values.items()],
    }


def claim(rows: Rows, protocol: Protocol) -> Verdict:
    """H4, not yet corrected."""
    residual, dense = (int(own[PARAMETERS][0]) for own in _values(rows, protocol).values())
    return h4(endpoints(rows, protocol), (residual, dense))


def _values(rows: Rows, protocol: Protocol) -> dict[str, dict[str, list[float]]]:
    """Of each network what is one number a seed."""
    return {
        name: by_quantity([line for line in rows["values"] if line["network"] == name]) for name in _cells(protocol)
    }


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The claim first, then its four endpoints, with and without constants; what else the networks are."""
    residual, dense = _cells(protocol)
    values = _values(rows, protocol)
    kept = {terms: endpoints(rows, protocol, terms) for terms in (INPUT_BORN, WITH_CONSTANTS)}
    (decision,) = corrected([claim(rows, protocol)])
    parts = [each for own in kept.values() for each in own.values()]
    found = [verdict_row(each) for each in (decision, *parts)]
    found += [row(f"{quantity}, {name}", each) for name, own in values.items() for quantity, each in own.items()]
    by_res, by_dense = (np.array(values[name][ACCURACY]) for name in (residual, dense))
    found.append(row(ALIKE, by_dense - by_res, EXPECTED_ALIKE))
    ends = _ends(rows["courses"], values)
    found += [row(f"mean depth at the end, {unit}, {name}", [e["depth"] for e in each]) for (name, unit), each in ends]
    found += [
        row(f"the same over the longest path, {unit}, {name}", [e["part"] for e in each]) for (name, unit), each in ends
    ]
    mine = [line for line in rows["courses"] if line["terms"] == INPUT_BORN]
    tables = {
        "verdicts": table([decision, *parts]).rows(),
        "by_step": over_seeds(mine, ["unit", "network", "step"], ["mean_depth", "loss"]),
    }
    return Conclusion(found, (decision.words,), tables, (_chart(kept[INPUT_BORN], found),))


def endpoints(rows: Rows, protocol: Protocol, terms: str = INPUT_BORN) -> dict[tuple[str, At], Verdict]:
    """The verdict on each of the four."""
    known = _by_seed([line for line in rows["courses"] if line["terms"] == terms])
    residual, dense = _cells(protocol)
    of = "" if terms == INPUT_BORN else terms
    seeds = dict.fromkeys(seed for _, _, seed in known)
    return {
        (unit, at): decided(
            endpoint,
            [shallower(known[residual, unit, seed], known[dense, unit, seed], at=at) for seed in seeds],
            of=of,
        )
        for (unit, at), endpoint in SHALLOWER.items()
    }


def _by_seed(courses: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, int], Course]:
    """The course of each network, unit and seed."""
    lines: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for line in courses:
        lines.setdefault((line["network"], line["unit"], line["seed"]), []).append(line)
    return {
        key: Course([line["step"] for line in each], *(np.array([line[c] for line in each]) for c in COLUMNS))
        for key, each in lines.items()
    }


def _ends(
    courses: Sequence[Mapping[str, Any]], values: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[tuple[tuple[str, str], list[dict[str, float]]]]:
    """Of each network and unit the mean depth at the end, and its part of the longest path, one a seed."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for (name, unit, _), each in _by_seed([line for line in courses if line["terms"] == INPUT_BORN]).items():
        depth, longest = float(each.depths[-1]), values[name][f"{LONGEST} {unit}"][0]
        found.setdefault((name, unit), []).append({"depth": depth, "part": depth / longest})
    return list(found.items())


def _chart(endpoints: Mapping[tuple[str, At], Verdict], found: Sequence[Mapping[str, Any]]) -> Chart:
    plots = tuple(
        Plot(
            "by_step",
            "lines",
            Axis("step", say("step"), scale="log"),
            Axis("mean_depth", say("mean depth by norm share, in steps of its unit"), low=0.0),
            series="network",
            interval=("mean_depth_low", "mean_depth_high"),
            where={"unit": unit},
            heading=say("in {unit}", unit=unit),
        )
        for unit in UNITS
    )
    reading = say("Lines are means over seeds, bands 95 % intervals; input-born terms.")
    return Chart("mean-depth", _title(endpoints), reading, plots)


def _title(endpoints: Mapping[tuple[str, At], Verdict]) -> Sentence:
    layers, blocks = (endpoints[unit, "step"] for unit in UNITS)
    words = {"holds": "shallower", "fails": "deeper"}
    if layers.verdict not in words and blocks.verdict not in words:
        return say("The mean depth of both networks over the training")
    return say(
        "At the end the DenseNet is {layers} in layers and {blocks} in blocks",
        layers=words.get(layers.verdict, "not clearly apart"),
        blocks=words.get(blocks.verdict, "not clearly apart"),
    )


EXPERIMENT = Experiment(
    "dense-vs-res",
    say("Are the subnetworks that matter shallower in a DenseNet than in a ResNet?"),
    Protocol,
    measure,
    conclude,
    cells=_cells,
)
