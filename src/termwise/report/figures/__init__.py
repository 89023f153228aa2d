"""The figures of a run: Vega-Lite specifications without colours and without data, and their sentences.

A mark names a style (`input`, `constant`, `paths`, `head`, ...); the page's theme gives styles their colours:
light, dark or printed. A view names a data source (`steps`, `spectrum`, `paths`); the page fills it with the
embedded table when it draws. `"width": "fill"` stands for the width of the panel. Every panel of a
figure has the same scales.

A figure is a module with a function `build`, whose docstring says what the figure diagnoses and which table it reads,
and with its sentences: a title that is a finding computed from the data, and a text alternative for each panel.
"""

from __future__ import annotations

from termwise.report.charts import Figure
from termwise.report.figures import (
    degrees,
    heat,
    learned,
    lesions,
    mean,
    ridgeline,
    spectrum,
    tiles,
    triptych,
    truncated,
    unravelled,
)
from termwise.report.reading import Run
from termwise.report.tables import Tables

ORDER = (spectrum, unravelled, triptych, heat, ridgeline, learned, truncated, lesions, mean, degrees, tiles)


def build_figures(run: Run, tables: Tables) -> list[Figure]:
    """The page's figures, in its order; those of which nothing was recorded are left out."""
    return [figure for module in ORDER if (figure := module.build(run, tables)) is not None]
