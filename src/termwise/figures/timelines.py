"""Figures of a training: heat map, ridgeline, mean path length, and when each depth was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from termwise.errors import UsageError
from termwise.figures.drawing import THIN, beside, colour, depth_axis, drawn, finish, name_axes, panels, words
from termwise.report import titles
from termwise.report.palette import stops
from termwise.report.strings import percent, say
from termwise.report.tables import StepAxis, step_axis
from termwise.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Timelines = Timeline | Sequence[Timeline] | Mapping[str, Timeline]
_RIDGES = 11  # at most, so that each can be seen
_OVERLAP = 2.6  # of a ridge over those above it
_JITTER = 0.5  # of a depth, over which the dots of the seeds are spread


@drawn
def heat_map(timeline: Timeline, *, ax: Any = None, title: bool = True) -> np.ndarray:
    """When which depths carry the output: the norm share of the input-born terms over steps and depth, the loss above.

    The lines are the depths up to which 10, 50 and 90 % of the norm share lie.  Steps are on a logarithmic axis, on
    which step 0 has a place of its own.

    Args:
        timeline: of a Recorder, or of `termwise.trace`.
        ax: two Axes, for the loss and the map; None: a new figure, one column wide.
        title: whether to put the finding above the first.

    Returns:
        Two Axes: loss, map.
    """
    axes, new = panels(ax, 2, 2.7, nrows=2, sharex=True, height_ratios=(1, 3))
    loss, heat = axes
    place = step_axis([[*timeline.steps]])
    at = np.array([place.at(step) for step in timeline.steps])
    table = timeline.table
    loss.plot(at, table["loss"], color=colour("ink"), linewidth=1.1, marker="o", markersize=1.6)
    loss.set_ylim(bottom=0)
    mesh = _mesh(heat, timeline, place)
    for name, dashes, width in (("p10", (0, (3, 2)), 0.8), ("p90", (0, (3, 2)), 0.8), ("p50", "-", 1.3)):
        heat.plot(at, table[f"depth_{name}"], color="white", alpha=0.75, linewidth=width + 1.6)
        heat.plot(at, table[f"depth_{name}"], color=colour("ink"), linewidth=width, linestyle=dashes, label=name)
    for one in axes:
        step_scale(one, place)
    loss.tick_params(labelbottom=False)
    unit = timeline.profiles[0].unit
    name_axes(loss, "", say("column.loss"))
    name_axes(heat, say("paper.axis.step"), say("paper.axis.depth", unit=titles.unit_name(unit)))
    _colour_bar(heat, mesh)
    heat.margins(0)
    _name_quantiles(heat, {int(q): float(table[f"depth_p{q}"][-1]) for q in ("10", "50", "90")})
    finish(axes, new, title, lambda: titles.heat_map(timeline))
    return np.array(axes)


def _mesh(ax: Axes, timeline: Timeline, place: StepAxis) -> Any:
    """A column a record, a row a depth; between step 0 and the rest an empty column, which is the gap of the axis."""
    from matplotlib.colors import LinearSegmentedColormap

    steps, depths = [*timeline.steps], np.array(timeline.profiles[0].depths)
    shares = np.array([profile.share.where(origin="input")["norm_share"] for profile in timeline.profiles]).T
    cells = [place.cell(steps, row) for row in range(len(steps))]
    edges, columns = [cells[0][0]], []
    for row, (left, right) in enumerate(cells):
        if row and steps[row - 1] == 0:
            columns.append(np.full(len(depths), np.nan))
            edges.append(left)
        columns.append(shares[:, row])
        edges.append(right)
    middles = (depths[1:] + depths[:-1]) / 2
    first, last = (middles[0], middles[-1]) if len(middles) else (depths[0] + 0.5, depths[0] - 0.5)
    rows = np.array([2 * depths[0] - first, *middles, 2 * depths[-1] - last])
    ramp = LinearSegmentedColormap.from_list("termwise", stops("ramp"))
    values = np.ma.masked_invalid(np.array(columns).T)
    return ax.pcolormesh(edges, np.sort(rows), values, cmap=ramp, vmin=0, rasterized=False, linewidth=0)


def _colour_bar(ax: Axes, mesh: Any) -> None:
    """A slim one beside the map, with its two ends."""
    from matplotlib.colorbar import Colorbar

    beside = ax.inset_axes((1.16, 0.0, 0.025, 0.6))
    most = float(mesh.get_clim()[1])
    bar = Colorbar(beside, mesh, ticks=[0, most])
    bar.outline.set_visible(False)
    beside.set_yticklabels(["0", percent(most)])
    beside.tick_params(length=0, labelsize=6, labelcolor=colour("soft"), pad=2)


def _name_quantiles(ax: Axes, ends: Mapping[int, float]) -> None:
    beside(ax, [(height, say("paper.label.percentile", percent=q), colour("ink")) for q, height in ends.items()])


def step_scale(ax: Axes, place: StepAxis) -> None:
    """Logarithmic, step 0 left of a gap."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log")
    ax.set_xlim(*place.domain)
    names = ["0" if tick < place.zero_below else f"{tick:,.0f}" for tick in place.ticks]
    ax.set_xticks(place.ticks, names)
    ax.xaxis.set_minor_locator(NullLocator())
    if place.gap is not None:
        ax.axvline(place.gap, color=colour("faint"), linewidth=THIN, linestyle=(0, (2, 3)), zorder=0.5)


@drawn
def ridgeline(timeline: Timeline, *, ax: Axes | None = None, title: bool = True) -> Axes:
    """The depth spectrum at some records, the first on top; a dot is the mean path length.

    All ridges have one scale.  Of more than eleven records at most eleven are drawn, as evenly on the
    step axis as they allow.

    Args:
        timeline: of a Recorder, or of `termwise.trace`.
        ax: where to draw; None: a new figure, one column wide.
        title: whether to put the finding above.
    """
    recorded = [*timeline.steps]
    chosen = [recorded.index(step) for step in step_axis([recorded]).evenly(recorded, _RIDGES)]
    (ax,), new = panels(ax, 1, 1.1 + 0.17 * len(chosen))
    profiles = [timeline.profiles[i] for i in chosen]
    depths = np.array(profiles[0].depths)
    shares = np.array([profile.share.where(origin="input")["norm_share"] for profile in profiles])
    scale = _OVERLAP / (shares.max() or 1.0)
    base = -np.arange(len(chosen), dtype=float)
    last = len(chosen) - 1
    for i, row in enumerate(shares):
        shade = colour("accent") if i == last else colour("ramp-2")
        ax.fill_between(depths, base[i], base[i] + scale * row, color=shade, linewidth=0, zorder=2 + i)
        ax.plot(depths, base[i] + scale * row, color="white", linewidth=0.9, zorder=2.1 + i)
    means = [profile.mean_depth.value for profile in profiles]
    ax.plot(means, base, color=colour("ink"), linewidth=0.8, marker="o", markersize=2.4, zorder=3 + len(chosen))
    words(ax, [(say("paper.label.mean.dot"), "ink")], right=True)
    ax.set_yticks(base, [f"{timeline.steps[i]:,}" for i in chosen])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    depth_axis(ax.xaxis, [*depths], 0.3)
    name_axes(ax, say("paper.axis.depth", unit=titles.unit_name(profiles[0].unit)), say("paper.axis.step"))
    finish([ax], new, title, lambda: titles.mean_depth(timeline))
    return ax


@drawn
def mean_depth(timelines: Timelines, *, ax: Axes | None = None, title: bool = True) -> Axes:
    """The mean path length over the training, with its 95 % interval over samples; that of constants is dashed.

    Args:
        timelines: one; a dictionary of networks by name, each in a colour of its own; or a list of the seeds of one
            network, for which the title is the verdict on H1 *share*.
        ax: where to draw; None: a new figure, one column wide.
        title: whether to put the finding above.
    """
    named = timelines if isinstance(timelines, Mapping) else None
    runs = _several(timelines)
    (ax,), new = panels(ax, 1, 2.1)
    place = step_axis([[*run.steps] for run in runs])
    shades = stops("network")
    ends = []
    for i, run in enumerate(runs):
        shade = shades[i % len(shades)] if named is not None else colour("accent")
        at, table = [place.at(step) for step in run.steps], run.table
        low, high = table["mean_depth_low"], table["mean_depth_high"]
        ax.fill_between(at, low, high, color=shade, alpha=0.18, linewidth=0)
        ax.plot(at, table["mean_depth"], color=shade, linewidth=1.4 if named or len(runs) == 1 else 0.9, zorder=3)
        if np.isfinite(table["mean_depth_constants"]).any():
            ax.plot(at, table["mean_depth_constants"], color=shade, linewidth=1.0, linestyle=(0, (4, 3)))
            ends.append((float(table["mean_depth_constants"][-1]), say("paper.label.constants"), shade))
        if named is not None:
            ends.append((float(table["mean_depth"][-1]), [*named][i], shade))
    step_scale(ax, place)
    name_axes(ax, say("paper.axis.step"), say("paper.axis.mean", unit=titles.unit_name(runs[0].profiles[0].unit)))
    ax.autoscale_view(scalex=False)
    beside(ax, [end for end in ends if np.isfinite(end[0])])
    finish([ax], new, title, lambda: _mean_title(timelines, runs))
    return ax


def _mean_title(timelines: Timelines, runs: Sequence[Timeline]) -> str:
    if isinstance(timelines, Mapping):
        return titles.mean_depths(timelines)
    return titles.mean_depth(runs[0]) if len(runs) == 1 else titles.mean_depth_of_seeds(runs)


def _several(timelines: Timelines) -> list[Timeline]:
    if isinstance(timelines, Timeline):
        return [timelines]
    found = [*(timelines.values() if isinstance(timelines, Mapping) else timelines)]
    if not found or not all(isinstance(each, Timeline) for each in found):
        raise UsageError("give a Timeline, a list of them (the seeds of one network), or a dictionary by names.")
    if len({each.profiles[0].unit for each in found}) > 1:
        raise UsageError("these timelines were recorded in different units of depth, which have no common axis.")
    return found


@drawn
def time_learned(timelines: Timeline | Sequence[Timeline], *, ax: Axes | None = None, title: bool = True) -> Axes:
    """When the terms of each depth were learned: the step at which half of their loss credit is in, a dot each seed.

    The line reaches from 10 to 90 % of the credit, of several seeds from the median to the median.  Terms that have no
    such time, as `Timeline.time_learned` says, are missing.  The title is the verdict on H1 *learned*: Kendall's tau
    with its t-interval over seeds, from five seeds on.

    Args:
        timelines: one, or the seeds of one network.
        ax: where to draw; None: a new figure, one column wide.
        title: whether to put the finding above.
    """
    runs = _several(timelines)
    (ax,), new = panels(ax, 1, 2.1)
    tables = [run.time_learned for run in runs]
    known = [table.where(origin="input").rows() for table in tables if table is not None]
    spread = np.linspace(-_JITTER / 2, _JITTER / 2, len(known)) if len(known) > 1 else np.zeros(len(known))
    for depth in runs[0].profiles[0].depths:
        rows = [next((row for row in rows if row["depth"] == depth), {}) for rows in known]
        early, late = (_median([row.get(name) for row in rows]) for name in ("time_10", "time_90"))
        if early is not None and late is not None:
            ax.plot([early, late], [depth, depth], color=colour("ramp-1"), linewidth=4, solid_capstyle="butt", zorder=2)
        dots = [(row["time_50"], depth + shift) for row, shift in zip(rows, spread, strict=True) if row.get("time_50")]
        if dots:
            size = 3.4 if len(known) == 1 else 2.2
            ax.plot(*np.array(dots).T, "o", color=colour("accent"), markersize=size, markeredgewidth=0, zorder=3)
    _log1p(ax, max(1, *(run.steps[-1] for run in runs)))
    depth_axis(ax.yaxis, runs[0].profiles[0].depths)
    unit = runs[0].profiles[0].unit
    name_axes(ax, say("paper.axis.credit"), say("paper.axis.depth", unit=titles.unit_name(unit)))
    finish([ax], new, title, lambda: titles.time_learned(runs))
    return ax


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _log1p(ax: Axes, last: int) -> None:
    """An axis in log(step + 1), in which times learned are interpolated."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("function", functions=(np.log1p, np.expm1))
    ax.set_xlim(0, last)
    ticks = [0, *(tick for power in range(9) for tick in (10**power,) if tick <= last)]
    if len(ticks) < 4:
        ticks = [0, *(tick for power in range(9) for tick in (10**power, 3 * 10**power) if tick <= last)]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
