"""What the figures share: rows of a table, the networks' names, the table behind a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from termwise.report.charts import Shown
from termwise.report.intervals import MANY
from termwise.report.reading import Columns, Run
from termwise.report.strings import listing, say, word
from termwise.report.tables import Tables

Row = dict[str, Any]


def rows(table: Columns, **where: object) -> list[Row]:
    """The rows of a table by columns in which every named column has that value."""
    keep = range(len(next(iter(table.values()))))
    return [{k: v[i] for k, v in table.items()} for i in keep if all(table[k][i] == v for k, v in where.items())]


def names(run: Run) -> list[str]:
    """The networks' names, in the order of the summary."""
    return [network.name for network in run.summary.networks]


def split(run: Run) -> list[int]:
    """The places of the networks whose paths are of several lengths: of the others there is nothing to see by depth."""
    return [i for i, network in enumerate(run.summary.networks) if network.shortest < network.longest]


def some(found: Sequence[str]) -> str:
    """Names of networks; of many their number."""
    return listing(found) if len(found) <= MANY else say("some", count=len(found))


def path_ends(run: Run, tables: Tables) -> tuple[int, int]:
    """The shortest and the longest path from the input in the networks of `split`."""
    depths = [row["depth"] for index in split(run) for row in rows(tables.paths, network=index)]
    return min(depths), max(depths)


def warnings(kinds: Iterable[str]) -> str:
    """What estimators warn of, by the names that they give it, in the language that is spoken."""
    return listing([word("warning", kind) for kind in kinds])


def behind(source: str, columns: list[str], **where: str) -> tuple[Shown, ...]:
    """The one table behind a figure; `where` names the rows, where the table holds more than the figure."""
    return (Shown(source, columns, (where,)),)
