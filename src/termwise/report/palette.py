"""The colours of page and paper figures: those that the style sheet of the page declares, and no others.

They stand in `page.css` as custom properties of `:root`, for a light and a dark theme; here they are read, so that
there is one source.  What each is for:

    ramp-0..4      how much there is, on tiles: from next to nothing to the most
    depth-0..5     depth, shallow to deep: one hue, its lightness monotone
    degree-0..6    degree in the input: hues that no other meaning has, its lightness monotone as well
    tile-0..4      how much there is, where depth and degree meet: a hue that neither has
    split-0..4     signed numbers: below zero, zero in the middle, above
    network-0..5   networks, and other names

`tests/test_palette.py` checks what is asked of them: contrast, monotone lightness, and that they stay apart for readers
who do not tell all hues apart.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Literal

Theme = Literal["light", "dark"]

_BLOCK = re.compile(r":root([^{]*)\{([^}]*)\}")  # the selector of the dark theme leaves out paper
_PROPERTY = re.compile(r"--([\w-]+):\s*(#[0-9a-f]{6})\s*;")


@functools.cache
def palette(theme: Theme = "light") -> Mapping[str, str]:
    """Every colour of a theme by its name in the style sheet, as #rrggbb."""
    css = (files("termwise.report") / "page.css").read_text(encoding="utf-8")
    blocks = [block for selector, block in _BLOCK.findall(css) if (":not(" in selector) == (theme == "dark")]
    return dict(_PROPERTY.findall(" ".join(blocks)))


def stops(name: str, theme: Theme = "light") -> list[str]:
    """The colours NAME-0, NAME-1, ... of a theme, in their order."""
    colours = palette(theme)
    return [colours[f"{name}-{i}"] for i in range(sum(bool(re.fullmatch(rf"{name}-\d", key)) for key in colours))]


def ramp(name: str, places: Sequence[float], theme: Theme = "light") -> list[str]:
    """The colours of a ramp at places between 0 and 1, linear in sRGB between its stops, as the page draws them."""
    ends = [[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in stops(name, theme)]
    found = []
    for place in places:
        at = min(max(place, 0.0), 1.0) * (len(ends) - 1)
        low = min(int(at), len(ends) - 2)
        mixed = [round(a + (at - low) * (b - a)) for a, b in zip(ends[low], ends[low + 1], strict=True)]
        found.append("#" + "".join(f"{value:02x}" for value in mixed))
    return found


def spread(count: int) -> list[float]:
    """So many places on a ramp, as far from each other as may be; one alone takes that of a strong colour."""
    return [0.8] if count == 1 else [i / (count - 1) for i in range(count)]


def on(colour: str) -> str:
    """White or black, whichever stands out more: their contrasts (WCAG 2.2) meet at a relative luminance of 0.179."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#ffffff" if luminance < 0.179 else "#000000"
