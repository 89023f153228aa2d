"""Do shallow terms vary slowly over the inputs, and deep ones fast, by more than gates bring about by themselves?

H3 of Sun, Ding, Guo 2022 says that shallow subnetworks are of low degree and deep ones of high degree.  Terms have no
degree: with gates frozen they are affine in the input, and with gates recomputed they jump.  What can be measured is
how fast they vary along circles of Gaussian inputs (`termwise.degree.terms`), and that is bound to grow with depth,
since gates multiply.  So the question is one of *excess*: how much more of itself a term loses from the lowest
frequencies (m <= 1) with each step of depth than it does in the same network at its first weights, and than it does by
gates that belong to other inputs.

A ResNet is trained on images, 8x8 digits by default; circles have the mean and covariance of the training images.  The
number of a seed is the smaller of its two excesses, for H3 holds only in excess of both.  A plain network is set beside
it, whose terms are one: it has no trend over depth, only a share that can be compared.  Batch norms have statistics
estimated anew on training data, trained or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from termwise import nets
from termwise.charts import Axis, Chart, Plot
from termwise.data import DataSet
from termwise.degree import DepthDegrees, depth_degrees
from termwise.degree.tiles import BANDS
from termwise.experiments.common import OnImages, by_quantity, over_seeds, row, trained
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Training
from termwise.recorder import reestimated
from termwise.seeds import owned_random
from termwise.sentences import say
from termwise.verdict.claims import EXCESS, Verdict, decided
from termwise.verdict.decision import ABOVE
from termwise.verdict.measures import smaller_excess

H3 = "the smaller excess"
AGAINST = {"shuffled": "gates shuffled", "initial": "first weights"}


@dataclasses.dataclass(frozen=True)
class Protocol(OnImages):
    """What is trained on which images, and how it is measured; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the residual network, 6n + 2.
        plain_depth: of the plain network, 6n + 2.
        width: channels of the first stage of both.
        epochs: of both trainings.
        circles: of inputs.
        angles: points on a circle.
    """

    depth: int = 20
    plain_depth: int = 8
    width: int = 8
    epochs: int = 15
    circles: int = 400
    angles: int = 128

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=8, width=2, epochs=1, circles=20, angles=64)


def measure(job: Job) -> Rows:
    """Train a network, and expand it along circles, before and after."""
    protocol, seed, name = job.protocol, job.seed, job.cell
    data = protocol.load()
    make = _networks(protocol, data)[name]
    job.progress("training")
    with owned_random(seed):
        initial = make()
    model = trained(make, data, Training(epochs=protocol.epochs), seed)
    job.progress("expanding along circles")
    calibration = data.train_inputs[:512]
    model, initial = (reestimated(network, calibration).eval() for network in (model, initial))
    sizes = {"circles": protocol.circles, "angles": protocol.angles}
    found = depth_degrees(model, data.train_inputs, initial=initial, seed=seed, replicates=20, **sizes)
    with torch.no_grad():
        right = model(data.test_inputs).argmax(dim=1) == data.test_targets
    accuracy = {"quantity": "accuracy", "value": float(right.double().mean())}
    terms = [
        {"network": name, "of": line["network"], **{c: line[c] for c in ("depth", "weight", *BANDS)}}
        for line in found.terms.where(part="input").rows()
    ]
    return {"values": [{"network": name, **line} for line in (accuracy, *numbers(found))], "terms": terms}


def numbers(found: DepthDegrees) -> list[dict[str, Any]]:
    """Of one network the excesses, and the smaller one; of a network with one term what its share exceeds them by."""
    own = found.terms.where(network="own", part="input").rows()
    if len(own) == 1:
        return [
            {
                "quantity": f"share at m <= 1 less that of {AGAINST[name]}",
                "value": own[0]["upto_1"] - found.terms.where(network=name, part="input")["upto_1"].item(),
            }
            for name in AGAINST
        ]
    excess = {line["comparator"]: line["excess"] for line in found.trend.rows()}
    return [
        *({"quantity": f"excess over {AGAINST[name]}", "value": value} for name, value in excess.items()),
        {"quantity": H3, "value": smaller_excess(found)},
    ]


def claim(rows: Rows, protocol: Protocol) -> Verdict:
    """H3, not yet corrected."""
    residual, _ = _cells(protocol)
    own = by_quantity([line for line in rows["values"] if line["network"] == residual])
    return decided(EXCESS, own[H3], of=residual)


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The excesses, of which H3 asks for both."""
    found = []
    for name in dict.fromkeys(value["network"] for value in rows["values"]):
        for quantity, values in by_quantity([v for v in rows["values"] if v["network"] == name]).items():
            expected = ABOVE if quantity == H3 else None
            found.append(row(f"{quantity}, {name}", values, expected))
    residual, _ = _cells(protocol)
    by_depth = over_seeds(rows["terms"], ["network", "of", "depth"], ["weight", *BANDS])
    tiles = [
        {"network": line["network"], "of": line["of"], "depth": line["depth"], "band": title, "share": line[band]}
        for line in by_depth
        for band, (title, *_) in BANDS.items()
    ]
    note = say(
        "An excess is what the share at m <= 1 loses with each step of depth, less what it loses in the comparator; "
        "over terms that hold at least 2 % of the energy of all. H3 is to exceed both comparators."
    )
    charts = (_lines(residual, found), _tiles(residual))
    return Conclusion(found, (note,), {"by_depth": by_depth, "tiles": tiles}, charts)


def _cells(protocol: Protocol) -> tuple[str, str]:
    return f"resnet-{protocol.depth}", f"plain-{protocol.plain_depth}"


def _networks(protocol: Protocol, data: DataSet) -> dict[str, Callable[[], nn.Module]]:
    shape: dict[str, Any] = {"classes": data.classes, "channels": data.train_inputs.shape[1], "width": protocol.width}
    residual, plain = _cells(protocol)
    return {
        residual: lambda: nets.resnet(protocol.depth, **shape),
        plain: lambda: nets.plain(protocol.plain_depth, **shape),
    }


def _lines(residual: str, found: Sequence[Mapping[str, Any]]) -> Chart:
    (line,) = (each for each in found if each["expected"])
    template = {
        "holds": "Deep terms vary faster, beyond what gates alone bring about: by {points:.2f} points a step",
        "fails": "Deep terms vary faster by no more than gates alone bring about ({points:.2f} points a step)",
    }.get(line["verdict"], "How fast terms vary, by depth; the smaller excess is {points:.2f} points a step")
    plot = Plot(
        "by_depth",
        "lines",
        Axis("depth", say("depth of the term, in layers")),
        Axis("upto_1", say("share of its energy at m <= 1"), low=0.0, high=1.0),
        series="of",
        interval=("upto_1_low", "upto_1_high"),
        where={"network": residual},
    )
    reading = say(
        "Lines are means over seeds, bands 95 % intervals. All three fall, since gates multiply; H3 asks that the own "
        "line falls faster than both others."
    )
    return Chart("depth-and-frequency", say(template, points=100 * line["found"]), reading, (plot,))


def _tiles(residual: str) -> Chart:
    headings = {"own": "the trained network", "shuffled": "with gates of other inputs", "initial": "at first weights"}
    plots = tuple(
        Plot(
            "tiles",
            "tiles",
            Axis("depth", say("depth of the term, in layers"), scale="ordinal"),
            Axis("band", say("angular frequency m"), scale="ordinal"),
            value="share",
            where={"network": residual, "of": name},
            heading=say(heading),
        )
        for name, heading in headings.items()
    )
    reading = say("A tile is the share of a term's energy in a band of frequencies, the mean over seeds.")
    return Chart("depth-by-frequency", say("What the terms of each depth are made of"), reading, plots)


EXPERIMENT = Experiment(
    "depth-degree",
    say("Do shallow terms vary slowly and deep ones fast, beyond what gates bring about by themselves?"),
    Protocol,
    measure,
    conclude,
    cells=_cells,
)
