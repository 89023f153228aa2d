"""Can a residual network do without a block?  Can a plain network do without a layer?

After Veit, Wilber, Belongie 2016 (arXiv 1605.06431), sections 4.1 and 4.2, on the embedded digits.  A residual network
of 24 blocks with batch norm and a plain network are trained; then blocks (layers) are deleted at random, and nothing is
trained again.  Expected of the residual network, in the mean over draws: with 1, 4 and 12 blocks removed an accuracy of
at least 0.92, 0.80 and 0.55; of the plain one that a layer costs 0.15 or more.

One number a seed, the mean over its draws; see `termwise.experiments.common` for intervals and verdicts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from termwise import nets
from termwise.charts import Axis, Chart, Plot
from termwise.data import DataSet, load
from termwise.deletion import Curve, deletion, plain_layers
from termwise.experiments.common import Expected, over_seeds, row, trained
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Training
from termwise.sentences import say

EXPECTED = {1: 0.92, 4: 0.80, 12: 0.55}
COST_OF_A_LAYER = 0.15


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained, for how long, and how often it is cut; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the residual network, 6n + 2 for 3n blocks.
        plain_depth: of the plain network.
        width: channels of the first stage of both.
        size: of the images, in pixels.
        epochs: of both trainings.
        draws: for each number of blocks.
        removed: numbers of blocks.
    """

    depth: int = 50
    plain_depth: int = 20
    width: int = 8
    size: int = 16
    epochs: int = 15
    draws: int = 30
    removed: tuple[int, ...] = (0, 1, 4, 12)

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=8, plain_depth=8, width=4, size=8, epochs=1, draws=2, removed=(0, 1))


def measure(job: Job) -> Rows:
    """Train both networks, and cut them up: a row for each draw."""
    protocol, seed = job.protocol, job.seed
    data = load("digits", size=protocol.size)
    rows: list[dict[str, Any]] = []
    for name, make in _networks(protocol, data).items():
        job.progress(f"training {name}")
        model = trained(make, data, Training(epochs=protocol.epochs), seed)
        job.progress(f"cutting up {name}")
        for curve in _cut(model, data, protocol, seed, plain=name.startswith("plain")):
            rows += [{"network": name, **row} for row in curve.draws.rows()]
    return {"draws": rows}


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """What is left of the accuracy, beside what was expected."""
    by_seed = means(rows["draws"])
    found = []
    for (network, statistics, removed), accuracy in by_seed.items():
        plain = network.startswith("plain")
        bound = None if plain else EXPECTED.get(removed)
        what = f"accuracy of {network}, {removed} removed, statistics {statistics}"
        expected = None if bound is None else Expected(f"{bound:g} or more", low=bound)
        found.append(row(what, [*accuracy.values()], expected))
        if plain and removed == 1:
            whole = by_seed[network, statistics, 0]
            costs = [whole[seed] - left for seed, left in accuracy.items()]
            what = f"accuracy that a layer costs {network}, statistics {statistics}"
            found.append(row(what, costs, Expected(f"{COST_OF_A_LAYER:g} or more", low=COST_OF_A_LAYER)))
    worst = over_draws(rows["draws"], min)
    names = ["network", "statistics", "removed"]
    lines = [
        dict(zip([*names, "seed", "accuracy", "worst"], (*key, seed, mean, worst[key][seed]), strict=True))
        for key, seeds in by_seed.items()
        for seed, mean in seeds.items()
    ]
    left = over_seeds(lines, names, ["accuracy", "worst"])
    return Conclusion(found, (), {"left": left}, (_chart(left),))


def _chart(left: Sequence[Mapping[str, Any]]) -> Chart:
    """What is left of each network, by the number of blocks (layers) removed."""
    alone = {each["network"]: each["accuracy"] for each in reversed(left) if each["removed"] == 1}
    kept = " and ".join(f"{network} {accuracy:.2f}" for network, accuracy in reversed(alone.items()))
    title = say("Without one block or layer the accuracy is {kept}", kept=kept or "not known")
    plots = tuple(
        Plot(
            "left",
            "points",
            Axis("removed", say("blocks (layers) removed"), "ordinal"),
            Axis("accuracy", say("accuracy on test data, mean over draws"), low=0.0, high=1.0),
            "network",
            ("accuracy_low", "accuracy_high"),
            where={"statistics": statistics},
            heading=say("statistics {statistics}", statistics=statistics),
        )
        for statistics in dict.fromkeys(each["statistics"] for each in left)
    )
    reading = say("Blocks are removed at random, and nothing is trained again; whiskers are 95 % intervals over seeds.")
    return Chart("left", title, reading, plots)


Key = tuple[str, str, int]
"""Network, statistics, and how many blocks (layers) are removed."""


def means(draws: Sequence[Mapping[str, Any]]) -> dict[Key, dict[int, float]]:
    """The mean accuracy over the draws of each seed."""
    return over_draws(draws, lambda accuracies: float(np.mean(accuracies)))


def over_draws(
    draws: Sequence[Mapping[str, Any]], number: Callable[[Sequence[float]], float]
) -> dict[Key, dict[int, float]]:
    """One number a seed, of the accuracies of its draws."""
    accuracies: dict[Key, dict[int, list[float]]] = {}
    for draw in draws:
        seeds = accuracies.setdefault((draw["network"], draw["statistics"], draw["removed"]), {})
        seeds.setdefault(draw["seed"], []).append(draw["accuracy"])
    return {key: {seed: number(each) for seed, each in seeds.items()} for key, seeds in accuracies.items()}


def _networks(protocol: Protocol, data: DataSet) -> dict[str, Callable[[], nn.Module]]:
    shape: dict[str, Any] = {"classes": data.classes, "channels": data.train_inputs.shape[1], "width": protocol.width}
    return {
        f"resnet-{protocol.depth}": lambda: nets.resnet(protocol.depth, **shape),
        f"plain-{protocol.plain_depth}": lambda: nets.plain(protocol.plain_depth, **shape),
    }


def _cut(model: nn.Module, data: DataSet, protocol: Protocol, seed: int, *, plain: bool) -> list[Curve]:
    """The curves with the statistics as trained, and with statistics estimated anew on training data."""
    test = data.test_inputs, data.test_targets
    removed = [k for k in protocol.removed if not plain or k <= 1]
    layers = plain_layers(model, data.test_inputs[:1]) if plain else None
    options: dict[str, Any] = {"removed": removed, "draws": protocol.draws, "layers": layers, "seed": seed}
    calibration: Tensor = data.train_inputs[:512]
    return [deletion(model, test, **options), deletion(model, test, calibration=calibration, **options)]


EXPERIMENT = Experiment(
    "lesion",
    say("Can a residual network do without a block? Can a plain network do without a layer?"),
    Protocol,
    measure,
    conclude,
)
