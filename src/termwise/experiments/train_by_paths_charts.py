"""The charts of `train-by-paths`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from termwise.charts import Axis, Chart, Mark, Plot
from termwise.sentences import say


def loss_chart(ratio: Mapping[str, Any], target: float) -> Chart:
    """The loss by step.

    Args:
        ratio: the row of what was found of the steps by shorter over those by longer paths.
        target: the loss that is to be reached.
    """
    values = {"ratio": ratio["found"]}
    title = {
        "holds": say(
            "Trained by short paths, a network needs {ratio:.2f} times the steps that it needs by long ones", **values
        ),
        "fails": say(
            "Trained by short paths, a network is no faster: {ratio:.2f} times the steps that long ones need", **values
        ),
    }.get(ratio["verdict"], say("The loss while a network is trained by half of its paths, or by all"))
    plot = Plot(
        "by_step",
        "lines",
        Axis("step", say("step")),
        Axis("loss", say("loss on all training data, in nats"), scale="log"),
        series="paths",
        interval=("loss_low", "loss_high"),
        marks=(Mark(target, say("the loss to be reached")),),
    )
    reading = say(
        "Lines are means over seeds, bands 95 % intervals. Every update has the norm of the whole gradient, times the "
        "learning rate that is best for these paths on the other seeds. A line ends where the first seed does."
    )
    return Chart("loss-by-paths", title, reading, (plot,))


def rate_chart(ratios: Sequence[tuple[float, Mapping[str, Any]]], target: float) -> Chart:
    """The steps by learning rate.

    Args:
        ratios: rates, ascending, each with the row of what was found of the ratio of steps there.
        target: the loss that is to be reached.
    """
    title = say("The steps that are needed at each learning rate")
    if len(ratios) > 1:
        (low, first), *_, (high, last) = ratios
        title = say(
            "At a rate of {low:g} short paths need {first:.2f} times the steps of long ones, at {high:g} {last:.2f}",
            low=low,
            first=first["found"],
            high=high,
            last=last["found"],
        )
    plot = Plot(
        "by_rate",
        "lines",
        Axis("rate", say("learning rate"), scale="log"),
        Axis("steps", say("steps to a loss of {target:g}", target=target), low=0.0),
        series="paths",
        interval=("steps_low", "steps_high"),
    )
    reading = say(
        "Lines are means over seeds, bands 95 % intervals. A line has no value at a rate at which some seed did not "
        "come to this loss."
    )
    return Chart("steps-by-rate", title, reading, (plot,))


def error_chart(verdict: str, data: str, *, kept: int, blocks: int, part: float, whole: float) -> Chart:
    """The error by training.

    Args:
        verdict: on the difference.
        data: of which the error is shown.
        kept: blocks in a batch.
        blocks: of the network.
        part: the error of the network that is trained by a part of its blocks.
        whole: of the other.
    """
    template = {
        "holds": "Trained by {kept} of its {blocks} blocks at a time, a network is as good as by all: wrong on "
        "{part:.1%} against {whole:.1%}",
        "fails": "Trained by {kept} of its {blocks} blocks at a time, a network is not what it is by all: wrong on "
        "{part:.1%} against {whole:.1%}",
    }.get(
        verdict,
        "Trained by {kept} of its {blocks} blocks at a time, a network is wrong on {part:.1%}; by all, on {whole:.1%}",
    )
    plot = Plot(
        "by_training",
        "points",
        Axis("training", say("trained by"), scale="ordinal"),
        Axis("error", say("error of the whole network on test data"), low=0.0),
        interval=("error_low", "error_high"),
        where={"data": data},
    )
    reading = say(
        "Points are means over seeds, lines 95 % intervals. A part: a random {kept} of the blocks in each batch. "
        "Scaled: in the test each branch brings that part of what it brought in training.",
        kept=kept,
    )
    title = say(template, kept=kept, blocks=blocks, part=part, whole=whole)
    return Chart("error-by-blocks", title, reading, (plot,))
