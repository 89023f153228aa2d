"""The result of depth beside degree: a tile for each term and band of frequencies, printed, saved, read back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import numpy as np

from termwise.errors import RecordError, UsageError
from termwise.records import Record, Table, read_record, write_record

BANDS: dict[str, tuple[str, int, int | None]] = {
    "upto_1": ("m <= 1", 0, 1),
    "upto_2": ("m <= 2", 0, 2),
    "from_3_to_15": ("m = 3..15", 3, 15),
    "from_16": ("m >= 16", 16, None),
}
"""Bands of angular frequency: by the name of their column, how they are printed, the lowest and the highest."""

OWN, SHUFFLED, INITIAL = "own", "shuffled", "initial"
CONSTANTS, OUTPUT = "constants", "output"

_KIND = "depth-degrees"
_SHADES = " ░▒▓█"


def beyond(trend: Sequence[Mapping[str, Any]]) -> Literal["above", "below", "undecided"]:
    """Whether a network's excess lies above zero, or below, over every comparator in these rows, by its interval."""
    lows, highs = ([row[f"excess_{end}"] for row in trend] for end in ("low", "high"))
    if all(low is not None and low > 0 for low in lows):
        return "above"
    return "below" if all(high is not None and high < 0 for high in highs) else "undecided"


@dataclasses.dataclass(frozen=True, eq=False)
class DepthDegrees:
    """How fast each term varies over the inputs, beside what it would without having learned; print it for a table.

    Attributes:
        terms: a row for each network and part.  Networks: "own", "shuffled" (gates from another input), "initial".
            Parts: "input" with a depth, "constants" (all that is born of constants and frozen values), and "output",
            the whole; with gates shuffled the terms alone.  With 95 % intervals over circles: the energy, which is the
            part's variance over inputs summed over components, and of it the share in each band of frequencies
            (`upto_1`, `upto_2`, `from_3_to_15`, `from_16`; missing where the part is constant); and the `weight`, the
            energy over the sum of those of all terms.
        powers: a row for each network, part and angular frequency: c_m of that part, without the square of its mean.
        trend: a row for each comparator, "shuffled" and "initial": the excess that H3 asks for.  See below.
        unit: what a step of depth is.
        inputs: on which inputs, in words.
        closure: the worst relative error of the sum of the parts against the output, over all batches and networks.
        warnings: what is to be distrusted, and why; each begins with the name of the failure.
        details: how it was measured.

    The *fall* of a network is minus the slope of the share at m <= 1 against depth, by least squares over the terms
    that hold at least 2 % of the own network's energy among all of its terms, weighted by this energy: how much of
    itself a term loses from the lowest frequencies with each further step.  The *excess* over a comparator is the own
    fall less the comparator's, over the same terms with the same weights.  That shallow terms are of low degree and
    deep ones of high degree (H3) is to be said only where the excess over *both* comparators is positive: roughness
    grows with depth simply because gates multiply, in a network at its first weights and by gates of any other input,
    too.  It is one number for a network; several seeds decide.  It is missing where fewer than three terms hold enough.

    What a frequency is not: a degree. A term jumps where gates switch, and what jumps has no end of frequencies.
    """

    terms: Table
    powers: Table
    trend: Table
    unit: str
    inputs: str
    closure: float
    warnings: tuple[str, ...]
    details: dict[str, Any]

    @property
    def mean_degree(self) -> NoReturn:
        """There is none.

        Raises:
            UsageError: always; it says why.
        """
        raise UsageError(
            "depth_degrees: a term has no mean degree. It jumps where gates switch, so that its power falls too slowly "
            "with frequency m for the sum of m^2 times it to be finite. Read the shares of its bands (terms); the mean "
            "degree of the whole network is degrees(model, data).mean_degree."
        )

    def __str__(self) -> str:
        """What was measured, a row of tiles for each part, the excess, and the warnings."""
        return "\n".join([_headline(self), "", *_tiles(self.terms.rows()), "", *_conclusions(self)])

    __repr__ = __str__

    def plot(self, *, ax: Any = None) -> np.ndarray:
        """Draw depth beside frequency: `termwise.figures.tiles`."""
        from termwise.figures import tiles

        return tiles(self, ax=ax)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file; `DepthDegrees.load` gives it back."""
        tables = {name: getattr(self, name) for name in ("terms", "powers", "trend")}
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in tables}
        write_record(path, Record(_KIND, {"depth_degrees": plain}, tables, {}))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> DepthDegrees:
        """Read a saved result.

        Raises:
            RecordError: when the file is no such record, corrupt, or of a newer version.
        """
        record = read_record(path, _KIND)
        try:
            plain = dict(record.metadata["depth_degrees"])
            return DepthDegrees(**record.tables, warnings=tuple(plain.pop("warnings")), **plain)
        except (KeyError, TypeError) as error:
            raise RecordError(f"{path}: no depth beside degree is in it (missing or unknown: {error}).") from error


def _headline(result: DepthDegrees) -> str:
    sizes = f"{result.details['circles']} circles of {result.details['angles']} angles"
    return f"depth by degree | unit {result.unit} | {result.inputs} | {sizes} | closure {result.closure:.1e}"


def _tiles(rows: list[dict[str, Any]]) -> list[str]:
    """Of each part what its energy is made of: the own share in per cent, and those of the comparators."""
    by_network: dict[str, dict[tuple[str, int | None], dict[str, Any]]] = {}
    for row in rows:
        by_network.setdefault(row["network"], {})[row["part"], row["depth"]] = row
    others = [name for name in (SHUFFLED, INITIAL) if name in by_network]
    head = f"{'own':>11}" + "".join(f" {name[:4] + '.':>5}" for name in others)
    lines = [
        f"{'':>9} {'':>6}" + "".join(f" | {title:<{len(head)}}" for title, *_ in BANDS.values()),
        f"{'depth':>9} {'energy':>6}" + f" | {head}" * len(BANDS),
    ]
    for part, own in by_network[OWN].items():
        lines.append(f"{own['depth'] if own['part'] == 'input' else own['part']:>9} {_percent(own['weight']):>6}")
        for band in BANDS:
            cells = [by_network[name].get(part, {}).get(band) for name in others]
            lines[-1] += f" | {_tile(own, band)}" + "".join(f" {_percent(cell):>5}" for cell in cells)
    return [line.rstrip() for line in lines]


def _tile(row: dict[str, Any], band: str) -> str:
    share = row[band]
    if share is None:
        return f"{'-':>11}"
    half = (row[f"{band}_high"] - row[f"{band}_low"]) / 2
    shade = _SHADES[min(round(share * (len(_SHADES) - 1)), len(_SHADES) - 1)]
    return f"{shade}{f'{100 * share:.1f} ±{100 * half:.1f}':>10}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


_OVER = {SHUFFLED: "gates shuffled between samples", INITIAL: "the network as it was at first"}


def _conclusions(result: DepthDegrees) -> list[str]:
    lines = [
        "per cent of the energy of all terms, then of the part's own; ± half of the 95 % interval over circles",
        "shuf.: with gates shuffled between samples; init.: the network as it was at first",
        "excess: what the share at m <= 1 loses from each depth to the next, beyond what it loses in the comparator",
    ]
    for row in result.trend.rows():
        name = _OVER[row["comparator"]]
        if row["excess"] is None:
            lines.append(f"excess over {name}: none, since fewer than three terms hold enough energy")
            continue
        excess, low, high = (f"{100 * row[f'excess{end}']:+.2f}" for end in ("", "_low", "_high"))
        lines.append(
            f"excess over {name}: {excess} [{low}, {high}] points of m <= 1 a step "
            f"({100 * row['fall']:.2f} against {100 * row['comparator_fall']:.2f}; {row['terms']} terms)"
        )
    lines.append("H3 holds only in excess of both; one network decides nothing")
    return lines + [f"warning, {warning}" for warning in result.warnings]
