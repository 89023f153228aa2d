"""Do long paths through self-attention know less than short ones?

After Dong, Cordonnier, Loukas 2021 (arXiv 2103.03404), who find that what comes along paths through many attention
layers tends to rank one, and that a trained network's short paths carry its performance.  They draw single paths of
each length; here the term of a length is the sum over all of its paths, exactly, with attention patterns, norms and
perceptrons held as in the whole network (`termwise.profile`).

A vision transformer that reads the mean of its tokens is trained on the embedded digits.  A step is the output of an
attention layer, so that length 0 is what reaches the output around all of them.  The number of a seed is Kendall's
tau_b between the length of a term and the accuracy of that term alone; it is expected below 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from termwise import nets
from termwise.charts import Axis, Chart, Mark, Plot
from termwise.data import load
from termwise.experiments.common import by_quantity, over_seeds, row, trained
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Optimiser, Training
from termwise.profile import profile
from termwise.sentences import say
from termwise.verdict.decision import BELOW, tau

TAU = "Kendall's tau between length and accuracy"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained, and for how long; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: attention layers, each followed by a perceptron.
        width: features of a token.
        size: of the images, in pixels.
        patch: side of a token, in pixels.
        epochs: of the training.
        learning_rate: at its peak.
    """

    depth: int = 6
    width: int = 32
    size: int = 8
    patch: int = 2
    epochs: int = 20
    learning_rate: float = 0.02

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=2, width=8, patch=4, epochs=1)


def measure(job: Job) -> Rows:
    """Train a network, and hear each length alone: a row for each length."""
    protocol, seed = job.protocol, job.seed
    data = load("digits", size=protocol.size)
    shape: dict[str, Any] = {"patch": protocol.patch, "size": protocol.size, "classes": data.classes, "channels": 1}
    job.progress("training")
    settings = Training(epochs=protocol.epochs, optimiser=Optimiser(learning_rate=protocol.learning_rate))
    model = trained(lambda: nets.vit(protocol.depth, protocol.width, pool="mean", **shape), data, settings, seed)
    job.progress("measuring its paths")
    layers = [f"blocks.{i}.attention" for i in range(protocol.depth)]
    found = profile(model, (data.test_inputs, data.test_targets), unit=layers, replicates=20)
    share = found.share.where(origin="input")["norm_share"].tolist()
    lengths = [
        {"length": line["depth"], "accuracy": line["alone_accuracy"], "share": part}
        for line, part in zip(found.truncated.rows(), share, strict=True)
    ]
    values = {"accuracy of the whole network": found.accuracy, "mean path length": found.mean_depth.value}
    return {"lengths": lengths, "values": [{"quantity": name, "value": value} for name, value in values.items()]}


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """Whether accuracy falls with length, beside what was published."""
    values = by_quantity(rows["values"])
    found = [row(TAU, trends(rows["lengths"]), BELOW), *(row(name, each) for name, each in values.items())]
    by_length = over_seeds(rows["lengths"], ["length"], ["accuracy", "share"])
    return Conclusion(found, (), {"by_length": by_length}, (_chart(found[0], by_length),))


def trends(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """Kendall's tau_b between length and accuracy, one a seed; not a number where all accuracies are one."""
    accuracies: dict[int, dict[int, float]] = {}
    for line in lines:
        accuracies.setdefault(line["seed"], {})[line["length"]] = line["accuracy"]
    return [tau([*each], [*each.values()]) for each in accuracies.values()]


def _chart(found: Mapping[str, Any], by_length: Sequence[Mapping[str, Any]]) -> Chart:
    template = {
        "holds": "Long paths know less: alone, length {best} has an accuracy of {most:.2f}, length {longest} of "
        "{last:.2f}",
        "fails": "Long paths know no less: alone, length {best} has an accuracy of {most:.2f}, length {longest} of "
        "{last:.2f}",
    }.get(found["verdict"], "The accuracy of each length of path alone; length {best} has most, {most:.2f}")
    best, last = max(by_length, key=lambda line: line["accuracy"]), by_length[-1]
    values = {"best": best["length"], "most": best["accuracy"], "longest": last["length"], "last": last["accuracy"]}
    length = Axis("length", say("attention layers on the path"))
    plots = (
        Plot(
            "by_length",
            "lines",
            length,
            Axis("accuracy", say("accuracy of the term alone"), low=0.0, high=1.0),
            interval=("accuracy_low", "accuracy_high"),
            marks=(Mark(0.1, say("chance")),),
            heading=say("what a length knows"),
        ),
        Plot(
            "by_length",
            "lines",
            length,
            Axis("share", say("share of the norms"), low=0.0),
            interval=("share_low", "share_high"),
            heading=say("how large it is"),
        ),
    )
    reading = say("A term is the sum over all paths of its length. Lines are means over seeds, bands 95 % intervals.")
    used = {name: value for name, value in values.items() if f"{{{name}" in template}
    return Chart("by-length", say(template, **used), reading, plots)


EXPERIMENT = Experiment(
    "attention-paths",
    say("Do long paths through self-attention know less than short ones?"),
    Protocol,
    measure,
    conclude,
)
