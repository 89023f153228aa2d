"""Paper figures: what is drawn equals the tables, nothing else is touched, and files are as wide as a column."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import sys
from typing import Any
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.text import Text

import results_at_hand
import termwise.figures
from termwise.deletion import deletion, reordering
from termwise.errors import UsageError
from termwise.figures import drawing
from termwise.records import Table
from termwise.report import titles
from termwise.timeline import Timeline

# Matplotlib declares more types than it returns.
figures: Any = termwise.figures
made: Any = results_at_hand

FIGURES: dict[str, Any] = {
    "spectrum": lambda **ax: figures.spectrum(made.profile(), **ax),
    "spectrum by depth": lambda **ax: figures.spectrum(made.profile("by_depth", "layers"), **ax),
    "triptych": lambda **ax: figures.triptych(made.profile(), **ax),
    "truncation": lambda **ax: figures.truncation(made.profile(), classes=made.CLASSES, **ax),
    "heat_map": lambda **ax: figures.heat_map(made.timeline(), **ax),
    "ridgeline": lambda **ax: figures.ridgeline(made.timeline(), **ax),
    "mean_depth": lambda **ax: figures.mean_depth(made.timeline(constants="by_depth"), **ax),
    "mean_depth of networks": lambda **ax: figures.mean_depth(
        {"a $b$ c_{d}": made.timeline(), "e": made.timeline(1)}, **ax
    ),
    "mean_depth of seeds": lambda **ax: figures.mean_depth([made.timeline(seed) for seed in range(5)], **ax),
    "time_learned": lambda **ax: figures.time_learned(made.timeline(), **ax),
    "time_learned of seeds": lambda **ax: figures.time_learned([made.timeline(seed) for seed in range(5)], **ax),
    "degrees": lambda **ax: figures.degrees(made.spectrum(), **ax),
    "degree_course": lambda **ax: figures.degree_course(made.timeline(degrees=True), **ax),
    "tiles": lambda **ax: figures.tiles(made.tiles(), **ax),
    "lesion": lambda **ax: figures.lesion(made.curve(), **ax),
    "reordering": lambda **ax: figures.lesion(made.curve("reordering"), **ax),
}
PANELS = {"triptych": 3, "heat_map": 2, "tiles": 2}


def bars(ax: Any) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def heights(ax: Any) -> list[float]:
    return [bar.get_height() for bar in bars(ax)]


def segments(ax: Any) -> np.ndarray:
    """Of all whiskers: x, low, high."""
    found = [part for lines in ax.collections if isinstance(lines, LineCollection) for part in lines.get_segments()]
    return np.array([(part[0, 0], part[0, 1], part[1, 1]) for part in found])


def line(ax: Any, label: str) -> tuple[np.ndarray, np.ndarray]:
    (found,) = [each for each in ax.lines if each.get_label() == label]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def figure_of(ax: Any) -> Any:
    figure = np.ravel(np.asarray(ax, dtype=object))[0].get_figure()
    assert isinstance(figure, Figure)
    return figure


def title(ax: Any) -> str:
    return figure_of(ax).get_suptitle().replace("\n", " ")


# What is drawn.


def test_the_spectrum_shows_the_table() -> None:
    profile = made.profile()
    ax = figures.spectrum(profile)
    share = profile.share
    np.testing.assert_allclose(heights(ax), 100 * share["norm_share"])  # the terms, then the constants
    whiskers = segments(ax)
    np.testing.assert_allclose(whiskers[:, 1], 100 * share["norm_share_low"])
    np.testing.assert_allclose(whiskers[:, 2], 100 * share["norm_share_high"])
    middles = [bar.get_x() + bar.get_width() / 2 for bar in bars(ax)]
    np.testing.assert_allclose(middles[:6], range(6))
    behind: Any = next(patch for patch in ax.patches if isinstance(patch, StepPatch))
    np.testing.assert_allclose(behind.get_data().values, [100 * math.comb(5, k) / 32 for k in range(6)])


def test_constants_that_have_a_depth_stand_there() -> None:
    profile = made.profile("by_depth", "layers")
    ax = figures.spectrum(profile)
    np.testing.assert_allclose(heights(ax), 100 * profile.share["norm_share"])
    inputs, constants = (profile.share.where(origin=origin) for origin in ("input", "constant"))
    own = bars(ax)
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in own[: len(inputs)]], inputs["depth"])
    np.testing.assert_allclose([bar.get_x() for bar in own[len(inputs) :]], constants["depth"])


def test_lengths_that_no_path_has_leave_holes() -> None:
    profile = made.profile()
    kept = profile.share.where(origin="input").to_arrow().take([0, 1, 3, 5])
    ax = figures.spectrum(dataclasses.replace(profile, share=type(profile.share)(kept)))
    total = sum(math.comb(5, k) for k in (0, 1, 3, 5))
    np.testing.assert_allclose(heights(ax)[:4], [100 * math.comb(5, k) / total for k in (0, 1, 3, 5)])


def test_the_triptych_shows_number_size_and_total() -> None:
    profile = made.profile()
    number, size, total = figures.triptych(profile)
    share = profile.share.where(origin="input")["norm_share"]
    counts = np.array([math.comb(5, k) for k in range(6)])
    np.testing.assert_allclose(heights(number), 100 * counts / 32)
    np.testing.assert_allclose(size.lines[0].get_ydata(), np.log10(share / counts))
    assert next(label.get_text() for label in size.get_yticklabels()).startswith("$10^{-")
    np.testing.assert_allclose(heights(total), 100 * share)


def test_sizes_of_more_paths_than_a_float_can_count() -> None:
    profile = made.profile()
    many = made.replaced(profile, paths=[str(10**400) if n is not None else None for n in profile.share["paths"]])
    number, size, _ = figures.triptych(many)
    assert heights(number) == pytest.approx([100 / 6] * 6)
    share = profile.share.where(origin="input")["norm_share"]
    np.testing.assert_allclose(size.lines[0].get_ydata(), np.log10(share) - 400)


def test_the_truncations_are_those_of_the_table() -> None:
    profile = made.profile()
    ax = figures.truncation(profile, classes=4)
    for name in ("head", "tail", "alone"):
        x, y = line(ax, name)
        np.testing.assert_array_equal(x, profile.truncated["depth"])
        np.testing.assert_array_equal(y, profile.truncated[f"{name}_accuracy"])
    assert set(line(ax, "full")[1]) == {profile.accuracy} and set(line(ax, "chance")[1]) == {0.25}


def test_without_accuracies_the_losses_are_shown() -> None:
    model, (inputs, _) = made.network(), made.task()
    profile = made.tw.profile(model, (inputs, model(inputs).detach() + 1), unit="blocks")
    ax = figures.truncation(profile)
    np.testing.assert_array_equal(line(ax, "head")[1], profile.truncated["head_loss"])
    assert set(line(ax, "full")[1]) == {profile.loss} and "loss" in ax.get_ylabel()
    assert title(ax).startswith("How large the loss is")


def test_the_heat_map_shows_every_record() -> None:
    timeline = made.timeline()
    loss, heat = figures.heat_map(timeline)
    mesh: Any = next(each for each in heat.collections if isinstance(each, QuadMesh))
    shown = np.ma.filled(mesh.get_array(), np.nan)
    own = timeline.spectrum.where(origin="input")["norm_share"].reshape(len(timeline.steps), 6).T
    assert np.isnan(shown[:, 1]).all()  # the gap between step 0 and the rest
    np.testing.assert_allclose(np.delete(shown, 1, axis=1), own)
    np.testing.assert_allclose(mesh.get_coordinates()[:, 0, 1], np.arange(7) - 0.5)
    for name in ("p10", "p50", "p90"):
        np.testing.assert_array_equal(line(heat, name)[1], timeline.table[f"depth_{name}"])
    edges = mesh.get_coordinates()[0, :, 0]
    at = line(heat, "p50")[0]
    assert (edges[:-1][[0, *range(2, 12)]] < at).all() and (at < edges[1:][[0, *range(2, 12)]]).all()
    np.testing.assert_array_equal(at[1:], timeline.steps[1:])
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), timeline.table["loss"])


def test_the_ridges_have_one_scale() -> None:
    timeline = made.timeline()
    ax = figures.ridgeline(timeline)
    ridges = [each for each in ax.lines if each.get_color() == "white"]
    assert len(ridges) == len(timeline.steps) == 11
    risen = np.array([np.asarray(ridge.get_ydata()) + i for i, ridge in enumerate(ridges)])
    own = timeline.spectrum.where(origin="input")["norm_share"].reshape(11, 6)
    np.testing.assert_allclose(risen / risen.max(), own / own.max(), atol=1e-12)
    (means,) = [each for each in ax.lines if each.get_color() != "white"]
    np.testing.assert_allclose(means.get_xdata(), timeline.table["mean_depth"])
    assert [label.get_text() for label in ax.get_yticklabels()] == [str(step) for step in timeline.steps]


def test_of_many_records_at_most_eleven_ridges_are_drawn_even_on_the_step_axis() -> None:
    many = made.still(made.timeline(), records=range(100))
    ax = figures.ridgeline(many)
    drawn = [int(label.get_text()) for label in ax.get_yticklabels()]
    assert 8 <= len(drawn) <= 11 and drawn[0] == 0 and drawn[-1] == 99
    late = np.diff(np.log(drawn[-5:]))  # where the records are dense
    assert late.max() < 1.25 * late.min()


def test_the_mean_depth_of_each_network_and_of_its_constants() -> None:
    timeline = made.timeline(constants="by_depth")
    ax = figures.mean_depth(timeline)
    drawn = [np.asarray(each.get_ydata()) for each in ax.lines[:2]]
    np.testing.assert_allclose(drawn[0], timeline.table["mean_depth"])
    np.testing.assert_allclose(drawn[1], timeline.table["mean_depth_constants"])
    name = "a $b$ c_{d}"
    both = figures.mean_depth({name: made.timeline(), "e": made.timeline(1)})
    assert len({each.get_color() for each in both.lines[:2]}) == 2
    (label,) = [text for text in both.texts if text.get_text() == name]
    assert not label.get_parse_math()


def test_each_seed_is_a_dot_where_half_of_the_credit_is_in() -> None:
    timelines = [made.timeline(seed) for seed in range(5)]
    ax = figures.time_learned(timelines)
    dots = [point for each in ax.lines if each.get_marker() == "o" for point in np.asarray(each.get_xydata())]
    wanted = [
        (row["time_50"], row["depth"])
        for timeline in timelines
        for row in timeline.time_learned.where(origin="input").rows()
        if row["time_50"] is not None
    ]
    assert len(wanted) > 5
    np.testing.assert_allclose(sorted((x, round(y)) for x, y in dots), sorted(wanted))
    one = figures.time_learned(timelines[0])
    spans = [tuple(each.get_xdata()) for each in one.lines if each.get_marker() != "o"]
    rows = timelines[0].time_learned.where(origin="input").rows()
    assert spans == [(row["time_10"], row["time_90"]) for row in rows if row["time_10"] is not None]


def test_the_shares_by_degree() -> None:
    spectrum = made.spectrum()
    ax = figures.degrees(spectrum)
    rows = [row for row in spectrum.spectrum.rows() if row["share"] is not None]
    assert heights(ax) == [100 * row["share"] for row in rows]
    np.testing.assert_allclose(segments(ax)[:, 1], [100 * row["share_low"] for row in rows])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "3", "4", "5–6", "7–9", "10+"]


def test_the_course_of_each_degree() -> None:
    timeline = made.timeline(degrees=True)
    ax = figures.degree_course(timeline)
    table = timeline.degrees
    for low, drawn in zip((1, 2, 3, 4, 5, 7, 10), ax.lines, strict=False):
        np.testing.assert_allclose(drawn.get_ydata(), 100 * table.where(lowest=low)["share"])
    with pytest.raises(UsageError, match="degrees=True"):
        figures.degree_course(made.timeline())


def test_the_tiles_are_powers_summed_by_octave() -> None:
    found = made.tiles()
    tiles, weights = figures.tiles(found)
    mesh: Any = next(each for each in tiles.collections if isinstance(each, QuadMesh))
    shown = np.ma.filled(mesh.get_array(), np.nan)
    rows = [row for row in found.terms.rows() if row["network"] == "own"]
    ends = [(0, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32)]
    for i, row in enumerate(rows):
        powers = {
            each["frequency"]: each["power"]
            for each in found.powers.rows()
            if (each["network"], each["part"], each["depth"]) == ("own", row["part"], row["depth"])
        }
        whole = sum(powers.values())
        by = [sum(powers[m] for m in range(low, high + 1)) / whole for low, high in ends]
        np.testing.assert_allclose(shown[i], by, atol=1e-12)
        assert shown[i, 0] == pytest.approx(row["upto_1"]) and shown[i, :2].sum() == pytest.approx(row["upto_2"])
    widths = [bar.get_width() for bar in bars(weights)]
    np.testing.assert_allclose(widths, [100 * (row["weight"] or 0.0) for row in rows])


@pytest.mark.parametrize(("kind", "name"), [("deletion", "removed"), ("reordering", "swaps")])
def test_each_draw_of_a_lesion_is_a_dot(kind, name) -> None:
    curve = made.curve(kind)
    ax = figures.lesion(curve)
    dots, means = ax.lines[:2]
    np.testing.assert_array_equal(dots.get_ydata(), curve.draws["accuracy"])
    assert np.abs(dots.get_xdata() - curve.draws[name]).max() < 0.5
    np.testing.assert_array_equal(np.asarray(means.get_xydata()).T, [curve.summary[name], curve.summary["accuracy"]])


# What they say.


def test_titles_are_findings_with_their_intervals() -> None:
    profile, timeline = made.profile(), made.timeline()
    value, low, high = (f"{end:.2f}" for end in profile.mean_depth)
    share = profile.share.where(origin="input")["norm_share"]
    at = [next(k for k in range(6) if share[: k + 1].sum() >= level) for level in (0.1, 0.9)]
    assert title(figures.spectrum(profile)) == (
        f"The middle 80 % of the input-born output lies at depths {at[0]} to {at[1]}; "
        f"mean path length {value} [{low}, {high}]"
    )
    assert title(figures.triptych(profile)) == (
        "The output comes over paths shorter than the average path: "
        f"mean length {value} [{low}, {high}] by size, 2.50 by number"
    )
    rows = timeline.table.rows()
    assert f"loss falls, the median depth stays at {rows[-1]['depth_p50']:.0f}" in title(figures.heat_map(timeline))
    degrees = made.spectrum().spectrum.rows()[1]
    ends = [100 * degrees[f"share{end}"] for end in ("", "_low", "_high")]
    assert "{:.0f} % [{:.0f}, {:.0f}] of the output".format(*ends) in title(figures.degrees(made.spectrum())).replace(
        "\u00a0", " "
    )


def test_where_nothing_moves_the_title_says_so() -> None:
    still = made.still(made.timeline(degrees=True))
    median = still.table.rows()[-1]["depth_p50"]
    assert title(figures.heat_map(still)) == f"While the loss stays, the median depth stays at {median:.0f}"
    unknown = dataclasses.replace(still.moments[-1], profile=dataclasses.replace(still.profiles[-1], loss=math.nan))
    diverged = Timeline([*still.moments[:-1], unknown])
    assert titles.heat_map(diverged) == "Which depths carry the output, and when"
    for each in (figures.ridgeline(still), figures.mean_depth(still)):
        assert "does not measurably change" in title(each)
    assert "does not measurably change" in title(figures.mean_depth({"a": still}))
    assert "does not measurably change" in title(figures.degree_course(still))
    assert title(figures.mean_depth([still] * 5)).endswith("is undecided: it changes by 0.00 [0.00, 0.00] over 5 seeds")
    assert "too few have a time" in title(figures.time_learned(still))
    one = Timeline([still.moments[0]])
    assert "too few have a time" in title(figures.time_learned(one))
    for each in (figures.heat_map(one), figures.mean_depth(one), figures.ridgeline(one), figures.degree_course(one)):
        assert title(each) == "One record only: nothing to compare over training"


def test_means_by_size_and_by_number_are_told_apart_by_the_interval() -> None:
    profile = made.profile()
    same = dataclasses.replace(profile, mean_depth=type(profile.mean_depth)(2.5, 2.4, 2.6))
    assert title(figures.triptych(same)).startswith(
        "The mean path length by size is not measurably another than by number: 2.50 [2.40, 2.60] by size, 2.50 by"
    )
    longer = dataclasses.replace(profile, mean_depth=type(profile.mean_depth)(2.7, 2.6, 2.8))
    assert "paths longer than the average path" in title(figures.triptych(longer))


@pytest.mark.parametrize(
    ("gates", "weights", "found"),
    [
        (
            0.03,
            0.02,
            "loses more of its lowest frequencies than gates and first weights alone take from it, by 3.0 [2.0",
        ),
        (
            -0.03,
            -0.02,
            "loses less of its lowest frequencies than gates and first weights alone take from it: −3.0 [−4",
        ),
        (0.03, -0.02, "take from it is undecided: 3.0 [2.0, 4.0] and −2.0 [−3.0, −1.0] points"),
        (-0.03, 0.005, "take from it is undecided: −3.0 [−4.0, −2.0] and 0.5 [−0.5, 1.5] points"),
        (0.03, None, "loses more of its lowest frequencies than gates alone take from it, by 3.0 [2.0, 4.0] points"),
    ],
)
def test_depth_and_degree_are_told_beyond_every_comparator(gates, weights, found) -> None:
    rows = []
    for comparator, excess in (("shuffled", gates), ("initial", weights)):
        ends = (None,) * 3 if excess is None else (excess, excess - 0.01, excess + 0.01)
        rows.append({"comparator": comparator, **dict(zip(("excess", "excess_low", "excess_high"), ends, strict=True))})
    trend = Table(pa.Table.from_pylist(rows))
    assert found in titles.tiles(dataclasses.replace(made.tiles(), trend=trend))


def test_a_curve_without_the_whole_network_claims_nothing_of_it() -> None:
    whole, part = made.curve(), deletion(made.network(), made.task(), removed=(1, 3), draws=4)
    assert set(line(figures.lesion(whole), "full")[1]) == {whole.summary.where(removed=0)["accuracy"][0]}
    ax = figures.lesion(part)
    assert "full" not in [each.get_label() for each in ax.lines]
    assert "whole network" not in [text.get_text() for text in ax.texts]
    assert title(ax) == "How accurate the network is with some of its blocks removed"
    assert all(tick == round(tick) for tick in ax.get_xticks())
    exchanged = reordering(made.network(), made.task(), swaps=(1, 2), draws=2)
    assert title(figures.lesion(exchanged)) == "How accurate the network is with its blocks in another order"


def test_a_curve_says_what_was_removed() -> None:
    layers = [["blocks.0.inside"], ["blocks.2.inside"]]
    curve = deletion(made.network(), made.task(), layers=layers, draws=4)
    ax = figures.lesion(curve)
    assert title(ax).startswith("With 1 of 2 layers removed") and ax.get_xlabel() == "layers removed (of 2)"
    assert figures.lesion(made.curve()).get_xlabel() == "blocks removed (of 5)"
    older = {name: value for name, value in curve.metadata.items() if name != "unit"}
    assert "of 2 parts removed" in title(figures.lesion(dataclasses.replace(curve, metadata=older)))


def test_gains_of_a_ladder_are_no_parts_of_a_variance() -> None:
    inputs = made.task(200)[0]
    found = made.tw.degrees(made.network(), inputs, inputs="real", components=2, highest=2)
    rows = [row for row in found.spectrum.rows() if row["share"] is not None]
    most = max(rows, key=lambda row: row["share"])
    ax = figures.degrees(found)
    assert title(ax).startswith(f"Polynomials of degree {most['lowest']} in the input add most to the held-out R²: ")
    assert ax.get_ylabel() == "gain of held-out R² (%)" and "variance" not in title(ax)
    assert "Gain of held-out R² by degree: " in found._repr_svg_()
    timeline = made.timeline()
    moments = [dataclasses.replace(moment, degrees=found) for moment in timeline.moments[:2]]
    course = figures.degree_course(Timeline(moments))
    assert title(course).startswith("What polynomials of degree 1 add to the held-out R² does not measurably change")
    assert course.get_ylabel() == "gain of held-out R² (%)"


def test_a_plain_network_has_nothing_to_split() -> None:
    model = made.nn.Sequential(made.nn.Linear(made.WIDTH, 8), made.nn.ReLU(), made.nn.Linear(8, made.CLASSES))
    plain = made.tw.profile(model, made.task())
    for draw in (figures.spectrum, figures.triptych):
        assert title(draw(plain)) == "Every path from the input has one length, 2: there is nothing to split"
    assert title(figures.truncation(plain)).startswith("99 % of the accuracy is kept only with every term")


def test_time_learned_is_judged_by_the_rule_of_the_verdicts(monkeypatch) -> None:
    timelines = [made.timeline(seed) for seed in range(5)]
    rises = {k: 10.0 * k + 1 for k in range(8)}
    swapped = rises | {1: rises[2], 2: rises[1]}
    times = [rises, rises, rises, swapped, swapped]

    def tau(times) -> float:
        pairs = list(itertools.combinations(sorted(times), 2))
        return sum(1 if times[a] < times[b] else -1 for a, b in pairs) / len(pairs)

    def told(times, count=5) -> str:
        given = iter(times)
        monkeypatch.setattr(titles, "times_learned", lambda _: next(given))
        return titles.time_learned(timelines[:count])

    mean = np.mean([tau(each) for each in times])
    assert told(times).startswith("Shallow terms are learned first") and f"{mean:.2f} [" in told(times)
    assert told([{k: -time for k, time in each.items()} for each in times]).startswith("Deep terms are learned first")
    falls = {k: -time for k, time in rises.items()}
    assert "undecided" in told([rises, falls, rises, falls, rises])
    assert "fewer than 5 seeds decide nothing" in told(times, 2)
    assert "undecided" in told([rises, rises, rises, rises, {k: None for k in rises}])
    assert "too few have a time" in told([{0: 1.0, 1: 2.0}] * 5)


# What they leave alone.


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_else_is_touched(name) -> None:
    with matplotlib.rc_context({"axes.grid": True, "font.size": 13, "text.usetex": False, "axes.facecolor": "black"}):
        before, numbers = dict(matplotlib.rcParams), plt.get_fignums()
        drawn = FIGURES[name]()
        figure_of(drawn).canvas.draw()
        assert dict(matplotlib.rcParams) == before and plt.get_fignums() == numbers
        assert not any(each.get_visible() for ax in np.ravel(drawn) for each in ax.get_xgridlines())
        assert all(ax.get_facecolor() == (1, 1, 1, 1) for ax in np.ravel(drawn))
    count = PANELS.get(name, 1)
    figure, axes = plt.subplots(1, count + 1)
    try:
        other = axes[-1]
        untouched = (len(other.get_children()), other.get_position().bounds, other.get_xlim(), other.title.get_text())
        given = axes[0] if count == 1 else axes[:count]
        drawn = FIGURES[name](ax=given)
        assert list(np.ravel(drawn)) == list(np.ravel(given)) and figure.get_suptitle() == ""
        assert axes[0].get_title(loc="left") != ""
        after = (len(other.get_children()), other.get_position().bounds, other.get_xlim(), other.title.get_text())
        assert after == untouched
        with pytest.raises(UsageError, match=r"panels?, and ax= 4"):
            FIGURES[name](ax=np.array([other] * 4))
    finally:
        plt.close(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_labels_stay_inside_and_off_each_other(name) -> None:
    drawn = FIGURES[name]()
    figure = figure_of(drawn)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    page = figure.bbox.padded(1)
    hidden = _out_of_view(figure)
    shown = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden
    ]
    assert len(shown) > 5
    for text, box in shown:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, text
    for (one, first), (other, second) in itertools.combinations(shown, 2):
        width = min(first.x1, second.x1) - max(first.x0, second.x0)
        height = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(width, height) < 3, (one, other)  # of a dot at 200 dpi: empty corners of the boxes


def _out_of_view(figure: Any) -> set[int]:
    """Labels of ticks beyond the ends of an axis are not drawn."""
    found = set()
    axes = [ax for ax in figure.findobj(Axes) if isinstance(ax, Axes)]
    for axis in [axis for ax in axes for axis in (ax.xaxis, ax.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                found |= {id(tick.label1), id(tick.label2)}
    return found


def test_one_call_on_the_result_itself() -> None:
    assert isinstance(made.profile().plot(), Axes) and isinstance(made.spectrum().plot(), Axes)
    assert isinstance(made.curve().plot(), Axes)
    assert len(made.timeline().plot()) == 2 and len(made.tiles().plot()) == 2
    figure, ax = plt.subplots()
    assert made.profile().plot(ax=ax) is ax
    plt.close(figure)


def test_titles_can_be_left_out() -> None:
    assert title(figures.spectrum(made.profile(), title=False)) == ""


def test_without_matplotlib_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'termwise\[figures\]'"):
        figures.spectrum(made.profile())
    with pytest.raises(UsageError, match=r"pip install 'termwise\[figures\]'"):
        figures.save(None, "a.svg")


def test_timelines_that_have_no_common_axis_are_refused() -> None:
    other = Timeline([dataclasses.replace(m, profile=made.profile(unit="layers")) for m in made.timeline().moments[:1]])
    with pytest.raises(UsageError, match="different units"):
        figures.mean_depth([made.timeline(), other])
    with pytest.raises(UsageError, match="a list of them"):
        figures.time_learned([])


# Files.


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_figure_gives_the_same_bytes(name, tmp_path) -> None:
    drawn, again = FIGURES[name](), FIGURES[name]()
    for suffix in ("svg", "pdf", "png") if name == "heat_map" else ("svg", "pdf"):
        one, other = tmp_path / f"one.{suffix}", tmp_path / f"other.{suffix}"
        assert figures.save(drawn, one) == one
        figures.save(again, other)
        first = one.read_bytes()
        assert first == other.read_bytes() and len(first) > 2000
        if suffix == "svg":
            figures.save(drawn, other)  # and once more from the same figure
            assert first == other.read_bytes()


@pytest.mark.parametrize(("columns", "inches"), [(1, 3.25), (2, 6.75)])
def test_files_are_as_wide_as_a_column(columns, inches, tmp_path) -> None:
    ax = figures.spectrum(made.profile())
    figure, before = ax.figure, (ax.figure.get_size_inches().tolist(), ax.figure.get_suptitle())
    figures.save(ax, tmp_path / "a.svg", columns=columns)
    figures.save(figure, tmp_path / "a.pdf", columns=columns)
    svg = ElementTree.fromstring((tmp_path / "a.svg").read_bytes())
    assert svg.attrib["width"] == f"{72 * inches:g}pt"
    ((wide, high),) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", (tmp_path / "a.pdf").read_bytes())
    assert (float(wide), float(high)) == pytest.approx((72 * inches, 72 * before[0][1]))
    assert (figure.get_size_inches().tolist(), figure.get_suptitle()) == before


def test_text_stays_text_and_no_date_is_written(tmp_path) -> None:
    ax = figures.truncation(made.profile(), classes=4)
    figures.save(ax, tmp_path / "a.svg")
    figures.save(ax, tmp_path / "a.pdf")
    svg = (tmp_path / "a.svg").read_text()
    shown = [text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"up to k", "from k on", "k alone", "chance", "accuracy"} <= set(shown)
    assert "<dc:date>" not in svg and "http://" not in re.sub(r'(xmlns[:\w]*|href|rdf:resource)="[^"]*"', "", svg[300:])
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf


def test_a_title_is_broken_anew_for_another_width(tmp_path) -> None:
    ax = figures.spectrum(made.profile())
    lines = {}
    for columns in (1, 2):
        figures.save(ax, tmp_path / "a.svg", columns=columns)
        svg = ElementTree.fromstring((tmp_path / "a.svg").read_bytes())
        (group,) = svg.findall(f".//*[@id='{drawing._TITLE_ID}']")
        lines[columns] = len(list(group.iter("{http://www.w3.org/2000/svg}text")))
    assert lines == {1: 2, 2: 1}


def test_what_cannot_be_saved_is_refused(tmp_path) -> None:
    ax = figures.spectrum(made.profile())
    with pytest.raises(UsageError, match=r"\.svg, \.pdf, \.png"):
        figures.save(ax, tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="columns=3"):
        figures.save(ax, tmp_path / "a.svg", columns=3)
    with pytest.raises(UsageError, match="not a str"):
        figures.save("figure", tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())
