"""The page in Chinese, as it is put together: punctuation, spaces beside Latin letters, nothing left in English."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import browser as headless
from finished_runs import SMALL, finish
from run_directories import DENSENET, PLAIN, RESNET, Kind, make_run
from saved_results import saved
from termwise.report import write_comparison, write_page
from termwise.report.strings.chinese import CHINESE
from termwise.report.strings.english import ENGLISH

HAN = "\u4e00-\u9fff"
FULL = "，。；：、（）“”"
LONGER = replace(DENSENET, name="Longer", slug="longer", first=8.0, last=12.0)
FOUND = {"difference": [-1.6, -1.8, -1.4], "hypotheses": ["H1", "H4"]}
ALONE = {"difference": None, "hypotheses": ["H1"]}
TRACED = ALONE | {"checkpoints": [0, 440]}
NAMES = ("ResNet-20", "ResNet-10", "DenseNet-22", "Plain-9", "Longer")


def said(path: Path) -> list[str]:
    """What the page that opens in Chinese says: its text without what is marked as English, labels, axis titles."""
    page = path.read_text(encoding="utf-8")
    body = page[page.index('<div id="page">') : page.index("<template")]
    labels = re.findall(r'(?:aria-label|data-label)="([^"]*)"', body)
    body = re.sub(r'<(\w+)[^>]* lang="en"[^>]*>.*?</\1>', "", body, flags=re.DOTALL)
    body = re.sub(r"</?(?:span|small|b|a)\b[^>]*>", "", body)  # these stand in the midst of a sentence
    payload = json.loads(re.findall(r'id="payload"[^>]*>(.*?)</script>', page, re.DOTALL)[0])
    found = re.split(r"<[^>]+>", body) + labels + list(_titles(payload["languages"]["zh"]["figures"]))
    return [text for each in found if (text := html.unescape(each).strip())]


def _titles(node: Any) -> Any:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "title" and isinstance(value, str))
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from _titles(each)


def runs(directory: Path) -> dict[str, Path]:
    """A page of every kind."""

    def run(name: str, kinds: tuple[Kind, ...] = (RESNET, DENSENET), **more: Any) -> Path:
        return make_run(directory / name, name=name, kinds=kinds, **more)

    small = (SMALL, RESNET)
    three, many = (RESNET, PLAIN, LONGER), (RESNET, DENSENET, PLAIN, LONGER)
    about = {"finding": TRACED, "seed": None, "unit": "blocks", "reestimated": False, "threads": 1}
    directories = {
        "two": run("two", degrees=(0.2, -0.2), learned=(1.0, -1.0), change={"finding": FOUND}),
        "three": run("three", three, constants="by_depth", learned=(None, None, 0.5), change=about),
        "many": run("many", many, degrees=(0.2, 0.1, 0, -0.1), learned=(1, 0.5, None, -1), change={"finding": ALONE}),
        "plain": run("plain", (PLAIN,), change={"finding": ALONE}),
        "one": run("one", steps=(0,), change={"finding": FOUND}),
        "finished": finish(run("finished", small, change={"finding": FOUND}), small, excess=(0.03, -0.002)),
    }
    finish(directories["many"], many, excess=(0.03, 0.03, 0.03, 0.03))
    pages = {name: write_page(each, language="zh") for name, each in directories.items()}
    again = run("again", learned=(0.5, -1.0), change={"seed": 1, "finding": FOUND})
    pages["both"] = write_comparison([directories["two"], again], directory / "both.html", language="zh")
    return pages


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return {name: said(path) for name, path in runs(tmp_path_factory.mktemp("pages")).items()}


FAULTS = {  # each with a sentence that has it
    "no space between Chinese and Latin": (rf"[{HAN}][A-Za-z0-9]|[A-Za-z0-9%\]][{HAN}]", "从 12降到"),
    "a space beside punctuation": (rf"[{FULL}] | [{FULL}]", "训练过程中， 长度"),
    "two spaces, or two marks": (r"  |[，。；：、][，。；：、]", "均未定。；"),
    "Latin punctuation in Chinese": (rf"[{HAN}{FULL}][,;:!?()\"']|[(\"'][{HAN}]", "占比(对数"),
    "a placeholder": (r"[{}]", "深度 {depth}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_sentences_are_put_together_well(pages: dict[str, list[str]], fault: str) -> None:
    pattern, example = FAULTS[fault]
    assert re.search(pattern, example)
    wrong = {(name, text) for name, texts in pages.items() for text in texts if re.search(pattern, text)}
    assert wrong == set()


def test_nothing_is_said_in_english(pages: dict[str, list[str]]) -> None:
    """Names, units, operators and versions aside."""
    known = r"|".join([*NAMES, r"two|again|seed \d", r"aten\.\w+", "float32|sha256|tables/|parquet|log10|nat|Kendall"])
    known += r"|Termwise|PyTorch|Python|UCI optical digits, 8x8|Esc|Tab|(ab)+|\d{4}-\d\d-\d\dT[\d:]+Z|eval|ReLU"
    known += "|CSV|SVG|PNG|English|demo|digits|three|many|plain|one|finished|min"
    left = {text for texts in pages.values() for text in texts if re.search("[A-Za-z]{3}", re.sub(known, "", text))}
    assert left == set()


def test_experiments_say_in_chinese_what_is_not_theirs(tmp_path: Path) -> None:
    page = write_page(saved(tmp_path), language="zh").read_text(encoding="utf-8")
    body = page[page.index('<div id="page">') : page.index("<template")]
    assert CHINESE["experiments.english"] in body and ENGLISH["experiments.english"] not in page
    assert '<span lang="en">Is a toy as good as the real thing?</span>' in body
    for words in ("The loss falls, in the ResNet before the plain network", "How to read it.", "0.8 or more"):
        assert re.search(rf'lang="en">{re.escape(words)}<', body), words
    english = page[page.index('<template lang="en">') :]
    assert 'lang="en"' not in re.sub(r'<template lang="en">|<pre [^>]*>|<button [^>]*>', "", english)


def test_clauses_of_a_conclusion(pages: dict[str, list[str]]) -> None:
    verdict = (
        "训练过程中，ResNet-20 的平均路径长度（以层计）从 12.9 [12.8, 13.0] 降到 10.0 [9.9, 10.1]（最长 20），"
        "DenseNet-22 从 9.9 [9.8, 10.0] 降到 8.4 [8.3, 8.5]（最长 22）；"
        "最终 ResNet-20 比 DenseNet-22 短 1.6 [1.4, 1.8]，准确率分别为 95.1% 和 95.1%（95% 区间，"
        "基于 256 个探测样本）。只有一个随机种子：H1、H4 均未定。"
    )
    assert verdict in [text.replace("\u00a0", " ") for text in pages["two"]]
    falls, stays = "在 ResNet-20（从 12.9 到 10.0）中下降", "在 Plain-9（9.0）中没有可测的变化"
    assert f"平均路径长度{falls}，{stays}，在 Longer（从 8.6 到 12.0）中上升" in pages["three"]


def test_lines_of_a_picture_break_where_chinese_breaks(tmp_path: Path) -> None:
    run = make_run(tmp_path, kinds=(RESNET, PLAIN, LONGER))
    with headless.chromium() as browser, headless.opened(browser, write_page(run, language="zh"), width=380) as opened:
        page, wrong = opened
        section = page.locator('section[data-figure="heat"]')
        with page.expect_download() as waiting:
            section.locator("button.svg").click()
        waiting.value.save_as(tmp_path / "heat.svg")
        title = section.locator("h2").inner_text()
    found = ElementTree.parse(tmp_path / "heat.svg").getroot().iter("{http://www.w3.org/2000/svg}text")
    lines: list[str] = []
    for each in found:  # the title comes first
        if len("".join(lines).replace(" ", "")) >= len(title.replace(" ", "")):
            break
        lines.append("".join(each.itertext()))
    assert len(lines) > 2 and "".join(lines).replace(" ", "") == title.replace(" ", "")
    assert not any(line[0] in "，。；：、）”" or line[-1] in "（“" for line in lines)
    assert wrong == []
