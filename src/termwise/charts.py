"""What a picture shows, as data: which columns of which table, and the sentence that it states.

A chart says nothing of colours, fonts or sizes.  It is saved with the tables that it reads, and whoever draws it (the
page, a notebook) needs nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from termwise.errors import RecordError
from termwise.sentences import Sentence

Kind = Literal["lines", "points", "bars", "tiles"]
Scale = Literal["linear", "log", "ordinal"]
Colours = Literal["category", "depth", "degree"]


@dataclasses.dataclass(frozen=True)
class Axis:
    """A column, and how its values lie along an axis.

    Attributes:
        column: of the plot's table.
        label: what it is, with its unit.
        scale: "ordinal" for names, and for numbers that are to stand side by side.  On a "log" axis zero has a place
            left of the smallest value.
        low: where the axis begins; None: where the values do.
        high: where it ends.
    """

    column: str
    label: Sentence
    scale: Scale = "linear"
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Mark:
    """A line across a plot, at a value of its vertical axis: a bound that was expected, chance, the whole network."""

    at: float
    label: Sentence


@dataclasses.dataclass(frozen=True)
class Plot:
    """One panel.

    Attributes:
        table: the name of the table that it reads.
        kind: "lines" (in the order of x), "points", "bars" (from zero), or "tiles" (of which `value` is the colour).
        x: the horizontal axis.  Bars and points over names are turned on their side, so that the names can be read.
        y: the vertical axis.
        series: the column that tells lines, points or bars apart, by colour.
        interval: the columns with the ends of y's interval.
        value: of tiles, the column that their colour shows.
        where: the value that a column must have for a row to be shown.
        marks: lines across.
        heading: what this panel shows, where a chart has several.
        colours: of the series: one "category" each, or the ramp of "depth" or of "degree", from the least to the most.
    """

    table: str
    kind: Kind
    x: Axis
    y: Axis
    series: str | None = None
    interval: tuple[str, str] | None = None
    value: str | None = None
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    marks: tuple[Mark, ...] = ()
    heading: Sentence | None = None
    colours: Colours = "category"

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValueError: tiles without a value, or bars on a logarithmic axis, which has no zero to begin at.
        """
        if self.kind == "tiles" and self.value is None:
            raise ValueError(f"tiles of {self.table!r}: give the column that their colour shows, value=.")
        if self.kind == "bars" and self.y.scale != "linear":
            raise ValueError(f"bars of {self.table!r}: a {self.y.scale} axis has no zero to begin at; draw points.")


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure of one panel or several; axes with the same label have the same ends in all of them.

    Attributes:
        name: a word for files and links, lower case.
        title: the finding, a sentence computed from the data; neutral where there is nothing to see.
        reading: how to read it.
        plots: the panels, in their order.
    """

    name: str
    title: Sentence
    reading: Sentence
    plots: tuple[Plot, ...]


def charts_of(saved: Any, where: str) -> tuple[Chart, ...]:
    """Charts as they were saved (`msgspec.to_builtins`).

    Raises:
        RecordError: when they are none.
    """
    try:
        return msgspec.convert(saved, tuple[Chart, ...])
    except msgspec.ValidationError as error:
        raise RecordError(f"{where}: its charts cannot be read ({error}). Write it again with this version.") from error
