"""The sentences of the figures: titles that are findings, and text alternatives, both computed.

A title claims a change only when the intervals of the first and the last record do not overlap (or, for a
median depth, when it moved by at least one layer); otherwise it says that there is nothing to see.
"""

from __future__ import annotations

from typing import Any

from termwise.records import NetworkSummary
from termwise.report.reading import Columns, Run
from termwise.report.strings import fixed, integer, listing, number, percent, say
from termwise.report.tables import Tables

Row = dict[str, Any]


def rows(table: Columns, **where: object) -> list[Row]:
    """The rows of a table by columns in which every named column has that value."""
    keep = range(len(next(iter(table.values()))))
    return [{k: v[i] for k, v in table.items()} for i in keep if all(table[k][i] == v for k, v in where.items())]


def names(run: Run) -> list[str]:
    """The networks' names, in the order of the summary."""
    return [network.name for network in run.summary.networks]


def spectrum_title(run: Run, tables: Tables) -> str:
    """Where the middle 80 % of the input-born norm lies at the last record."""
    ranges = []
    for index, name in enumerate(names(run)):
        last = rows(tables.steps, network=index)[-1]
        low, high = last["depth_p10"], last["depth_p90"]
        key = "spectrum.range.one" if low == high else "spectrum.range"
        ranges.append(say(key, low=fixed(low, 0), high=fixed(high, 0), network=name))
    if all(network.shortest == network.longest for network in run.summary.networks):
        return say("spectrum.title.plain", networks=listing(names(run)))
    return say("spectrum.title", ranges=listing(ranges))


def heat_title(run: Run, tables: Tables) -> str:
    """How the median depth and the loss move from the first to the last record."""
    moves, directions = [], set()
    for index, name in enumerate(names(run)):
        own = rows(tables.steps, network=index)
        if len(own) < 2:
            return say("heat.title.one")
        first, last = own[0]["depth_p50"], own[-1]["depth_p50"]
        if first is None or last is None:
            return say("heat.title.none")
        kind = "stays" if abs(last - first) < 1 else "falls" if last < first else "rises"
        moves.append((kind, fixed(first, 0), fixed(last, 0), name))
        directions.add("falls" if (own[-1]["loss"] or 0) < (own[0]["loss"] or 0) else "rises")
    loss = say(f"heat.loss.{directions.pop() if len(directions) == 1 else 'mixed'}")
    still = all(kind == "stays" for kind, *_ in moves)
    return say("heat.title.still" if still else "heat.title.move", loss=loss, moves=_moves("heat.move", moves))


def _moves(prefix: str, moves: list[tuple[str, str, str, str]]) -> str:
    """One clause for each kind of move, its networks listed: (kind, first, last, network)."""
    clauses = []
    for kind in dict.fromkeys(kind for kind, *_ in moves):
        key = "move.end" if kind == "stays" else "move.ends"
        ends = [say(key, first=first, last=last, network=name) for k, first, last, name in moves if k == kind]
        clauses.append(say(f"{prefix}.{kind}", ends=listing(ends)))
    return listing(clauses)


def truncated_title(run: Run) -> str:
    """From which depth on each network keeps 99 % of its accuracy."""
    clauses = []
    for network in run.summary.networks:
        if network.effective_depth is None:
            clauses.append(say("truncated.clause.none", network=network.name))
        elif network.effective_depth >= network.longest:
            clauses.append(say("truncated.clause.all", network=network.name))
        else:
            clauses.append(say("truncated.clause", depth=network.effective_depth, network=network.name))
    if all(network.effective_depth is None for network in run.summary.networks):
        return say("truncated.title.none")
    return say("truncated.title", clauses=listing(clauses))


def mean_title(run: Run) -> str:
    """How each network's mean path length moves, and which of two networks ends shorter."""
    moves = [(_trend(n), fixed(n.mean_depth[0], 1), fixed(n.mean_depth[1], 1), n.name) for n in run.summary.networks]
    title = say("mean.title", moves=_moves("mean", moves))
    if len(run.summary.networks) == 2:
        one, other = sorted(run.summary.networks, key=lambda n: n.mean_depth[1])
        if one.mean_depth_interval[1][1] < other.mean_depth_interval[1][0]:
            title += say("mean.shorter", network=one.name)
    return title


def _trend(network: NetworkSummary) -> str:
    (first_low, first_high), (last_low, last_high) = network.mean_depth_interval
    return "falls" if last_high < first_low else "rises" if last_low > first_high else "stays"


def _constants(found: list[Row]) -> str:
    total = sum(row["norm_share"] or 0.0 for row in found)
    return say("spectrum.alt.constants", share=number(total)) if found else ""


def spectrum_alternative(run: Run, tables: Tables, index: int) -> str:
    """In words: the spectrum of one network at its last record."""
    step = rows(tables.steps, network=index)[-1]["step"]
    terms = rows(tables.spectrum, network=index, step=step, origin="input")
    paths = rows(tables.paths, network=index)
    most = max(terms, key=lambda row: row["norm_share"] or 0.0)
    mode = max(paths, key=lambda row: row["path_share"])
    return say(
        "spectrum.alt",
        network=names(run)[index],
        step=say("control.step.value", step=integer(step)),
        count=len(terms),
        shortest=terms[0]["depth"],
        longest=terms[-1]["depth"],
        share=percent(most["norm_share"]),
        depth=most["depth"],
        paths=percent(mode["path_share"]),
        mode=mode["depth"],
        constants=_constants(rows(tables.spectrum, network=index, step=step, origin="constant")),
    ).strip()


def heat_alternative(run: Run, tables: Tables, index: int) -> str:
    """In words: how one network's depths and loss move over training."""
    own = rows(tables.steps, network=index)
    first, last = own[0], own[-1]
    return say(
        "heat.alt",
        network=names(run)[index],
        first=integer(first["step"]),
        last=integer(last["step"]),
        loss_first=number(first["loss"]),
        loss_last=number(last["loss"]),
        p50_first=fixed(first["depth_p50"], 0),
        p50_last=fixed(last["depth_p50"], 0),
        p10=fixed(last["depth_p10"], 0),
        p90=fixed(last["depth_p90"], 0),
    )


def truncated_alternative(run: Run, tables: Tables, index: int) -> str:
    """In words: the truncated accuracies of one network at its last record."""
    last = rows(tables.steps, network=index)[-1]
    terms = rows(tables.spectrum, network=index, step=last["step"], origin="input")
    best = max(terms, key=lambda row: row["alone_accuracy"] or 0.0)
    middle = terms[len(terms) // 2]
    return say(
        "truncated.alt",
        network=names(run)[index],
        step=say("control.step.value", step=integer(last["step"])),
        full=fixed(last["accuracy"], 3),
        shortest=terms[0]["depth"],
        head=fixed(terms[0]["head_accuracy"], 3),
        middle=middle["depth"],
        half=fixed(middle["head_accuracy"], 3),
        best_depth=best["depth"],
        best=fixed(best["alone_accuracy"], 3),
        chance=fixed(1 / max(run.summary.data.classes, 1), 3),
    )


def mean_alternative(run: Run, tables: Tables) -> str:
    """In words: the mean path length of every network at its first and last record."""
    parts = []
    for index, name in enumerate(names(run)):
        own = rows(tables.steps, network=index)
        first, last = own[0], own[-1]
        parts.append(
            say(
                "mean.alt",
                network=name,
                first=fixed(first["mean_depth"], 1),
                last=fixed(last["mean_depth"], 1),
                start=integer(first["step"]),
                end=integer(last["step"]),
            )
        )
        if first["mean_depth_constants"] is not None and last["mean_depth_constants"] is not None:
            ends = {
                "first": fixed(first["mean_depth_constants"], 1),
                "last": fixed(last["mean_depth_constants"], 1),
            }
            parts.append(say("mean.alt.constants", **ends))
    return " ".join(parts)


def _degree_ends(table: Columns, index: int) -> tuple[list[Row], list[Row]]:
    """The rows of one network at its first and last record at which there are shares; empty where there is none."""
    own = [row for row in rows(table, network=index) if row["share"] is not None]
    if not own:
        return [], []
    first, last = min(row["step"] for row in own), max(row["step"] for row in own)
    return [row for row in own if row["step"] == first], [row for row in own if row["step"] == last]


def degrees_title(run: Run, table: Columns) -> str:
    """How the share of the lowest degree moves from the first to the last record, with its intervals."""
    moves = []
    for index, name in enumerate(names(run)):
        first, last = (ends[:1] for ends in _degree_ends(table, index))
        if not first:
            return say("degrees.title.none")
        if first[0]["step"] == last[0]["step"]:
            return say("heat.title.one")
        moves.append((_moved(first[0], last[0]), _share(first[0]), _share(last[0]), name))
    degree = table["degree"][0]
    if all(kind == "stays" for kind, *_ in moves):
        return say("degrees.title.still", degree=degree, moves=_moves("degrees", moves))
    return say("degrees.title.move", degree=degree, moves=_moves("degrees", moves))


def _moved(first: Row, last: Row) -> str:
    ends = (first["share_low"], first["share_high"], last["share_low"], last["share_high"])
    if None in ends:
        return "stays"
    return "falls" if ends[3] < ends[0] else "rises" if ends[2] > ends[1] else "stays"


def _share(row: Row) -> str:
    """In per cent, with as many decimals as the interval is worth."""
    low, high = row["share_low"], row["share_high"]
    if low is None or high is None:
        return percent(row["share"])
    places = 0 if high - low >= 0.01 else 1
    value, low, high = (f"{100 * number:.{places}f}" for number in (row["share"], low, high))
    return say("degrees.share", share=value, low=low, high=high)


def degrees_detail(table: Columns, index: int) -> str:
    """The mean degree of one network at its first and last record, where it is known at both."""
    ends = [end[0] for end in _degree_ends(table, index) if end]
    if not ends or any(row["mean_degree"] is None for row in ends):
        return say("degrees.mean.none")
    shown = [
        say("degrees.mean.value", **{k: fixed(row[f"mean_degree{end}"], 2) for k, end in _ENDS.items()}) for row in ends
    ]
    return say("degrees.mean", first=shown[0], last=shown[1])


_ENDS = {"value": "", "low": "_low", "high": "_high"}


def degrees_reading(table: Columns) -> str:
    """How to read the figure, and at how many records the estimator warned of what."""
    records: dict[tuple[int, int], str] = {}
    for network, step, warnings in zip(table["network"], table["step"], table["warnings"], strict=True):
        records[network, step] = warnings or ""
    warned = [text for text in records.values() if text]
    kinds = dict.fromkeys(kind for text in warned for kind in text.split(", "))
    told = say("degrees.warned", count=len(warned), all=len(records), kinds=listing(list(kinds))) if warned else ""
    return f"{say('degrees.read')} {told}".strip()


def degrees_alternative(run: Run, table: Columns, index: int) -> str:
    """In words: the shares of one network by degree at its first and last record."""
    first, last = _degree_ends(table, index)
    if not first:
        return say("degrees.alt.none", network=names(run)[index])
    return say(
        "degrees.alt",
        network=names(run)[index],
        start=integer(first[0]["step"]),
        first=listing([say("degrees.alt.share", degree=row["degree"], share=percent(row["share"])) for row in first]),
        end=integer(last[0]["step"]),
        last=listing([say("degrees.alt.share", degree=row["degree"], share=percent(row["share"])) for row in last]),
    )
