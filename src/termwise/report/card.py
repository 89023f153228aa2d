"""The notebook card of a DepthProfile: a static SVG with its caption, no script; it shows in untrusted notebooks."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from termwise.profile import DepthProfile

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 220, 44, 34, 14
_INPUT, _CONSTANT, _INK = "#2a6f97", "#a0a7ad", "currentColor"


def profile_card(profile: DepthProfile) -> str:
    """HTML with the depth spectrum as bars, intervals as whiskers, and the conclusions as its caption."""
    from termwise.report.text import conclusions, headline

    caption = "".join(f"<div>{html.escape(line)}</div>" for line in conclusions(profile))
    return (
        '<figure style="margin:0;max-width:680px;font:13px/1.45 system-ui,sans-serif">'
        f"<div><b>{html.escape(headline(profile))}</b></div>{_spectrum(profile)}"
        f'<figcaption style="opacity:.8">{caption}</figcaption></figure>'
    )


def _spectrum(profile: DepthProfile) -> str:
    rows = profile.share.where(origin="input").rows()
    constant = sum(row["norm_share"] for row in profile.share.rows() if row["origin"] != "input")
    values = [row["norm_share"] for row in rows] + [constant]
    top = max([row["norm_share_high"] for row in rows] + [constant]) or 1.0
    step = (_WIDTH - _LEFT) / len(values)
    scale = (_HEIGHT - _BOTTOM - _TOP) / top
    base = _HEIGHT - _BOTTOM
    marks = [_bar(_LEFT + i * step, base, step, v * scale, i < len(rows)) for i, v in enumerate(values)]
    marks += [_whisker(_LEFT + (i + 0.5) * step, base, scale, row) for i, row in enumerate(rows)]
    every = max(1, round(26 / step))
    marks += [
        _text(_LEFT + (i + 0.5) * step, base + 14, str(row["depth"])) for i, row in enumerate(rows) if i % every == 0
    ]
    marks.append(_text(_LEFT + (len(rows) + 0.5) * step, base + 14, "const."))
    marks.append(_text(_LEFT + len(rows) * step / 2, _HEIGHT - 4, f"depth ({profile.unit})"))
    marks += [_text(_LEFT - 6, base - f * top * scale + 4, f"{f * top:.0%}", "end") for f in (0, 0.5, 1)]
    label = html.escape("Norm share by depth: " + ", ".join(f"{r['depth']}: {r['norm_share']:.1%}" for r in rows), True)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" '
        f'style="max-width:{_WIDTH}px" xmlns="http://www.w3.org/2000/svg">{"".join(marks)}</svg>'
    )


def _bar(x: float, base: float, step: float, height: float, is_input: bool) -> str:
    fill = _INPUT if is_input else _CONSTANT
    width = max(1.0, min(0.8 * step, 48.0))
    place = f'x="{x + (step - width) / 2:.1f}" y="{base - height:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{fill}"/>'


def _whisker(x: float, base: float, scale: float, row: dict[str, Any]) -> str:
    low, high = base - row["norm_share_low"] * scale, base - row["norm_share_high"] * scale
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{_INK}" stroke-width="1"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" text-anchor="{anchor}" fill="{_INK}">{html.escape(text)}</text>'
    )
