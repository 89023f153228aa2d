"""Notebook cards: one valid image each, whose numbers are those of the tables, in a notebook that is really run."""

from __future__ import annotations

import base64
import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pyarrow as pa
import pytest
from bleach._vendor.html5lib.filters import sanitizer
from nbclient import NotebookClient
from nbconvert import HTMLExporter

import results_at_hand as made
import termwise as tw
from browser import chromium
from termwise.report import titles
from termwise.report.card import _wrapped
from termwise.report.tables import step_axis

SVG = "{http://www.w3.org/2000/svg}"
CARDS = {
    "profile": made.profile,
    "timeline": made.timeline,
    "degrees": made.spectrum,
}


def drawn(result) -> ElementTree.Element:
    return ElementTree.fromstring(result._repr_svg_())


def words(card: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in card.iter(f"{SVG}text")]


def numbers(shape: ElementTree.Element, *names: str) -> tuple[float, ...]:
    return tuple(float(shape.attrib[name]) for name in names)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_one_plain_image(name) -> None:
    text = CARDS[name]()._repr_svg_()
    card = ElementTree.fromstring(text)
    assert card.tag == f"{SVG}svg" and card.attrib["role"] == "img"
    title, described = list(card)[:2]
    assert (title.tag, described.tag) == (f"{SVG}title", f"{SVG}desc") and len(described.text or "") > 40
    paper = list(card)[2]
    _, _, width, height = (float(value) for value in card.attrib["viewBox"].split())
    assert numbers(paper, "width", "height") == (width - 1, height - 1) and paper.attrib["fill"] == "#ffffff"
    assert len(list(card.iter())) < 300 and len(text) < 40_000
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("name", CARDS)
def test_nothing_in_it_is_taken_out_by_sanitizers(name) -> None:
    """html5lib's lists are those of bleach, of nbconvert 7.3 to 7.15, and near those of GitHub."""
    elements = {tag for space, tag in sanitizer.allowed_elements if space and space.endswith("svg")}
    attributes = {attribute for space, attribute in sanitizer.allowed_attributes if space is None}
    for element in drawn(CARDS[name]()).iter():
        assert element.tag.removeprefix(SVG) in elements
        assert element.attrib.keys() - {"role"} <= attributes - {"id", "href", "style"}


def test_the_bars_of_a_profile_are_its_shares() -> None:
    profile = made.profile()
    card = drawn(profile)
    bars = [shape for shape in card.iter(f"{SVG}rect") if shape.attrib["fill"] in ("#2458a6", "#a68848")]
    heights = np.array([numbers(bar, "height")[0] for bar in bars])
    shares = profile.share["norm_share"]
    np.testing.assert_allclose(heights / heights.max(), shares / shares.max(), atol=1e-3)
    whiskers = [line for line in card.iter(f"{SVG}line") if line.attrib["x1"] == line.attrib["x2"]]
    scale = heights.max() / shares.max()
    base = numbers(bars[0], "y")[0] + heights[0]
    for line, low, high in zip(
        whiskers, profile.share["norm_share_low"], profile.share["norm_share_high"], strict=False
    ):
        assert numbers(line, "y1", "y2") == pytest.approx((base - low * scale, base - high * scale), abs=0.05)
    assert [word for word in words(card) if re.fullmatch(r"\d", word)] == ["0", "1", "2", "3", "4", "5"]
    told = " ".join(words(card))
    assert titles.spectrum(profile) in told and f"accuracy {profile.accuracy:.3f}" in told
    assert f"{profile.cancellation:.2f} times" in told and titles.truncation(profile) in told
    for share in shares[:-1]:
        shown = f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"
        assert shown in words(card) and shown in str(list(card)[1].text)


def test_frozen_values_have_a_bar_of_their_own() -> None:
    profile = made.profile()
    rows = profile.share.rows()
    born = next(row for row in rows if row["origin"] == "constant")
    frozen = born | {"origin": "frozen", "norm_share": 0.25}
    table = pa.Table.from_pylist([*rows, frozen], schema=profile.share.to_arrow().schema)
    card = drawn(dataclasses.replace(profile, share=type(profile.share)(table)))
    told = str(list(card)[1].text)
    shown = f"{100 * born['norm_share']:.{1 if born['norm_share'] < 0.1 else 0}f} %"
    assert f"Constants: {shown} of the input-born sum. Frozen values: 25 % of" in told
    assert words(card).count("const.") == words(card).count("frozen") == 1
    assert "Frozen" not in str(list(drawn(profile))[1].text)


def test_a_closure_that_is_not_as_promised_is_warned_of() -> None:
    """float32 promises 5e-6; the whole timeline is as bad as its worst record."""
    timeline = made.timeline()
    bad = dataclasses.replace(timeline.profiles[1], closure=2e-3)
    moments = [dataclasses.replace(m, profile=bad) if m.step == timeline.steps[1] else m for m in timeline.moments]
    for result in (bad, type(timeline)(moments)):
        told = " ".join(words(drawn(result)))
        assert "Closure 0.0020: the parts miss the whole by more than float32 should (5e-6)" in told
        assert "add up to the whole" not in told + str(result) and "more than float32 should (5e-06)" in str(result)
    for good in (made.profile(), timeline):
        assert "add up to the whole" in " ".join(words(drawn(good))) and "add up to the whole" in str(good)
    unknown = dataclasses.replace(bad, closure=float("nan"))
    assert "miss the whole" in " ".join(words(drawn(unknown)))


def test_the_ridges_of_a_timeline_are_its_shares() -> None:
    timeline = made.timeline()
    card = drawn(timeline)
    ridges = [shape.attrib["points"] for shape in card.iter(f"{SVG}polygon")]
    chosen = [int(word.replace(",", "")) for word in words(card) if re.fullmatch(r"[\d,]+", word)][: len(ridges)]
    assert 7 <= len(ridges) <= 9 and chosen[0] == 0 and chosen[-1] == timeline.steps[-1]
    assert chosen == step_axis([[*timeline.steps]]).evenly([*timeline.steps], 9)
    points = np.array([[[float(v) for v in point.split(",")] for point in ridge.split()] for ridge in ridges])
    risen = points[:, :1, 1] - points[:, 1:-1, 1]
    own = np.array([timeline.spectrum.where(origin="input", step=step)["norm_share"] for step in chosen])
    np.testing.assert_allclose(risen / risen.max(), own / own.max(), atol=2.5e-3)
    dots = np.array([numbers(dot, "cx", "cy") for dot in card.iter(f"{SVG}circle")])
    left, right = points[0, 1, 0], points[0, -2, 0]
    means = [timeline.table.where(step=step)["mean_depth"][0] for step in chosen]
    np.testing.assert_allclose((dots[:, 0] - left) / (right - left) * 5, means, atol=2e-3)
    first, last = timeline.table.rows()[0], timeline.table.rows()[-1]
    for row in (first, last):
        value, low, high = (f"{row[f'mean_depth{end}']:.2f}" for end in ("", "_low", "_high"))
        assert f"{value} [{low}, {high}]" in " ".join(words(card)) and f"{value} [{low}, {high}]" in str(
            list(card)[1].text
        )


def test_the_bars_of_a_spectrum_are_its_shares() -> None:
    spectrum = made.spectrum()
    card = drawn(spectrum)
    bars = [shape for shape in list(card.iter(f"{SVG}rect"))[1:]]
    heights = np.array([numbers(bar, "height")[0] for bar in bars])
    shares = spectrum.spectrum["share"][1:]
    np.testing.assert_allclose(heights / heights.max(), shares / shares.max(), atol=1e-3)
    names = [word for word in words(card) if re.fullmatch(r"[\d–+]+", word)]
    assert names == ["1", "2", "3", "4", "5–6", "7–9", "10+"]
    assert titles.degrees(spectrum) in " ".join(words(card))


def test_a_spectrum_of_real_data_shows_its_ceiling_and_no_bar_below_zero() -> None:
    model, (inputs, _) = made.network(), made.task(200)
    spectrum = tw.degrees(model, inputs, inputs="real", components=2, highest=2)
    card = drawn(spectrum)
    assert f"Ceiling {100 * spectrum.details['ceiling']:.0f} %" in " ".join(words(card))
    assert all(float(shape.attrib["height"]) >= 0 for shape in card.iter(f"{SVG}rect"))


def test_warnings_are_in_the_caption_and_names_are_text() -> None:
    nasty = 'heavy tails: <script>alert(1)</script> & "quotes" \x1b[31m\x00' + "long " * 60
    card = drawn(dataclasses.replace(made.spectrum(), warnings=(nasty,), inputs="<b>"))
    told = " ".join(words(card))
    assert '<script>alert(1)</script> & "quotes"' in told and "\x00" not in told
    assert not list(card.iter(f"{SVG}script"))
    profile = dataclasses.replace(made.profile(), unit="</text><script>")
    assert "</text><script>" in " ".join(words(drawn(profile)))


def test_lines_fit_the_card_in_any_script() -> None:
    assert _wrapped("a b", 12) == ["a b"] and _wrapped("", 12) == [""]
    lines = _wrapped("long words " * 40, 12)
    assert " ".join(lines) == ("long words " * 40).strip() and max(map(len, lines)) <= 600 / (0.57 * 12)
    chinese = _wrapped("深度" * 100, 12)
    assert "".join(chinese) == "深度" * 100 and max(map(len, chinese)) <= 50
    assert max(map(len, _wrapped("x" * 500, 12))) <= 88


NOTEBOOK = """
import sys, warnings
warnings.simplefilter("error")
sys.path.insert(0, {tests!r})
import results_at_hand as made
"""


@pytest.fixture(scope="module")
def notebook():
    """A notebook that shows all three cards, and a figure, run in a kernel of its own."""
    cells = [
        NOTEBOOK.format(tests=str(Path(__file__).parent)),
        "made.profile()",
        "made.timeline()",
        "made.spectrum()",
        "made.profile().plot()",
        "import matplotlib.pyplot as plt; plt.get_fignums()",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python", "language": "python"}
    NotebookClient(book, timeout=300, kernel_name="python3").execute()
    nbformat.validate(book)
    return book


def outputs(cell) -> list[dict]:
    return [output["data"] for output in cell["outputs"] if "data" in output]


def test_a_notebook_holds_an_image_and_text(notebook) -> None:
    for cell, make in zip(notebook.cells[1:4], CARDS.values(), strict=True):
        (data,) = outputs(cell)
        assert data.keys() == {"image/svg+xml", "text/plain"}
        shown = "".join(data["image/svg+xml"])
        assert ElementTree.canonicalize(shown) == ElementTree.canonicalize(make()._repr_svg_())


def test_a_figure_shows_below_its_cell_and_is_closed(notebook) -> None:
    shown = outputs(notebook.cells[4])
    assert any("image/png" in data for data in shown)
    assert outputs(notebook.cells[5])[0]["text/plain"] == "[]"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_exported_notebook_shows_the_cards(notebook, scheme, tmp_path) -> None:
    body, _ = HTMLExporter(theme=scheme).from_notebook_node(notebook)
    (tmp_path / "book.html").write_text(body)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 900}, color_scheme=scheme)
        page.goto((tmp_path / "book.html").as_uri(), wait_until="domcontentloaded")
        images = page.locator("img[src^='data:image/svg+xml']")
        assert images.count() == 3
        for i in range(3):
            image = images.nth(i)
            natural = image.evaluate("async (image) => { await image.decode(); return image.naturalWidth }")
            box = image.bounding_box()
            assert natural == 640 and box is not None and 500 < box["width"] <= 640
        page.screenshot(path=str(tmp_path / f"{scheme}.png"), full_page=True)
    first = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', body)
    assert first is not None and ElementTree.fromstring(base64.b64decode(first[1])).tag == f"{SVG}svg"


def test_a_page_that_takes_the_elements_in_shows_them_too(tmp_path) -> None:
    """As nbviewer and GitHub do: no card disturbs another, and every line of text lies on its paper."""
    body = "".join(f"<div>{make()._repr_svg_()}</div>" for make in CARDS.values())
    (tmp_path / "page.html").write_text(f'<!doctype html><meta charset="utf-8"><body style="background:#000">{body}')
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 900, "height": 900})
        page.goto((tmp_path / "page.html").as_uri())
        outside = page.evaluate(
            """() => [...document.querySelectorAll("svg")].flatMap((svg) => {
              const paper = svg.querySelector("rect").getBoundingClientRect();
              return [...svg.querySelectorAll("text")].filter((text) => {
                const box = text.getBoundingClientRect();
                return box.left < paper.left || box.right > paper.right || box.bottom > paper.bottom || !box.width;
              }).map((text) => text.textContent);
            })"""
        )
        assert outside == [] and page.locator("svg").count() == 3
