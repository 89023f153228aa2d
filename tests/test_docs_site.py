"""The site: built as `make docs` builds it, whole, and without a network; and its pages, followed literally."""

from __future__ import annotations

import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

import termwise
from browser import chromium
from docs import outputs
from termwise.cli import app

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
# What a page loads by itself, and not when a reader follows a link.
LOADING = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("embed", "src"),
    ("object", "data"),
}
LOADING |= {("video", "src"), ("audio", "src"), ("image", "href"), ("use", "href")}
IN_STYLES = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


class Page(HTMLParser):
    """What a page loads, where it links to, and which places it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self._style = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self._style = tag == "style"
        self.loads += [value for name, value in found.items() if (tag, name) in LOADING]
        self.loads += _loaded_by(found.get("style", ""))
        if tag == "link" and not {"next", "prev", "search", "canonical", "author", "index"} & {*found["rel"].split()}:
            self.loads.append(found["href"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        self.ids |= {found[name] for name in ("id", "name") if name in found}

    def handle_data(self, data: str) -> None:
        if self._style:
            self.loads += _loaded_by(data)


def _loaded_by(style: str) -> list[str]:
    return [one or other for one, other in IN_STYLES.findall(style)]


def _is_elsewhere(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme not in ("", "data") or bool(parts.netloc)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, from a copy of docs/: the gallery writes pages beside those that are there."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("_build", "auto_gallery", "__pycache__"))
    command = re.findall(r"^\t\$\(BIN\)/python (-m sphinx .*) docs docs/_build/html \$\(ARGS\)$", _makefile(), re.M)
    assert len(command) == 1 and "-W" in command[0]
    line = [sys.executable, *command[0].split(), "-q", str(folder / "docs"), str(folder / "site")]
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "default"}
    run = subprocess.run(line, env=os.environ | fixed, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "site"


def _makefile() -> str:
    return (ROOT / "Makefile").read_text()


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    assert len(found) > 30
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    addresses = {address for page in pages.values() for address in page.loads}
    for sheet in site.rglob("*.css"):
        addresses |= {*_loaded_by(sheet.read_text(encoding="utf-8"))}
    assert len(addresses) > 5
    assert not [address for address in addresses if _is_elsewhere(address)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 380])
def test_a_browser_asks_for_nothing_but_files_of_the_site(
    site: Path, browser: Browser, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    wrong: list[str] = []
    here = site.as_uri()
    page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith((here, "data:")) else None)
    # What is still being read when the next page is opened is not missing.
    page.on("requestfailed", lambda r: None if "ABORTED" in str(r.failure) else wrong.append(f"missing {r.url}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    for name in ("index", "start.zh", "theory", "api/depth", "auto_gallery/index", "auto_gallery/4_lesions", "search"):
        page.goto((site / f"{name}.html").as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, f"{name} is wider than the window by {wide} pixels"
    context.close()
    assert not wrong


def test_every_link_within_the_site_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    missing = []
    for path, page in pages.items():
        for link in page.links:
            if _is_elsewhere(link):
                continue
            parts = urlsplit(link)
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            lost = parts.fragment and to in pages and unquote(parts.fragment) not in pages[to].ids | {"top"}
            if not to.exists() or lost:
                missing.append(f"{path.relative_to(site)}: {link}")
    assert not missing


def test_every_public_name_is_on_the_pages_of_the_api(site: Path, pages: dict[Path, Page]) -> None:
    described = set().union(*(page.ids for path, page in pages.items() if path.parent == site / "api"))
    assert {f"termwise.{name}" for name in termwise.__all__} <= described


def test_formulas_are_mathml_and_docstrings_are_no_raw_markup(site: Path, pages: dict[Path, Page]) -> None:
    theory = (site / "theory.html").read_text(encoding="utf-8")
    count = theory.count("<math ")
    assert count == theory.count("</math>") > 30 and "<merror" not in theory
    for path in (site / "api").glob("*.html"):
        text = re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8"))
        assert not re.search(r":(?:param|ivar|raises|returns|rtype)\b", text), path.name


def test_pages_say_their_language(pages: dict[Path, Page]) -> None:
    for path in pages:
        language = "zh" if path.stem.endswith(".zh") else "en"
        assert re.search(rf'<html[^>]* lang="{language}"', path.read_text(encoding="utf-8")), path.name


def test_every_script_of_the_gallery_was_run(site: Path, pages: dict[Path, Page]) -> None:
    scripts = sorted((DOCS / "gallery").glob("*.py"))
    assert len(scripts) >= 6
    for script in scripts:
        page = site / "auto_gallery" / f"{script.stem}.html"
        assert "sphx-glr-script-out" in page.read_text(encoding="utf-8"), f"{script.name} printed nothing"
        assert any(f"sphx_glr_{script.stem}_001" in each for each in pages[page].loads), f"{script.name} drew nothing"


@pytest.mark.parametrize("name", ["how-to/student.md", "why-numbers-differ.md"])
def test_blocks_print_exactly_what_the_page_says(name: str) -> None:
    blocks = [*outputs.run(DOCS / name)]
    assert blocks
    for block in blocks:
        assert block.found == (block.shown or ""), block.code


@pytest.mark.parametrize("name", ["start.md", "how-to/researcher.md", "how-to/practitioner.md", "how-to/prune.md"])
def test_blocks_print_what_the_page_says_but_for_numbers(name: str) -> None:
    blocks = [*outputs.run(DOCS / name)]
    assert sum(block.shown is not None for block in blocks) >= 3
    for block in blocks:
        assert outputs.alike(block.shown or "", block.found), f"{block.code}\n{block.found}"


def test_alike_sees_words_and_no_numbers() -> None:
    assert outputs.alike("depth 2  █▍ 4.3% [4.0, 4.5]   - ", "depth 12  ██ -0.3% [-1.0, 4e-05] 7 ")
    assert not outputs.alike("steps by depth 2", "steps by length 2")
    assert not outputs.alike("1 2 3", "1 2")


@pytest.mark.parametrize("name", ["README.md", "docs/start.md"])
def test_chinese_pages_have_the_code_of_the_english_ones(name: str) -> None:
    english, chinese = (ROOT / each for each in (name, name.replace(".md", ".zh.md")))
    blocks = FENCED.findall(english.read_text(encoding="utf-8"))
    assert len(blocks) >= 4
    assert FENCED.findall(chinese.read_text(encoding="utf-8")) == blocks
    for page, other in ((english, chinese), (chinese, english)):
        assert f"]({other.name})" in page.read_text(encoding="utf-8"), f"{page.name} has no link to {other.name}"
    # Headings, tables and links answer each other, so that nothing is left out.
    for pattern in (r"^#+ ", r"^\|", r"\]\("):
        counts = [len(re.findall(pattern, page.read_text(encoding="utf-8"), re.M)) for page in (english, chinese)]
        assert counts[0] <= counts[1] <= counts[0] + 1, pattern


def _commands() -> list[tuple[str, str]]:
    found = []
    for page in [ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("how-to/*.md")]:
        for block in FENCED.findall(page.read_text(encoding="utf-8")):
            for line in block.splitlines():
                words = shlex.split(line, comments=True) if re.match(r" *(termwise|torchrun) ", line) else []
                if "termwise" in words:
                    found.append((page.name, shlex.join(words[words.index("termwise") + 1 :])))
    return found


@pytest.mark.parametrize(("page", "command"), _commands())
def test_commands_on_the_pages_are_understood(page: str, command: str) -> None:
    words = shlex.split(command)
    function, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert function.__name__ == words[0]


def test_there_are_commands_to_check() -> None:
    assert len(_commands()) > 30


def test_support_prints_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "how-to" / "practitioner.md").read_text(encoding="utf-8")
    found = re.findall(r"```sh\n(termwise support timm:\w+)\n.*?```text\n(.*?)```", page, re.DOTALL)
    assert len(found) == 1
    app(shlex.split(found[0][0])[1:], exit_on_error=False, result_action="return_none")
    assert found[0][1] in capsys.readouterr().out


def test_names_on_the_pages_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "README.zh.md", *DOCS.glob("*.md"), *DOCS.glob("how-to/*.md")]
    names = {name for page in pages for name in re.findall(r"`(termwise(?:\.\w+)+)", page.read_text(encoding="utf-8"))}
    assert len(names) > 10
    for name in names:
        pkgutil.resolve_name(name)
