"""The run directory of a training that is over, made from its checkpoints: what `termwise trace` writes.

Probe, calibration samples and tables are those of `termwise.training.run_training`, so that a network trained by it and
one traced from its checkpoints stand beside each other, number by number.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from termwise.data import DataSet, load
from termwise.ending import Ending, measure_ending
from termwise.errors import ModelError, UsageError
from termwise.inputs import check_input, shaped
from termwise.loop import threads
from termwise.models import load_model
from termwise.nets.names import parse
from termwise.records import Finding, RunSummary
from termwise.rundir import RunDirectory, slugs
from termwise.timeline import Timeline
from termwise.trace import network_at, require_fit, trace
from termwise.training import (
    Inputs,
    NetworkConfig,
    Recording,
    build_network,
    conclude,
    draw_inputs,
    manifest_of,
    outcome_of,
)


class TraceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that determines the records of a trace beside the checkpoints, and its name.

    Attributes:
        name: for people, any text; it determines nothing.
        model: as `termwise.models.load_model` takes it, or a network as `termwise train` does, such as resnet-20.
        data: as `termwise.data.load` takes it.
        size: side in pixels, for images; None: as the data come.
        channels: how often the one channel of grey images is repeated; None: as they come.
        output: key or index of the tensor to follow, where the model returns several.
        recording: what is recorded; its `ratio` means nothing here.
        threads: of torch, while the trace lasts; sums may differ in the last bit for another number.
    """

    name: str
    model: str
    data: str = "digits"
    size: int | None = None
    channels: int | None = None
    output: int | str | None = None
    recording: Recording = Recording()
    threads: int = 2

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.threads < 1:
            raise UsageError(f"trace: threads is {self.threads}; it must be at least 1.")


def run_trace(
    config: TraceConfig,
    checkpoints: Collection[str | os.PathLike[str]],
    directory: str | os.PathLike[str],
    *,
    data: DataSet | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> RunSummary:
    """Trace a network, and write records, tables and summary; records that are in `directory` are not made again.

    Args:
        config: what to do.
        checkpoints: as `termwise.trace` takes them.
        directory: new, empty, or of a trace of the same configuration; more checkpoints may be given each time.
        data: instead of loading what `config.data` names.
        progress: called with the number of checkpoints done and their number.

    Returns:
        The summary, as it is written to summary.json; what was left out is in its `skipped`.

    Raises:
        UsageError, DataError, ModelError: see `termwise.trace`.
        RunError: the directory is being written by another process, or holds another run or other files.
    """
    with threads(config.threads):
        found = load(config.data, size=config.size) if data is None else data
        inputs = draw_inputs(shaped(found, config.channels), config.recording)
        model = _model(config.model, inputs.data)
        check_input(model, inputs.probe[0][:1], config.model, config.data)
        require_fit(model, checkpoints)
        with RunDirectory(directory, manifest_of(config, inputs)) as run:
            (slug,) = slugs([config.model])
            start = time.monotonic()
            timeline = trace(
                model,
                checkpoints,
                inputs.probe,
                output=config.output,
                calibration=inputs.calibration,
                directory=run.network(slug) / "records",
                progress=progress,
                **config.recording.options(),
            )
            ending = _ending(model, checkpoints, timeline, config, inputs, run.network(slug) / "ending.termwise")
            seconds = {"training_seconds": None, "recording_seconds": time.monotonic() - start}
            outcome = outcome_of(model, timeline, ending, name=config.model, slug=slug, **seconds)
            finding = Finding(None, ["H1"], (timeline.steps[0], timeline.steps[-1]))
            about: dict[str, Any] = {"name": config.name, "threads": config.threads, "seed": None, "finding": finding}
            return conclude(run, inputs, [outcome], recording=config.recording, **about)


def _ending(
    model: nn.Module,
    checkpoints: Collection[str | os.PathLike[str]],
    timeline: Timeline,
    config: TraceConfig,
    inputs: Inputs,
    path: Path,
) -> Ending:
    """What the last checkpoint is measured for besides; its first weights are known where a checkpoint is of step 0."""
    last = network_at(model, checkpoints, timeline.steps[-1])
    assert last is not None  # it is on record
    return measure_ending(
        last,
        inputs.probe,
        calibration=inputs.calibration,
        output=config.output,
        initial=lambda: network_at(model, checkpoints, 0),
        path=path,
        **config.recording.ending(),
    )


def _model(spec: str, data: DataSet) -> nn.Module:
    """The network, its weights still of no matter."""
    try:
        family, arguments = parse(spec)
    except UsageError:
        model = load_model(spec)
    else:
        model = build_network(NetworkConfig(spec, family, arguments), data, 0)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec} returns a {type(model).__name__}, which takes no weights; return a torch.nn.Module.")
    return model
