"""The notebook cards of a DepthProfile and a DegreeSpectrum: a static SVG with its caption.

There is no script in them, so they show in untrusted notebooks.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from termwise.degree.spectrum import DegreeSpectrum
    from termwise.profile import DepthProfile

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 220, 44, 34, 14
_INPUT, _CONSTANT, _INK = "#2a6f97", "#a0a7ad", "currentColor"


class _Column(NamedTuple):
    """A bar with its name below it, and its interval, if it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    fill: str = _INPUT


def profile_card(profile: DepthProfile) -> str:
    """HTML with the depth spectrum as bars, intervals as whiskers, and the conclusions as its caption."""
    from termwise.report.text import conclusions, headline

    rows = profile.share.where(origin="input").rows()
    constant = sum(row["norm_share"] for row in profile.share.rows() if row["origin"] != "input")
    columns = [
        _Column(str(row["depth"]), row["norm_share"], row["norm_share_low"], row["norm_share_high"]) for row in rows
    ]
    label = "Norm share by depth: " + ", ".join(f"{column.name}: {column.value:.1%}" for column in columns)
    bars = _bars([*columns, _Column("const.", constant, fill=_CONSTANT)], f"depth ({profile.unit})", label)
    return _card(headline(profile), bars, conclusions(profile))


def degrees_card(spectrum: DegreeSpectrum) -> str:
    """HTML with the shares by degree as bars, intervals as whiskers, and the conclusions as its caption."""
    from termwise.degree.spectrum import conclusions, headline, label

    columns = [
        _Column(label(row["lowest"], row["highest"]), row["share"], row["share_low"], row["share_high"])
        for row in spectrum.spectrum.rows()
        if row["share"] is not None
    ]
    described = "Share of the variance by degree: " + ", ".join(f"{c.name}: {c.value:.1%}" for c in columns)
    return _card(headline(spectrum), _bars(columns, "degree in the input", described), conclusions(spectrum))


def _card(title: str, drawing: str, lines: Sequence[str]) -> str:
    caption = "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    return (
        '<figure style="margin:0;max-width:680px;font:13px/1.45 system-ui,sans-serif">'
        f"<div><b>{html.escape(title)}</b></div>{drawing}"
        f'<figcaption style="opacity:.8">{caption}</figcaption></figure>'
    )


def _bars(columns: Sequence[_Column], axis: str, label: str) -> str:
    top = max(max(column.value, column.high or 0.0) for column in columns) or 1.0
    step = (_WIDTH - _LEFT) / len(columns)
    scale = (_HEIGHT - _BOTTOM - _TOP) / top
    base = _HEIGHT - _BOTTOM
    middles = [_LEFT + (i + 0.5) * step for i in range(len(columns))]
    marks = [_bar(x, base, step, column.value * scale, column.fill) for x, column in zip(middles, columns, strict=True)]
    marks += [_whisker(x, base, scale, column) for x, column in zip(middles, columns, strict=True)]
    every = max(1, round(26 / step))
    counted = [i for i, column in enumerate(columns) if column.fill != _INPUT or i % every == 0]
    marks += [_text(middles[i], base + 14, columns[i].name) for i in counted]
    bars = sum(column.fill == _INPUT for column in columns)
    marks.append(_text(_LEFT + bars * step / 2, _HEIGHT - 4, axis))
    marks += [_text(_LEFT - 6, base - f * top * scale + 4, f"{f * top:.0%}", "end") for f in (0, 0.5, 1)]
    return (
        f'<svg role="img" aria-label="{html.escape(label, True)}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" '
        f'style="max-width:{_WIDTH}px" xmlns="http://www.w3.org/2000/svg">{"".join(marks)}</svg>'
    )


def _bar(middle: float, base: float, step: float, height: float, fill: str) -> str:
    width, height = max(1.0, min(0.8 * step, 48.0)), max(height, 0.0)  # a gain in R^2 may be a loss
    place = f'x="{middle - width / 2:.1f}" y="{base - height:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{fill}"/>'


def _whisker(x: float, base: float, scale: float, column: _Column) -> str:
    if column.low is None or column.high is None:
        return ""
    low, high = (base - max(end, 0.0) * scale for end in (column.low, column.high))
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{_INK}" stroke-width="1"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" text-anchor="{anchor}" fill="{_INK}">{html.escape(text)}</text>'
    )
