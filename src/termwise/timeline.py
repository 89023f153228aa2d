"""Timeline: what a network was at each record of its training, and what changed between the records.

    recorder = Recorder(model, (inputs, targets))     # the probe: fixed data that every record is made on
    for n, batch in enumerate(loader):
        recorder.step(n)                              # before the update: step 0 is the network as initialised
        ...
    recorder.finish(n + 1)
    print(recorder.timeline)

Beside the measures of `termwise.profile`, at every record t and for every part y_k of the centred output:

    learned change   E|y_k(t) - y_k(first record)|
    loss credit      by what the part's change brought the loss down (see `termwise.credit`)
    time learned     when 10, 50, 90 % of its final credit are in

With `Recorder(..., degrees=True)` there are also the degrees in the input of the whole network at every record.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from termwise.budget import LEAST, Timing
from termwise.credit import CONVERGED, Credits, credits_over
from termwise.degree.course import DegreeCourse
from termwise.degree.spectrum import DegreeSpectrum
from termwise.errors import RecordError, UsageError
from termwise.expand import adding_up
from termwise.moments import (
    RECORD_KIND,
    Moment,
    learned_norms,
    moment_of,
    read_directory,
    require_alike,
    spectrum_table,
    steps_table,
)
from termwise.profile import DepthProfile
from termwise.recorder import Recorder, log_spaced, reestimated
from termwise.records import Record, Table, read_record, write_record

__all__ = ["Recorder", "Timeline", "log_spaced", "reestimated"]

KIND = "timeline"
_T = TypeVar("_T")


class Timeline:
    """What a network was at each record of its training, and what changed between them; print it.

    What it does not say: that a part which gained credit early could have been learned without the rest.  Gates carry
    information from the whole network, at initialisation and after.
    """

    def __init__(self, moments: Sequence[Moment], skipped: Sequence[str] = ()) -> None:
        """Put moments in order of their steps.

        Args:
            moments: at least one.
            skipped: what could not be recorded, a line each.

        Raises:
            UsageError: when there is none.
            RunError: when they are of different networks or were recorded with different settings.
        """
        if not moments:
            raise UsageError("a timeline needs at least one record.")
        self._moments = sorted(moments, key=lambda moment: moment.step)
        self._skipped = tuple(skipped)
        if len(set(self.steps)) < len(moments):
            raise UsageError("a timeline needs one record a step: some step is there twice.")
        require_alike(self._moments, "timeline")

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps on record, ascending."""
        return tuple(moment.step for moment in self._moments)

    @property
    def moments(self) -> tuple[Moment, ...]:
        """The record of each step: its profile, and the parts of the output on every sample of the probe."""
        return tuple(self._moments)

    @property
    def profiles(self) -> tuple[DepthProfile, ...]:
        """The profile at each step."""
        return tuple(moment.profile for moment in self._moments)

    @property
    def skipped(self) -> tuple[str, ...]:
        """What could not be recorded, and why: checkpoints of a trace, steps of `termwise.integrations`."""
        return self._skipped

    @property
    def timings(self) -> tuple[Timing | None, ...]:
        """By what each step was chosen, and what had been spent; None where there was no budget."""
        return tuple(moment.timing for moment in self._moments)

    @property
    def settings(self) -> dict[str, Any]:
        """Unit, options, and fingerprints of the probe, of the calibration inputs, and of what degrees are taken on."""
        return dict(self._moments[0].settings)

    @functools.cached_property
    def _credits(self) -> Credits | None:
        targets = self._moments[0].targets
        if targets is None or len(self._moments) < 2:
            return None
        terms = [moment.terms for moment in self._moments]
        return credits_over(self.steps, terms, targets, [profile.loss for profile in self.profiles])

    @functools.cached_property
    def table(self) -> Table:
        """A row a record: loss, accuracy, mean path length, quantiles of the norm share over depth, and the rest.

        constant_share is the aligned share of all that is born of constants, frozen_share that part of it which is
        frozen.  Scalars given to the Recorder follow as further columns.
        """
        return steps_table(self._moments)

    @functools.cached_property
    def spectrum(self) -> Table:
        """A row a record and part: shares, truncations, learned change, credit and time learned."""
        return spectrum_table(self._moments, learned_norms(self._moments), self._credits)

    @property
    def credit(self) -> Table | None:
        """A row a record and part: loss credit since the record before and since the first; None without classes."""
        names = ["step", "origin", "depth", "credit", "credit_cumulative"]
        return None if self._moments[0].targets is None else _columns(self.spectrum, names)

    @property
    def time_learned(self) -> Table | None:
        """A row a part: final credit, its fraction of sum |C|, when 10, 50, 90 % of it were in; None without credit.

        A time is missing for parts below 2 % of sum |C|, and where the credit passes the level more than once.
        """
        if self._credits is None:
            return None
        last = self.spectrum.where(step=self.steps[-1])
        names = ["origin", "depth", "credit_cumulative", "time_10", "time_50", "time_90"]
        arrow = _columns(last, names).to_arrow().append_column("fraction", [self._credits.fractions])
        return Table(arrow)

    @property
    def credit_closure(self) -> float | None:
        """The worst relative error of the credits' sum against the change of the loss; None without credit."""
        return None if self._credits is None else self._credits.closure

    @property
    def credit_drift(self) -> float | None:
        """The largest move of a final credit when every other record is left out, over sum |C|; None where unknown."""
        return None if self._credits is None else self._credits.drift

    @property
    def credit_converged(self) -> bool | None:
        """Whether that is at most 5 %; None where unknown."""
        return None if self._credits is None else self._credits.converged

    @property
    def degree_spectra(self) -> tuple[DegreeSpectrum | None, ...]:
        """The degree spectrum at each step, with its warnings; None where there is none."""
        return tuple(moment.degrees for moment in self._moments)

    @functools.cached_property
    def _course(self) -> DegreeCourse | None:
        spectra = self.degree_spectra
        return DegreeCourse(self.steps, spectra) if any(spectrum is not None for spectrum in spectra) else None

    @functools.cached_property
    def degrees(self) -> Table | None:
        """A row a record and degree group, lowest to highest degree; None where degrees were not recorded.

        share is that of the output's variance, energy W_k in the output's unit squared (on real inputs share x
        variance), each with a 95 % interval over circles, or samples. Against a target: learned, the part of the
        target's own that the network has, and target_share, how much of the target is of this degree. mean_degree and
        the kinds of warnings are those of the record, the same in all its rows. Where the output is the same on all
        inputs, energies are 0 and there are no shares.
        """
        return None if self._course is None else self._course.table()

    @functools.cached_property
    def time_learned_by_degree(self) -> Table | None:
        """A row a degree group from degree 1 on: what was gained, and when 10, 50, 90 % of it were in.

        Let Q_k(t) be, against a target, the learned fraction <f_k, g_k> / <g_k, g_k> of the target g's part of degree
        k; without one the energy W_k(t). gained is Q_k(last) - Q_k(first), and the time of a level is the step at which
        Q_k(t) - Q_k(first) passes that level times gained, interpolated linearly in log(step + 1), the scale on which
        runs are recorded.  fraction is gained over the sum of |gained| over all degrees from 1 on; against a target
        each counts by the target's own share of it.  A time is missing for degrees below 2 % of that sum, where the
        level is passed more than once, and where Q_k is not known at every record.

        Without a target this is a growth of energy, which is not the same as learning: logits that only grow in scale
        gain energy at every degree alike, and what is learned may take energy away.
        """
        return None if self._course is None else self._course.times()

    def for_network(self, name: str) -> tuple[Table, Table]:
        """`table` and `spectrum` with the network's name as their first column, to be put under those of others."""
        return named(self.table, name), named(self.spectrum, name)

    def __str__(self) -> str:
        """Closure, a line a record, the credit's closure and drift, and when each part and each degree was learned."""
        head = [self._headline(), *self._timing_text(), *(f"left out: {line}" for line in self._skipped)]
        lines = [*head, "", *_steps_text(self.table), "", *self._credit_text()]
        learned = self.time_learned
        lines += [] if learned is None else ["", *_times_text(learned)]
        return "\n".join(lines if self._course is None else [*lines, "", *self._course.text()])

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        from termwise.report.card import timeline_card

        return timeline_card(self)

    def plot(self, *, ax: Any = None) -> np.ndarray:
        """Draw the loss and the map of depth over steps: `termwise.figures.heat_map`."""
        from termwise.figures import heat_map

        return heat_map(self, ax=ax)

    def _headline(self) -> str:
        first, worst = self._moments[0], max(profile.closure for profile in self.profiles)
        kept = {"off": "as the model had them", "not needed": "not needed"}.get(self.settings["calibration"])
        return (
            f"closure at worst {worst:.1e}: {adding_up(worst)} | unit: {first.profile.unit} | "
            f"{len(self.steps)} records, steps {self.steps[0]} to {self.steps[-1]} | "
            f"{first.profile.samples:,} samples | batch-norm statistics {kept or 'estimated anew on a copy'}"
        )

    def _timing_text(self) -> list[str]:
        """What recording took, where there was a budget for it."""
        last = self.timings[-1]
        if last is None:
            return []
        taken = f"{last.recording_seconds:.1f} s of recording beside {last.training_seconds:.1f} s of training"
        kept = "held" if last.held else f"not held: the first {LEAST} ticks and the last record are made in any case"
        return [f"steps chosen by the clock: {taken} (budget {last.budget:.0%}, {kept})"]

    def _credit_text(self) -> list[str]:
        if self._credits is None:
            needs = "one integer class a sample, outputs (samples, classes)" if len(self.steps) > 1 else "two records"
            return [f"no loss credit: it needs {needs}"]
        lines = [
            f"credit closure {self._credits.closure:.1e}: the loss credits of all parts add up to the fall of the loss"
        ]
        if self._credits.drift is None:
            return [*lines, "credit drift unknown: with three records or more one can be left out"]
        verdict = (
            "the records are dense enough"
            if self._credits.converged
            else f"above {CONVERGED:.0%}, so the credits depend on how densely the run was recorded; record more often"
        )
        drift = f"credit drift {self._credits.drift:.1%} of sum |C| when every other record is left out: {verdict}"
        return [*lines, drift]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file; `Timeline.load` gives it back."""
        records = [moment.to_record() for moment in self._moments]
        tables = {f"{i}-{name}": table for i, record in enumerate(records) for name, table in record.tables.items()}
        arrays = {f"{i}-{name}": array for i, record in enumerate(records) for name, array in record.arrays.items()}
        notes = {"moments": [record.metadata for record in records], "skipped": list(self._skipped)}
        write_record(path, Record(KIND, notes, tables, arrays))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Timeline:
        """Read a saved timeline.

        Raises:
            RecordError: when the file is no such record, corrupt, or of a newer version.
        """
        whole = read_record(path, KIND)
        notes = whole.metadata.get("moments")
        if not isinstance(notes, list) or not notes or not all(isinstance(note, dict) for note in notes):
            raise RecordError(f"{path}: no timeline is in it. Open it with what wrote it.")
        skipped = whole.metadata.get("skipped", [])
        if not isinstance(skipped, list) or not all(isinstance(line, str) for line in skipped):
            raise RecordError(f"{path}: its list of what was left out is damaged. Open it with what wrote it.")
        moments: list[Moment] = []
        for i, note in enumerate(notes):
            tables, arrays = _under(f"{i}-", whole.tables), _under(f"{i}-", whole.arrays)
            moments.append(moment_of(Record(RECORD_KIND, note, tables, arrays), f"{path}, record {i}"))
        return Timeline(moments, skipped)

    @staticmethod
    def from_directory(path: str | os.PathLike[str]) -> Timeline:
        """The timeline of the records that a Recorder wrote to a directory.

        Raises:
            RecordError: when there is none, or one is corrupt or of a newer version.
            RunError: when they are of different networks or settings.
        """
        moments = read_directory(Path(path))
        if not moments:
            raise RecordError(
                f"{path}: no record of a timeline is in it. Give the directory that the Recorder wrote to."
            )
        return Timeline(moments)


def named(table: Table, network: str) -> Table:
    """A table with the network's name as its first column, to be put under those of others."""
    return Table(table.to_arrow().add_column(0, "network", [[network] * len(table)]))


def _under(prefix: str, held: Mapping[str, _T]) -> dict[str, _T]:
    return {name.removeprefix(prefix): value for name, value in held.items() if name.startswith(prefix)}


def _columns(table: Table, names: Sequence[str]) -> Table:
    return Table(table.to_arrow().select(list(names)), {n: u for n, u in table.units.items() if n in names})


def _steps_text(table: Table) -> list[str]:
    lines = [f"{'step':>8} {'loss':>9} {'accuracy':>9}  {'mean path length':<24} {'constants':>9}"]
    for row in table.rows():
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.3f}"
        low, high = row["mean_depth_low"], row["mean_depth_high"]
        length = f"{row['mean_depth']:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")
        constants = f"{row['constant_share']:>9.1%}" if row["constant_share"] is not None else f"{'-':>9}"
        lines.append(f"{row['step']:>8} {row['loss']:>9.4g} {accuracy:>9}  {length:<24} {constants}")
    return lines


def _times_text(table: Table) -> list[str]:
    lines = [
        "time learned: the steps at which 10, 50, 90 % of a part's final credit are in",
        f"{'depth':>10} {'credit':>9} {'of sum |C|':>10} {'10 %':>8} {'50 %':>8} {'90 %':>8}",
    ]
    for row in table.rows():
        depth = "" if row["depth"] is None else str(row["depth"])
        label = depth if row["origin"] == "input" else f"{row['origin']} {depth}".strip()
        times = " ".join(
            f"{'-' if t is None else format(t, '.0f'):>8}" for t in (row[f"time_{q}"] for q in (10, 50, 90))
        )
        lines.append(f"{label:>10} {row['credit_cumulative']:>9.4f} {row['fraction']:>10.1%} {times}")
    return lines
