"""Figures by degree in the input, and of networks cut up: spectra, their course, depth beside frequency, lesions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from termwise.degree.spectrum import LADDER, DegreeSpectrum
from termwise.degree.tiles import CONSTANTS, OUTPUT, OWN, DepthDegrees
from termwise.deletion import Curve
from termwise.errors import UsageError
from termwise.figures.drawing import POINTS, beside, colour, drawn, finish, name_axes, panels, whiskers, words
from termwise.figures.timelines import step_scale
from termwise.report import titles
from termwise.report.palette import on, ramp, spread, stops
from termwise.report.strings import percent, say
from termwise.report.tables import degree_label, step_axis
from termwise.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS = (0, 1, 5, 10, 25, 50, 75, 100)  # per cent, on a scale of square roots


@drawn
def degrees(spectrum: DegreeSpectrum, *, ax: Axes | None = None, title: bool = True) -> Axes:
    """Of which polynomial degrees the output is made: the share of its variance, with its 95 % interval.

    Against a target the target's own share of each degree is a hollow mark.  On real data a share is a gain of held-out
    R^2, which may be below zero.

    Args:
        spectrum: the result of `termwise.degrees`.
        ax: where to draw; None: a new figure, one column wide.
        title: whether to put the finding above.
    """
    (ax,), new = panels(ax, 1, 2.0)
    rows = [row for row in spectrum.spectrum.rows() if row["share"] is not None]
    shades = _shades(len(rows))
    x = np.arange(len(rows))
    shares = np.array([100 * row["share"] for row in rows])
    ax.bar(x, shares, 0.72, color=shades, zorder=2)
    known = [i for i, row in enumerate(rows) if row["share_low"] is not None and row["share_high"] is not None]
    ends = np.array([[100 * rows[i]["share_low"], 100 * rows[i]["share_high"]] for i in known]).reshape(-1, 2)
    whiskers(ax, x[known], *ends.T)
    tops = shares.clip(min=0)
    tops[known] = np.maximum(tops[known], ends[:, 1])
    for place, row, top in zip(x, rows, tops, strict=True):
        look: dict[str, Any] = {"fontsize": POINTS, "color": colour("soft"), "ha": "center", "va": "bottom"}
        ax.annotate(percent(row["share"]), (place, top), (0, 1.5), textcoords="offset points", **look)
    targets = [(i, 100 * row["target_share"]) for i, row in enumerate(rows) if row.get("target_share") is not None]
    if targets:
        look = {"markersize": 3.2, "markerfacecolor": "white", "markeredgecolor": colour("ink"), "markeredgewidth": 0.8}
        ax.plot(*np.array(targets).T, "D", zorder=5, **look)
        words(ax, [(say("paper.label.target"), "ink")], right=True)
    ax.axhline(0, color=colour("faint"), linewidth=0.6, zorder=3)
    ax.set_xticks(x, [degree_label(row["lowest"], row["highest"]) for row in rows])
    ax.tick_params(axis="x", length=0)
    ax.set_ylim(min(0.0, *(1.1 * end for end in ends[:, 0]), *shares), 1.12 * max(100 / 112, *tops))
    name_axes(
        ax, say("paper.axis.degree"), say("paper.axis.gain" if spectrum.method == LADDER else "paper.axis.variance")
    )
    finish([ax], new, title, lambda: titles.degrees(spectrum))
    return ax


def _shades(count: int) -> list[str]:
    """Of degree groups from degree 1 on; up to seven have the colours of the page."""
    own = stops("degree")
    return own[:count] if count <= len(own) else ramp("degree", spread(count))


@drawn
def degree_course(timeline: Timeline, *, ax: Axes | None = None, title: bool = True) -> Axes:
    """How much of the output's variance is of each degree over the training, with 95 % intervals.

    The share axis is a scale of square roots, on which small shares can be seen.

    Args:
        timeline: of a Recorder with degrees=True.
        ax: where to draw; None: a new figure, one column wide.
        title: whether to put the finding above.

    Raises:
        UsageError: when no degrees were recorded.
    """
    if timeline.degrees is None:
        raise UsageError("this timeline has no degrees: record it with Recorder(model, probe, degrees=True).")
    (ax,), new = panels(ax, 1, 2.3)
    place = step_axis([[*timeline.steps]])
    table = timeline.degrees
    groups = dict.fromkeys((row["lowest"], row["highest"]) for row in table.rows() if row["lowest"] > 0)
    ax.set_yscale("function", functions=(_root, np.square))
    ends = []
    for (low, high), shade in zip(groups, _shades(len(groups)), strict=True):
        own = table.where(lowest=low)
        at = np.array([place.at(int(step)) for step in own["step"]])
        share, bottom, top = (100 * own[f"share{end}"].astype(float) for end in ("", "_low", "_high"))
        ax.fill_between(at, bottom, top, color=shade, alpha=0.18, linewidth=0)
        ax.plot(at, share, color=shade, linewidth=1.3, zorder=3)
        if np.isfinite(share).any():
            ends.append(
                (float(share[np.isfinite(share)][-1]), say("key.degree", degree=degree_label(low, high)), shade)
            )
    step_scale(ax, place)
    highest = np.nanmax([100 * value for value in (*table["share"], *table["share_high"])], initial=1.0)
    ax.set_ylim(0, min(1.05 * highest, 105))
    ax.set_yticks([tick for tick in _TICKS if tick <= 1.05 * highest])
    name_axes(ax, say("paper.axis.step"), say("paper.axis.gain" if titles.gains(timeline) else "paper.axis.variance"))
    beside(ax, ends)
    finish([ax], new, title, lambda: titles.degree_course(timeline))
    return ax


def _root(values: Any) -> np.ndarray:
    """A ladder's gains may be below zero, where nothing is drawn."""
    return np.sqrt(np.maximum(values, 0))


@drawn
def tiles(found: DepthDegrees, *, ax: Any = None, title: bool = True) -> np.ndarray:
    """How fast the term of each depth varies over the inputs: its energy by angular frequency, in per cent.

    Frequencies are taken in octaves (1, 2, 3 to 4, 5 to 8, ...).  The last rows are the constants and the whole output;
    the bars are the energy of each term, of that of all terms.

    Args:
        found: the result of `termwise.degree.depth_degrees`.
        ax: two Axes, for tiles and bars; None: a new figure, one column wide.
        title: whether to put the finding above the first.

    Returns:
        Two Axes: tiles, bars.
    """
    own = [row for row in found.terms.rows() if row["network"] == OWN]
    axes, new = panels(ax, 2, 0.9 + 0.17 * len(own), ncols=2, sharey=True, width_ratios=(4, 1))
    map_, bars = axes
    shares, names = _by_octave(found, own)
    labels = [str(row["depth"]) if row["part"] == "input" else say(_PARTS[row["part"]]) for row in own]
    _numbered_tiles(map_, shares)
    rows = np.arange(len(own)) + 0.5
    weights = np.array([math.nan if row["weight"] is None else 100 * row["weight"] for row in own])
    bars.barh(rows, np.nan_to_num(weights), 0.62, color=colour("accent"))
    for row, at in zip(own, rows, strict=True):
        if row["weight"] is not None:
            bars.hlines(at, 100 * row["weight_low"], 100 * row["weight_high"], color=colour("ink"), linewidth=0.6)
    map_.set_yticks(rows, labels)
    map_.set_xticks(np.arange(len(names)) + 0.5, names)
    map_.set_ylim(len(own), 0)
    bars.set_ylim(len(own), 0)
    for one in axes:
        one.tick_params(axis="both", length=0)
        one.spines[:].set_visible(False)
    bars.tick_params(labelleft=False)
    name_axes(map_, say("paper.axis.frequency"), say("paper.axis.depth", unit=titles.unit_name(found.unit)))
    name_axes(bars, say("paper.axis.energy"))
    finish(axes, new, title, lambda: titles.tiles(found))
    return np.array(axes)


def _numbered_tiles(ax: Axes, shares: np.ndarray) -> None:
    """A tile a share, its per cent on it."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("termwise", stops("tile"))
    ax.pcolormesh(np.ma.masked_invalid(shares), cmap=shades, vmin=0, vmax=1, edgecolor="white", linewidth=0.8)
    for (row, column), share in np.ndenumerate(shares):
        if math.isfinite(share):
            shade = on(ramp("tile", [float(share)])[0])
            text = f"{100 * share:.0f}" if share >= 0.095 else f"{100 * share:.1f}"
            ax.annotate(text, (column + 0.5, row + 0.5), color=shade, fontsize=6, ha="center", va="center")


_PARTS = {CONSTANTS: "spectrum.constant", OUTPUT: "paper.label.whole"}


def _by_octave(found: DepthDegrees, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, list[str]]:
    """Of each part the share of its power in each octave, and the names of the octaves."""
    powers = found.powers.where(network=OWN)
    frequency = powers["frequency"]
    octave = np.ceil(np.log2(np.maximum(frequency, 1))).astype(int)
    shares = np.full((len(rows), octave.max() + 1), math.nan)
    for i, row in enumerate(rows):
        own = powers.where(part=row["part"], depth=row["depth"])
        by = np.bincount(octave[: len(own)], own["power"], octave.max() + 1)
        if row["energy"]:
            shares[i] = by / by.sum()
    ends = [(int(frequency[octave == o].min()), int(frequency[octave == o].max())) for o in range(octave.max() + 1)]
    ends[0] = (1, 1)
    return shares, [str(low) if low == high else f"{low}–{high}" for low, high in ends]


@drawn
def lesion(curve: Curve, *, ax: Axes | None = None, title: bool = True) -> Axes:
    """What a network can do without: the accuracy by the number of blocks or layers removed, a dot each draw.

    The line is the mean over the draws, with its 95 % interval where not all choices were measured.  The whole network
    is marked where it was measured.  Of a curve of reordering the axis is the number of exchanges.

    Args:
        curve: the result of `termwise.deletion.deletion` or `reordering`.
        ax: where to draw; None: a new figure, one column wide.
        title: whether to put the finding above.
    """
    from matplotlib.ticker import MaxNLocator

    (ax,), new = panels(ax, 1, 2.1)
    name = "swaps" if curve.kind == "reordering" else "removed"
    draws, summary = curve.draws, curve.summary
    x, mean = summary[name], summary["accuracy"]
    # Draws of equal accuracy stand side by side, in the order in which they were made.
    draw = draws["draw"].astype(float)
    width = 0.5 * float(np.diff(x).min()) if len(x) > 1 else 0.5
    shift = width * ((draw + 0.5) / (draw.max() + 1) - 0.5) * (draws[name] > 0)
    dots = {"color": colour("ramp-2"), "markersize": 2.4, "markeredgewidth": 0, "alpha": 0.8}
    ax.plot(draws[name] + shift, draws["accuracy"], "o", zorder=2, **dots)
    low, high = summary["accuracy_low"].astype(float), summary["accuracy_high"].astype(float)
    ax.plot(x, mean, color=colour("accent"), linewidth=1.4, marker="o", markersize=2.8, zorder=3)
    known = np.isfinite(low) & np.isfinite(high)
    whiskers(ax, x[known], low[known], high[known])
    whole = [float(value) for place, value in zip(x, mean, strict=True) if place == 0]
    for value in whole:
        ax.axhline(value, color=colour("ink"), linewidth=0.7, zorder=1, label="full")
    ax.set_ylim(0, 1.03)
    seen = [*zip(draws[name], draws["accuracy"], strict=True), *((place, value) for value in whole for place in x)]
    right, below = _free_corner(ax, np.array([*seen, *zip(x, mean, strict=True)], dtype=float))
    words(ax, [(say("paper.label.mean"), "accent"), (say("paper.label.draw"), "faint")], right=right, low=below)
    beside(ax, [(value, say("paper.label.full"), colour("ink")) for value in whole])
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    labels = {"swaps": say("paper.axis.swaps")}
    if name == "removed":
        count = int(summary["removed"][0] + summary["kept"][0])
        labels["removed"] = say("paper.axis.removed", what=titles.removable(curve), all=count)
    name_axes(ax, labels[name], say("column.accuracy"))
    finish([ax], new, title, lambda: titles.lesion(curve))
    return ax


def _free_corner(ax: Axes, points: np.ndarray) -> tuple[bool, bool]:
    """The corner with the fewest points in a third of each axis: whether it is right, and low."""
    place = (ax.transScale + ax.transLimits).transform(points)
    corners = [(right, low) for low in (True, False) for right in (False, True)]

    def taken(corner: tuple[bool, bool]) -> int:
        right, low = corner
        across = place[:, 0] > 2 / 3 if right else place[:, 0] < 1 / 3
        return int((across & (place[:, 1] < 0.3 if low else place[:, 1] > 0.7)).sum())

    return min(corners, key=taken)
