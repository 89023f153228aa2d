"""What the page says, in the reader's language: a table of sentences each, and numbers as they are written.

`say` takes the sentence from the table of the language that is spoken: English, or inside `speaking("zh")` Chinese.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

from termwise.report.strings.chinese import CHINESE
from termwise.report.strings.english import ENGLISH

LANGUAGES: Mapping[str, Mapping[str, str]] = {"en": ENGLISH, "zh": CHINESE}

_spoken: ContextVar[tuple[str, str]] = ContextVar("spoken", default=("en", "layers"))


@contextlib.contextmanager
def speaking(language: str, *, unit: str = "layers") -> Iterator[None]:
    """Sentences in that language, one of `LANGUAGES`, which call the steps of depth by that unit."""
    token = _spoken.set((language, unit))
    try:
        yield
    finally:
        _spoken.reset(token)


def sentences() -> Mapping[str, str]:
    """The table of the language that is spoken, placeholders unfilled."""
    return LANGUAGES[_spoken.get()[0]]


def say(key: str, **values: object) -> str:
    """The sentence of that key, with its placeholders filled; `{unit}` is that of depth, in the plural."""
    unit = _spoken.get()[1]
    return sentences()[key].format(**{"unit": sentences().get(f"unit.{unit}", unit), **values})


def listing(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return say("comma").join(items[:-1]) + say("and") + items[-1]


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent where it stays short."""
    if value is None or not math.isfinite(value):
        return say("undefined")
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+0", "e")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{places}f}"


def fixed(value: float | None, places: int) -> str:
    """A number with so many decimals."""
    return say("undefined") if value is None or not math.isfinite(value) else f"{value:.{places}f}"


def percent(value: float | None) -> str:
    """A share in per cent, one decimal below ten."""
    if value is None or not math.isfinite(value):
        return say("undefined")
    return f"{100 * value:.{1 if 0 < abs(value) < 0.1 else 0}f} %".replace("-", "−")


def integer(value: int) -> str:
    """A whole number with its thousands apart; beyond fifteen digits as a power of ten."""
    return f"{value:,}" if abs(value) < 10**15 else f"{value:.2e}" if value < 10**300 else f"10^{len(str(value)) - 1}"


def seconds(value: float) -> str:
    """A duration."""
    return f"{value:.1f} s" if value < 60 else f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def signed(text: str) -> str:
    """A number as it is written, with a minus sign for a hyphen, and none before zero."""
    if not text.startswith("-"):
        return text
    return text[1:] if set(text[1:]) <= set("0.") else f"−{text[1:]}"
