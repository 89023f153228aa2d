"""The notebook cards of a DepthProfile, a Timeline and a DegreeSpectrum: one SVG each, with its finding and caption.

A notebook keeps a result in several forms, and each viewer takes the first that it knows: Jupyter, VS Code and
nbconvert all put text/html before image/svg+xml.  But what GitHub shows of HTML has lost its drawings and styles, so
there is no HTML here: an image/svg+xml beside text/plain is what all of them show.  JupyterLab and nbconvert load it as
an image of its own, where scripts and other files are out of reach; older ones, and GitHub, put its elements into their
page after taking out what is on no list of theirs: style sheets, style attributes, references (jupyter/nbconvert issues
1863 and 1894).  Therefore all looks are presentation attributes of plain shapes.

The card brings its own paper in fixed colours: an image is told whether the *system* is dark, not whether the notebook
is, and what is readable on one of them would not be on the other.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from termwise.degree.spectrum import LADDER
from termwise.expand import CLOSURE
from termwise.report import titles
from termwise.report.palette import palette, ramp, spread, stops
from termwise.report.scales import nice_step
from termwise.report.strings import integer, listing, number, percent, prose, say
from termwise.report.tables import degree_label, step_axis

if TYPE_CHECKING:
    from termwise.degree.spectrum import DegreeSpectrum
    from termwise.profile import DepthProfile
    from termwise.timeline import Timeline

_WIDTH, _EDGE, _LEFT = 640, 20, 64
_TALL, _BELOW, _ABOVE = 150, 40, 22  # of a drawing: bars, what stands below and above them
_TITLE, _TEXT, _SMALL = 15, 12, 11  # sizes of text, in pixels
_WIDE = 0.57  # of its size, what a letter takes in a wide font: the viewer's is not known
_RIDGES, _STEP, _OVERLAP = 9, 20, 2.4
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', 'DejaVu Sans', sans-serif"


class _Column(NamedTuple):
    """A bar with its name below it, and its interval, if it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    fill: str = ""


def profile_card(profile: DepthProfile) -> str:
    """The depth spectrum as bars, intervals as whiskers, and what else was found as the caption."""
    rows = profile.share.where(origin="input").rows()
    columns = [
        _Column(str(row["depth"]), row["norm_share"], row["norm_share_low"], row["norm_share_high"]) for row in rows
    ]
    others = [row for row in profile.share.rows() if row["origin"] != "input"]
    origins = dict.fromkeys(["constant", *(row["origin"] for row in others)])
    born = {origin: sum(row["norm_share"] for row in others if row["origin"] == origin) for origin in origins}
    shares = listing([say("card.share", label=column.name, share=percent(column.value)) for column in columns])
    words = prose(
        say("card.spectrum.alt", shares=shares),
        *(say(f"card.spectrum.alt.{origin}", share=percent(share)) for origin, share in born.items()),
    )
    apart = [_Column(say(f"spectrum.{origin}"), share, fill=palette()["constant"]) for origin, share in born.items()]
    columns = [column._replace(fill=palette()["accent"]) for column in columns]
    drawing = _bars([*columns, *apart], say("paper.axis.depth", unit=titles.unit_name(profile.unit)))
    return _card(titles.spectrum(profile), words, drawing, _TALL + _BELOW + _ABOVE, _about(profile))


def _about(profile: DepthProfile) -> list[str]:
    quality = say("card.loss", loss=number(profile.loss))
    if profile.accuracy is not None:
        quality = say("card.accuracy", accuracy=f"{profile.accuracy:.3f}")
    elif profile.task == "agreement":
        quality = say("card.agreement")
    counts = {
        kind: sum(use.count for use in profile.operators if use.kind == kind) for kind in ("frozen", "linearised")
    }
    told = [say(f"card.{kind}", count=count) for kind, count in counts.items() if count]
    found = [titles.truncation(profile) + "."] if profile.effective_depth is not None else []
    return [
        say("card.profile", samples=f"{profile.samples:,}", unit=titles.unit_name(profile.unit), quality=quality),
        *found,
        say("card.cancellation", cancellation=f"{profile.cancellation:.2f}"),
        prose(_closure(profile.closure), *told),
    ]


def _closure(value: float) -> str:
    """Whether the parts add up to the whole, by what float32 promises: a saved result does not say its precision."""
    limit = CLOSURE[torch.float32]
    key = "card.closure" if value <= limit else "card.closure.bad"
    return say(key, closure=number(value, 2), tolerance=number(limit))


def timeline_card(timeline: Timeline) -> str:
    """The depth spectrum at some records, the first on top, and the mean path length at both ends."""
    first, last = timeline.table.rows()[0], timeline.table.rows()[-1]
    ends = {"first": titles.mean_of(first), "last": titles.mean_of(last)}
    steps = {"start": integer(first["step"]), "end": integer(last["step"])}
    recorded = [*timeline.steps]
    chosen = [recorded.index(step) for step in step_axis([recorded]).evenly(recorded, _RIDGES)]
    height = round((len(chosen) - 1 + _OVERLAP) * _STEP) + _BELOW
    profile = timeline.profiles[-1]
    unit = {"unit": titles.unit_name(profile.unit)}
    lines = [
        say("card.timeline", records=len(timeline.steps), samples=f"{profile.samples:,}", **steps, **unit),
        say("card.timeline.mean", **ends),
        _closure(max(each.closure for each in timeline.profiles)),
    ]
    words = say("card.ridges.alt", count=len(chosen), **ends, **steps)
    return _card(titles.heat_map(timeline), words, _ridges(timeline, chosen), height, lines)


def _ridges(timeline: Timeline, chosen: Sequence[int]) -> list[str]:
    """One shape a record, all of one scale; a dot is the mean path length."""
    profiles = [timeline.profiles[i] for i in chosen]
    shares = [[row["norm_share"] for row in p.share.where(origin="input").rows()] for p in profiles]
    scale = _OVERLAP * _STEP / (max(map(max, shares)) or 1.0)
    depths = profiles[0].depths
    wide = _WIDTH - _EDGE - _LEFT - 10
    x = [_LEFT + 5 + wide * (depth - depths[0]) / max(depths[-1] - depths[0], 1) for depth in depths]
    marks, dots = [], []
    for i, (record, row) in enumerate(zip(chosen, shares, strict=True)):
        base = (i + _OVERLAP) * _STEP
        fill = palette()["accent"] if i == len(chosen) - 1 else stops("ramp")[2]
        line = " ".join(f"{at:.1f},{base - share * scale:.1f}" for at, share in zip(x, row, strict=True))
        points = f"{x[0]:.1f},{base:.1f} {line} {x[-1]:.1f},{base:.1f}"
        marks.append(f'<polygon points="{points}" fill="{fill}" stroke="#ffffff" stroke-width="1"/>')
        marks.append(_text(_LEFT - 6, base + 2, f"{timeline.steps[record]:,}", anchor="end"))
        at = _LEFT + 5 + wide * (profiles[i].mean_depth.value - depths[0]) / max(depths[-1] - depths[0], 1)
        dots.append((at, base))
    ink = palette()["ink"]
    path = " ".join(f"{at:.1f},{base:.1f}" for at, base in dots)
    marks.append(f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="1"/>')
    marks += [f'<circle cx="{at:.1f}" cy="{base:.1f}" r="2.5" fill="{ink}"/>' for at, base in dots]
    base = (len(chosen) - 1 + _OVERLAP) * _STEP
    every = max(1, round(26 * len(depths) / wide))
    marks += [_text(at, base + 16, str(depth)) for at, depth in [*zip(x, depths, strict=True)][::every]]
    marks.append(_text(_LEFT + wide / 2, base + 34, say("paper.axis.depth", unit=titles.unit_name(profiles[0].unit))))
    marks.append(_text(_LEFT - 6, 12, say("column.step"), anchor="end"))
    return [*marks, _text(_WIDTH - _EDGE, 12, say("paper.label.mean.dot"), anchor="end", fill="ink")]


def degrees_card(spectrum: DegreeSpectrum) -> str:
    """The shares by degree as bars, intervals as whiskers, and what is to be distrusted in the caption."""
    rows = [row for row in spectrum.spectrum.rows() if row["share"] is not None]
    own = stops("degree")
    fills = own[: len(rows)] if len(rows) <= len(own) else ramp("degree", spread(len(rows)))
    columns = [
        _Column(degree_label(row["lowest"], row["highest"]), row["share"], row["share_low"], row["share_high"], fill)
        for row, fill in zip(rows, fills, strict=True)
    ]
    shares = listing([say("card.share", label=column.name, share=percent(column.value)) for column in columns])
    about = say("card.degrees", method=spectrum.method, inputs=spectrum.inputs, variance=number(spectrum.variance))
    ceiling = spectrum.details.get("ceiling")
    lines = [about, *([say("card.ceiling", ceiling=percent(ceiling))] if ceiling is not None else [])]
    lines += [say("card.warning", warning=warning) for warning in spectrum.warnings]
    alt = "card.degrees.alt.gained" if spectrum.method == LADDER else "card.degrees.alt"
    words, axis = say(alt, shares=shares), say("paper.axis.degree")
    return _card(titles.degrees(spectrum), words, _bars(columns, axis), _TALL + _BELOW + _ABOVE, lines)


def _card(title: str, words: str, drawing: Sequence[str], height: int, lines: Sequence[str]) -> str:
    """The whole image: paper, title, drawing, caption."""
    heads = _wrapped(title, _TITLE)
    notes = [line for text in lines for line in _wrapped(text, _TEXT)]
    top = _EDGE + 20 * len(heads) + 6
    below = top + height + 10
    total = below + 17 * len(notes) + _EDGE - 6
    marks = [_text(_EDGE, _EDGE + 11 + 20 * i, line, _TITLE, "start", "ink", bold=True) for i, line in enumerate(heads)]
    marks.append(f'<g transform="translate(0 {top})">{"".join(drawing)}</g>')
    marks += [_text(_EDGE, below + 12 + 17 * i, line, _TEXT, "start", "soft") for i, line in enumerate(notes)]
    paper = f'<rect x="0.5" y="0.5" width="{_WIDTH - 1}" height="{total - 1}" rx="6" fill="{palette()["panel"]}"'
    named = f"<title>{_clean(title)}</title><desc>{_clean(words)}</desc>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {total}" width="{_WIDTH}" height="{total}" '
        f'role="img" font-family="{html.escape(_FONT, True)}">{named}'
        f'{paper} stroke="{palette()["line"]}"/>{"".join(marks)}</svg>'
    )


def _bars(columns: Sequence[_Column], axis: str) -> list[str]:
    top = max(max(column.value, column.high or 0.0) for column in columns) or 1.0
    step = (_WIDTH - _EDGE - _LEFT) / len(columns)
    base, scale = _ABOVE + _TALL, _TALL / top
    middles = [_LEFT + (i + 0.5) * step for i in range(len(columns))]
    distance = nice_step(top, most=4)
    ticks = [i * distance for i in range(int(top / distance + 1e-9) + 1)]
    marks = [
        _text(_LEFT - 8, base - tick * scale + 4, say("percent", value=f"{100 * tick:g}"), anchor="end")
        for tick in ticks
    ]
    line, ends = palette()["line"], f'x1="{_LEFT}" x2="{_WIDTH - _EDGE}"'
    for y in (base - tick * scale for tick in ticks):
        marks.append(f'<line {ends} y1="{y:.1f}" y2="{y:.1f}" stroke="{line}"/>')
    for x, column in zip(middles, columns, strict=True):
        width, height = max(1.0, min(0.8 * step, 48.0)), max(column.value * scale, 0.0)  # a gain in R^2 may be a loss
        place = f'x="{x - width / 2:.1f}" y="{base - height:.2f}" width="{width:.1f}" height="{height:.2f}"'
        marks.append(f'<rect {place} fill="{column.fill}"/>')
        if column.low is not None and column.high is not None:
            low, high = (base - max(end, 0.0) * scale for end in (column.low, column.high))
            ink = f'stroke="{palette()["ink"]}" stroke-width="1"'
            marks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.2f}" y2="{high:.2f}" {ink}/>')
    every = max(1, round(26 / step))
    named = [i for i in range(len(columns)) if i % every == 0 and i < len(columns) - every] + [len(columns) - 1]
    marks += [_text(middles[i], base + 16, columns[i].name) for i in named]
    if step >= 44:
        tops = [max(column.value, column.high or 0.0, 0.0) for column in columns]
        values = zip(middles, tops, columns, strict=True)
        marks += [_text(x, base - high * scale - 5, percent(column.value)) for x, high, column in values]
    return [*marks, _text((_LEFT + _WIDTH - _EDGE) / 2, base + 34, axis)]


def _text(
    x: float, y: float, text: str, size: int = _SMALL, anchor: str = "middle", fill: str = "soft", *, bold: bool = False
) -> str:
    look = f'font-size="{size}" text-anchor="{anchor}" fill="{palette()[fill]}"{" font-weight=" * bold}'
    look += '"600"' * bold
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{_clean(text)}</text>'


def _clean(text: str) -> str:
    """Text as XML takes it: control characters, which names may hold, have no place in it."""
    return html.escape("".join(c if c.isprintable() or c == "\u00a0" else " " for c in text), quote=False)


def _wrapped(text: str, size: int) -> list[str]:
    """Lines that fit the card in a font as wide as any usual one; after a Chinese character a line may end anywhere."""
    room = (_WIDTH - 2 * _EDGE) / (_WIDE * size)
    lines, taken = [""], 0.0
    for piece in re.findall(r"[⺀-鿿＀-￯]|[^ \t\r\n⺀-鿿＀-￯]{1,40}|\s", text.strip()):
        wide = sum(1.75 if unicodedata.east_asian_width(c) in "WF" else 1.0 for c in piece)
        if taken + wide > room and not piece.isspace():
            lines.append("")
            taken = 0.0
        lines[-1] += piece
        taken += wide
    return [line.strip() for line in lines]
