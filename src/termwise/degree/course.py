"""Degrees over a training: spectra of one network at its records, as tables, and when each degree was learned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from termwise.credit import LEAST, LEVELS, time_learned
from termwise.degree.spectrum import DegreeSpectrum, label
from termwise.records import Table

_TYPES = {"step": pa.int64(), "lowest": pa.int64(), "highest": pa.int64(), "warnings": pa.string()}
_TIMES = [f"time_{round(100 * level)}" for level in LEVELS]


def _ends(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


_MAY_BE = [*_ends("learned"), "target_share", *_ends("r2"), "floor"]  # columns that not every spectrum has
CONSTANT = "constant output"


@dataclasses.dataclass(frozen=True)
class DegreeCourse:
    """Spectra over a training.

    Attributes:
        steps: of the records, ascending.
        spectra: one a record; None where the output was the same on all inputs: such a network has energy 0 at every
            degree, and no shares.  At least one is there.
    """

    steps: Sequence[int]
    spectra: Sequence[DegreeSpectrum | None]

    @property
    def measured(self) -> list[DegreeSpectrum]:
        """Those that are there."""
        return [found for found in self.spectra if found is not None]

    @property
    def by_target(self) -> bool:
        """Whether there is a target that parts were learned of."""
        return "learned" in self.measured[0].spectrum.columns

    def table(self) -> Table:
        """A row a record and degree group: see `Timeline.degrees`."""
        like = self.measured[0]
        rows = [row for step, found in self._pairs() for row in _rows(step, found, like)]
        names = ["step", "lowest", "highest", *_ends("share"), *_ends("energy")]
        names += [name for name in _MAY_BE if name in like.spectrum.columns]
        names += [*_ends("mean_degree"), "warnings"]
        schema = pa.schema([(name, _TYPES.get(name, pa.float64())) for name in names])
        units = {"step": "steps"} | dict.fromkeys(_ends("energy"), "output^2")
        return Table(pa.Table.from_pylist(rows, schema), units)

    def times(self) -> Table:
        """A row a degree group above 0: see `Timeline.time_learned_by_degree`."""
        table = self.table()
        groups = list(
            dict.fromkeys(zip(*(table.to_arrow()[n].to_pylist() for n in ("lowest", "highest")), strict=True))
        )
        groups = [(low, high) for low, high in groups if low > 0]
        name = "learned" if self.by_target else "energy"
        curves = [table.where(lowest=low)[name].astype(float) for low, _ in groups]
        curves = [curve - curve[0] for curve in curves]
        gained = np.array([curve[-1] for curve in curves])
        # What a degree has learned of the target counts by how much of the target is of that degree.
        weights = [self._target_share(low) if self.by_target else 1.0 for low, _ in groups]
        sizes = np.nan_to_num(gained * weights)
        total = np.abs(sizes).sum()
        fractions = sizes / total if total else sizes
        times = [
            time_learned(self.steps, curve) if abs(fraction) >= LEAST and np.isfinite(curve).all() else (None,) * 3
            for curve, fraction in zip(curves, fractions, strict=True)
        ]
        columns: dict[str, Any] = {"lowest": [low for low, _ in groups], "highest": [high for _, high in groups]}
        columns |= {"gained": gained, "fraction": fractions}
        columns |= {name: _floats(column) for name, column in zip(_TIMES, zip(*times, strict=True), strict=True)}
        units = dict.fromkeys(_TIMES, "steps") | {"gained": "of the target" if self.by_target else "output^2"}
        return Table(columns, units)

    def text(self) -> list[str]:
        """A few lines: on which inputs, the mean degree at both ends, and when each degree group was learned."""
        ends = [(step, found) for step, found in (self._pairs()[0], self._pairs()[-1])]
        means = [f"{found.mean_degree} at step {step}" for step, found in ends if found and found.mean_degree]
        lines = [f"degrees in the input: {self.measured[-1].inputs}, the same at every record"]
        lines += [f"mean degree {', '.join(dict.fromkeys(means))}"] if means else []
        warned = [found for found in self.measured if found.warnings]
        if warned:
            kinds = dict.fromkeys(_kind(warning) for found in warned for warning in found.warnings)
            lines.append(
                f"warnings in {len(warned)} of {len(self.spectra)} records ({', '.join(kinds)}): see degree_spectra"
            )
        what = (
            "learned: the change of the part of the target that the network has"
            if self.by_target
            else "gained: the growth of energy, which is not the same as learning"
        )
        return [*lines, f"{what}; and the steps at which 10, 50, 90 % of it are in", *self._times_text(ends)]

    def _times_text(self, ends: list[tuple[int, DegreeSpectrum | None]]) -> list[str]:
        heads = [f"share at {step}" for step, _ in ends]
        what = "learned" if self.by_target else "gained"
        lines = [
            f"{'degree':>10} {heads[0]:>14} {heads[1]:>14} {what:>10} {'of the sum':>10} "
            f"{'10 %':>8} {'50 %':>8} {'90 %':>8}"
        ]
        shares = [{} if f is None else {r["lowest"]: r["share"] for r in f.spectrum.rows()} for _, f in ends]
        for row in self.times().rows():
            both = " ".join(f"{_percent(share.get(row['lowest'])):>14}" for share in shares)
            gained = "-" if row["gained"] is None else f"{row['gained']:.4g}"
            times = " ".join(f"{'-' if row[name] is None else format(row[name], '.0f'):>8}" for name in _TIMES)
            name = label(row["lowest"], row["highest"])
            lines.append(f"{name:>10} {both} {gained:>10} {row['fraction']:>10.1%} {times}")
        return lines

    def _pairs(self) -> list[tuple[int, DegreeSpectrum | None]]:
        return list(zip(self.steps, self.spectra, strict=True))

    def _target_share(self, lowest: int) -> float:
        return float(self.measured[-1].spectrum.where(lowest=lowest)["target_share"][0])


def _rows(step: int, found: DegreeSpectrum | None, like: DegreeSpectrum) -> list[dict[str, Any]]:
    """The rows of one record; where the output was constant, with the groups of another record."""
    mean = None if found is None else found.mean_degree
    common = {"step": step, "warnings": CONSTANT if found is None else ", ".join(map(_kind, found.warnings))}
    common |= dict(zip(_ends("mean_degree"), mean or (None,) * 3, strict=True))
    rows = []
    for row in (found or like).spectrum.rows():
        if found is None:
            row = _of_a_constant(row)
        elif "energy" not in row and row["share"] is not None:
            row = {**row, "energy": row["share"] * found.variance}
        rows.append(row | common)
    return rows


def _of_a_constant(row: dict[str, Any]) -> dict[str, Any]:
    """No energy at any degree but 0, whose mean square nobody has measured; and nothing learned."""
    kept = {name: row[name] for name in ("lowest", "highest", "target_share") if name in row}
    if row["lowest"] == 0:
        return kept
    nothing = dict.fromkeys(_ends("energy"), 0.0)
    if row.get("learned") is not None:
        nothing |= dict.fromkeys(_ends("learned"), 0.0)
    return kept | nothing


def _kind(warning: str) -> str:
    return warning.partition(":")[0]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values])
