"""Figures of one profile: the depth spectrum, the triptych of Veit et al., and truncations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from termwise.figures.drawing import (
    Named,
    beside,
    colour,
    depth_axis,
    drawn,
    finish,
    name_axes,
    name_lines,
    panels,
    whiskers,
    words,
)
from termwise.profile import DepthProfile
from termwise.report import titles
from termwise.report.strings import integer, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAR = 0.72  # of the distance between two depths
_KEY = 0.62  # of the height: bars below the key end here
_LINES = {"alone": ("alone", (0, (1, 1.4)), 1.1), "tail": ("tail", (0, (4, 2)), 1.2), "head": ("accent", "-", 1.6)}


@drawn
def spectrum(profile: DepthProfile, *, ax: Axes | None = None, title: bool = True) -> Axes:
    """Which depth the output comes from: the norm share of each term, with its 95 % interval over samples.

    Constants stand beside, in units of the input-born sum, at their depth where they were split by depth; the share of
    all paths that have each length lies behind.

    Args:
        profile: the result of `termwise.profile`.
        ax: where to draw; None: a new figure, one column wide.
        title: whether to put the finding above.
    """
    (ax,), new = panels(ax, 1, 2.1)
    rows = [row for row in profile.share.rows() if row["norm_share"] is not None]
    terms = [row for row in rows if row["origin"] == "input"]
    apart = [row for row in rows if row["origin"] != "input" and row["depth"] is None]
    split = [row for row in rows if row["origin"] != "input" and row["depth"] is not None]
    depths = np.array(profile.depths)
    total = sum(profile.paths.values())
    paths = np.array([100 * (count / total) for count in profile.paths.values()])
    apart_by = int(np.diff(depths).min()) if len(depths) > 1 else 1
    _outline(ax, depths, paths, apart_by)
    width = _BAR * apart_by / (2 if split else 1)
    _bars(ax, depths - (width / 2 if split else 0), terms, width, "accent")
    if split:
        _bars(ax, np.array([row["depth"] for row in split]) + width / 2, split, width, "constant")
    span = max(3, math.ceil((depths[-1] - depths[0]) / 6))
    beyond = depths[-1] + span * np.arange(1, len(apart) + 1)
    _bars(ax, beyond, apart, width, "constant")
    depth_axis(ax.xaxis, [*depths, *beyond, *(row["depth"] for row in split)], 0.7 * apart_by)
    _name_constants(ax, depths, beyond, apart)
    key = [(say("paper.label.output"), "accent"), (say("paper.label.paths"), "faint")]
    key += [(say("paper.label.constants"), "constant")] if split else []
    tops = [*np.maximum(paths, [100 * row["norm_share_high"] for row in terms]), *_tops(apart), *_tops(split)]
    _headroom(ax, np.array([*depths, *beyond, *(row["depth"] for row in split)]), np.array(tops), key)
    name_axes(ax, say("paper.axis.depth", unit=titles.unit_name(profile.unit)), say("paper.axis.share"))
    finish([ax], new, title, lambda: titles.spectrum(profile))
    return ax


def _outline(ax: Axes, depths: np.ndarray, heights: np.ndarray, width: int) -> None:
    """The share of all paths behind the bars: steps without gaps where depths are equally far apart."""
    look: dict[str, Any] = {"edgecolor": colour("paths-line"), "facecolor": colour("paths"), "linewidth": 0.8}
    if (np.diff(depths) == width).all():
        edges = np.append(depths - width / 2, depths[-1] + width / 2)
        ax.stairs(heights, edges, fill=True, zorder=1, **look)
    else:
        ax.bar(depths, heights, width, zorder=1, **look)


def _bars(ax: Axes, x: Any, rows: Sequence[dict[str, Any]], width: float, name: str) -> None:
    if not rows:
        return
    value, low, high = (np.array([100 * row[f"norm_share{end}"] for row in rows]) for end in ("", "_low", "_high"))
    ax.bar(x, value, width, color=colour(name), zorder=2)
    whiskers(ax, x, low, high)


def _name_constants(ax: Axes, depths: np.ndarray, beyond: np.ndarray, rows: Sequence[dict[str, Any]]) -> None:
    """Depths on the axis where there are terms, and names where there are none."""
    ticks = [tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= depths[-1]]
    names = [say(f"spectrum.{row['origin']}") for row in rows]
    ax.set_xticks([*ticks, *beyond], [*(f"{tick:g}" for tick in ticks), *names])


def _tops(rows: Sequence[dict[str, Any]]) -> list[float]:
    return [100 * row["norm_share_high"] for row in rows]


def _headroom(ax: Axes, places: np.ndarray, heights: np.ndarray, key: Sequence[tuple[str, str]]) -> None:
    """The key, in the corner that has more room, and room for it."""
    low, high = ax.get_xlim()
    left, right = (
        heights[side].max(initial=0.0) for side in (places < low + (high - low) / 3, places > (low + 2 * high) / 3)
    )
    peak = max(ax.dataLim.y1, heights.max())
    ax.set_ylim(0, max(1.08 * peak, min(left, right) / _KEY))
    words(ax, key, right=right <= left)


@drawn
def triptych(profile: DepthProfile, *, ax: Any = None, title: bool = True) -> np.ndarray:
    """How many paths there are of each length, how large one of them is, and what they come to together.

    After Veit, Wilber, Belongie 2016 (arXiv 1605.06431), figure 6, there with gradients.  The size of a path is the
    norm share of its length over the number of paths: what is left of them after they have partly cancelled, and not
    the mean of their norms.

    Args:
        profile: the result of `termwise.profile`.
        ax: three Axes; None: a new figure, two columns wide.
        title: whether to put the finding above the first.

    Returns:
        Three Axes: number, size of each, total.
    """
    axes, new = panels(ax, 3, 1.75, columns=2, ncols=3)
    depths, total = np.array(profile.depths), sum(profile.paths.values())
    terms = profile.share.where(origin="input").rows()
    number, size, whole = axes
    width = _BAR * (int(np.diff(depths).min()) if len(depths) > 1 else 1)
    number.bar(depths, [100 * (n / total) for n in profile.paths.values()], width, color=colour("paths-line"), zorder=2)
    counts = list(profile.paths.values())
    each, low, high = ([_over(row[f"norm_share{e}"], n) for row, n in zip(terms, counts, strict=True)] for e in _ENDS)
    size.plot(depths, each, "o", color=colour("accent"), markersize=2.8, zorder=5)
    whiskers(size, depths, low, high)
    _powers_of_ten(size.yaxis)
    _bars(whole, depths, terms, width, "accent")
    headings = ("paper.panel.paths", "paper.panel.size", "paper.panel.total")
    labels = (say("paper.axis.paths", count=integer(total)), say("paper.axis.size"), say("paper.axis.total"))
    for one, heading, label in zip(axes, headings, labels, strict=True):
        depth_axis(one.xaxis, profile.depths)
        name_axes(one, say("paper.axis.length", unit=titles.unit_name(profile.unit)), label)
        one.set_title(say(heading), fontsize=7, color=colour("soft"), loc="right", pad=3)
    finish(axes, new, title, lambda: titles.triptych(profile))
    return np.array(axes)


_ENDS = ("", "_low", "_high")


def _over(share: float, count: int) -> float:
    """The decimal logarithm of a share over a number of paths, which no float need hold; NaN where there is nothing."""
    return math.log10(share) - math.log10(count) if share > 0 else math.nan


def _powers_of_ten(axis: Any) -> None:
    """Of an axis of logarithms: powers of ten, or numbers where it is short."""
    from matplotlib.ticker import MaxNLocator

    long = np.ptp(axis.get_view_interval()) > 2
    axis.set_major_locator(MaxNLocator(5, integer=long, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"$10^{{{value:.0f}}}$" if long else f"{10**value:.2g}")


@drawn
def truncation(
    profile: DepthProfile, *, ax: Axes | None = None, title: bool = True, classes: int | None = None
) -> Axes:
    """What short paths, long paths, and single terms do by themselves: accuracy, or without classes the loss.

    Args:
        profile: the result of `termwise.profile`.
        ax: where to draw; None: a new figure, one column wide.
        title: whether to put the finding above.
        classes: how many there are, for the line of chance; a profile does not say.
    """
    (ax,), new = panels(ax, 1, 2.1)
    table = profile.truncated
    measure = "accuracy" if "head_accuracy" in table.columns else "loss"
    depths = table["depth"]
    for name, (shade, dashes, width) in _LINES.items():
        value, low, high = (table[f"{name}_{measure}{end}"] for end in _ENDS)
        ax.fill_between(depths, low, high, color=colour(shade), alpha=0.14, linewidth=0)
        ax.plot(depths, value, color=colour(shade), linestyle=dashes, linewidth=width, label=name, zorder=3)
    whole = profile.loss if measure == "loss" else 1.0 if profile.accuracy is None else profile.accuracy
    ax.axhline(whole, color=colour("ink"), linewidth=0.7, zorder=2, label="full")
    marks = [(whole, say("paper.label.full"), colour("ink"))]
    if measure == "accuracy":
        ax.set_ylim(0, 1.03)
        if classes is not None:
            ax.axhline(1 / classes, color=colour("soft"), linewidth=0.8, linestyle=(0, (1, 3)), label="chance")
            marks.append((1 / classes, say("paper.label.chance"), colour("soft")))
    depth_axis(ax.xaxis, profile.depths, 0.3)
    unit = table.units.get("head_loss", "")
    name_axes(
        ax,
        f"k: {say('paper.axis.depth', unit=titles.unit_name(profile.unit))}",
        say("paper.axis.loss", unit=unit) if measure == "loss" else say("column.accuracy"),
    )
    beside(ax, marks)
    lines = [
        Named(say(f"paper.label.{name}"), colour(shade), depths, table[f"{name}_{measure}"])
        for name, (shade, *_) in _LINES.items()
    ]
    name_lines(ax, lines, [(depths, np.full(len(depths), height)) for height, *_ in marks])
    finish([ax], new, title, lambda: titles.truncation(profile))
    return ax
