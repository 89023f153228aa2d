"""Which depths and degrees memorise wrong labels, and does their growth say when to stop?

H3 of Sun, Ding, Guo 2022 says that shallow terms, being of low degree, avoid overfitting, and that deep ones keep the
capacity.  A ResNet is trained on 8x8 digits, of which 0, 20 or 40 % have a wrong label, until it knows all of them by
heart.  Along the way its terms on training samples with wrong and with right labels are recorded, the degrees in the
input of the whole network (on Gaussian inputs with the mean and covariance of the training images), and its accuracy on
validation and test samples, whose labels are right.  Weights, wrong samples and their labels are the same for all
shares of noise, as far as these go; batch-norm statistics are estimated anew on the training images.

Fixed beforehand, of each seed (records from the end of the first epoch on; the optimum is the first record of the
highest validation accuracy):

a. *Depth.*  At the end, the mean depth of the margin of the given label over the true one on samples with a wrong
   label, less the mean depth of the margin of the true label over the mean of the others on samples with a right one:
   means under the signed shares of the input-born terms, undefined where a tenth of the mass is negative or the whole
   is within 3 standard errors of zero.  H3 expects it above 0.  Exploratory: the same with the given label against the
   mean of the others, as on samples with a right label.
b. *Degree.*  The mean degree at the end less that at the optimum, and less that at the end without noise: above 0.
c. *Stopping.*  The rule that sees no validation data: stop at the record with the *lowest mean degree*.  Its gain is
   the test accuracy there less that at the end, expected above 0; its regret is that accuracy less that at the optimum,
   expected at least -0.02.  Two exploratory rules: the shortest mean path length, and the smallest share of the norm in
   terms above half of the greatest depth.  Beside them: half of the training, and a record drawn at random.

A calibration run came before (720 samples, 40 % noise, 60 epochs without weight decay; other weights and other wrong
labels than any seed here has).  In it wrong labels were memorised deeper; the mean degree was lowest near the best
step, while the path length had its minimum later, when that was over.  The rule was chosen by it, from the three.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from termwise import nets
from termwise.charts import Axis, Chart, Plot
from termwise.data import load
from termwise.experiments.common import over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.label_noise import WRONG, Labelled, accuracies, course_line, degree_lines, ends, margin_lines
from termwise.loop import Training, train_network
from termwise.moments import read_directory
from termwise.recorder import Recorder, log_spaced
from termwise.seeds import owned_random, stream
from termwise.sentences import Sentence, say
from termwise.verdict.decision import ABOVE, Expected

NEAR = Expected("at least -0.02", low=-0.02)
RULES = {
    "mean_degree": "lowest mean degree",
    "mean_depth": "shortest mean path length",
    "deep_share": "smallest share of the deep half",
}
PRIMARY = "mean_degree"
ACCURACIES = {"test": "test", "given": "training, labels as given", "memorised": f"training, {WRONG}"}
_WEIGHTS = 1  # the key of a random stream


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained, on what, and how it is recorded; `quick` is a job of seconds, and shows nothing.

    Attributes:
        noise: percent of the training labels that are wrong; the first is without.
        samples: to train on; what is left of the training part is for validation.
        depth: of the residual network, 6n + 2.
        width: channels of its first stage.
        epochs: of the training.
        batch: samples an update.
        probe: samples with a wrong label that terms are recorded on, and as many with a right one.
        ratio: between one recorded step and the next, roughly.
        circles: of inputs that degrees are measured on.
        angles: points on a circle.
    """

    noise: tuple[int, ...] = (0, 20, 40)
    samples: int = 720
    depth: int = 14
    width: int = 8
    epochs: int = 45
    batch: int = 48
    probe: int = 96
    ratio: float = 2 ** (1 / 3)
    circles: int = 32
    angles: int = 64

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        small = {"samples": 96, "depth": 8, "width": 2, "epochs": 2, "probe": 16, "ratio": 4.0}
        return Protocol(noise=(0, 40), circles=20, angles=32, **small)

    @property
    def training(self) -> Training:
        """As the loop takes it."""
        return Training(epochs=self.epochs, batch_size=self.batch)


class _Watched:
    """A recorder that is told with every record how often the network is right on whole sets of samples."""

    def __init__(self, recorder: Recorder, due: Callable[[int], bool], look: Callable[[], dict[str, Any]]) -> None:
        self._recorder, self._due, self._look = recorder, due, look

    @property
    def seconds(self) -> float:
        return self._recorder.seconds

    @property
    def recorded(self) -> tuple[int, ...]:
        return self._recorder.recorded

    def step(self, n: int, **scalars: Any) -> bool:
        return self._due(n) and self._recorder.step(n, **scalars, **self._look())

    def finish(self, n: int, **scalars: Any) -> None:
        self._recorder.finish(n, **scalars, **self._look())


def measure(job: Job) -> Rows:
    """Train once on so much noise, and record."""
    protocol, seed, noise = job.protocol, job.seed, int(job.cell)
    data = load("digits", size=8)
    labelled = Labelled.of(data, protocol.samples, noise, seed)
    with owned_random(stream(seed, _WEIGHTS)):
        model = nets.resnet(protocol.depth, classes=data.classes, channels=1, width=protocol.width)
    epoch, places = protocol.training.batches(protocol.samples), labelled.probe(protocol.probe)
    tick = log_spaced(protocol.ratio)

    def due(n: int) -> bool:
        return n in (0, epoch) or (n > epoch and tick(n))

    recorder = Recorder(
        model,
        (labelled.inputs[places], labelled.given[places]),
        schedule=due,
        calibration=labelled.inputs,
        directory=job.directory,
        batch_size=len(places),
        replicates=2,
        seed=seed,
        degrees={"samples": protocol.circles, "angles": protocol.angles},
    )
    watched = _Watched(recorder, due, lambda: accuracies(model, labelled, (data.test_inputs, data.test_targets)))
    job.progress("training and recording")
    train_network(
        model,
        (labelled.inputs, labelled.given),
        watched,
        settings=protocol.training,
        seed=stream(seed, _WEIGHTS),
    )
    moments = read_directory(job.directory)
    wrong, true = min(protocol.probe, labelled.wrong), labelled.true[places].numpy()
    tables = {
        "course": [course_line(moment) | {"past_epoch": moment.step >= epoch} for moment in moments],
        "degrees": [line for moment in moments for line in degree_lines(moment)],
        "margins": margin_lines(moments[-1], true, wrong),
        "ends": [ends(moments[-1], true, wrong)],
    }
    return {name: [{"noise": noise, **line} for line in lines] for name, lines in tables.items()}


def stops(course: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Of one training the records that rules choose, and those they are compared with."""
    lines = [line for line in course if line["past_epoch"]]
    found = {}
    for name in RULES:
        known = [line for line in lines if line[name] is not None]
        found[name] = min(known or lines[-1:], key=lambda line: line[name])
    last = lines[-1]
    return found | {
        "optimum": max(lines, key=lambda line: line["validation"]),
        "half": min(lines, key=lambda line: abs(line["step"] - last["step"] / 2)),
        "end": last,
    }


def numbers(course: Sequence[Mapping[str, Any]], without: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of one training, and the same without noise: the numbers of a seed, by their names in `conclude`."""
    at, lines = stops(course), [line for line in course if line["past_epoch"]]
    test = {name: line["test"] for name, line in at.items()}
    test["random"] = float(np.mean([line["test"] for line in lines]))
    clean = stops(without)["end"]["mean_degree"]
    found = {
        "grown": _difference(at["end"]["mean_degree"], at["optimum"]["mean_degree"]),
        "by noise": _difference(at["end"]["mean_degree"], clean),
        "loss of no stopping": test["optimum"] - test["end"],
        "by heart": math.nan if at["end"]["memorised"] is None else at["end"]["memorised"],
    }
    for name in (*RULES, "half", "random"):
        found |= {f"gain {name}": test[name] - test["end"], f"regret {name}": test[name] - test["optimum"]}
    return found


def _difference(a: float | None, b: float | None) -> float:
    return math.nan if a is None or b is None else a - b


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The numbers of each seed and share of noise, beside what H3 expects of those with noise."""
    seeds = list(dict.fromkeys(line["seed"] for line in rows["course"]))
    courses = {
        (noise, seed): [line for line in rows["course"] if (line["noise"], line["seed"]) == (noise, seed)]
        for noise in protocol.noise
        for seed in seeds
    }
    found: list[dict[str, Any]] = []
    for noise in protocol.noise:
        each = [numbers(courses[noise, seed], courses[protocol.noise[0], seed]) for seed in seeds]
        values = {name: [one[name] for one in each] for name in each[0]}
        found += _found(noise, values, [line for line in rows["ends"] if line["noise"] == noise])
    chosen = [
        {"noise": noise, "seed": seed, "rule": name, "step": line["step"], "test": line["test"]}
        for (noise, seed), course in courses.items()
        for name, line in stops(course).items()
    ]
    tables = _summaries(rows) | {"stops": over_seeds(chosen, ["noise", "rule"], ["step", "test"])}
    return Conclusion(found, _notes(found, chosen, protocol), tables, _charts(found, protocol))


def _found(noise: int, values: Mapping[str, list[float]], at_end: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one share of noise; without noise nothing is expected."""
    above, near = (ABOVE, NEAR) if noise else (None, None)
    where = f"{noise} % noise"
    lines = []
    if noise:
        for name, words, expected in (
            ("wrong_depth", "mean depth of memorised margins less that of learned ones", ABOVE),
            ("wrong_against_all", "exploratory: the same, given label against the mean of the others", None),
        ):
            depths = [_difference(line[name], line["right_depth"]) for line in at_end]
            lines.append(row(f"{words}, {where}", depths, expected))
        lines.append(row(f"share of wrong labels that are known by heart at the end, {where}", values["by heart"]))
        lines.append(row(f"mean degree at the end less that without noise, {where}", values["by noise"], ABOVE))
    lines.append(row(f"mean degree at the end less that at the optimum, {where}", values["grown"], above))
    lines.append(row(f"test accuracy at the optimum less that at the end, {where}", values["loss of no stopping"]))
    for name, words in (*RULES.items(), ("half", "half of the training"), ("random", "a record at random")):
        own = name == PRIMARY
        kind = "" if own or name not in RULES else "exploratory: "
        lines.append(row(f"{kind}gain of {words}, {where}", values[f"gain {name}"], above if own else None))
        lines.append(row(f"{kind}regret of {words}, {where}", values[f"regret {name}"], near if own else None))
    return lines


def _summaries(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    """Means over seeds, as the charts read them."""
    course = [{**line, "labels": f"{line['noise']} % wrong"} for line in rows["course"]]
    accuracy = [
        {"noise": line["noise"], "seed": line["seed"], "step": line["step"], "of": words, "accuracy": line[name]}
        for line in course
        for name, words in ACCURACIES.items()
        if line[name] is not None
    ]
    degrees = [line for line in rows["degrees"] if line["share"] is not None]
    return {
        "by_step": over_seeds(course, ["noise", "labels", "step"], ["test", *RULES]),
        "accuracy_by_step": over_seeds(accuracy, ["noise", "of", "step"], ["accuracy"]),
        "margin_by_depth": over_seeds(rows["margins"], ["noise", "samples", "depth"], ["share"]),
        "degree_by_step": over_seeds(degrees, ["noise", "degree", "step"], ["share"]),
    }


def _notes(
    found: Sequence[Mapping[str, Any]], chosen: Sequence[Mapping[str, Any]], protocol: Protocol
) -> tuple[Sentence, ...]:
    """Where the rule stopped, and where it should have."""
    notes = []
    for noise in protocol.noise[1:]:

        def mean(rule: str, what: str, noise: int = noise) -> float:
            return float(np.mean([line[what] for line in chosen if (line["noise"], line["rule"]) == (noise, rule)]))

        template = (
            "With {noise} % noise the mean degree is lowest at step {own:.0f} in the mean over seeds, the path length "
            "at step {path:.0f}, and validation is best at step {best:.0f} of {last:.0f}; the test accuracy is "
            "{stopped:.2f}, {short:.2f}, {optimum:.2f}, and {end:.2f} at the end."
        )
        steps = {"own": mean(PRIMARY, "step"), "path": mean("mean_depth", "step"), "best": mean("optimum", "step")}
        tests = {"stopped": mean(PRIMARY, "test"), "short": mean("mean_depth", "test"), "end": mean("end", "test")}
        values = steps | tests | {"last": mean("end", "step"), "optimum": mean("optimum", "test")}
        notes.append(say(template, noise=noise, **values))
    (regret, *_) = (line for line in found[::-1] if line["expected"] == NEAR.words)
    if regret["verdict"] == "fails":
        steps = [line["step"] for line in chosen if line["noise"] == protocol.noise[-1] and line["rule"] == PRIMARY]
        best = [line["step"] for line in chosen if line["noise"] == protocol.noise[-1] and line["rule"] == "optimum"]
        early = sum(own < other for own, other in zip(steps, best, strict=True))
        late = sum(own > other for own, other in zip(steps, best, strict=True))
        template = (
            "The rule costs {cost:.2f} of accuracy with {noise} % noise: it stops before the optimum in {early} of "
            "{count} seeds, and after it in {late}."
        )
        notes.append(
            say(template, noise=protocol.noise[-1], cost=-regret["found"], early=early, late=late, count=len(steps))
        )
    return tuple(notes)


def _charts(found: Sequence[Mapping[str, Any]], protocol: Protocol) -> tuple[Chart, ...]:
    return _stopping(found, protocol), _accuracy(protocol), _depths(found, protocol), _degrees(protocol)


def _step() -> Axis:
    return Axis("step", say("step"), scale="log")


def _verdict(found: Sequence[Mapping[str, Any]], begins: str) -> tuple[str, float]:
    """The verdict at the strongest noise, and the number."""
    line = [each for each in found if each["quantity"].startswith(begins)][-1]
    return line["verdict"], line["found"]


def _stopping(found: Sequence[Mapping[str, Any]], protocol: Protocol) -> Chart:
    verdict, gain = _verdict(found, f"gain of {RULES[PRIMARY]}")
    template = {
        "holds": "Stopping where the mean degree is lowest gains {gain:.2f} of test accuracy at {noise} % noise",
        "fails": "Stopping where the mean degree is lowest gains nothing at {noise} % noise ({gain:+.2f})",
    }.get(verdict, "Test accuracy, mean degree and path length; the rule gains {gain:+.2f} at {noise} % noise")
    panels = {"test": "test accuracy", "mean_degree": "mean degree", "mean_depth": "mean path length, in layers"}
    plots = tuple(
        Plot(
            "by_step",
            "lines",
            _step(),
            Axis(name, say(words)),
            series="labels",
            interval=(f"{name}_low", f"{name}_high"),
        )
        for name, words in panels.items()
    )
    reading = say(
        "Lines are means over seeds, bands 95 % intervals. The rule looks for the lowest point of the mean degree; a "
        "good one lies below the highest point of the test accuracy."
    )
    return Chart("stopping", say(template, gain=gain, noise=protocol.noise[-1]), reading, plots)


def _accuracy(protocol: Protocol) -> Chart:
    plots = tuple(
        Plot(
            "accuracy_by_step",
            "lines",
            _step(),
            Axis("accuracy", say("accuracy"), low=0.0, high=1.0),
            series="of",
            interval=("accuracy_low", "accuracy_high"),
            where={"noise": noise},
            heading=say("{noise} % wrong labels", noise=noise),
        )
        for noise in protocol.noise
    )
    reading = say(
        "Lines are means over seeds, bands 95 % intervals. Wrong labels count as right where the network has learned "
        "them; the labels of test samples are true."
    )
    return Chart("accuracy", say("What is learned, and when wrong labels are memorised"), reading, plots)


def _depths(found: Sequence[Mapping[str, Any]], protocol: Protocol) -> Chart:
    verdict, deeper = _verdict(found, "mean depth of memorised margins")
    template = {
        "holds": "Wrong labels are memorised {deeper:.2f} layers deeper than right ones are learned",
        "fails": "Wrong labels are memorised no deeper than right ones are learned ({deeper:+.2f} layers)",
    }.get(verdict, "The depths that memorise wrong labels, beside those that learn right ones")
    plots = tuple(
        Plot(
            "margin_by_depth",
            "lines",
            Axis("depth", say("depth of the term, in layers")),
            Axis("share", say("share of the margin")),
            series="samples",
            interval=("share_low", "share_high"),
            where={"noise": noise},
            heading=say("{noise} % wrong labels", noise=noise),
        )
        for noise in protocol.noise[1:]
    )
    reading = say(
        "At the end of the training: what the terms of a depth bring to the margin of the wrong label over the true "
        "one, and on other samples to that of the right label over the mean of the rest; constants are left out."
    )
    return Chart("margins", say(template, deeper=deeper) if "{" in template else say(template), reading, plots)


def _degrees(protocol: Protocol) -> Chart:
    plots = tuple(
        Plot(
            "degree_by_step",
            "lines",
            _step(),
            Axis("share", say("share of the variance"), low=0.0),
            series="degree",
            interval=("share_low", "share_high"),
            where={"noise": noise},
            heading=say("{noise} % wrong labels", noise=noise),
            colours="degree",
        )
        for noise in protocol.noise
    )
    reading = say(
        "A line is a degree in the input, or a group of them: its share of the variance of the logits on Gaussian "
        "inputs with the moments of the training images; means over seeds, bands 95 % intervals."
    )
    return Chart("degrees", say("The degrees in the input over the training"), reading, plots)


def _cells(protocol: Protocol) -> tuple[str, ...]:
    return tuple(map(str, protocol.noise))


EXPERIMENT = Experiment(
    "overfitting",
    say("Which depths and degrees memorise wrong labels, and does their growth say when to stop?"),
    Protocol,
    measure,
    conclude,
    cells=_cells,
)
