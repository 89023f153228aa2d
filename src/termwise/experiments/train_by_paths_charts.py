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
