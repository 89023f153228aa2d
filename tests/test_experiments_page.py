"""The page of experiments: what it embeds, says and refuses, and what a browser shows of it, from toy results."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import browser as headless
from run_directories import make_run
from saved_results import NETWORKS, STEPS, Protocol, changed, charts, saved, sentence
from termwise.charts import Axis, Chart, Plot
from termwise.cli import main
from termwise.errors import RecordError
from termwise.experiments import Result, find
from termwise.records import Table, record_kind
from termwise.report import write_page
from termwise.report.scales import nice_step
from termwise.sentences import say
from test_report import HOSTILE, Page, in_english, read


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def page(directory: Path) -> Page:
    return read(write_page(directory))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with headless.chromium() as browser:
        yield browser


def result(directory: Path, name: str = "toy") -> Result:
    return Result.load(directory / f"{name}.termwise")


def one_chart(directory: Path, rows: list[dict[str, Any]], *plots: Plot) -> Path:
    """A directory whose result has one table, `t`, and one chart."""
    table = Table({name: [row[name] for row in rows] for name in rows[0]})
    chart = Chart("one", say("A title"), say("A reading"), plots)
    return changed(saved(directory), tables={"t": table}, charts=(chart,), beside=None, notes=())


def plot(kind: Any = "lines", x: str = "linear", y: str = "linear", **more: Any) -> Plot:
    scales: tuple[Any, Any] = (x, y)
    return Plot("t", kind, Axis("x", say("across"), scales[0]), Axis("y", say("up"), scales[1]), **more)


def specification(path: Path, slug: str = "toy-one", panel: int = 0) -> dict[str, Any]:
    return read(path).payload["figures"][slug]["panels"][panel]


def scales(node: Any, channel: str) -> list[Any]:
    """Every scale of a channel in a specification."""
    if isinstance(node, list):
        return [found for item in node for found in scales(item, channel)]
    if not isinstance(node, dict):
        return []
    own = [node[channel]["scale"]] if isinstance(node.get(channel), dict) and "scale" in node[channel] else []
    return own + [found for key, item in node.items() if key != channel for found in scales(item, channel)]


# What is read -----------------------------------------------------------------------------------------------


def test_the_page_lies_beside_the_result_and_the_jobs_are_passed_over(directory: Path) -> None:
    assert record_kind(directory / "toy-seed-0.termwise") == "experiment-job"
    path = write_page(directory)
    assert path == directory / "report.html" and path.stat().st_size < 2_000_000
    assert path.read_bytes() == write_page(directory).read_bytes()


def test_one_file_is_enough(directory: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.termwise"
    alone.write_bytes((directory / "toy.termwise").read_bytes())
    assert write_page(alone) == tmp_path / "alone.html"
    assert read(tmp_path / "alone.html").payload["tables"] == read(write_page(directory)).payload["tables"]


def test_a_run_keeps_its_own_page(tmp_path: Path) -> None:
    make_run(tmp_path, steps=(0, 1))
    saved(tmp_path)
    assert "Termwise depth report" in read(write_page(tmp_path)).text


def test_where_there_is_neither_the_message_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"summary\.json.*NAME\.termwise.*termwise experiment"):
        write_page(tmp_path)


def test_the_command_writes_the_page_again(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(directory)])
    assert capsys.readouterr().out == f"report: {directory / 'report.html'}\n"


# Tables -----------------------------------------------------------------------------------------------------


def by_names(payload: Mapping[str, Any], source: str) -> dict[str, list[Any]]:
    return {payload["names"][id_]: values for id_, values in payload["tables"][source].items()}


def test_the_tables_that_charts_read_are_embedded_once_and_equal_the_data(directory: Path, page: Page) -> None:
    payload, stored = page.payload, result(directory)
    read_by = {figure["tables"][0]["source"] for slug, figure in payload["figures"].items() if slug != "claims"}
    assert len(payload["tables"]) == len(read_by) + 1 == 6  # five that charts read, and what was found
    embedded = [by_names(payload, source) for source in payload["tables"]]
    for name in ("curves", "scores", "depths", "tiles", "ramps"):
        columns = stored.tables[name].columns
        (found,) = [table for table in embedded if tuple(table) == columns]
        for i, row in enumerate(stored.tables[name].rows()):
            for column, value in row.items():
                wanted = "yes" if value is True else "no" if value is False else value
                wanted = pytest.approx(value, rel=1e-5, abs=1e-12) if isinstance(value, float) else wanted
                assert found[column][i] == wanted
    assert "values" not in [name for table in embedded for name in table]


def test_what_was_found_is_embedded(directory: Path, page: Page) -> None:
    claims = by_names(page.payload, page.payload["figures"]["claims"]["tables"][0]["source"])
    found = result(directory).found
    assert claims["quantity"] == list(found["quantity"]) and claims["verdict"] == list(found["verdict"])
    assert claims["found"][:3] == pytest.approx(list(found["found"][:3]), rel=1e-5)
    assert claims["found"][3] == "inf" and claims["low"][3] is None


# Words ------------------------------------------------------------------------------------------------------


def test_the_verdict_counts_what_holds_and_what_fails(page: Page) -> None:
    assert "Of 3 expectations 1 holds and 2 fail." in page.text
    assert re.search(r"Is a toy as good as the real thing\?", page.text)
    assert "Plain-20 misses its bound: at step 300" in page.text
    assert "What else was measured" in page.text and "∞" in page.text


def verdicts(directory: Path, kinds: list[str]) -> str:
    table = result(directory).found.rows()
    rows = [{**table[0], "verdict": kind, "expected": "much" if kind else ""} for kind in kinds]
    found = Table({name: [row[name] for row in rows] for name in rows[0]})
    html = write_page(changed(directory, found=found)).read_text(encoding="utf-8")
    return re.search(r'<p class="verdict">(.*?)</p>', html)[1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["", ""], "Nothing was expected of what was measured."),
        (["holds"], "What was expected holds."),
        (["fails", ""], "What was expected fails."),
        (["undecided"] * 2, "Both expectations are undecided."),
        (["holds"] * 7, "All 7 expectations hold."),
        (["holds", "undecided"], "Of 2 expectations 1 holds and 1 is undecided."),
        (["fails", "holds", "holds", "undecided"], "Of 4 expectations 2 hold, 1 fails and 1 is undecided."),
    ],
)
def test_verdicts_in_words(tmp_path: Path, kinds: list[str], words: str) -> None:
    assert verdicts(saved(tmp_path), kinds) == words


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.91596, 0.91036, 0.92153, "0.916 [0.910, 0.922]"),
        (0.4513, -0.1858, 1.088, "0.45 [−0.19, 1.09]"),
        (11.992, 11.648, 12.336, "12.0 [11.6, 12.3]"),
        (-1234.5, -1300.2, -1168.8, "−1,234 [−1,300, −1,169]"),
        (3.21e-7, 3.0e-7, 3.42e-7, "3.2e-7 [3e-7, 3.4e-7]"),
        (0.0, 0.0, 0.0, "0"),
        (7.25, None, None, "7.250"),
        (None, None, None, "undefined"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_has_a_use_for(
    tmp_path: Path, value: float | None, low: float | None, high: float | None, shown: str
) -> None:
    line = {"quantity": "q", "found": value, "low": low, "high": high, "expected": "much", "verdict": "undecided"}
    found = Table({name: [each] for name, each in line.items()})
    html = write_page(changed(saved(tmp_path), found=found)).read_text(encoding="utf-8")
    cell = re.search(r'<td role="cell" class="found">(.*?)</td>', html)
    assert cell is not None and re.sub(r"<[^>]+>", "", cell[1]) == shown


def test_several_experiments_have_a_line_each(tmp_path: Path) -> None:
    saved(tmp_path, name="second")
    saved(tmp_path, range(2), Protocol.quick(), name="first")
    page = read(write_page(tmp_path))
    assert "Of 6 expectations" in page.text
    assert "first: a quick run, to see that it works." in page.text
    assert page.text.count("quick run: shows nothing") == 3 + 1  # its claims, and its line
    html = in_english(tmp_path / "report.html")
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {"experiment-first", "experiment-second"} <= set(ids)
    assert len(page.payload["figures"]) == 1 + 2 * len(charts())


def test_the_command_that_gives_a_result_stands_beside_it(tmp_path: Path) -> None:
    text = read(write_page(saved(tmp_path / "quick", range(2), Protocol.quick()))).text
    assert "termwise experiment toy --seeds 2 --quick" in text
    text = read(write_page(saved(tmp_path / "whole", [3, 4]))).text
    assert "run(e, [3, 4], e.protocol(blocks=8, widths=[8, 16], rate=0.025))" in text
    main(["experiment", "init-length", "--quick", "--seeds", "1", "--directory", str(tmp_path / "real")])
    loaded = Result.load(tmp_path / "real" / "init-length.termwise")
    whole = dataclasses.asdict(find("init-length").protocol())
    settings = {**loaded.settings, "quick": False, "protocol": whole}
    dataclasses.replace(loaded, settings=settings).save(tmp_path / "real" / "init-length.termwise")
    assert "termwise experiment init-length --seeds 1" in read(write_page(tmp_path / "real")).text


def alternatives(path: Path) -> dict[str, list[str]]:
    found = re.findall(r'class="chart" role="img" aria-label="([^"]*)" data-figure="toy-(\w+)"', in_english(path))
    return {slug: [text for text, other in found if other == slug] for _, slug in found}


def test_text_alternatives_hold_the_data(directory: Path) -> None:
    said = alternatives(write_page(directory))
    tables = result(directory).tables
    (curves,) = said["curves"]
    for network in NETWORKS[:2]:
        losses = {row["step"]: row["loss"] for row in tables["curves"].where(network=network).rows()}
        first, last = f"{losses[0]:.3g}", f"{losses[STEPS[-1]]:.3g}"
        least, most = min(losses, key=losses.__getitem__), max(losses, key=losses.__getitem__)
        (words,) = re.findall(rf"{network}: (.*?most.*?\))", curves)
        assert re.search(rf"first {first}\d* \(.*?\) at 0, last {last}\d* .*? at {STEPS[-1]}, ", words)
        assert re.search(rf"least \S+ \([^)]*\) at {least}, most", words)
        assert re.search(rf"most \S+ \([^)]*\) at {most}\b", curves.partition(network)[2])
    assert "Line at 2.30: chance, log 10." in curves
    (dots,) = said["dots"]
    assert all(name in dots for name in NETWORKS)
    plain, signed = said["tiles"]
    assert plain.startswith("energy. energy, by depth and degree: 24 tiles, least 0.00674 at 5, 0, most 1.00 at 0, 0")
    assert re.search(r"least −0\.1\d+ at 0, 3", signed)


# Scales -----------------------------------------------------------------------------------------------------


def test_panels_that_measure_the_same_have_equal_scales(page: Page) -> None:
    figure = page.payload["figures"]["toy-apart"]["panels"]
    for channel in ("x", "y"):
        assert len({json.dumps(scale) for panel in figure for scale in scales(panel, channel)}) == 1


def test_panels_that_measure_other_things_have_scales_of_their_own(tmp_path: Path) -> None:
    rows = [{"x": i, "y": i, "z": 100 * i} for i in range(5)]
    other = Plot("t", "lines", Axis("x", say("across")), Axis("z", say("another thing")))
    path = write_page(one_chart(tmp_path, rows, plot(), other))
    ends = [scales(specification(path, panel=i), "y")[0]["domain"] for i in (0, 1)]
    assert ends == [[0, 4], [0, 400]]


def test_an_axis_keeps_the_ends_that_it_is_given(tmp_path: Path) -> None:
    rows = [{"x": i, "y": 0.4 + i / 100} for i in range(5)]
    given = Plot("t", "lines", Axis("x", say("across")), Axis("y", say("up"), low=0.0, high=1.0))
    assert scales(specification(write_page(one_chart(tmp_path, rows, given))), "y")[0]["domain"] == [0, 1]


def test_zero_has_a_place_on_a_logarithmic_axis(tmp_path: Path) -> None:
    rows = [{"x": x, "y": y} for x, y in ((0, 1e-3), (1, 1e-2), (10, 1.0))]
    spec = specification(write_page(one_chart(tmp_path, rows, plot(x="log", y="log"))))
    (x, *_), (y, *_) = scales(spec, "x"), scales(spec, "y")
    assert (x["type"], x["constant"], x["domain"][0]) == ("symlog", 1, 0)
    assert y["type"] == "log" and 0 < y["domain"][0] < 1e-3 and 1 < y["domain"][1] < 2


def test_whole_numbers_without_a_row_keep_their_place_among_bars(tmp_path: Path) -> None:
    rows = [{"x": x, "y": 1.0} for x in (1, 2, 5)]
    spec = specification(write_page(one_chart(tmp_path, rows, plot("bars"))))
    assert scales(spec, "x")[0]["domain"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("span", "step"), [(1.0, 0.2), (2.3, 0.5), (5.0, 1.0), (70.0, 20.0), (0.0031, 0.001)])
def test_steps_are_round(span: float, step: float) -> None:
    assert nice_step(span) == pytest.approx(step)


def test_an_interval_that_would_hide_everything_is_cut_and_it_is_said(tmp_path: Path) -> None:
    rows = [{"x": i, "y": 1.0 + i, "y_low": -500.0, "y_high": 500.0} for i in range(3)]
    path = write_page(one_chart(tmp_path, rows, plot(interval=("y_low", "y_high"))))
    low, high = scales(specification(path), "y")[0]["domain"]
    assert -10 < low <= 0 and 3 <= high < 10
    assert "Intervals that leave the plot are cut" in read(path).text


# Refusals ---------------------------------------------------------------------------------------------------

GOOD = [{"x": 1.0, "y": 2.0, "name": "a"}]


@pytest.mark.parametrize(
    ("rows", "drawn", "names"),
    [
        (GOOD, Plot("other", "lines", Axis("x", say("x")), Axis("y", say("y"))), "no table 'other'"),
        (GOOD, Plot("t", "lines", Axis("x", say("x")), Axis("z", say("y"))), "no column z"),
        (GOOD, plot(interval=("y_low", "y_high")), "no column y_high, y_low"),
        (GOOD, Plot("t", "lines", Axis("x", say("x")), Axis("name", say("y"))), "'a' where a number is wanted"),
        ([{"x": 1.0, "y": -2.0}], plot(y="log"), "negative"),
    ],
    ids=["table", "column", "interval", "text", "negative"],
)
def test_charts_that_do_not_fit_their_tables_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], drawn: Plot, names: str
) -> None:
    with pytest.raises(RecordError, match=re.escape(names)) as caught:
        write_page(one_chart(tmp_path, rows, drawn))
    assert "toy.termwise" in str(caught.value)


@pytest.mark.parametrize("what", ["found", "verdict", "settings", "beside"])
def test_results_that_do_not_hold_together_are_refused(tmp_path: Path, what: str) -> None:
    loaded = result(saved(tmp_path))
    wrong: dict[str, Any] = {
        "found": {"found": Table({"quantity": ["q"]})},
        "verdict": {"found": Table({n: v + ["maybe"] * (n == "verdict") for n, v in _line().items()})},
        "settings": {"settings": {**loaded.settings, "seeds": "all of them"}},
        "beside": {"beside": "no-such-table"},
    }
    with pytest.raises(RecordError, match=r"toy\.termwise.*Run the experiment again"):
        write_page(changed(tmp_path, **wrong[what]))


def _line() -> dict[str, list[Any]]:
    return {"quantity": ["q"], "found": [1.0], "low": [0.0], "high": [2.0], "expected": ["much"], "verdict": []}


def test_a_broken_file_is_refused_and_the_old_page_stays(tmp_path: Path) -> None:
    before = write_page(saved(tmp_path)).read_bytes()
    whole = (tmp_path / "toy.termwise").read_bytes()
    (tmp_path / "toy.termwise").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match=r"toy\.termwise: not a readable"):
        write_page(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


def test_charts_that_cannot_be_drawn_are_refused_when_they_are_made() -> None:
    with pytest.raises(ValueError, match="give the column"):
        plot("tiles", "ordinal", "ordinal")
    with pytest.raises(ValueError, match="no zero"):
        plot("bars", "ordinal", "log")


# Security ---------------------------------------------------------------------------------------------------


def hostile(directory: Path) -> Path:
    """A result in which every name is an attack."""
    names = ['</script><img src=x onerror="alert(2)">', "=1+1'; alert(3) //", "__proto__", "$&{x} datum.y", "Infinity"]
    column = "a.b['c']\"<b>"
    table = Table({"x": names, column: [0.5 + i for i in range(5)], "y": [*range(5)], HOSTILE: names})
    # A list of names, and a key, that the page's own script gives a meaning to.
    x, y = Axis("x", sentence(HOSTILE), "ordinal"), Axis(column, sentence("<!--"))
    bars = Plot("fill", "bars", x, y, series=HOSTILE, heading=sentence("range"))
    lines = Plot("fill", "lines", Axis(column, sentence("</style>")), Axis("y", sentence("width")), HOSTILE)
    tiles = Plot("fill", "tiles", x, Axis(HOSTILE, sentence("y"), "ordinal"), value=column, where={"x": names[0]})
    chart = Chart(HOSTILE, sentence(HOSTILE), sentence(HOSTILE), (bars, lines, tiles))
    claim = {"quantity": HOSTILE, "found": 1.0, "low": 1.0, "high": 1.0, "expected": HOSTILE, "verdict": "fails"}
    found = Table({name: [value] for name, value in claim.items()})
    settings = {**result(saved(directory)).settings, "protocol": {HOSTILE: HOSTILE}, "versions": {"<b>": HOSTILE}}
    fields: dict[str, Any] = {"question": sentence(HOSTILE), "notes": (sentence(HOSTILE),), "found": found}
    tables = {"fill": table}
    return changed(directory, **fields, settings=settings, tables=tables, charts=(chart,), beside="fill", name=HOSTILE)


def test_names_are_text(tmp_path: Path, page: Page) -> None:
    found = read(write_page(hostile(tmp_path)))
    assert len(found.scripts) == len(page.scripts) and found.policy == page.policy
    assert found.tags.count("img") == found.tags.count("b") == 0
    assert found.text.count(HOSTILE) > 10
    (payload,) = (text for fields, text in found.scripts if fields.get("type") == "application/json")
    assert "<" not in payload
    specifications = json.dumps([figure["panels"] for figure in found.payload["figures"].values()])
    assert "a.b[" not in re.sub(r'"(title|description)": "(\\.|[^"\\])*"', "", specifications)


def test_hostile_names_are_drawn_as_names(chromium: Any, tmp_path: Path) -> None:
    with headless.opened(chromium, write_page(hostile(tmp_path))) as (page, wrong):
        labels = page.locator(".chart").first.locator(".role-axis-label text").all_text_contents()
        assert "__proto__" in labels and "Infinity" in labels
        assert page.locator("img, b").count() == 0
        assert page.locator("h1").inner_text() == HOSTILE
        section = page.locator('section[data-figure^="script"], section[data-figure]').nth(1)
        with page.expect_download() as waiting:
            section.locator("button.csv").click()
        assert re.fullmatch(r"termwise-[a-z0-9-]+\.csv", waiting.value.suggested_filename)
        with open(waiting.value.path(), newline="", encoding="utf-8") as file:
            head, *lines = csv.reader(file)
        assert head == ["x", "a.b['c']\"<b>", "y", HOSTILE]
        assert lines[1][0] == "'=1+1'; alert(3) //"
    assert wrong == []


# In a browser -----------------------------------------------------------------------------------------------

MARKS = """(chart) => Object.fromEntries(["rect", "line", "area", "symbol", "rule", "text"].map((kind) => {
  const found = [...chart.querySelectorAll(`svg .mark-${kind} > *`)].filter((item) => !item.closest(".role-axis"));
  const seen = (item) => { const box = item.getBBox(); return box.width + box.height > 0; };
  return [kind, found.filter((item) => kind === "text" ? item.textContent : seen(item)).length];
}))"""


def drawn(page: Any, slug: str) -> list[dict[str, int]]:
    return [chart.evaluate(MARKS) for chart in page.query_selector_all(f'.chart[data-figure="{slug}"]')]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 380)])
def test_every_kind_is_drawn(chromium: Any, directory: Path, scheme: str, width: int) -> None:
    with headless.opened(chromium, write_page(directory), width=width, scheme=scheme) as (page, wrong):
        (curves,) = drawn(page, "toy-curves")
        assert (curves["line"], curves["area"], curves["symbol"]) == (2, 2, 2 * len(STEPS))
        assert curves["rule"] == 1 and curves["text"] == 2  # a bound, and its label with the halo
        assert [(marks["line"], marks["area"]) for marks in drawn(page, "toy-apart")] == [(1, 1), (1, 1)]
        (bars,) = drawn(page, "toy-scores")
        assert (bars["rect"], bars["rule"], bars["text"]) == (6, 6 + 2, 6 + 4)  # whiskers, bounds, numbers, labels
        (upright,) = drawn(page, "toy-depths")
        assert (upright["rect"], upright["rule"]) == (9, 9)
        (points,) = drawn(page, "toy-norms")
        assert points["symbol"] == 9
        (dots,) = drawn(page, "toy-dots")
        assert (dots["symbol"], dots["rule"], dots["text"]) == (3, 3 + 2, 3 + 4)
        assert [(marks["rect"], marks["text"]) for marks in drawn(page, "toy-tiles")] == [(24, 24), (24, 24)]
        (ramps,) = drawn(page, "toy-ramps")
        assert ramps["line"] == 9
        strokes = "all => new Set(all.map((path) => getComputedStyle(path).stroke)).size"
        assert page.eval_on_selector_all('.chart[data-figure="toy-ramps"] .mark-line path', strokes) == 9
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        inside = "(c) => c.querySelector('svg').getBoundingClientRect().width <= c.clientWidth + 0.5"
        assert all(chart.evaluate(inside) for chart in page.query_selector_all(".chart"))
    assert wrong == []


def test_bars_are_as_long_as_their_numbers(chromium: Any, directory: Path) -> None:
    with headless.opened(chromium, write_page(directory)) as (page, wrong):
        size = "all => all.map((item) => item.getBBox().height)"
        heights = page.eval_on_selector_all('.chart[data-figure="toy-depths"] .mark-rect path', size)
    shares = result(directory).tables["depths"]["share"]
    assert [height / max(heights) for height in heights] == pytest.approx(list(shares / shares.max()), abs=0.01)
    assert wrong == []


def test_numbers_stand_beyond_what_they_belong_to(chromium: Any, tmp_path: Path) -> None:
    values = {"up": (2.0, 1.0, 4.0), "down": (-3.0, -5.0, -1.0), "alone": (1.5, None, None)}
    rows = [{"x": name, "y": y, "y_low": low, "y_high": high} for name, (y, low, high) in values.items()]
    drawing = plot("bars", x="ordinal", interval=("y_low", "y_high"))
    box = "all => all.map((item) => { const at = item.getBoundingClientRect(); return [at.left, at.right]; })"
    with headless.opened(chromium, write_page(one_chart(tmp_path, rows, drawing)), width=380) as (page, wrong):
        bars, whiskers = (
            page.eval_on_selector_all(f".chart .mark-{kind} > *", box)
            for kind in ("rect", "rule:not([class*=role-axis])")
        )
        texts = page.locator(".chart .mark-text:not([class*=role-axis]) text")
        numbers = dict(zip(texts.all_text_contents(), texts.evaluate_all(box), strict=True))
    up, down, alone = bars
    assert numbers["2.00"][0] > max(up[1], whiskers[0][1]) and numbers["1.50"][0] > alone[1]
    assert numbers["−3.00"][1] < min(down[0], whiskers[1][0])
    assert wrong == []


def test_a_name_has_one_colour_in_all_charts(chromium: Any, directory: Path) -> None:
    with headless.opened(chromium, write_page(directory)) as (page, wrong):
        stroke = "(path) => getComputedStyle(path).stroke"
        colours = [
            path.evaluate(stroke) for path in page.query_selector_all('[data-figure="toy-curves"] .mark-line path')
        ]
        sample = "(item) => getComputedStyle(item).color"
        key = [item.evaluate(sample) for item in page.query_selector_all('[data-figure="toy-curves"] .legend .sw')]
        assert colours == key and len(set(key)) == 2
    assert wrong == []


def test_the_table_shows_what_the_figure_shows(chromium: Any, directory: Path) -> None:
    with headless.opened(chromium, write_page(directory)) as (page, wrong):
        section = page.locator('section[data-figure="toy-dots"]')
        section.locator("summary").focus()
        page.keyboard.press("Enter")
        section.locator("thead th").first.wait_for()
        assert section.locator("thead th").all_inner_texts() == ["network", "task", "score", "low", "high"]
        assert section.locator("tbody tr").count() == 3  # of one task alone
        scores = result(directory).tables["scores"].where(task="digits")["score"]
        shown = [float(row.split("\t")[2]) for row in section.locator("tbody tr").all_inner_texts()]
        assert shown == pytest.approx(list(scores), abs=5e-5)
        both = page.locator('section[data-figure="toy-tiles"]')
        both.locator("summary").click()
        both.locator("thead th").first.wait_for()
        assert both.locator("tbody tr").count() == 48  # of both panels
        with page.expect_download() as waiting:
            page.locator('section[data-figure="claims"] button.csv').click()
        assert waiting.value.suggested_filename == "termwise-claims.csv"
        with open(waiting.value.path(), newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        assert [line["verdict"] for line in lines] == list(result(directory).found["verdict"])
        assert lines[3]["found"] == "inf" and lines[3]["low"] == ""
    assert wrong == []


def test_missing_values_leave_gaps_and_break_nothing(chromium: Any, tmp_path: Path) -> None:
    values = [1.0, 2.0, None, 3.0, float("inf"), 4.0, 5.0]
    rows = [{"x": i, "y": v, "y_low": v and v - 1, "y_high": v and v + 1} for i, v in enumerate(values)]
    more = [{"x": i, "y": None, "y_low": None, "y_high": None} for i in (7, 8)]
    interval = ("y_low", "y_high")
    path = write_page(one_chart(tmp_path, rows + more, plot(interval=interval), plot("points", interval=interval)))
    with headless.opened(chromium, path) as (page, wrong):
        lines, points = drawn(page, "toy-one")
        d = page.locator(".chart").first.locator(".mark-line path").get_attribute("d")
        assert d is not None and d.count("M") == 3  # in three pieces: the second of one point alone
        assert lines["symbol"] == points["symbol"] == 5 and points["rule"] == 5
    assert "4 missing." in alternatives(path)["one"][0]
    assert wrong == []


@pytest.mark.parametrize("kind", ["lines", "points", "bars", "tiles"])
def test_a_table_with_nothing_in_it_is_drawn_empty(chromium: Any, tmp_path: Path, kind: str) -> None:
    rows = [{"x": 1, "y": None, "v": None}, {"x": 2, "y": None, "v": None}]
    ordinal = "ordinal" if kind == "tiles" else "linear"
    path = write_page(one_chart(tmp_path, rows, plot(kind, ordinal, ordinal, value="v" if kind == "tiles" else None)))
    with headless.opened(chromium, path) as (page, wrong):
        (marks,) = drawn(page, "toy-one")
        assert sum(marks.values()) == 0
    assert "no values." in alternatives(path)["one"][0]
    assert wrong == []


def test_one_seed_has_no_intervals_and_decides_nothing(chromium: Any, tmp_path: Path) -> None:
    path = write_page(saved(tmp_path, [0]))
    assert "With fewer than 5 seeds nothing is decided." in read(path).text
    assert "All 3 expectations are undecided." in read(path).text
    with headless.opened(chromium, path) as (page, wrong):
        (curves,) = drawn(page, "toy-curves")
        assert (curves["line"], curves["area"], curves["symbol"]) == (2, 0, 2 * len(STEPS))
        (upright,) = drawn(page, "toy-depths")
        assert (upright["rect"], upright["rule"]) == (9, 0)
    assert wrong == []


def test_more_series_than_colours_are_told_apart(chromium: Any, tmp_path: Path) -> None:
    rows = [{"x": x, "y": x + i, "of": f"series {i}"} for i in range(8) for x in range(3)]
    with headless.opened(chromium, write_page(one_chart(tmp_path, rows, plot(series="of")))) as (page, wrong):
        look = "all => all.map((p) => p.getAttribute('stroke') + (p.getAttribute('stroke-dasharray') ?? ''))"
        looks = page.eval_on_selector_all(".chart .mark-line path", look)
        assert len(set(looks)) == 8
        assert page.locator(".legend li").count() == 8
    assert wrong == []


def test_printing_is_light(chromium: Any, directory: Path) -> None:
    with headless.opened(chromium, write_page(directory), scheme="dark") as (page, wrong):
        line = "document.querySelector('.mark-line path').getAttribute('stroke')"
        dark = page.evaluate(line)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.wait_for_function(f"{line} !== '{dark}'")
    assert wrong == []
