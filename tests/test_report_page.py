"""The page in a reader's hands: its languages, linked figures, keys, downloads, accessibility, several runs."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from scipy import stats

import browser as headless
from finished_runs import SMALL, finish
from run_directories import DENSENET, PLAIN, RESNET, STEPS, make_run
from saved_results import saved
from termwise import cli
from termwise.degree.course import CONSTANT
from termwise.errors import RecordError, UsageError
from termwise.report import write_comparison, write_page
from termwise.report.strings import LANGUAGES
from test_report import HOSTILE, hostile_run, in_english, read

ALL_DRAWN = "document.querySelectorAll('.chart svg').length === document.querySelectorAll('.chart').length"
LIT = """(chart) => [...chart.querySelectorAll('svg .mark-rule line')].filter((line) =>
  line.getAttribute('stroke-opacity') === '0.55').length"""
ROW_LIT = """(chart) => {
  const lines = [...chart.querySelectorAll('svg .mark-rule line')];
  const lit = lines.filter((line) => line.getAttribute('stroke-opacity') === '0.55');
  const top = (each) => each.getBoundingClientRect().top;
  return Math.max(...lit.map(top)) - top(chart);
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with headless.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), degrees=(0.2, 0.1))


# Languages --------------------------------------------------------------------------------------------------


def test_every_sentence_is_there_in_every_language() -> None:
    english = LANGUAGES["en"]
    for language, table in LANGUAGES.items():
        assert set(table) == set(english), language
        for key, sentence in table.items():
            fields = set(re.findall(r"{(\w+)}", sentence))
            # A language may leave a number's unit or a clause's subject unsaid, but asks for nothing that is not given.
            assert fields <= set(re.findall(r"{(\w+)}", english[key])) | {"unit"}, (language, key)


def test_every_kind_of_warning_has_a_word() -> None:
    """A warning begins with its kind, and a colon; what is raised is none."""
    kinds = {CONSTANT}
    for name in ("circle", "ladder", "terms", "walsh"):
        tree = ast.parse((Path(str(files("termwise"))) / "degree" / f"{name}.py").read_text())
        raised = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Raise) for part in ast.walk(node)}
        texts = [n.values[0] if isinstance(n, ast.JoinedStr) else n for n in ast.walk(tree) if id(n) not in raised]
        begun = (n.value for n in texts if isinstance(n, ast.Constant) and isinstance(n.value, str))
        kinds |= {found[1] for text in begun if (found := re.match(r"([a-z][a-z ]+): ", text))}
    assert {"aliasing", "closure", "linearised", "heavy tails", "too few samples"} <= kinds
    for table in LANGUAGES.values():
        assert kinds == {key.removeprefix("warning.") for key in table if key.startswith("warning.")}


def test_the_switch_changes_all_that_is_said(chromium: Any, run: Path) -> None:
    with headless.opened(chromium, write_page(run)) as (page, wrong):
        assert page.evaluate("document.documentElement.lang") == "en"
        before = page.locator("h2").all_inner_texts()
        slider = page.locator('section[data-figure="spectrum"] input')
        slider.focus()
        slider.press("Home")
        page.locator('.languages button[data-language="zh"]').click()
        page.wait_for_function(
            "document.querySelectorAll('.chart svg').length === document.querySelectorAll('.chart').length"
        )
        assert page.evaluate("document.documentElement.lang") == "zh" and page.title() == "demo on digits · Termwise"
        titles = page.locator("h2").all_inner_texts()
        assert len(titles) == len(before) and all(re.search("[\u4e00-\u9fff]", title) for title in titles)
        assert page.locator('.languages button[data-language="zh"]').get_attribute("aria-pressed") == "true"
        assert page.locator('section[data-figure="spectrum"] input').input_value() == "0"  # the record stays chosen
        ids = page.locator("[id]").evaluate_all("all => all.map((each) => each.id)")
        assert len(set(ids)) == len(ids)
        # Numbers, names, references and units aside, no sentence has stayed English.
        said = page.locator(
            "main p, main li, main h2, main h3, main button, main summary, main label"
        ).all_inner_texts()
        words = [re.sub("ResNet-20|DenseNet-22", "", text) for text in said]
        left = [text for text in words if re.search("[a-z]{4}", text) and not re.search("[\u4e00-\u9fff]", text)]
        assert left == []
        page.locator('.languages button[data-language="en"]').click()
        assert page.locator("h2").all_inner_texts() == before
    assert wrong == []


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_the_page_opens_in_the_language_asked_for(tmp_path: Path, language: str) -> None:
    text = write_page(make_run(tmp_path), language=language).read_text(encoding="utf-8")
    assert f'<html lang="{language}">' in text
    others = re.findall(r'<template lang="(\w+)">', text)
    assert others == [each for each in LANGUAGES if each != language]


def test_an_unknown_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="en, zh"):
        write_page(make_run(tmp_path), language="fr")


# Linked figures and keys ------------------------------------------------------------------------------------


def eventually(page: Any, seen: Callable[[], Any]) -> bool:
    """Whether it comes true within seconds: figures are drawn anew a little after the place has changed."""
    for _ in range(50):
        if seen():
            return True
        page.wait_for_timeout(100)
    return False


def lit(page: Any) -> dict[str, int]:
    """In how many panels of each figure a place is marked."""
    found: dict[str, int] = {}
    for chart in page.query_selector_all(".chart"):
        slug = chart.get_attribute("data-figure")
        found[slug] = found.get(slug, 0) + bool(chart.evaluate(LIT))
    return {slug: count for slug, count in found.items() if count}


def test_pointing_at_a_place_marks_it_in_every_figure(chromium: Any, run: Path) -> None:
    with headless.opened(chromium, write_page(run)) as (page, wrong):
        cell = page.locator('.chart[data-figure="heat"]').first.locator(".mark-rect path").nth(25)
        cell.scroll_into_view_if_needed()
        cell.hover()
        page.wait_for_function("!document.getElementById('cursor').hidden")
        words = page.locator("#cursor").inner_text()
        assert re.fullmatch(r"depth \d+ · step [\d,]+", words)
        figures = {"spectrum", "heat", "truncated", "mean", "degrees"}
        assert eventually(page, lambda: figures <= set(lit(page)))
        page.mouse.move(2, 2)
        page.wait_for_function("document.getElementById('cursor').hidden")
        assert eventually(page, lambda: not lit(page))
    assert wrong == []


def test_arrow_keys_move_over_depths_and_steps(chromium: Any, run: Path) -> None:
    with headless.opened(chromium, write_page(run)) as (page, wrong):
        chart = page.locator('.chart[data-figure="heat"]').first
        chart.focus()
        for key, words in [
            ("ArrowRight", "step 0"),
            ("ArrowRight", "step 1"),
            ("ArrowUp", "depth 2 · step 1"),
            ("ArrowUp", "depth 4 · step 1"),
            ("ArrowLeft", "depth 4 · step 0"),
            ("ArrowLeft", "depth 4 · step 0"),
        ]:
            chart.press(key)
            assert page.locator("#cursor").inner_text() == words
        assert eventually(page, lambda: lit(page).get("spectrum") == 2)
        ridges = page.locator('.chart[data-figure="ridgeline"]').first
        ridges.focus()
        height = -math.inf
        for words in ("step 0", "step 1", "step 2"):  # downwards: the first record is at the back
            ridges.press("ArrowDown")
            assert page.locator("#cursor").inner_text() == words
            assert eventually(page, lambda: ridges.evaluate(ROW_LIT) > height)  # noqa: B023
            height = ridges.evaluate(ROW_LIT)
        chart = ridges
        chart.press("Escape")
        assert page.locator("#cursor").is_hidden()
    assert wrong == []


def test_all_sliders_show_the_same_record(chromium: Any, run: Path) -> None:
    with headless.opened(chromium, write_page(run)) as (page, wrong):
        sliders = page.locator("input[type=range]")
        sliders.first.focus()
        sliders.first.press("Home")
        assert set(page.locator(".slider output").all_inner_texts()) == {"step 0"}
        assert {slider.input_value() for slider in sliders.all()} == {"0"}
    assert wrong == []


# Downloads --------------------------------------------------------------------------------------------------


def test_every_figure_can_be_saved_as_picture_and_data(chromium: Any, tmp_path: Path, run: Path) -> None:
    with headless.opened(chromium, write_page(run), width=900) as (page, wrong):
        for section in page.locator("section[data-figure]").all():
            slug = section.get_attribute("data-figure")
            for kind in ("svg", "png", "csv"):
                with page.expect_download() as waiting:
                    section.locator(f"button.{kind}").first.click()
                path = tmp_path / waiting.value.suggested_filename
                assert re.fullmatch(rf"termwise-{slug}(-\w+)?\.{kind}", path.name)
                waiting.value.save_as(path)
            tree = ElementTree.parse(tmp_path / f"termwise-{slug}.svg").getroot()
            words = " ".join("".join(each.itertext()) for each in tree.iter("{http://www.w3.org/2000/svg}text"))
            title = section.locator("h2").inner_text()
            assert title[:20] in words and tree.get("width") and "<script" not in ElementTree.tostring(tree).decode()
            with Image.open(tmp_path / f"termwise-{slug}.png") as picture:
                assert picture.width == 2 * int(tree.get("width", "0"))
                # Something is drawn on the paper: more than one colour in every quarter of the picture's height.
                pixels = np.asarray(picture.convert("RGB"))
                for part in np.array_split(pixels, 4):
                    assert len(np.unique(part.reshape(-1, 3)[::7], axis=0)) > 1
    assert wrong == []


# Accessibility ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", list(LANGUAGES))
@pytest.mark.parametrize("kind", ["run", "experiments"])
def test_no_serious_violation(chromium: Any, tmp_path: Path, scheme: str, language: str, kind: str) -> None:
    kinds = (SMALL, DENSENET)
    if kind == "run":
        place = finish(make_run(tmp_path, kinds=kinds, degrees=(0.2, 0.1)), kinds, excess=(0.03, 0.0))
    else:
        place = saved(tmp_path)
    with headless.opened(chromium, write_page(place, language=language), scheme=scheme) as (page, wrong):
        for details in page.locator("details").all():
            details.evaluate("(details) => { details.open = true; }")
        found = Axe().run(page).response["violations"]
        told = [(each["id"], each["help"], [node["html"][:120] for node in each["nodes"][:3]]) for each in found]
        serious = [each for each, v in zip(told, found, strict=True) if v["impact"] in ("serious", "critical")]
        assert serious == []
    assert wrong == []


def test_everything_can_be_reached_by_keyboard(chromium: Any, run: Path) -> None:
    """Every control is reached by the tab key, in the order of the page."""
    with headless.opened(chromium, write_page(run)) as (page, wrong):
        controls = page.locator("button:visible, summary:visible, input:visible, .chart, .branch").count()
        kinds = "button, summary, input, .chart, .branch"
        seen: list[int] = []
        for _ in range(controls + 10):
            page.keyboard.press("Tab")
            place = f"[...document.querySelectorAll('{kinds}')].indexOf(document.activeElement)"
            seen.append(page.evaluate(place))
        reached = [at for at in seen if at >= 0]
        assert len(set(reached)) >= controls and reached[:controls] == sorted(reached[:controls])
    assert wrong == []


# Comparison -------------------------------------------------------------------------------------------------


def seeds(directory: Path, ends: list[float]) -> list[Path]:
    """Runs of one network that differ in their seed, and in the mean depth where they end."""
    made = []
    for seed, end in enumerate(ends):
        run = make_run(directory / str(seed), kinds=(RESNET,), name=f"run {seed}", change={"seed": seed})
        summary = json.loads((run / "summary.json").read_text())
        summary["networks"][0]["mean_depth"] = [13.0, end]
        (run / "summary.json").write_text(json.dumps(summary))
        made.append(run)
    return made


def test_seeds_have_an_interval_over_them(tmp_path: Path) -> None:
    ends = [10.0, 10.4, 9.9, 10.2, 10.6]
    page = read(write_comparison(seeds(tmp_path, ends), tmp_path / "page.html"))
    moves = np.array(ends) - 13.0
    low, high = stats.t.interval(0.95, len(moves) - 1, moves.mean(), stats.sem(moves))
    expected = f"changes by {moves.mean():.1f} [{low:.1f}, {high:.1f}] layers".replace("-", "−")
    assert f"Over 5 seeds the mean path length of ResNet-20 {expected}" in page.text
    assert "fewer than" not in page.text
    few = read(write_comparison(seeds(tmp_path / "few", ends[:3]), tmp_path / "few.html"))
    assert "Over 3 seeds" in few.text and "With fewer than 5 seeds nothing is decided." in few.text


def test_only_what_differs_in_nothing_but_the_seed_is_taken_together(tmp_path: Path) -> None:
    runs = seeds(tmp_path, [10.0, 10.4, 9.9])
    change_network(runs[1], recipe="another learning rate")
    change_network(runs[2], recipe=None)
    page = read(write_comparison(runs, tmp_path / "page.html"))
    assert "seeds the mean path length" not in page.text and "fell from" in page.text
    assert [name for name in page.payload["networks"]] == [f"ResNet-20, run {i}" for i in range(3)]
    traced = [make_run(tmp_path / f"t{i}", kinds=(RESNET,), change={"seed": seed}) for i, seed in enumerate((None, 0))]
    names = read(write_comparison(traced, tmp_path / "traced.html")).payload["networks"]
    assert names == ["ResNet-20, run 1", "ResNet-20, run 2"]


def change_network(run: Path, **changes: Any) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["networks"][0] |= changes
    (run / "summary.json").write_text(json.dumps(summary))


def test_what_is_said_of_one_run_is_not_said_of_several(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one", name="first"), make_run(tmp_path / "other", name="second")
    data = json.loads((other / "summary.json").read_text())["data"] | {"probe": 64}
    other = make_run(tmp_path / "other", name="second", change={"data": data})
    page = read(write_comparison([one, other], tmp_path / "page.html"))
    assert "This is one run with one seed" not in page.text and "256 probe samples" not in page.text
    assert "The runs are measured on probes of different sizes" in page.text
    assert "This is one run with one seed" in read(write_page(one)).text


def test_networks_of_all_runs_stand_side_by_side(chromium: Any, tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", name="first")
    other = make_run(tmp_path / "other", name="second", kinds=(RESNET,), steps=(0, 5, 50))
    path = write_comparison([one, other], tmp_path / "page.html")
    page = read(path)
    assert page.payload["networks"] == ["ResNet-20, first", "DenseNet-22", "ResNet-20, second"]
    assert page.payload["steps"] == sorted({*STEPS, 5, 50})
    rows = page.payload["tables"]["steps"]
    assert [rows["network"].count(i) for i in range(3)] == [len(STEPS), len(STEPS), 3]
    panels = page.payload["figures"]["truncated"]["panels"]
    scales = [json.dumps(panel["encoding"]["y"]["scale"]) for panel in panels]
    assert len(scales) == 3 and len(set(scales)) == 1
    with headless.opened(chromium, path) as (shown, wrong):
        assert shown.locator('.chart[data-figure="heat"] svg').count() == 3
        assert shown.locator("footer dl").count() == 2
    assert wrong == []


def test_other_data_are_told(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one", name="first"), make_run(tmp_path / "other", name="second")
    summary = json.loads((other / "summary.json").read_text())
    summary["data"]["sha256"] = "cd" * 32
    (other / "summary.json").write_text(json.dumps(summary))
    notice = "The runs are not on the same data"
    assert notice in read(write_comparison([one, other], tmp_path / "page.html")).text
    assert notice not in read(write_comparison([one, make_run(tmp_path / "x")], tmp_path / "page.html")).text


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"unit": "blocks"}, "unit of depth"),
        ({"unit": "modules", "modules": ["a"]}, "unit of depth"),
        ({"constants": "by_depth"}, "constants"),
        ({"reestimated": False}, "batch-norm statistics"),
    ],
)
def test_runs_that_do_not_measure_the_same_are_refused(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other", change=change)
    with pytest.raises(RecordError, match=what):
        write_comparison([one, other], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    one = make_run(tmp_path)
    for given in ([], [one], [one, one / ".." / one.name]):
        with pytest.raises(UsageError, match="two runs or more"):
            write_comparison(given, tmp_path / "page.html")


def test_hostile_names_stay_text_side_by_side(chromium: Any, tmp_path: Path) -> None:
    runs = [hostile_run(tmp_path / "one"), hostile_run(tmp_path / "other")]
    with headless.opened(chromium, write_comparison(runs, tmp_path / "page.html")) as (page, wrong):
        assert page.locator("img, b").count() == 0 and HOSTILE in page.locator("h1").inner_text()
    assert wrong == []


def outside(text: str) -> str:
    """What of a text is in no isolate."""
    kept, depth = [], 0
    for sign in text:
        depth += sign in "\u2066\u2067\u2068"
        kept += [sign] if not depth else []
        depth -= sign == "\u2069" and depth > 0
    return "".join(kept)


NAMES = ["\u05e8\u05e9\u05ea", "a\u202eb", "\u2067open", "\u2069closed\u202e", "\u0634\u0628\u0643\u0629 (1)"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("language", list(LANGUAGES))
def test_names_from_right_to_left_turn_nothing_else(tmp_path: Path, name: str, language: str) -> None:
    run = make_run(tmp_path, kinds=(dataclasses.replace(RESNET, name=name), DENSENET), learned=(0.5, 0.5))
    page = read(write_page(run, language=language))
    # Every sentence that holds the name beside other words; a heading or a cell of its own is isolated by the browser.
    told = [text for text in [*page.alternatives, *page.texts] if name in text and text.strip() != name]
    assert len(told) > 10
    for text in told:
        assert not {*outside(text)} & {*name} - {*map(chr, range(128))}, ascii(text)
    if name == NAMES[0]:
        assert f"\u2068{name}\u2069" in page.text


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or True)
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other", kinds=(PLAIN, DENSENET))
    cli.main(["report", str(one), "--lang", "zh", "--open"])
    assert opened == [(one / "report.html").resolve().as_uri()]
    assert '<html lang="zh">' in (one / "report.html").read_text(encoding="utf-8")
    cli.main(["compare", str(one), str(other), "--to", str(tmp_path / "both.html")])
    assert str(tmp_path / "both.html") in capsys.readouterr().out and len(opened) == 1
    assert "Termwise comparison of 2 runs" in in_english(tmp_path / "both.html")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compare", str(one)])
    assert stopped.value.code == 2
