"""The figures of paths and their size, of spectra as ridges, and of times learned: their numbers, sentences, marks."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import browser as headless
from run_directories import DENSENET, PLAIN, RESNET, STEPS, Kind, make_run
from termwise.report import write_comparison, write_page
from termwise.report.figures import build_figures, ridgeline
from termwise.report.reading import Columns, Run, read_run
from termwise.report.tables import Tables, build_tables, step_axis

T_95_OF_5 = 2.776445  # Student's t, two-sided 95 %, 4 degrees of freedom; from a printed table
STILL = Kind("Still-20", "still-20", 100, 2, 2, 9, 11.0, 11.0)  # as long as its average path, at every record


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), learned=(1.5, -1.0))


def opened(directory: Path) -> tuple[Run, Tables]:
    run = read_run(directory)
    return run, build_tables(run)


def titles(directory: Path) -> dict[str, str]:
    return {figure.slug: figure.title for figure in build_figures(*opened(directory))}


def stored(directory: Path, table: str = "spectrum", **where: object) -> list[dict[str, Any]]:
    rows = pq.read_table(directory / "tables" / f"{table}.parquet").to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def rewrite(directory: Path, change: Any, table: str = "spectrum") -> None:
    path = directory / "tables" / f"{table}.parquet"
    whole = pq.read_table(path)
    pq.write_table(whole.from_pylist([change(row) for row in whole.to_pylist()], whole.schema), path)


def rows(table: Columns, **where: object) -> list[dict[str, Any]]:
    whole = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    return [row for row in whole if all(row[name] == value for name, value in where.items())]


def test_order_on_the_page(run: Path) -> None:
    slugs = [figure.slug for figure in build_figures(*opened(run)) if figure.panels]
    assert slugs == ["spectrum", "triptych", "heat", "ridgeline", "learned", "truncated", "mean"]


# Paths and their size ---------------------------------------------------------------------------------------


def test_size_of_a_path_is_its_share_of_the_norm(run: Path) -> None:
    _, tables = opened(run)
    for network, kind in enumerate((RESNET, DENSENET)):
        counts = [math.comb(kind.branches, j) for j in range(kind.branches + 1)]
        assert [row["log10_paths"] for row in rows(tables.paths, network=network)] == pytest.approx(np.log10(counts))
        found = rows(tables.spectrum, network=network, step=STEPS[-1], origin="input")
        shares = [row["norm_share"] for row in stored(run, network=kind.name, step=STEPS[-1], origin="input")]
        assert [10 ** row["log10_path_norm"] for row in found] == pytest.approx(np.array(shares) / counts)
    assert all(row["log10_path_norm"] is None for row in rows(tables.spectrum, origin="constant"))


def test_counts_beyond_any_float(tmp_path: Path) -> None:
    huge = Kind("ResNet-4002", "resnet-4002", 1, 2, 2, 2000, 1900.0, 1900.0)
    run, tables = opened(make_run(tmp_path, kinds=(huge,), steps=(0, 10)))
    at = tables.paths["depth"].index(2002)
    # Stirling's series of log(2000! / 1000!^2), shortened to its first correction.
    expected = (2000 * math.log(2) - math.log(math.pi * 1000) / 2 - 1 / 8000) / math.log(10)
    assert tables.paths["log10_paths"][at] == pytest.approx(expected, rel=1e-9) and expected > 400
    share = rows(tables.spectrum, depth=1902, step=10)[0]
    count = math.comb(2000, 950)
    assert share["log10_path_norm"] == pytest.approx(math.log10(share["norm_share"]) - len(str(count)) + 1, abs=1)
    (figure,) = (figure for figure in build_figures(run, tables) if figure.slug == "triptych")
    assert "10^" in figure.panels[0].alternative


def test_title_of_the_triptych(tmp_path: Path, run: Path) -> None:
    whole = {kind.name: sum(math.comb(kind.branches, j) * d for j, d in enumerate(kind.depths)) for kind in (RESNET,)}
    assert whole["ResNet-20"] / 2**9 == 11.0
    shorter = "shorter paths than the average one in ResNet-20 (10.0 [9.9, 10.1] layers against 11.0) and DenseNet-22"
    assert titles(run)["triptych"] == (
        f"The summed norms of the input-born terms lie on {shorter} (8.4 [8.3, 8.5] layers against 13.0)"
    )
    still = "on paths of about the average length in Still-20 (11.0 [10.9, 11.1] layers against 11.0)"
    found = titles(make_run(tmp_path / "still", kinds=(STILL,)))["triptych"]
    assert found == f"The summed norms of the input-born terms lie {still}"
    long = dataclasses.replace(STILL, last=14.0)
    assert "on longer paths than the average one in" in titles(make_run(tmp_path / "long", kinds=(long,)))["triptych"]


# Ridges -----------------------------------------------------------------------------------------------------


def test_records_are_chosen_evenly() -> None:
    steps = [0, *range(1, 1000)]
    axis = step_axis([steps])
    chosen = axis.evenly(steps, 15)
    assert 12 <= len(chosen) <= 15 and chosen[0] == 0 and chosen[-1] == 999 and chosen == sorted(set(chosen))
    places = [math.log(axis.at(step)) for step in chosen]
    late = np.diff(places)[5:]  # where the records are dense
    assert late.max() < 1.2 * late.min()
    assert axis.evenly(steps[:15], 15) == steps[:15]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([(0.1, 0.2), (0.5, 0.6), (0.2, 0.3)], (1, [1])),
        ([(0.1, 0.2), (0.5, 0.6), (0.4, 0.5)], (1, [1, 2])),  # they touch
        ([(0.1, 0.9), (0.5, 0.6), (0.2, 0.3)], (1, [0, 1])),
        ([(None, None), (0.5, 0.6), (0.2, 0.3)], (1, [1])),
    ],
)
def test_where_the_peak_may_be(ends: list[tuple[float | None, float | None]], expected: tuple[int, list[int]]) -> None:
    values = [0.15, 0.55, 0.25]
    terms = [
        {"depth": i, "norm_share": value, "norm_share_low": low, "norm_share_high": high}
        for i, (value, (low, high)) in enumerate(zip(values, ends, strict=True))
    ]
    assert ridgeline.peak(terms) == expected


def test_title_of_the_ridges(tmp_path: Path, run: Path) -> None:
    falls = "moves to shorter paths, from depth 12 [12, 14] to depth 10 in ResNet-20"
    stays = "does not measurably move from depth 8 [7, 9] in DenseNet-22"
    assert titles(run)["ridgeline"] == f"The peak of the spectrum {falls} and {stays}"
    still = titles(make_run(tmp_path / "still", kinds=(STILL,)))["ridgeline"]
    assert still == "The peak of the spectrum does not measurably move from depth 10 [10, 12] in Still-20"
    assert "ridgeline" not in titles(make_run(tmp_path / "one", steps=(0,)))


# Times learned ----------------------------------------------------------------------------------------------


def brute_tau(pairs: list[tuple[float, float]]) -> float:
    """Kendall's tau_b, as it is defined: concordant pairs less discordant ones, ties out of the denominator."""
    signs = [
        (np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in itertools.combinations([p for p in pairs if p[1]], 2)
    ]
    one, other = (sum(abs(pair[i]) for pair in signs) for i in (0, 1))
    return sum(a * b for a, b in signs) / math.sqrt(one * other)


def shuffled(directory: Path, seed: int) -> Path:
    """The times of a run's terms in another order by depth."""
    generator = np.random.default_rng(seed)
    final = {row["depth"]: row["time_50"] for row in stored(directory, origin="input", step=STEPS[-1])}
    known = [depth for depth, time in final.items() if time is not None]
    other = dict(zip(known, generator.permutation([final[depth] for depth in known]).tolist(), strict=True))

    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"time_50": other[row["depth"]]} if row["origin"] == "input" and row["depth"] in other else row

    rewrite(directory, change)
    return directory


def test_times_and_credit_are_those_of_the_file(run: Path) -> None:
    _, tables = opened(run)
    assert tables.learned is not None
    for network, kind in enumerate((RESNET, DENSENET)):
        last = stored(run, network=kind.name, step=STEPS[-1])
        whole = sum(abs(row["credit_cumulative"] or 0) for row in last)
        terms = [row for row in last if row["origin"] == "input"]
        found = rows(tables.learned, network=network)
        for level in ("10", "50", "90"):
            assert [row[f"time_{level}"] for row in found] == [row[f"time_{level}"] for row in terms]
        assert [row["fraction"] for row in found] == pytest.approx([row["credit_cumulative"] / whole for row in terms])
        for row in found:
            after = [step for step in STEPS if row["time_50"] is not None and step >= row["time_50"]]
            assert row["step"] == (min(after) if after else None)


def test_a_time_between_records_has_a_place_between_theirs() -> None:
    axis = step_axis([[0, 4, 10, 100]])
    assert [axis.when(t) for t in (4.0, 17.5, 100.0)] == [4.0, 17.5, 100.0]
    places = [axis.when(t) for t in (0.0, 0.5, 2.0, 3.99, 4.0)]
    assert places == sorted(places) and places[0] == axis.zero
    # Half-way in log(t + 1) between steps 0 and 4 is t = sqrt(5) - 1; half-way on the axis is the geometric mean.
    assert axis.when(math.sqrt(5) - 1) == pytest.approx(math.sqrt(axis.zero * 4))


def test_one_run_decides_nothing(tmp_path: Path) -> None:
    directory = shuffled(make_run(tmp_path, kinds=(RESNET,), learned=(1.0,)), seed=3)
    pairs = [(row["depth"], row["time_50"]) for row in stored(directory, origin="input", step=STEPS[-1])]
    tau = f"{brute_tau(pairs):.2f}".replace("-", "−")
    neutral = f"Kendall’s τ between depth and time learned is {tau} in ResNet-20; one run has no interval, and"
    assert titles(directory)["learned"] == f"{neutral} decides nothing"


def several(directory: Path, seeds: int, spread: float, delay: float = 1.0) -> tuple[Run, Tables]:
    """A run of one network under several seeds, whose orders differ the more the larger the spread is."""
    kinds = tuple(dataclasses.replace(RESNET, name=f"R{i}", slug=f"r{i}") for i in range(seeds))
    make_run(directory, kinds=kinds, learned=(delay,) * seeds)
    generator = np.random.default_rng(1)
    noise = {(kind.name, d): math.exp(spread * generator.standard_normal()) for kind in kinds for d in kind.depths}

    def change(row: dict[str, Any]) -> dict[str, Any]:
        half = row["time_50"]
        return row if half is None else row | {"time_50": half * noise[row["network"], row["depth"]]}

    rewrite(directory, change)
    run = dataclasses.replace(read_run(directory), seeds=(("ResNet-20", tuple(range(seeds))),))
    return run, build_tables(run)


@pytest.mark.parametrize(
    ("delay", "spread", "sentence"),
    [
        (2.0, 0.3, "Deeper terms are learned later in ResNet-20 (τ {}, 5 seeds)"),
        (-2.0, 0.3, "Deeper terms are learned earlier in ResNet-20 (τ {}, 5 seeds)"),
        (0.1, 1.0, "Whether deeper terms are learned later is undecided in ResNet-20 (Kendall’s τ {}, 5 seeds)"),
    ],
)
def test_several_seeds_have_an_interval(tmp_path: Path, delay: float, spread: float, sentence: str) -> None:
    run, tables = several(tmp_path, 5, spread, delay)
    (figure,) = (figure for figure in build_figures(run, tables) if figure.slug == "learned")
    seeds = [stored(tmp_path, network=f"R{i}", origin="input", step=STEPS[-1]) for i in range(5)]
    taus = np.array([brute_tau([(row["depth"], row["time_50"]) for row in seed]) for seed in seeds])
    half = T_95_OF_5 * taus.std(ddof=1) / math.sqrt(5)
    ends = (f"{value:.2f}".replace("-", "−") for value in (taus.mean(), taus.mean() - half, taus.mean() + half))
    assert figure.title == sentence.format("{} [{}, {}]".format(*ends))
    assert [panel.heading for panel in figure.panels] == ["ResNet-20"]
    known = sum(row["time_50"] is not None for seed in seeds for row in seed)
    assert figure.panels[0].detail.startswith(f"{known} of {5 * len(RESNET.depths)} terms have a time")


def test_four_seeds_decide_nothing(tmp_path: Path) -> None:
    figures = {figure.slug: figure for figure in build_figures(*several(tmp_path, 4, 0.2, 2.0))}
    assert figures["learned"].title.endswith("in ResNet-20: 4 seeds, and fewer than 5 decide nothing")


def test_many_networks_are_counted(tmp_path: Path) -> None:
    run, tables = several(tmp_path, 20, 0.1, 2.0)
    groups = tuple((f"N{i}", tuple(range(5 * i, 5 * i + 5))) for i in range(4))
    figures = {f.slug: f for f in build_figures(dataclasses.replace(run, seeds=groups), tables)}
    counted = "Of 4 networks deeper terms are learned later in 4 and earlier in 0; in 0 it is undecided"
    assert figures["learned"].title == counted
    alone = {f.slug: f for f in build_figures(dataclasses.replace(run, seeds=()), tables)}["learned"]
    seeds = [stored(tmp_path, network=f"R{i}", origin="input", step=STEPS[-1]) for i in range(20)]
    taus = [brute_tau([(row["depth"], row["time_50"]) for row in seed]) for seed in seeds]
    assert f"τ between depth and time learned is {min(taus):.2f} to {max(taus):.2f} in 20 of 20 networks" in alone.title


def test_what_raised_the_loss_is_drawn_apart(chromium: Any, tmp_path: Path) -> None:
    directory = make_run(tmp_path, kinds=(RESNET,), learned=(1.0,))

    def change(row: dict[str, Any]) -> dict[str, Any]:
        against = row["origin"] == "input" and row["depth"] == 10
        return row | {"credit_cumulative": -row["credit_cumulative"]} if against else row

    rewrite(directory, change)
    _, tables = opened(directory)
    assert tables.learned is not None
    fractions = dict(zip(tables.learned["depth"], tables.learned["fraction"], strict=True))
    assert fractions[10] < 0 and sum(map(abs, fractions.values())) == pytest.approx(1)
    with headless.opened(chromium, write_page(directory)) as (page, wrong):
        section = page.locator('section[data-figure="learned"]')
        assert "raised the loss" in section.locator(".legend").inner_text()
        fills = section.locator(".mark-symbol path").evaluate_all("all => all.map((dot) => dot.getAttribute('fill'))")
        assert len(set(fills)) == 2 and fills.count(fills[-1]) == 1
    assert wrong == []


def test_text_alternatives_have_the_numbers(run: Path) -> None:
    figures = {figure.slug: figure.panels[0].alternative for figure in build_figures(*opened(run)) if figure.panels}
    last = stored(run, network="ResNet-20", step=STEPS[-1], origin="input")
    most = max(last, key=lambda row: row["norm_share"])
    assert "most paths (126) at depth 10" in figures["triptych"]
    assert f"largest norm share {most['norm_share']:.2f} at depth {most['depth']}" in figures["triptych"]
    assert f"at depth {most['depth']} with {most['norm_share']:.2f} at step 440" in figures["ridgeline"]
    known = sorted((row["time_50"], row["depth"]) for row in last if row["time_50"] is not None)
    words = f"first at depth {known[0][1]} (step {known[0][0]:.0f}), last at depth {known[-1][1]} (step"
    assert words in figures["learned"] and "time learned: 1.00." in figures["learned"]


def test_a_comparison_takes_seeds_together(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / str(i), kinds=(RESNET, DENSENET)[: 2 - i], learned=(1.0, 1.0), change={"seed": i})
        for i in range(2)
    ]
    text = write_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    (title,) = re.findall(r'<h2 id="title-learned">(.*?)</h2>', text.split("<template")[0])
    assert "is 1.00 [1.00, 1.00] in ResNet-20: 2 seeds, and fewer than 5 decide nothing; " in title
    assert title.endswith('1.00 in <span class="name">DenseNet-22</span>')


def test_without_times_there_is_no_figure(tmp_path: Path) -> None:
    assert "learned" not in titles(make_run(tmp_path / "none"))
    older = make_run(tmp_path / "older", learned=(1.0, 1.0))
    path = older / "tables" / "spectrum.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["credit_cumulative", "time_10", "time_50", "time_90"]), path)
    assert "learned" not in titles(older) and "heat" in titles(older)
    # One of two networks without: it is said, and the other one is shown.
    half = titles(make_run(tmp_path / "half", learned=(1.0, None)))["learned"]
    assert "is 1.00 in ResNet-20 and unknown in DenseNet-22 (in a run fewer than 6 depths have a time)" in half
    few = make_run(tmp_path / "few", kinds=(dataclasses.replace(RESNET, branches=4),), learned=(1.0,))
    assert titles(few)["learned"].endswith("fewer than 6 have a time, so there is no order")


def test_networks_of_one_length_are_left_out(tmp_path: Path) -> None:
    plain = titles(make_run(tmp_path / "plain", kinds=(PLAIN,), learned=(1.0,)))
    assert not {"triptych", "ridgeline", "learned"} & set(plain)
    for figure in build_figures(*opened(make_run(tmp_path / "both", kinds=(PLAIN, RESNET), learned=(1.0, 1.0)))):
        if figure.slug in ("triptych", "ridgeline", "learned"):
            assert [panel.heading for panel in figure.panels] == ["ResNet-20"] and "Plain-9" not in figure.title


def test_a_loose_credit_is_warned_of(run: Path, tmp_path: Path) -> None:
    (figure,) = (figure for figure in build_figures(*opened(run)) if figure.slug == "learned")
    assert "moves it by 6.2 % in ResNet-20 and 6.2 % in DenseNet-22" in figure.reading
    tight = opened(make_run(tmp_path, learned=(1.0, 1.0)))
    for network in tight[0].summary.networks:
        network.credit_drift = 0.01
    (figure,) = (figure for figure in build_figures(*tight) if figure.slug == "learned")
    assert "trust the times less" not in figure.reading


# In a browser -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with headless.chromium() as browser:
        yield browser


def places(page: Any, slug: str, panel: int = 0) -> list[tuple[float, float, float]]:
    """The centres of a panel's points on the screen, and their areas."""
    script = """all => all.map((item) => { const box = item.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2, box.width * box.height]; })"""
    chart = page.locator(f'.chart[data-figure="{slug}"]').nth(panel)
    return [tuple(place) for place in chart.locator(".mark-symbol path").evaluate_all(script)]


def on_a_line(pixels: list[float], values: list[float]) -> bool:
    """Whether pixels are a linear scale of values, to a quarter of a pixel."""
    slope, start = np.polyfit(values, pixels, 1)
    return bool(np.abs(np.polyval([slope, start], values) - pixels).max() < 0.25)


@pytest.mark.parametrize(("scheme", "width"), [*itertools.product(("light", "dark"), (1200, 380))])
def test_the_figures_are_drawn(chromium: Any, run: Path, tmp_path: Path, scheme: str, width: int) -> None:
    path = write_page(run, tmp_path / "page.html")
    with headless.opened(chromium, path, width=width, scheme=scheme) as (page, wrong):
        for panel, kind in enumerate((RESNET, DENSENET)):
            terms = stored(run, network=kind.name, step=STEPS[-1], origin="input")
            shares = [row["norm_share"] for row in terms]
            counts = [math.comb(kind.branches, j) for j in range(kind.branches + 1)]

            points = places(page, "triptych", panel)
            assert len(points) == 2 * len(terms)
            upper, lower = points[: len(terms)], points[len(terms) :]
            assert on_a_line([y for _, y, _ in upper], np.log10(counts).tolist())
            assert on_a_line([y for _, y, _ in lower], np.log10(np.array(shares) / counts).tolist())
            assert [x for x, *_ in upper] == pytest.approx([x for x, *_ in lower], abs=0.1)
            chart = page.locator('.chart[data-figure="triptych"]').nth(panel)
            bars = chart.locator(".mark-rect path:not([fill-opacity='0'])").evaluate_all(
                "all => all.map((bar) => bar.getBBox().height)"
            )
            assert len(bars) == len(terms) and on_a_line(bars, shares)

            known = [row for row in terms if row["time_50"] is not None]
            dots = places(page, "learned", panel)
            assert len(dots) == len(known)
            assert on_a_line([x for x, *_ in dots], [math.log(row["time_50"]) for row in known])
            assert on_a_line([y for _, y, _ in dots], [row["depth"] for row in known])
            largest = max(range(len(dots)), key=lambda i: dots[i][2])
            assert known[largest]["credit_cumulative"] == max(row["credit_cumulative"] for row in known)

            chosen = step_axis([list(STEPS)]).evenly(list(STEPS), 15)
            chart = page.locator('.chart[data-figure="ridgeline"]').nth(panel)
            ridges = chart.locator(".mark-area path").evaluate_all("all => all.map((ridge) => ridge.getBBox().height)")
            peaks = [
                max(row["norm_share"] for row in stored(run, network=kind.name, step=step, origin="input"))
                for step in chosen
            ]
            assert len(ridges) == len(chosen) <= 15 and on_a_line(ridges, peaks)
            fills = chart.locator(".mark-area path").evaluate_all(
                "all => all.map((ridge) => ridge.getAttribute('fill'))"
            )
            assert len(set(fills)) == len(fills)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert wrong == []


def test_the_slider_moves_the_triptych(chromium: Any, run: Path, tmp_path: Path) -> None:
    with headless.opened(chromium, write_page(run, tmp_path / "page.html")) as (page, wrong):
        section = page.locator('section[data-figure="triptych"]')
        slider = section.locator("input[type=range]")
        slider.focus()
        slider.press("Home")
        page.wait_for_timeout(300)
        terms = stored(run, network="ResNet-20", step=0, origin="input")
        sizes = [row["norm_share"] / math.comb(9, j) for j, row in enumerate(terms)]
        found = places(page, "triptych")[len(terms) :]
        assert on_a_line([y for _, y, _ in found], np.log10(sizes).tolist())
        for i, count in enumerate((len(RESNET.depths) + len(DENSENET.depths),) * 2):
            section.locator("summary").nth(i).click()
            section.locator("tbody").nth(i).locator("tr").first.wait_for()
            assert section.locator("tbody").nth(i).locator("tr").count() == count
        assert section.locator("tbody").nth(1).locator("tr").nth(4).inner_text().split("\t")[:3] == [
            "ResNet-20",
            "10",
            "126",
        ]
    assert wrong == []


def test_the_place_is_lit_in_every_figure(chromium: Any, run: Path, tmp_path: Path) -> None:
    with headless.opened(chromium, write_page(run, tmp_path / "page.html")) as (page, wrong):
        page.locator('.chart[data-figure="triptych"]').first.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        assert page.locator("#cursor").inner_text() == "depth 2"
        x = places(page, "triptych")[0][0]
        for slug in ("triptych", "ridgeline"):
            rules = page.locator(f'.chart[data-figure="{slug}"]').first.locator(".mark-rule line")
            script = "all => all.map((rule) => rule.getBoundingClientRect()).map((box) => [box.x, box.width])"
            assert [x for at, wide in rules.evaluate_all(script) if wide < 2 and abs(at - x) < 1.5]
        page.locator('.chart[data-figure="ridgeline"]').first.focus()
        for told in ("step 440", "step 324"):  # the last record is in front, those before it stand above
            page.keyboard.press("ArrowUp")
            page.wait_for_timeout(300)
            assert page.locator("#cursor").inner_text() == told
    assert wrong == []


def test_a_large_page_stays_small(tmp_path: Path) -> None:
    steps = (0, *sorted({round(step) for step in np.geomspace(1, 20_000, 44)}))[:40]
    kinds = (Kind("A", "a", 1, 2, 2, 59, 60.0, 40.0), Kind("B", "b", 1, 4, 1, 59, 30.0, 20.0))
    run = make_run(tmp_path, kinds=kinds, steps=steps, learned=(1.0, -1.0))
    assert len(steps) == 40 and len(stored(run, network="A", step=0, origin="input")) == 60
    assert write_page(run).stat().st_size < 2_000_000
