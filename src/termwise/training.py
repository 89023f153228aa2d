"""A whole run: some networks trained one after the other, each of them recorded, in a directory that can be resumed.

`run_training` is what `termwise demo` and `termwise train` call.  All that determines its result is in a `RunConfig`;
the manifest of the directory holds it, with the hashes of data and probe and the versions, and refuses another.

The probe is a fixed draw from the test part, the same for every seed and network.  The batch-norm statistics under
which a network is measured are re-estimated on a fixed draw from the training part.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
import os
import platform
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from termwise.batches import fingerprint
from termwise.data import DataSet, load
from termwise.ending import Ending, measure_ending, together
from termwise.errors import UsageError
from termwise.loop import Optimiser, Progress, Trained, Training, threads, train_network
from termwise.nets.names import BUILDERS
from termwise.program import Constants, Product
from termwise.records import (
    DataSummary,
    Finding,
    NetworkSummary,
    RunSummary,
    concatenate,
    write_parquet,
    write_summary,
)
from termwise.rundir import Manifest, RunDirectory, now, slugs, termwise_version
from termwise.seeds import owned_random, stream
from termwise.summary import depth_difference, network_summary
from termwise.timeline import Recorder, Timeline, log_spaced, named

__all__ = [
    "NetworkConfig",
    "Optimiser",
    "Progress",
    "Recording",
    "RunConfig",
    "Trained",
    "Training",
    "build_network",
    "demo_config",
    "run_training",
    "train_network",
]


class NetworkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network of a run.

    Attributes:
        name: for people, any text.
        family: one of `termwise.nets.names.BUILDERS`.
        arguments: of the builder; `classes`, `channels` and `size` (of images) are taken from the data where not given.
    """

    name: str
    family: str
    arguments: dict[str, Any] = {}

    def __post_init__(self) -> None:
        """Refuse an unknown family."""
        if self.family not in BUILDERS:
            raise UsageError(f"network {self.name!r}: family {self.family!r} is unknown; one of {', '.join(BUILDERS)}.")


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is recorded, and when.

    Attributes:
        unit: of depth: "layers", "blocks", "activations", or names of modules.
        constants: "pooled" or "by_depth".
        product: "half" or "cauchy".
        probe: held-out samples that every record is measured on; all there are, if there are fewer.
        calibration: training samples for the batch-norm statistics; 0: the statistics as the model has them.
        ratio: between one recorded step and the next, roughly; None for the Recorder's own schedule, which is denser
            where the loss changes.
        batch_size: of the measurement.
        replicates: of the bootstrap behind every interval.
        degrees: also the degrees in the input, on Gaussian inputs with the moments of the calibration samples.
    """

    unit: str | tuple[str, ...] = "layers"
    constants: Constants = "pooled"
    product: Product = "half"
    probe: int = 256
    calibration: int = 512
    ratio: float | None = None
    batch_size: int = 32
    replicates: int = 200
    degrees: bool = False

    def __post_init__(self) -> None:
        """Refuse what gives no intervals or no schedule."""
        for name, least in {"probe": 2, "calibration": 2, "batch_size": 1, "replicates": 20}.items():
            given = getattr(self, name)
            if given < least and (name, given) != ("calibration", 0):
                raise UsageError(f"recording: {name} is {given}; it must be at least {least}.")
        if self.ratio is not None and not 1 < self.ratio < math.inf:
            raise UsageError(f"recording: ratio is {self.ratio}; it must be above 1.")

    def options(self) -> dict[str, Any]:
        """Those that a Recorder and `termwise.trace` have by the same names."""
        names = ("unit", "constants", "product", "batch_size", "replicates", "degrees")
        return {name: getattr(self, name) for name in names}

    def ending(self) -> dict[str, Any]:
        """Those that `termwise.ending.measure_ending` has by the same names."""
        return {name: getattr(self, name) for name in ("unit", "batch_size", "replicates", "degrees")}


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that determines the result of a run, and its name.

    Attributes:
        name: for people, any text; it determines nothing.
        networks: trained one after the other.
        data: as `termwise.data.load` takes it.
        size: side in pixels, for images; None: as the data come.
        training: the same for all networks.
        recording: the same for all networks.
        seed: each network draws a stream of its own from it and its own name, whatever other networks there are.
        threads: of torch, while the run lasts; sums may differ in the last bit for another number.
    """

    name: str
    networks: tuple[NetworkConfig, ...]
    data: str = "digits"
    size: int | None = None
    training: Training = Training()
    recording: Recording = Recording()
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        """Refuse a run of nothing, and two networks of one name."""
        names = [network.name for network in self.networks]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"run: the networks are {names}; give at least one, and every one a name of its own.")
        if self.seed < 0 or self.threads < 1:
            raise UsageError(f"run: seed {self.seed} and threads {self.threads}; from 0 and from 1 on.")


def demo_config(quick: bool = False) -> RunConfig:
    """The main job: ResNet-20 and DenseNet-22 (0.27 M parameters each) on the digits; `quick` in under a minute."""
    networks = (
        NetworkConfig("ResNet-20", "resnet", {"depth": 20, "shortcut": "projection", "channels": 1}),
        NetworkConfig("DenseNet-22", "densenet", {"depth": 22, "growth": 12, "channels": 1}),
    )
    if quick:
        return RunConfig(
            "Demonstration on digits, quick",
            networks,
            training=Training(epochs=2, batch_size=32),
            recording=Recording(constants="by_depth", probe=128, calibration=256, ratio=2.0),
        )
    return RunConfig("Demonstration on digits", networks, recording=Recording(constants="by_depth"))


def build_network(network: NetworkConfig, data: DataSet, seed: int) -> nn.Module:
    """The network with its initial weights; the caller's random states are left as they are.

    Raises:
        UsageError: the arguments do not fit the builder.
    """
    builder = BUILDERS[network.family]
    known = inspect.signature(builder).parameters
    of_data = {"classes": data.classes, "channels": data.train_inputs.shape[1], "size": data.train_inputs.shape[-1]}
    arguments = {name: value for name, value in of_data.items() if name in known} | network.arguments
    try:
        inspect.signature(builder).bind(**arguments)
    except TypeError as error:
        raise UsageError(f"network {network.name!r}: {error}; {network.family} takes {', '.join(known)}.") from error
    with owned_random(seed):
        return builder(**arguments)


class Inputs(NamedTuple):
    """What all networks of a run share; calibration is False where statistics are not estimated anew."""

    data: DataSet
    probe: tuple[Tensor, Tensor]
    calibration: Tensor | Literal[False]


class Outcome(NamedTuple):
    """What is left of one network when it has been recorded."""

    summary: NetworkSummary
    timeline: Timeline
    ending: Ending


def run_training(
    config: RunConfig,
    directory: str | os.PathLike[str],
    *,
    data: DataSet | None = None,
    progress: Callable[[Progress], Any] | None = None,
    save_every: float = 30.0,
) -> RunSummary:
    """Train, record, and write tables and summary; go on where an earlier call in `directory` was interrupted.

    Args:
        config: what to do.
        directory: new, empty, or of a run of the same configuration.
        data: instead of loading what `config.data` names.
        progress: called after every step.
        save_every: seconds between resume states; there is one after each record anyway.

    Returns:
        The summary, as it is written to summary.json.

    Raises:
        RunError: the directory is being written by another process, or holds another run or other files.
        ModelError: a training diverged; all that was written stays.
        DataError, UsageError: the data or the configuration are bad.
    """
    with threads(config.threads):
        data = load(config.data, size=config.size) if data is None else data
        if not data.train_inputs.is_floating_point():
            raise UsageError(f"{data.name}: these are tokens, and the networks to train here take images or vectors.")
        inputs = draw_inputs(data, config.recording)
        with RunDirectory(directory, manifest_of(config, inputs)) as run:
            folders = slugs(network.name for network in config.networks)
            outcomes = [
                _train(network, slug, config, inputs, run.network(slug), progress, save_every)
                for network, slug in zip(config.networks, folders, strict=True)
            ]
            return conclude(
                run,
                inputs,
                outcomes,
                name=config.name,
                recording=config.recording,
                threads=config.threads,
                seed=config.seed,
                finding=_finding(config, outcomes),
            )


def draw_inputs(data: DataSet, recording: Recording) -> Inputs:
    """Probe and calibration samples, the same for every run on these data."""
    probe = _draw(data.test_inputs, data.test_targets, recording.probe)
    calibration, _ = _draw(data.train_inputs, data.train_targets, recording.calibration)
    return Inputs(data, probe, calibration if recording.calibration else False)


def _draw(inputs: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """A fixed draw, whatever the seed of the run: records of different seeds are measured on the same samples."""
    # RandomState and not default_rng: only the legacy stream is promised to stay the same in every numpy.
    rows = torch.from_numpy(np.random.RandomState(0).permutation(len(inputs))[:count])
    return inputs[rows], targets[rows]


def manifest_of(config: msgspec.Struct, inputs: Inputs) -> Manifest:
    """The manifest of a run by all of its configuration; its `name` is for people."""
    plain = msgspec.to_builtins(config)
    return Manifest(
        name=plain.pop("name"),
        created=now(),
        termwise=termwise_version(),
        torch=str(torch.__version__),
        data_sha256=inputs.data.sha256,
        probe_sha256=fingerprint(inputs.probe),
        config=plain,
    )


def _train(
    network: NetworkConfig,
    slug: str,
    config: RunConfig,
    inputs: Inputs,
    folder: Path,
    progress: Callable[[Progress], Any] | None,
    save_every: float,
) -> Outcome:
    """Train and record one network."""
    own = stream(config.seed, zlib.crc32(network.name.encode()))
    model = build_network(network, inputs.data, own)
    recording = config.recording
    recorder = Recorder(
        model,
        inputs.probe,
        schedule=None if recording.ratio is None else log_spaced(recording.ratio),
        calibration=inputs.calibration,
        directory=folder / "records",
        **recording.options(),
    )
    trained = train_network(
        model,
        inputs.data,
        recorder,
        settings=config.training,
        seed=own,
        directory=folder,
        save_every=save_every,
        name=network.name,
        progress=None if progress is None else _with_measures(progress, recorder),
    )
    ending = measure_ending(
        model,
        inputs.probe,
        calibration=inputs.calibration,
        initial=lambda: build_network(network, inputs.data, own),
        path=folder / "ending.termwise",
        **recording.ending(),
    )
    seconds = {
        "training_seconds": trained.training_seconds,
        "recording_seconds": trained.recording_seconds + ending.seconds,
    }
    known = {"name": network.name, "slug": slug, "recipe": _recipe(network, config, inputs), **seconds}
    return outcome_of(model, recorder.timeline, ending, **known)


def _recipe(network: NetworkConfig, config: RunConfig, inputs: Inputs) -> str:
    """A hash of all that determines a network and its records but the seed; what it is called does not."""
    chosen = (network.family, network.arguments, config.training, config.recording, config.size, config.threads)
    content = msgspec.json.encode([*chosen, inputs.data.sha256], order="deterministic")
    return hashlib.sha256(content).hexdigest()


def outcome_of(model: nn.Module, timeline: Timeline, ending: Ending, **known: Any) -> Outcome:
    """What is left of one network; `known` are its name, slug and recipe, and the seconds that it took."""
    summary = network_summary(
        timeline.table.rows(),
        timeline.profiles[0],
        timeline.profiles[-1],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        credit_closure=timeline.credit_closure,
        credit_drift=timeline.credit_drift,
        **known,
    )
    return Outcome(summary, timeline, ending)


def _with_measures(progress: Callable[[Progress], Any], recorder: Recorder) -> Callable[[Progress], Any]:
    """Tell `progress` accuracy and mean path length of the last record as well."""
    latest: dict[str, float | None] = {}

    def tell(now: Progress) -> None:
        # Records of later steps are there as well while a killed run is repeated.
        if now.recorded or not latest:
            done = [p for n, p in zip(recorder.recorded, recorder.timeline.profiles, strict=True) if n <= now.step]
            latest.update(accuracy=done[-1].accuracy, mean_depth=done[-1].mean_depth.value)
        progress(dataclasses.replace(now, **latest))

    return tell


def conclude(
    run: RunDirectory,
    inputs: Inputs,
    outcomes: Sequence[Outcome],
    *,
    name: str,
    recording: Recording,
    threads: int,
    seed: int | None,
    finding: Finding,
) -> RunSummary:
    """Write the tables of all networks and the summary; `seed` is None where nothing was trained."""
    from termwise.report.conclusion import in_english

    pairs = [outcome.timeline.for_network(outcome.summary.name) for outcome in outcomes]
    for kind, tables in zip(("steps", "spectrum"), zip(*pairs, strict=True), strict=True):
        write_parquet(run.tables / f"{kind}.parquet", concatenate(tables))
    degrees = [named(table, o.summary.name) for o in outcomes if (table := o.timeline.degrees) is not None]
    if degrees:
        write_parquet(run.tables / "degrees.parquet", concatenate(degrees))
    for kind, table in together([(o.summary.name, o.ending) for o in outcomes]).items():
        write_parquet(run.tables / f"{kind}.parquet", table)
    data, probe = inputs.data, len(inputs.probe[0])
    summary = RunSummary(
        name=name,
        created=run.manifest.created,
        termwise=run.manifest.termwise,
        torch=run.manifest.torch,
        python=platform.python_version(),
        threads=threads,
        seed=seed,
        unit=unit_name(recording),
        constants=recording.constants,
        data=DataSummary(
            data.name, data.title, data.sha256, data.attribution, len(data.train_inputs), probe, data.classes
        ),
        verdict="",
        finding=finding,
        networks=[outcome.summary for outcome in outcomes],
        modules=[] if isinstance(recording.unit, str) else list(recording.unit),
        reestimated=inputs.calibration is not False,
        skipped=[line for o in outcomes for line in (*o.timeline.skipped, *o.ending.left_out)],
    )
    summary.verdict = in_english(summary)
    write_summary(run.path, summary)
    return summary


def unit_name(recording: Recording) -> str:
    """The unit of depth in one word, in the plural."""
    return recording.unit if isinstance(recording.unit, str) else "modules"


def _finding(config: RunConfig, outcomes: list[Outcome]) -> Finding:
    families = {network.family for network in config.networks}
    hypotheses = ["H1", "H4"] if {"resnet", "densenet"} <= families else ["H1"]
    difference = None
    if len(outcomes) == 2:
        value, low, high = depth_difference(*(_last_terms(outcome) for outcome in outcomes))
        difference = value, low, high
    return Finding(difference, hypotheses)


def _last_terms(outcome: Outcome) -> tuple[tuple[int, ...], np.ndarray]:
    """Depths and input-born terms (K, N, C) of the last record."""
    moment = outcome.timeline.moments[-1]
    return moment.profile.depths, moment.terms[: len(moment.profile.depths)]
