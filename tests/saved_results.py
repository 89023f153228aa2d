"""Results of toy experiments, run and saved as real ones are, with every kind of chart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from termwise.charts import Axis, Chart, Mark, Plot
from termwise.experiments import Experiment, Result, run
from termwise.experiments.common import over_seeds, row
from termwise.experiments.experiment import Conclusion, Job, Rows
from termwise.sentences import Sentence, say
from termwise.verdict.decision import Expected

NETWORKS = ("ResNet-50", "Plain-20", "DenseNet-22 with growth 12 and a long name")
STEPS = (0, 1, 3, 10, 30, 100, 300)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is not measured; `quick` shows nothing."""

    blocks: int = 8
    widths: tuple[int, ...] = (8, 16)
    rate: float = 0.025

    @staticmethod
    def quick() -> Protocol:
        return Protocol(blocks=2)


def _wobble(*keys: int) -> float:
    """A number between -1 and 1 that depends on the keys alone."""
    return math.sin(12.9898 * sum((i + 1) * key for i, key in enumerate(keys)) + 1)


def _loss(step: int, slow: float) -> float:
    return 2.0 * math.exp(-step / slow) + 0.3


def measure(job: Job) -> Rows:
    seed = job.seed
    curves = [
        {"network": name, "step": step, "loss": _loss(step, 20 + 60 * i) + 0.2 * _wobble(seed, step, i)}
        for i, name in enumerate(NETWORKS[:2])
        for step in STEPS
    ]
    scores = [
        {"network": name, "task": task, "score": 0.9 - 0.2 * i - 0.1 * j + 0.02 * _wobble(seed, i, j)}
        for i, name in enumerate(NETWORKS)
        for j, task in enumerate(("digits", "letters"))
    ]
    depths = [
        {"depth": k, "share": math.exp(-((k - 3) ** 2) / 4) + 0.03 * _wobble(seed, k), "norm": 0.3**k} for k in range(9)
    ]
    tiles = [
        {"depth": k, "degree": m, "energy": math.exp(-abs(k - m)) - (0.2 if signed else 0) * (k < m), "signed": signed}
        for signed in (False, True)
        for k in range(6)
        for m in range(4)
    ]
    ramps = [{"depth": k, "step": step, "value": k + math.log1p(step)} for k in range(9) for step in STEPS]
    return {"curves": curves, "scores": scores, "depths": depths, "tiles": tiles, "ramps": ramps}


def charts() -> tuple[Chart, ...]:
    """One of each kind."""
    step, loss = Axis("step", say("training step"), "log"), Axis("loss", say("loss (nats)"))
    ends = ("loss_low", "loss_high")
    lines = Plot("curves", "lines", step, loss, "network", ends, marks=(Mark(2.303, say("chance, log 10")),))
    apart = tuple(
        Plot("curves", "lines", step, loss, None, ends, where={"network": name}, heading=say("{name}", name=name))
        for name in NETWORKS[:2]
    )
    score, ends = Axis("score", say("accuracy"), low=0.0), ("score_low", "score_high")
    bound = (Mark(0.5, say("expected: 0.5 or more")), Mark(0.1, say("chance")))
    bars = Plot("scores", "bars", Axis("network", say("network"), "ordinal"), score, "task", ends, marks=bound)
    depth = Axis("depth", say("depth (blocks)"))
    upright = Plot("depths", "bars", depth, Axis("share", say("share")), None, ("share_low", "share_high"))
    norm = Axis("norm", say("mean norm of the gradient along a path"), "log")
    points = Plot("depths", "points", depth, norm, None, ("norm_low", "norm_high"))
    names = Axis("network", say("network"), "ordinal")
    spread = ("score_low", "score_high")
    dots = Plot("scores", "points", names, score, None, spread, where={"task": "digits"}, marks=bound)
    depth_degree = Axis("depth", say("depth")), Axis("degree", say("degree"))
    tiles = tuple(
        Plot("tiles", "tiles", *depth_degree, value="energy", where={"signed": signed}, heading=say(words))
        for signed, words in ((False, "energy"), (True, "what is left of it"))
    )
    value = Axis("value", say("value"))
    ramp = Plot("ramps", "lines", step, value, "depth", colours="depth")
    return (
        _chart("curves", "The loss falls, in the ResNet before the plain network", lines),
        _chart("apart", "The same, panel by panel", *apart),
        _chart("scores", "No network is below 0.3", bars),
        _chart("depths", "The middle of the shares is at 3 blocks", upright),
        _chart("norms", "A path's gradient falls by 0.3 a block", points),
        _chart("dots", "On digits all are above 0.4", dots),
        _chart("tiles", "Depth and degree go together", *tiles),
        _chart("ramps", "Each depth has its line", ramp),
    )


def _chart(name: str, title: str, *plots: Plot) -> Chart:
    return Chart(name, say(title), say("How to read it."), plots)


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    first = [each["score"] for each in rows["scores"] if each["network"] == NETWORKS[0] and each["task"] == "digits"]
    last = [each["loss"] for each in rows["curves"] if each["network"] == NETWORKS[1] and each["step"] == STEPS[-1]]
    found = [
        row("accuracy of ResNet-50 on digits", first, Expected("0.8 or more", 0.8)),
        row("loss of Plain-20 at the end of its training, which is long", last, Expected("below 0.01", high=0.01)),
        row("accuracy of ResNet-50, in thousandths", [1000 * each for each in first], Expected("about 900", 895, 900)),
        row("steps until it is there, where it is", [math.inf] * len(first)),
        row("a quantity nobody expected anything of", [each / 7 for each in first]),
    ]
    tables = {
        "curves": over_seeds(rows["curves"], ["network", "step"], ["loss"]),
        "scores": over_seeds(rows["scores"], ["network", "task"], ["score"]),
        "depths": over_seeds(rows["depths"], ["depth"], ["share", "norm"]),
        "tiles": over_seeds(rows["tiles"], ["depth", "degree", "signed"], ["energy"]),
        "ramps": over_seeds(rows["ramps"], ["depth", "step"], ["value"]),
    }
    note = say("Plain-20 misses its bound: at step {step} its loss is still {loss:.2f}.", step=STEPS[-1], loss=last[0])
    return Conclusion(found, (note,), tables, charts(), beside="scores")


def toy(name: str = "toy", question: str = "Is a toy as good as the real thing?") -> Experiment:
    """An experiment of every kind of chart."""
    return Experiment(name, say(question), Protocol, measure, conclude)


def saved(directory: Path, seeds: Sequence[int] = range(5), protocol: Any = None, name: str = "toy") -> Path:
    """The directory, with a result in it as the command leaves it: beside the jobs that it was concluded from."""
    run(toy(name), seeds, protocol, directory=directory).save(directory / f"{name}.termwise")
    return directory


def changed(directory: Path, **fields: Any) -> Path:
    """The directory, with other things in its result."""
    path = directory / "toy.termwise"
    dataclasses.replace(Result.load(path), **fields).save(path)
    return directory


def sentence(text: str) -> Sentence:
    """A sentence of that very text, whatever is in it."""
    return say("{text}", text=text)
