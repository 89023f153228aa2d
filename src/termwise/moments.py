"""One record of a timeline: what a network was at one step of its training, its saved form, and the tables over many.

A moment is a DepthProfile together with the parts of the output on every sample of the probe, from which the changes
between moments are computed.  Its saved form is a record of kind "timeline-record".
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from termwise.budget import Timing
from termwise.credit import Credits
from termwise.degree.spectrum import DegreeSpectrum
from termwise.errors import RecordError, RunError
from termwise.profile import DepthProfile
from termwise.records import Record, Table, read_record

RECORD_KIND = "timeline-record"
_DEGREES = "degrees-"  # before the names of a degree spectrum's tables
Scalars = Mapping[str, float | None]
Settings = Mapping[str, str | int | float | bool | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Moment:
    """What was recorded at one step.

    Attributes:
        step: updates made so far.
        scalars: what the training loop gave along, such as train_loss.
        settings: probe, unit and options: the same for all moments of a timeline.
        weights: the fingerprint of the model's parameters and buffers.
        profile: the measures.
        terms: the parts of the output in the order of `profile.share`, float32, shape (P, N, ...); of logits (P, N, C),
            centred over the classes.
        targets: the classes, shape (N,); None where the output is no (N, C) with one class a sample.
        timing: what had been spent, and by what the step was chosen; None where there was no budget.
        degrees: the degree spectrum; None where degrees were not recorded, or the output was the same on all inputs.
    """

    step: int
    scalars: Scalars
    settings: Settings
    weights: str
    profile: DepthProfile
    terms: np.ndarray
    targets: np.ndarray | None
    timing: Timing | None = None
    degrees: DegreeSpectrum | None = None

    @functools.cached_property
    def parts(self) -> list[tuple[str, int | None]]:
        """Origin and depth of each part."""
        share = self.profile.share.to_arrow()
        return list(zip(share["origin"].to_pylist(), share["depth"].to_pylist(), strict=True))

    def to_record(self) -> Record:
        """The saved form."""
        arrays = {"terms": self.terms} | ({} if self.targets is None else {"targets": self.targets})
        note = {"step": self.step, "scalars": dict(self.scalars), "settings": dict(self.settings)}
        if self.timing is not None:
            note["timing"] = msgspec.to_builtins(self.timing)
        record = self.profile.to_record(arrays, **note, weights=self.weights)
        if self.degrees is not None:
            own = self.degrees.to_record()
            record.metadata |= own.metadata
            record.tables |= {f"{_DEGREES}{name}": table for name, table in own.tables.items()}
        return msgspec.structs.replace(record, kind=RECORD_KIND)


class _Note(msgspec.Struct):
    """What the metadata of a record must hold beside the profile."""

    step: int
    scalars: dict[str, float | None]
    settings: dict[str, str | int | float | bool | None]
    weights: str
    timing: Timing | None = None


def moment_of(record: Record, where: str) -> Moment:
    """The moment in a record.

    Raises:
        RecordError: when fields are missing, of a wrong type, or arrays do not fit.
    """
    profile = DepthProfile.from_record(record, where)
    try:
        note = msgspec.convert(record.metadata, _Note)
    except msgspec.ValidationError as error:
        raise _broken(where, str(error)) from error
    terms, targets = record.arrays.get("terms"), record.arrays.get("targets")
    if terms is None or terms.ndim < 3 or terms.dtype != np.float32 or len(terms) != len(profile.share):
        raise _broken(where, "its terms are missing or of another shape than its table")
    if targets is not None and not _fits(targets, terms):
        raise _broken(where, "its targets do not fit its terms")
    degrees = _degrees_of(record, where) if "degrees" in record.metadata else None
    return Moment(note.step, note.scalars, note.settings, note.weights, profile, terms, targets, note.timing, degrees)


def _degrees_of(record: Record, where: str) -> DegreeSpectrum:
    tables = {name.removeprefix(_DEGREES): t for name, t in record.tables.items() if name.startswith(_DEGREES)}
    return DegreeSpectrum.from_record(Record(record.kind, record.metadata, tables, {}), where)


def _fits(targets: np.ndarray, terms: np.ndarray) -> bool:
    if terms.ndim != 3 or targets.shape != terms.shape[1:2] or targets.dtype != np.int64:
        return False
    return bool(((targets >= 0) & (targets < terms.shape[2])).all())


def _broken(where: str, reason: str) -> RecordError:
    return RecordError(f"{where}: no record of a timeline is in it ({reason}). Delete it and record again.")


def read_directory(directory: Path) -> list[Moment]:
    """All moments in a directory, by step; files that a killed process left half-written have other names.

    Raises:
        RecordError: when a record is corrupt or of a newer version.
    """
    paths = sorted(directory.glob("step-*.termwise"))
    return sorted((moment_of(read_record(p, RECORD_KIND), str(p)) for p in paths), key=lambda moment: moment.step)


def require_alike(moments: Sequence[Moment], where: str) -> None:
    """Refuse moments that cannot stand in one timeline.

    Raises:
        RunError: when settings, parts or shapes differ; says which.
    """
    for moment in moments[1:]:
        require_settings(moments[0], moment.settings, where)
        same = moment.parts == moments[0].parts and moment.terms.shape == moments[0].terms.shape
        if not same or (moment.targets is None) != (moments[0].targets is None):
            raise RunError(
                f"{where}: at step {moments[0].step} the output has the parts {_shape(moments[0])}, at step "
                f"{moment.step} {_shape(moment)}: these are different networks. Use a directory for each."
            )


def require_settings(moment: Moment, settings: Settings, where: str) -> None:
    """Refuse other settings than those that a moment was recorded with.

    Raises:
        RunError: says what differs.
    """
    names = [*settings, *(name for name in moment.settings if name not in settings)]
    differ = [
        f"{name} is {_brief(moment.settings.get(name))} there and {_brief(settings.get(name))} here"
        for name in names
        if moment.settings.get(name) != settings.get(name)
    ]
    if differ:
        raise RunError(
            f"{where}: the record of step {moment.step} was made otherwise: {'; '.join(differ)}. "
            "Use another directory, or record with the same settings."
        )


def _brief(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else repr(value)


def _shape(moment: Moment) -> str:
    depths = [depth for origin, depth in moment.parts if origin == "input"]
    return f"{len(moment.parts)} (depths {depths[0]}..{depths[-1]}) of shape {moment.terms.shape[1:]}"


def learned_norms(moments: Sequence[Moment]) -> np.ndarray:
    """E|y_k(t) - y_k(first)|, the norm over everything but the sample: shape (R, P), float64."""
    first = moments[0].terms.astype(np.float64)
    changes = ((moment.terms - first).reshape(*first.shape[:2], -1) for moment in moments)
    return np.array([np.sqrt(np.square(change).sum(axis=-1)).mean(axis=-1) for change in changes])


_SHARES = [f"{share}_share{end}" for share in ("norm", "aligned", "margin") for end in ("", "_low", "_high")]
_TRUNCATED = [
    f"{what}_{measure}"
    for what in ("head", "tail", "alone")
    for measure in ("accuracy", "accuracy_low", "accuracy_high", "loss")
]
_QUANTILES = {"depth_p10": 0.1, "depth_p50": 0.5, "depth_p90": 0.9}
_DEPTHS = ["mean_depth", "mean_depth_low", "mean_depth_high", "mean_depth_constants", *_QUANTILES]
STEPS = [
    "step",
    "loss",
    "accuracy",
    "train_loss",
    *_DEPTHS,
    "cancellation",
    "closure",
    "constant_share",
    "frozen_share",
]
_TIMES = ["time_10", "time_50", "time_90"]
_CREDIT = ["credit", "credit_cumulative"]
_COUNTS = ["paths", "log10_paths"]
SPECTRUM = ["step", "origin", "depth", *_COUNTS, *_SHARES, *_TRUNCATED, "learned_norm", *_CREDIT, *_TIMES]
_TYPES = {"step": pa.int64(), "depth": pa.int64(), "origin": pa.string(), "paths": pa.string()}


def _table(rows: list[dict[str, Any]], names: Sequence[str], like: Moment) -> Table:
    """Rows of dictionaries as a table of fixed types; what is missing or not finite is null."""
    clean = [{n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in row.items()} for row in rows]
    schema = pa.schema([(name, _TYPES.get(name, pa.float64())) for name in names])
    depth = like.profile.share.units["depth"]
    loss = "squared error" if like.profile.task == "regression" else "nats"
    units = dict.fromkeys(["step", *_TIMES], "steps") | dict.fromkeys(["depth", *_DEPTHS], depth)
    units |= dict.fromkeys(_CREDIT, "nats") | {"learned_norm": "logits" if loss == "nats" else "output"}
    units |= {name: loss for name in names if name.endswith("loss")}
    return Table(pa.Table.from_pylist(clean, schema), {name: units[name] for name in names if name in units})


def steps_table(moments: Sequence[Moment]) -> Table:
    """A row a moment: the columns of `STEPS`, then whatever else the training loop gave along."""
    rows = [_step_row(moment) | dict(moment.scalars) for moment in moments]
    extra = sorted({name for moment in moments for name in moment.scalars} - set(STEPS))
    return _table(rows, [*STEPS, *extra], moments[0])


def _step_row(moment: Moment) -> dict[str, Any]:
    profile = moment.profile
    terms, constants = (profile.share.where(origin=origin) for origin in ("input", "constant"))
    frozen = float(profile.share.where(origin="frozen")["aligned_share"].sum())
    held = terms["norm_share"].cumsum()

    def quantile(level: float) -> float:
        # The sum of shares may miss a level by rounding.
        return float(terms["depth"][min(int(np.searchsorted(held, level - 1e-12)), len(held) - 1)])

    norms = constants["norm_share"]
    split = constants.to_arrow()["depth"].null_count == 0 and norms.sum() > 0
    return {
        "step": moment.step,
        "loss": profile.loss,
        "accuracy": profile.accuracy,
        "mean_depth": profile.mean_depth.value,
        "mean_depth_low": profile.mean_depth.low,
        "mean_depth_high": profile.mean_depth.high,
        "mean_depth_constants": float(constants["depth"] @ norms / norms.sum()) if split else None,
        **{name: quantile(level) for name, level in _QUANTILES.items()},
        "cancellation": profile.cancellation,
        "closure": profile.closure,
        "constant_share": float(constants["aligned_share"].sum()) + frozen,
        "frozen_share": frozen,
    }


def mean_depth_with_constants(profile: DepthProfile) -> float | None:
    """The mean depth under the norms of all parts, input-born and constant-born; None where constants have no depth."""
    share = profile.share.where(origin="constant")
    if np.isnan(share["depth"].astype(float)).any():
        return None
    weight = share["norm_share"]  # against the sum of the input-born terms, which is 1
    return float((profile.mean_depth.value + share["depth"] @ weight) / (1 + weight.sum()))


def spectrum_table(moments: Sequence[Moment], learned: np.ndarray, credits: Credits | None) -> Table:
    """A row a moment and part: the columns of `SPECTRUM`."""
    rows: list[dict[str, Any]] = []
    times = [dict(zip(_TIMES, found, strict=True)) for found in credits.times()] if credits else None
    cumulative = credits.cumulative if credits else None
    for i, moment in enumerate(moments):
        truncated = {row["depth"]: row for row in moment.profile.truncated.rows()}
        for k, share in enumerate(moment.profile.share.rows()):
            row = {"step": moment.step, **share, "learned_norm": float(learned[i, k])}
            if share["origin"] == "input":
                row |= truncated[share["depth"]] | {"log10_paths": math.log10(int(share["paths"]))}
            if credits is not None and cumulative is not None and times is not None:
                row |= times[k] | {"credit_cumulative": float(cumulative[i, k])}
                row["credit"] = float(credits.between[i - 1, k]) if i else None
            rows.append(row)
    return _table([{name: row.get(name) for name in SPECTRUM} for row in rows], SPECTRUM, moments[0])
