"""What moved, and a number with its interval in words: one rule for every title, sentence and cell.

A title claims a change only where the two intervals do not overlap; numbers without an interval are compared as they
are, and only where both are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from termwise.report.strings import clauses, fixed, listing, percent, say, signed

Ends = tuple[float | None, float | None]
Move = Literal["falls", "rises", "stays"]
MANY = 3  # networks: beyond, a title counts them


def ends(row: Mapping[str, Any], name: str) -> Ends:
    """The interval of a number in a row of a table."""
    return row[f"{name}_low"], row[f"{name}_high"]


def trend(first: Ends, last: Ends) -> Move:
    """Whether a number falls or rises: only where its two intervals do not overlap."""
    (first_low, first_high), (last_low, last_high) = first, last
    if first_low is None or first_high is None or last_low is None or last_high is None:
        return "stays"
    return "falls" if last_high < first_low else "rises" if last_low > first_high else "stays"


def direction(first: float | None, last: float | None) -> Move | None:
    """Whether a number without an interval falls or rises; None where one of the two is not known."""
    if first is None or last is None or not (math.isfinite(first) and math.isfinite(last)):
        return None
    return "falls" if last < first else "rises" if last > first else "stays"


def between(value: float, low: float | None, high: float | None, *, places: int) -> str:
    """A number with its interval, where that is known."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return signed(fixed(value, places))
    value_, low_, high_ = (signed(fixed(end, places)) for end in (value, low, high))
    return say("interval", value=value_, low=low_, high=high_)


def share_between(row: Mapping[str, Any], name: str) -> str:
    """A share with its interval, in per cent, with as many decimals as the interval is worth."""
    low, high = ends(row, name)
    if low is None or high is None:
        return percent(row[name])
    places = 0 if high - low >= 0.01 else 1
    value_, low_, high_ = (signed(f"{100 * end:.{places}f}") for end in (row[name], low, high))
    return say("interval.percent", value=value_, low=low_, high=high_)


def moved(prefix: str, moves: list[tuple[str, str, str, str]]) -> str:
    """One clause for each kind of move, (kind, first, last, network): its networks listed, or many of them counted."""
    said = []
    for kind in dict.fromkeys(kind for kind, *_ in moves):
        if len(moves) > MANY:
            said.append(say(f"{prefix}.{kind}.count", count=sum(k == kind for k, *_ in moves), all=len(moves)))
            continue
        key = "move.end" if kind == "stays" else "move.ends"
        own = [say(key, first=first, last=last, network=name) for k, first, last, name in moves if k == kind]
        said.append(say(f"{prefix}.{kind}", ends=listing(own)))
    return clauses(said)
