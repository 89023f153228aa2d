"""Can stale batch-norm statistics alone look like "shallow first"?

While a network learns quickly, the running statistics of its batch norms lag behind its weights: measured with them the
network is worse than it is, and the more norms a path passes, the worse.  So the shallow terms are ahead of the whole,
which nobody has learned.  A ResNet-20 is trained on 16x16 digits and recorded twice at every step of a schedule: with
the running statistics as they are, and with statistics estimated anew on training data.  The lead of a step is the
highest accuracy of a truncation (the constants and the terms up to a depth below the longest, each constant at its own
depth) less that of the whole network; the number of a seed is its largest lead over all steps.

Expected, from a calibration run (a lead of 0.34 at step 22, and none with statistics estimated anew): above 0.1 with
the statistics as they are; with those estimated anew at most 0.1, for picking the best of many truncations and steps on
some hundreds of samples brings some hundredths by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from termwise import nets
from termwise.charts import Axis, Chart, Mark, Plot
from termwise.data import load
from termwise.experiments.common import Together, over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Training, train_network
from termwise.recorder import Recorder, log_spaced
from termwise.seeds import owned_random
from termwise.sentences import say
from termwise.timeline import Timeline
from termwise.verdict.decision import Expected

AS_TRAINED, ANEW = "as trained", "estimated anew"
LEAD = 0.1
EXPECTED = {
    AS_TRAINED: Expected(f"above {LEAD:g}", LEAD),
    ANEW: Expected(f"at most {LEAD:g}", high=LEAD),
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained and recorded; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the residual network, 6n + 2.
        width: channels of the first stage.
        size: of the images, in pixels.
        epochs: of the training.
        batch: samples an update.
        probe: samples of the test part that the network is measured on.
        ratio: between one recorded step and the next, roughly.
    """

    depth: int = 20
    width: int = 8
    size: int = 16
    epochs: int = 7
    batch: int = 64
    probe: int = 360
    ratio: float = 2**0.5

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=8, width=4, size=8, epochs=1, probe=32, ratio=4)


def measure(job: Job) -> Rows:
    """Train once, recorded twice: a row for each step and kind of statistics."""
    protocol, seed = job.protocol, job.seed
    data = load("digits", size=protocol.size)
    with owned_random(seed):
        model = nets.resnet(protocol.depth, classes=data.classes, channels=1, width=protocol.width)
    probe = data.test_inputs[: protocol.probe], data.test_targets[: protocol.probe]

    def recorder(calibration: Tensor | Literal[False]) -> Recorder:
        schedule = log_spaced(protocol.ratio)
        return Recorder(
            model, probe, constants="by_depth", schedule=schedule, calibration=calibration, replicates=20, seed=seed
        )

    both = {AS_TRAINED: recorder(False), ANEW: recorder(data.train_inputs[:512])}
    settings = Training(epochs=protocol.epochs, batch_size=protocol.batch)
    job.progress("training and recording")
    train_network(model, data, Together(both), settings=settings, seed=seed)
    leads = [{"statistics": name, **line} for name, each in both.items() for line in leads_of(each.timeline)]
    return {"leads": leads}


def leads_of(timeline: Timeline) -> list[dict[str, Any]]:
    """A row for each step: the accuracy of the whole, the highest of a truncation, at which depth, and the lead."""
    lines = []
    for whole in timeline.table.rows():
        heads = timeline.spectrum.where(step=whole["step"], origin="input").rows()[:-1]  # the last is the whole
        best = max(heads, key=lambda line: line["head_accuracy"])
        lines.append(
            {
                "step": whole["step"],
                "whole": whole["accuracy"],
                "truncation": best["head_accuracy"],
                "depth": best["depth"],
                "lead": best["head_accuracy"] - whole["accuracy"],
            }
        )
    return lines


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The largest lead of each seed, beside what was expected."""
    largest: dict[str, dict[int, Mapping[str, Any]]] = {AS_TRAINED: {}, ANEW: {}}
    for line in rows["leads"]:
        seeds = largest[line["statistics"]]
        if line["seed"] not in seeds or line["lead"] > seeds[line["seed"]]["lead"]:
            seeds[line["seed"]] = line
    leads = {name: [line["lead"] for line in seeds.values()] for name, seeds in largest.items()}
    found = [
        row(f"largest lead of a truncation over the whole, statistics {name}", each, EXPECTED[name])
        for name, each in leads.items()
    ]
    by_step = over_seeds(rows["leads"], ["statistics", "step"], ["lead", "whole", "truncation"])
    worst = max(largest[AS_TRAINED].values(), key=lambda line: line["lead"])
    note = say(
        "At worst, at step {step}, the terms up to depth {depth} reach an accuracy of {truncation:.2f}, the whole "
        "network {whole:.2f}, by its running statistics.",
        **{name: worst[name] for name in ("step", "depth", "truncation", "whole")},
    )
    return Conclusion(found, (note,), {"by_step": by_step}, (_chart(found),))


def _chart(found: Sequence[Mapping[str, Any]]) -> Chart:
    stale, anew = (line["found"] for line in found)
    template = (
        "Stale statistics put a truncation {stale:.2f} ahead of the whole; estimated anew they leave {anew:.2f}"
        if stale > LEAD >= anew
        else "A truncation is at most {stale:.2f} ahead by statistics as trained, {anew:.2f} by those estimated anew"
    )
    plot = Plot(
        "by_step",
        "lines",
        Axis("step", say("step"), scale="log"),
        Axis("lead", say("accuracy of the best truncation less that of the whole")),
        series="statistics",
        interval=("lead_low", "lead_high"),
        marks=(Mark(0.0, say("the whole network")),),
    )
    reading = say("Lines are means over seeds, bands 95 % intervals; above 0 a part of the terms does better than all.")
    return Chart("lead", say(template, stale=stale, anew=anew), reading, (plot,))


EXPERIMENT = Experiment(
    "bn-lag",
    say("Can stale batch-norm statistics alone look like shallow first?"),
    Protocol,
    measure,
    conclude,
)
