"""The page docs/coverage.md, from the rows of a sweep."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.examine import ALIVE, CLOSURE, Row

Found = Mapping[str, Sequence[Mapping[str, Any]]]

_HEAD = """# What the expansion covers

Whole libraries with random weights, swept by `python -m benchmarks.coverage`; every network is built small or fed a
small image, all its parameters and batch-norm statistics are moved off their initial values, and the expansion is
compared with figures that are had without it:

| column | meaning |
|---|---|
| closed | the parts add up to the output within {closure:.0e} of it, in float32; "worst" is the largest such error |
| bit-equal | the total is a plain pass's output, bit for bit (evaluation mode, attention in its mathematical form) |
| steps agree | the rules saw as many products by weights as a plain pass ran convolutions and linear layers |
| linearised | calls of operators without an exact rule, of all calls |
| refused | the expansion says why it cannot answer |
| failed | it ended in an error that is no refusal: a defect |
| not run | over {parameters:.0f} M parameters, {seconds:.0f} s or {memory:.0f} GiB, or the plain pass itself failed |

"""


def page(found: Found, limits: Mapping[str, float]) -> str:
    """The whole page: totals, then every exception with its reason."""
    head = _HEAD.format(**{**limits, "parameters": limits["parameters"] / 1e6}, closure=CLOSURE)
    lines = [
        "| library | tried | closed | bit-equal | steps agree | linearised | refused | failed | not run | worst |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_totals(library, rows) for library, rows in found.items()),
    ]
    sections = [_section(library, rows) for library, rows in found.items()]
    return head + "\n".join(lines) + "\n\n" + "\n".join(sections)


def _row(entry: Mapping[str, Any]) -> Row:
    return Row(**{name: value for name, value in entry.items() if name != "versions"})


def _totals(library: str, entries: Sequence[Mapping[str, Any]]) -> str:
    rows = [_row(entry) for entry in entries]
    ran = [row for row in rows if row.status in ("closed", "open")]
    linearised = sum(sum(row.linearised.values()) for row in ran)
    calls = sum(row.calls for row in ran)
    counts = collections.Counter(row.status for row in rows)
    cells = [
        f"{library} {entries[0]['versions'][library]} (torch {entries[0]['versions']['torch']})",
        len(rows),
        counts["closed"],
        sum(row.bit_equal for row in ran),
        sum(row.steps_seen == row.steps_run for row in ran),
        f"{linearised} of {calls}" if linearised else f"none of {calls}",
        counts["refused"],
        counts["failed"],
        counts["skipped"],
        f"{max((row.closure for row in ran), default=float('nan')):.1e}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _section(library: str, entries: Sequence[Mapping[str, Any]]) -> str:
    rows = sorted((_row(entry) for entry in entries), key=lambda row: row.name)
    exceptions = [row for row in rows if not row.clean]
    times = [row.seconds / row.plain_seconds for row in rows if row.seconds and row.plain_seconds]
    lines = [f"## {library}: {len(rows) - len(exceptions)} of {len(rows)} without exception", ""]
    if times:
        lines += [f"The expansion took {statistics.median(times):.0f} plain passes in the median.", ""]
    if library == "timm":
        lines += [_families(rows), ""]
    if exceptions:
        lines += ["| network | outcome | why |", "|---|---|---|"]
        lines += [f"| {row.name} | {row.status} | {_why(row)} |" for row in exceptions]
        lines.append("")
    return "\n".join(lines)


def _families(rows: Sequence[Row]) -> str:
    """How many of timm's model modules are among them."""
    import timm

    modules = [set(timm.list_models(module=module)) for module in timm.list_modules()]
    closed = {row.name for row in rows if row.status == "closed"}
    present = sum(bool(members & closed) for members in modules)
    return f"They stand for {present} of the {sum(map(bool, modules))} modules that timm has models in."


def _why(row: Row) -> str:
    """What is not as it should be, in words."""
    if row.reason:
        return row.reason.replace("|", "\\|")
    reasons = []
    if row.closure > CLOSURE:
        why = "parts that cancel lose digits in float32; profile it in float64"
        reasons.append(f"closes within {row.closure:.0e} only: {why}")
    if not row.bit_equal:
        reasons.append("the total differs from the plain pass")
    if not row.input_share > ALIVE:
        why = "with random weights the signal dies on the way"
        reasons.append(f"only {row.input_share:.0e} of the output is born of the input: {why}")
    if row.steps_seen != row.steps_run:
        reasons.append(f"{row.steps_seen} steps seen, {row.steps_run} run")
    if row.linearised:
        calls = ", ".join(f"{name} ({count})" for name, count in sorted(row.linearised.items()))
        reasons.append(f"linearised: {calls}, of {row.calls} calls")
    return "; ".join(reasons)
