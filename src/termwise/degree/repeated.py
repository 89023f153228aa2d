"""Degrees of one network after another, all on the same inputs: what differs between two spectra is the networks.

Circles and bootstrap are drawn from one seed, so two measurements with as many angles are made on the same circles with
the same weights (common random numbers).  How many angles are needed is decided by the first measurement and kept: more
of them would be other circles.  Where a network gets rougher later on, its own spectrum warns of aliasing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping
from typing import Any, TypedDict

import msgspec
import pyarrow as pa
from torch import Tensor

from termwise.batches import fingerprint
from termwise.degree.entry import Inputs, degrees
from termwise.degree.functions import ConstantOutputError, Target
from termwise.degree.gaussian import Gaussian
from termwise.degree.spectrum import DegreeSpectrum
from termwise.distributed import Group
from termwise.errors import UsageError
from termwise.expand import Forward, Output
from termwise.records import Record, Table

CIRCLES = 256  # an eighth of what a single measurement takes: intervals are less than three times as wide
_TRIED, _ANGLES = 20, 32  # the least that makes a spectrum


class DegreeOptions(TypedDict, total=False):
    """How degrees are recorded: arguments of `termwise.degrees`, whose defaults hold unless it is said otherwise here.

    Attributes:
        data: inputs, or a `termwise.degree.Gaussian`; by default those that batch-norm statistics are estimated on, or
            the probe's where there are none.
        samples: circles, 256 by default: recording must stay cheap, and what the choice of circles does to a spectrum
            it does to all of them alike.
        angles: by default as many as the first record needs.
        replicates: by default as many as the Recorder has; likewise the seed.
    """

    data: Tensor | Gaussian
    inputs: Inputs
    target: Target | None
    forward: Forward
    centre: bool
    samples: int | None
    highest: int | None
    angles: int | None
    components: int | None
    batch_size: int
    replicates: int
    seed: int


class Repeated:
    """Measures the degrees of networks of one architecture, each on the same inputs.

    Args:
        model: a first network.  A small measurement of it is made at once, so that what has no degrees is refused now.
        options: how to measure.
        data: inputs, where the options hold none.
        output: which tensor of a model's result, as in `termwise.expand`.
        replicates: of the bootstrap, where the options do not say.
        seed: of inputs and bootstrap, where the options do not say.

    Attributes:
        settings: all that must be the same for spectra to be comparable, in words.

    Raises:
        DataError, ModelError, UsageError: as `termwise.degrees` does; for an option that is unknown.
    """

    def __init__(
        self, model: Any, options: Mapping[str, Any], *, data: Tensor, output: Output, replicates: int, seed: int
    ) -> None:
        unknown = sorted(set(options) - set(DegreeOptions.__annotations__))
        if unknown:
            raise UsageError(
                f"degrees: {', '.join(unknown)} is no option; there are {', '.join(DegreeOptions.__annotations__)}."
            )
        chosen = {"inputs": "fitted", "samples": None, "replicates": replicates, "seed": seed} | dict(options)
        given = chosen.pop("data", data)
        if not isinstance(given, (Tensor, Gaussian)):
            raise UsageError(f"degrees: data is a {type(given).__name__}: give a tensor of inputs, or a Gaussian.")
        if chosen["samples"] is None and chosen["inputs"] != "real":
            chosen["samples"] = CIRCLES
        self._angles = chosen.pop("angles", None)
        fixed = {"angles": self._angles, "data": _data_print(given, chosen["inputs"])}
        # The moments are taken once, and not at every record.
        fits = chosen["inputs"] == "fitted" and isinstance(given, Tensor)
        self._data = Gaussian.fitted(given) if fits else given
        self._options = {**chosen, "output": output}
        self.settings = _described(chosen | fixed, self._tried(model))

    def _tried(self, model: Any) -> str:
        """Measure as little as can be measured; the fingerprint of the target, if there is one."""
        target: Any = self._options.get("target")
        seen: list[Tensor] = []

        def noted(x: Tensor) -> Tensor:
            seen.append(target(x))
            return seen[-1]

        small = dict(self._options) if target is None else {**self._options, "target": noted}
        if small["inputs"] == "real":
            small["angles"] = self._angles
        else:
            small |= {"samples": min(small["samples"], _TRIED), "angles": self._angles or _ANGLES}
        with contextlib.suppress(ConstantOutputError):  # a network may begin with a last layer of zeros
            degrees(model, self._data, **small)
        return _values_print(seen[0]) if seen else "none"

    def go_on_from(self, found: DegreeSpectrum | None) -> None:
        """Keep to the number of angles of a measurement that was made before."""
        if found is not None:
            self._angles = self._angles or found.details.get("angles")

    def __call__(self, model: Any, group: Group) -> DegreeSpectrum | None:
        """The spectrum of a network; None where its output is the same on all inputs, up to rounding.

        Args:
            model: the network.
            group: processes that all make this call; process 0 measures, and what it finds goes to all.

        Raises:
            ModelError: as `termwise.degrees` does.
            RunError: when a process is lost.
        """
        if group.size == 1:
            found = self._measured(model)
        else:
            told = group.exchange(lambda: _packed(self._measured(model)) if group.rank == 0 else b"", bytes)[0]
            found = _unpacked(told)
        self.go_on_from(found)
        return found

    def _measured(self, model: Any) -> DegreeSpectrum | None:
        try:
            return degrees(model, self._data, angles=self._angles, **self._options)
        except ConstantOutputError:
            return None


def _packed(found: DegreeSpectrum | None) -> bytes:
    if found is None:
        return b""
    record, tables = found.to_record(), {}
    for name, table in record.tables.items():
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.to_arrow().schema) as stream:
            stream.write_table(table.to_arrow())
        tables[name] = sink.getvalue()
    return msgspec.msgpack.encode((record.kind, record.metadata, tables))


def _unpacked(content: bytes) -> DegreeSpectrum | None:
    if not content:
        return None
    kind, metadata, tables = msgspec.msgpack.decode(content, type=tuple[str, dict[str, Any], dict[str, bytes]])
    read = {name: Table(pa.ipc.open_stream(stream).read_all()) for name, stream in tables.items()}
    return DegreeSpectrum.from_record(Record(kind, metadata, read, {}), "process 0")


def _data_print(data: Tensor | Gaussian, inputs: str) -> str:
    if isinstance(data, Gaussian):
        return fingerprint([data.mean] if data.factor is None else [data.mean, data.factor])[:12]
    return fingerprint([data])[:12] if inputs in ("fitted", "real") else f"of shape {tuple(data.shape[1:])}"


def _values_print(values: Tensor) -> str:
    """Of the first values of a function, in so few digits that another machine finds the same."""
    digits = " ".join(f"{value:.2e}" for value in values.detach().flatten()[:64].tolist())
    return hashlib.sha256(digits.encode()).hexdigest()[:12]


def _described(options: dict[str, Any], target: str) -> str:
    words = {**options, "target": target, "forward": "a function" if options.get("forward") else "none"}
    return ", ".join(f"{name} {value}" for name, value in sorted(words.items()) if value is not None)
