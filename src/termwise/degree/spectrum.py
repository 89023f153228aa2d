"""The result of a measurement by degree, whatever the inputs: printed, saved, read back."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from termwise.errors import RecordError
from termwise.profile import Estimate
from termwise.records import Record, Table, read_record, write_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS: tuple[tuple[int, int | None], ...] = (
    *((0, 0), (1, 1), (2, 2), (3, 3), (4, 4)),
    *((5, 6), (7, 9), (10, None)),
)
"""Degrees that are reported together, lowest and highest: above 4 single ones cannot be told apart well."""

LADDER = "ladder"  # the method whose shares are gains of held-out R^2, and no parts of a variance

_KIND = "degree-spectrum"
_BAR = 24  # characters of the largest share


@dataclasses.dataclass(frozen=True, eq=False)
class DegreeSpectrum:
    """Of which polynomial degrees a function is made, on given inputs; print it for a table.

    Attributes:
        spectrum: a row per degree or group of degrees: lowest and highest degree (missing: no end), and with 95 %
            intervals its share, of the variance of the output.  Gaussian and Boolean inputs have the energy as well,
            the share at another cut-off, and against a target the part that is learned: 1 where the network has what
            the target has, missing where the target has less than 1 % of its variance; and the target's own share of
            this degree.  On real data the share is
            the gain in held-out R^2, and the R^2 up to this degree, that of shuffled targets (the noise floor) and the
            ridge stand beside it.
        powers: on circles a row per angular frequency: its power and the standard error; else None.
        mean_degree: the mean of the degree over the variance; None where it cannot be known.
        variance: of the output, summed over its components, in its unit squared.
        method: "circles", "walsh", "walsh, sampled" or "ladder".
        inputs: on which inputs, in words.
        warnings: what is to be distrusted, and why; each begins with the name of the failure.
        details: how it was measured: seeds, samples, cut-offs, and what the method adds.

    Degree is a property of a function *on a distribution of inputs*: another distribution gives another spectrum.
    """

    spectrum: Table
    powers: Table | None
    mean_degree: Estimate | None
    variance: float
    method: str
    inputs: str
    warnings: tuple[str, ...]
    details: dict[str, Any]

    def __str__(self) -> str:
        """What was measured, a row for each degree, the mean degree, and the warnings."""
        return "\n".join([headline(self), "", *_lines(self.spectrum.rows()), "", *conclusions(self)])

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        from termwise.report.card import degrees_card

        return degrees_card(self)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the shares by degree: `termwise.figures.degrees`."""
        from termwise.figures import degrees

        return degrees(self, ax=ax)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file; `DegreeSpectrum.load` gives it back."""
        write_record(path, self.to_record())

    def to_record(self) -> Record:
        """The record of this spectrum."""
        tables = {"spectrum": self.spectrum} | ({} if self.powers is None else {"powers": self.powers})
        plain = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("spectrum", "powers")
        }
        return Record(_KIND, {"degrees": plain}, tables, {})

    @staticmethod
    def load(path: str | os.PathLike[str]) -> DegreeSpectrum:
        """Read a saved spectrum.

        Raises:
            RecordError: when the file is no such record, corrupt, or of a newer version.
        """
        return DegreeSpectrum.from_record(read_record(path, _KIND), str(path))

    @staticmethod
    def from_record(record: Record, where: str = "record") -> DegreeSpectrum:
        """The spectrum in a record.

        Raises:
            RecordError: when fields are missing.
        """
        try:
            plain = dict(record.metadata["degrees"])
            mean, warnings = plain.pop("mean_degree"), tuple(plain.pop("warnings"))
            return DegreeSpectrum(
                spectrum=record.tables["spectrum"],
                powers=record.tables.get("powers"),
                mean_degree=None if mean is None else Estimate(*mean),
                warnings=warnings,
                **plain,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{where}: no degree spectrum is in it (missing or unknown field {error}).") from error


def label(lowest: int, highest: int | None) -> str:
    """A degree or a group of them: 3, 5-6, 10+."""
    if highest is None:
        return f"{lowest}+"
    return str(lowest) if lowest == highest else f"{lowest}-{highest}"


def headline(result: DegreeSpectrum) -> str:
    """By which method, on which inputs."""
    return f"degrees by {result.method} | {result.inputs} | variance {result.variance:.4g}"


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    largest = max((row["share"] for row in rows if row["share"] is not None), default=0.0)
    extra = [
        (name, title)
        for name, title in (
            ("other_share", "other cut-off"),
            ("learned", "learned"),
            ("r2", "R2 so far"),
            ("floor", "noise floor"),
        )
        if name in rows[0]
    ]
    head = f"{'degree':>8}  {'':{_BAR}} {'share':>7} {'95 % interval':>18}"
    return [head + "".join(f" {title:>24}" for _, title in extra)] + [_line(row, largest, extra) for row in rows]


def _line(row: dict[str, Any], largest: float, extra: list[tuple[str, str]]) -> str:
    share = row["share"]
    if share is None:
        bar, numbers = "", f"{'-':>7} {'':>18}"
    else:
        bar = "█" * round(_BAR * max(share, 0.0) / largest) if largest > 0 else ""
        numbers = f"{share:>7.2%} {_interval(row, 'share'):>18}"
    tail = "".join(f" {_cell(row, name):>24}" for name, _ in extra)
    return f"{label(row['lowest'], row['highest']):>8}  {bar:<{_BAR}} {numbers}{tail}".rstrip()


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if value is None:
        return "-"
    return f"{value:.2%}" + (f" {_interval(row, name)}" if f"{name}_low" in row else "")


def _interval(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None or high is None else f"[{100 * low:.2f}, {100 * high:.2f}]"


def conclusions(result: DegreeSpectrum) -> list[str]:
    """What there is beside the shares, and the warnings."""
    lines = []
    if result.mean_degree is not None:
        lines.append(f"mean degree {result.mean_degree}")
    if "ceiling" in result.details:
        lines.append(
            f"ceiling {result.details['ceiling']:.2%}: what a Gaussian kernel explains on the same components; the "
            "rest lies outside of them, or is of higher degree than so many samples show"
        )
    return lines + [f"warning, {warning}" for warning in result.warnings]
