"""What the page says, in the reader's language: a table of sentences each, and numbers as they are written.

`say` takes the sentence from the table of the language that is spoken: English, or inside `speaking("zh")` Chinese.
"""

from __future__ import annotations

import contextlib
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Literal

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


def saved_in() -> str | None:
    """The `lang` of words that a saved result brings along, which are English; None where the page is English too."""
    return None if _spoken.get()[0] == "en" else "en"


def say(key: str, **values: object) -> str:
    """The sentence of that key, with its placeholders filled; `{unit}` is that of depth, in the plural."""
    filled = {"unit": word("unit", _spoken.get()[1]), **values}
    return sentences()[key].format(**{name: isolated(each) for name, each in filled.items()})


_OPEN, _CLOSE = "\u2066\u2067\u2068", "\u2069"  # of isolated text, by the bidirectional algorithm of Unicode
_EMBEDDED = "\u202a\u202b\u202d\u202e"


def isolated(value: object) -> object:
    """A value for a sentence: where it is a name that is written from right to left, so that it turns no other word.

    It is put between a first strong isolate and its end, of which as many are added as the name itself leaves open.
    """
    if not isinstance(value, str) or value.isascii() or not any(map(_turns, value)):
        return value
    opened = missing = 0
    for sign in value:
        if sign in _OPEN:
            opened += 1
        elif sign == _CLOSE:
            opened, missing = (opened - 1, missing) if opened else (0, missing + 1)
    return "\u2068" * (missing + 1) + value + _CLOSE * (opened + 1)


def _turns(sign: str) -> bool:
    return sign in _OPEN + _CLOSE + _EMBEDDED or unicodedata.bidirectional(sign) in ("R", "AL")


def word(kind: str, name: str) -> str:
    """A name out of a family of words, in the language that is spoken; as it is, where the family lacks it."""
    return sentences().get(f"{kind}.{name}", name)


def listing(items: Sequence[str], kind: Literal["", "clause."] = "") -> str:
    """Names and numbers: `a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return say(f"{kind}comma").join(items[:-1]) + say(f"{kind}and") + items[-1]


def clauses(items: Sequence[str]) -> str:
    """As `listing`, of parts of a sentence: not every language joins these as it joins names."""
    return listing(items, "clause.")


def prose(*said: str) -> str:
    """Sentences one after the other; what is empty is left out."""
    return say("sentence.gap").join(filter(None, said))


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


def in_percent(value: float | None) -> str:
    """A share in per cent without the sign: one decimal below ten."""
    if value is None or not math.isfinite(value):
        return say("undefined")
    return signed(f"{100 * value:.{1 if 0 < abs(value) < 0.1 else 0}f}")


def percent(value: float | None) -> str:
    """A share in per cent, with the sign."""
    return say("undefined") if value is None or not math.isfinite(value) else say("percent", value=in_percent(value))


def accuracy(value: float) -> str:
    """An accuracy in text and tables: in per cent, with one decimal; beside an axis of accuracy it is a number."""
    return say("percent", value=f"{100 * value:.1f}")


def integer(value: int) -> str:
    """A whole number with its thousands apart; beyond fifteen digits as a power of ten."""
    return f"{value:,}" if abs(value) < 10**15 else f"{value:.2e}" if value < 10**300 else f"10^{len(str(value)) - 1}"


def compact(value: int) -> str:
    """A whole number of at most a few characters: from ten thousand on three digits of it, and k, M or G."""
    if value < 10_000:
        return f"{value:,}"
    sizes = ((f"{value / size:.3g}", unit) for size, unit in ((1e3, "k"), (1e6, "M"), (1e9, "G")))
    return next((digits + unit for digits, unit in sizes if "e" not in digits), f"{value:.2e}")


def seconds(value: float) -> str:
    """A duration."""
    return f"{value:.1f} s" if value < 60 else f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def signed(text: str) -> str:
    """A number as it is written, with a minus sign for a hyphen, and none before zero."""
    if not text.startswith("-"):
        return text
    return text[1:] if set(text[1:]) <= set("0.") else f"−{text[1:]}"
