"""The report: what it embeds, what it refuses, what it says, and what a browser shows of it."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import browser as headless
from run_directories import DENSENET, PLAIN, RESNET, STEPS, Kind, make_run
from termwise.errors import RecordError
from termwise.report import strings, write_page
from termwise.report.page import SCRIPT
from termwise.report.strings import accuracy, compact, integer, number, percent, seconds
from termwise.report.strings.english import ENGLISH
from termwise.report.tables import step_axis

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The scripts, styles, meta tags and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.styles: list[str] = []
        self.policy = ""
        self.tags: list[str] = []
        self.text = ""
        self.texts: list[str] = []
        self.alternatives: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.tags.append(tag)
        fields = dict(attrs)
        assert "style" not in fields and not any(name.startswith("on") for name in fields)
        self.alternatives += [fields["aria-label"] or ""] if "aria-label" in fields else []
        if tag == "script":
            self.scripts.append((fields, ""))
        if tag == "style":
            self.styles.append("")
        if fields.get("http-equiv") == "Content-Security-Policy":
            self.policy = fields["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            fields, text = self.scripts[-1]
            self.scripts[-1] = (fields, text + data)
        elif self._inside == "style":
            self.styles[-1] += data
        else:
            self.text += data
            self.texts.append(data)

    @property
    def payload(self) -> dict[str, Any]:
        (text,) = (text for fields, text in self.scripts if fields.get("type") == "application/json")
        whole = json.loads(text)
        for table in whole["tables"].values():
            for name, column in table.items():
                if isinstance(column, dict):
                    table[name] = [value for value, count in column["runs"] for _ in range(count)]
        return {**whole, **whole["languages"]["en"]}


def in_english(path: Path) -> str:
    """The page as it opens; what it says in Chinese is in a template, of which nothing is there yet."""
    return re.sub(r"<template.*?</template>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def read(path: Path) -> Page:
    return Page(in_english(path))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return read(write_page(run))


# What is written --------------------------------------------------------------------------------------------


def test_page_is_one_small_file(run: Path) -> None:
    path = write_page(run)
    assert path == run / "report.html"
    assert path.stat().st_size < 2_000_000
    assert sorted(p.name for p in run.iterdir()) == ["report.html", "summary.json", "tables"]


def test_destination(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "page.html"
    assert write_page(str(run), target) == target
    assert target.read_bytes() == write_page(run).read_bytes()


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert write_page(run).read_bytes() == write_page(run).read_bytes()


def test_tables_are_embedded_once_and_agree_with_the_files(run: Path, page: Page) -> None:
    tables = page.payload["tables"]
    for name in ("steps", "spectrum"):
        stored = pq.read_table(run / "tables" / f"{name}.parquet").to_pylist()
        embedded = tables[name]
        assert len(embedded["step"]) == len(stored)
        want = {(r["network"], r["step"], r.get("origin"), r.get("depth")): r for r in stored}
        for i in range(len(stored)):
            origin = embedded["origin"][i] if "origin" in embedded else None
            depth = embedded["depth"][i] if "depth" in embedded else None
            row = want[page.payload["networks"][embedded["network"][i]], embedded["step"][i], origin, depth]
            for column in set(embedded) & set(row) - {"network"}:
                value = row[column]
                assert embedded[column][i] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)
    specifications = json.dumps(page.payload["figures"])
    assert "norm_share" in specifications and str(tables["spectrum"]["norm_share"][3]) not in specifications


def test_path_shares(page: Page) -> None:
    paths = page.payload["tables"]["paths"]
    own = [i for i, n in enumerate(paths["network"]) if n == 0]
    assert [paths["depth"][i] for i in own] == RESNET.depths
    assert [int(paths["paths"][i]) for i in own] == [1, 9, 36, 84, 126, 126, 84, 36, 9, 1]
    assert sum(paths["path_share"][i] for i in own) == pytest.approx(1, abs=1e-5)


def test_path_counts_beyond_any_integer_type(tmp_path: Path) -> None:
    huge = Kind("ResNet-1202", "resnet-1202", 19_400_000, 2, 2, 600, 500.0, 300.0)
    tables = read(write_page(make_run(tmp_path, kinds=(huge,), steps=(0, 10)))).payload["tables"]
    assert max(map(int, tables["paths"]["paths"])) > 2**64
    assert sum(tables["paths"]["path_share"]) == pytest.approx(1, abs=1e-4)


# Degrees ----------------------------------------------------------------------------------------------------


def test_without_degrees_the_page_says_nothing_of_them(page: Page) -> None:
    assert "degrees" not in page.payload["tables"] and "degrees" not in page.payload["figures"]
    assert "polynomial" not in page.text


def test_degrees_are_embedded_as_they_are(tmp_path: Path) -> None:
    run = make_run(tmp_path, degrees=(0.2, 0.0))
    payload = read(write_page(run)).payload
    embedded, stored = payload["tables"]["degrees"], pq.read_table(run / "tables" / "degrees.parquet").to_pylist()
    stored = [row for row in stored if row["lowest"] > 0]
    assert embedded["share"] == pytest.approx([row["share"] for row in stored], rel=1e-5)
    assert [payload["networks"][n] for n in embedded["network"]] == [row["network"] for row in stored]
    assert embedded["degree"][:7] == ["1", "2", "3", "4", "5–6", "7–9", "10+"]
    (shown,) = payload["figures"]["degrees"]["tables"]
    columns = shown["columns"]
    assert columns[:6] == ["network", "step", "degree", "share", "share_low", "share_high"]
    assert set(columns) <= set(embedded) & set(payload["columns"])


def test_names_of_degrees_stand_apart_and_near_their_shares(tmp_path: Path) -> None:
    table = read(write_page(make_run(tmp_path, kinds=(RESNET,), degrees=(0.2,)))).payload["tables"]["degrees"]
    last = [i for i, step in enumerate(table["step"]) if step == STEPS[-1]]
    assert all(place is None for i, place in enumerate(table["label_at"]) if i not in last)
    heights = [(table["share"][i] ** 0.5, table["label_at"][i] ** 0.5) for i in last]
    for (_, above), (_, below) in itertools.pairwise(heights):
        assert above - below > 0.044 * 0.8**0.5
    assert heights[0][0] == pytest.approx(heights[0][1]) and all(abs(a - b) < 0.08 for a, b in heights)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            (0.2, -0.2),
            "rises from 60 % [58, 62] to 80 % [78, 82] in ResNet-20 and "
            "falls from 60 % [58, 62] to 40 % [38, 42] in DenseNet-22",
        ),
        (
            (0.2, 0.03),
            "rises from 60 % [58, 62] to 80 % [78, 82] in ResNet-20 and "
            "does not measurably change from 63 % [61, 65] in DenseNet-22",
        ),
        (
            (0.03, 0.0),
            "does not measurably change from 63 % [61, 65] in ResNet-20 and 60 % [58, 62] in DenseNet-22",
        ),
    ],
)
def test_the_title_of_degrees_is_a_finding(tmp_path: Path, changes: tuple[float, float], expected: str) -> None:
    path = write_page(make_run(tmp_path, degrees=changes))
    found = titles(path)["degrees"].replace("\u00a0", " ")
    assert found == f"Of the output’s variance, the part of degree 1 in the input {expected}"
    text = read(path).text
    assert "At 2 of 40 records the estimator warns (heavy tails and truncation)" in text
    assert "mean degree 2.00 [1.90, 2.12] at the first record, 2.00 [1.90, 2.12] at the last" in text


def test_one_record_of_degrees_and_constant_outputs(tmp_path: Path) -> None:
    one = titles(write_page(make_run(tmp_path / "one", steps=(0,), degrees=(0.2, 0.2))))
    assert one["degrees"] == "One record only: nothing to compare over training"
    run = make_run(tmp_path, kinds=(RESNET,), steps=(0, 1, 10), degrees=(0.2,))
    path = run / "tables" / "degrees.parquet"
    table = pq.read_table(path)
    nothing = [
        row | {"share": None, "share_low": None, "share_high": None, "mean_degree": None} for row in table.to_pylist()
    ]
    pq.write_table(table.from_pylist(nothing, table.schema), path)
    assert titles(write_page(run))["degrees"] == "Of which degrees in the input the output is made"
    # Constant at first: what comes after is compared.
    pq.write_table(table.from_pylist(nothing[:8] + table.to_pylist()[8:], table.schema), path)
    assert "in the input rises from 6" in titles(write_page(run))["degrees"]


# Security ---------------------------------------------------------------------------------------------------


def test_policy_allows_exactly_the_scripts_and_the_style(page: Page) -> None:
    def sha(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    rules = {part.split()[0]: part.split()[1:] for part in page.policy.split("; ")}
    run_as_code = [text for fields, text in page.scripts if fields.get("type") != "application/json"]
    assert rules.pop("default-src") == ["'none'"]
    assert rules.pop("script-src") == [sha(text) for text in run_as_code]
    assert rules.pop("style-src") == [sha(text) for text in page.styles]
    assert rules == {"img-src": ["blob:"], "base-uri": ["'none'"], "form-action": ["'none'"]}


def test_nothing_is_fetched(page: Page) -> None:
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "source"} & set(page.tags)
    assert all("src" not in fields for fields, _ in page.scripts)


def hostile_run(directory: Path) -> Path:
    kinds = (
        Kind('</script><img src=x onerror="alert(2)">', "a", 10, 2, 2, 4, 6.0, 5.0),
        Kind("=1+1'; alert(3) //", "b", 10, 3, 1, 4, 6.0, 5.0),
    )
    run = make_run(directory, name=HOSTILE, kinds=kinds, steps=(0, 1, 10))
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"verdict": f"{HOSTILE} & <b>bold</b>", "torch": HOSTILE, "unit": HOSTILE, "constants": HOSTILE}
    summary["data"] |= {"title": HOSTILE, "attribution": "<!--", "sha256": HOSTILE}
    summary["networks"][0]["operators"] = [{"operator": HOSTILE, "rule": "x", "kind": HOSTILE, "count": 1}]
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_names_are_text(tmp_path: Path, page: Page) -> None:
    hostile = read(write_page(hostile_run(tmp_path)))
    assert len(hostile.scripts) == len(page.scripts) and hostile.tags.count("img") == hostile.tags.count("b") == 0
    assert hostile.text.count(HOSTILE) >= 6
    (payload,) = (text for fields, text in hostile.scripts if fields.get("type") == "application/json")
    assert "<" not in payload
    assert hostile.payload["networks"][0].startswith("</script>")


def test_vendored_scripts_are_the_recorded_ones() -> None:
    vendor = files("termwise.report") / "vendor"
    listed = re.findall(r"^\| `(\S+)` \| (\S+) \S+ \| `([0-9a-f]{64})` \|", (vendor / "README.md").read_text(), re.M)
    assert sorted(name for name, *_ in listed) == sorted(p.name for p in vendor.iterdir() if p.name.endswith(".js"))
    for name, package, digest in listed:
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest
        assert "Redistribution and use" in (vendor / f"{package}.LICENSE").read_text()


# Sentences --------------------------------------------------------------------------------------------------


def titles(path: Path) -> dict[str, str]:
    found = re.findall(r'<h2 id="title-(\w+)">(.*?)</h2>', in_english(path))
    return {slug: re.sub(r"<[^>]+>", "", text) for slug, text in found}


def test_titles_are_findings(run: Path) -> None:
    found = titles(write_page(run))
    mean = "The mean path length falls from 12.9 to 10.0 in ResNet-20 and from 9.9 to 8.4 in DenseNet-22"
    assert found["mean"] == f"{mean}; DenseNet-22 ends shorter"
    assert found["heat"].startswith("While the loss falls, the median depth falls from 12 to 10 in ResNet-20")
    kept = "from depth 18 on in ResNet-20 and from depth 20 on in DenseNet-22"
    assert found["truncated"] == f"99 % of the accuracy is kept {kept}"


def test_titles_are_neutral_when_there_is_nothing_to_see(tmp_path: Path) -> None:
    found = titles(write_page(make_run(tmp_path, kinds=(PLAIN,))))
    assert found["spectrum"] == "Every path of Plain-9 from the input has one length: there is nothing to split"
    assert found["heat"].endswith("the median depth stays at 9 in Plain-9")
    assert found["mean"] == "The mean path length does not measurably change from 9.0 in Plain-9"
    assert "only with every term in Plain-9" in found["truncated"]
    one = titles(write_page(make_run(tmp_path / "one", steps=(0,))))
    assert one["heat"] == "One record only: nothing to compare over training"


def test_the_heat_map_says_of_the_loss_what_is_known(tmp_path: Path) -> None:
    run = make_run(tmp_path, kinds=(RESNET,), steps=(0, 1, 10))
    path = run / "tables" / "steps.parquet"
    rows = pq.read_table(path).to_pylist()
    for loss, told in (
        (rows[0]["loss"], "While the loss stays, the median"),
        (9.0, "While the loss rises, the median"),
    ):
        pq.write_table(pa.Table.from_pylist([*rows[:-1], rows[-1] | {"loss": loss}]), path)
        assert titles(write_page(run))["heat"].startswith(told)
    for unknown in (None, math.nan):
        pq.write_table(pa.Table.from_pylist([*rows[:-1], rows[-1] | {"loss": unknown}]), path)
        assert titles(write_page(run))["heat"] == "Which depths carry the output, and when"


def test_closure_is_said_and_a_bad_one_warned_of(run: Path, tmp_path: Path) -> None:
    assert "The parts add up to the whole within" in read(write_page(run)).text
    bad = make_run(tmp_path)
    summary = json.loads((bad / "summary.json").read_text())
    summary["networks"][1]["closure"] = 2e-3
    (bad / "summary.json").write_text(json.dumps(summary))
    assert "The parts miss the whole by 0.00200: do not trust the figures below." in read(write_page(bad)).text


def test_every_sentence_asked_for_exists() -> None:
    sources = [path.read_text() for path in Path(str(files("termwise.report"))).rglob("*.py")]
    asked = {key for text in sources for key in re.findall(r'say\(\s*"([^"]+)"', text)}
    assert len(asked) > 50 and not asked - set(ENGLISH)


def test_every_sentence_is_asked_for() -> None:
    """By its key, or as a member of a family of which a key is put together."""
    root = Path(str(files("termwise")))
    trees = [ast.parse(path.read_text()) for path in root.rglob("*.py") if path.parent.name != "strings"]
    nodes = [node for tree in [*trees, ast.parse(Path(strings.__file__).read_text())] for node in ast.walk(tree)]
    named = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    calls = [(node.func.id, node) for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    families = {"word": r"{}\.[^.]+", "moved": r"{}\.(falls|rises|stays)(\.count)?", "column": r"{}[^.]+"}
    asked = [
        families[name].format(re.escape(argument.value))
        for name, call in calls
        if name in families
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]
    for node in nodes:
        if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            parts = (re.escape(str(v.value)) if isinstance(v, ast.Constant) else "[^.]+" for v in node.values)
            asked.append("".join(parts))
    named |= {f"script.{name}" for name in SCRIPT}
    found = re.compile("|".join(f"(?:{each})" for each in asked))
    assert [key for key in ENGLISH if key not in named and not found.fullmatch(key)] == []


def test_every_column_has_a_heading(page: Page) -> None:
    headings = page.payload["columns"]
    for figure in page.payload["figures"].values():
        assert figure["tables"]
        for table in figure["tables"]:
            assert all(headings[column] for column in table["columns"])
            assert set(table["columns"]) <= set(page.payload["tables"][table["source"]])


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(3.04e-7), "3e-7"),
        (number(12.94), "12.9"),
        (number(0.0), "0"),
        (number(float("nan")), "undefined"),
        (percent(0.123), "12 %"),
        (percent(0.0123), "1.2 %"),
        (accuracy(0.96), "96.0 %"),
        (compact(9_999), "9,999"),
        (compact(12_345), "12.3k"),
        (compact(999_700), "1M"),
        (compact(1_234_567), "1.23M"),
        (compact(2_500_000_000), "2.5G"),
        (integer(272474), "272,474"),
        (integer(10**400), "10^400"),
        (seconds(74.2), "1.2 min"),
    ],
)
def test_numbers(shown: str, expected: str) -> None:
    assert shown.replace("\u00a0", " ") == expected


# The step axis ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [list(STEPS), [0, 1], [0], [5], [10, 100, 1000], [0, 400, 410]], ids=str)
def test_step_axis_sets_zero_apart_and_tiles_the_rest(steps: list[int]) -> None:
    axis = step_axis([steps])
    cells = [axis.cell(steps, row) for row in range(len(steps))]
    for (left, right), step in zip(cells, steps, strict=True):
        assert axis.domain[0] * 0.999 <= left < axis.at(step) < right <= axis.domain[1] * 1.001
    for i in range(len(steps) - 1):
        if steps[i] > 0:
            assert cells[i][1] == pytest.approx(cells[i + 1][0])
        else:
            assert axis.gap is not None and cells[i][1] < axis.gap < cells[i + 1][0]
    assert all(axis.domain[0] <= tick <= axis.domain[1] for tick in axis.ticks)


def test_networks_recorded_at_different_steps(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", kinds=(RESNET,), steps=(0, 10, 100))
    other = make_run(tmp_path / "other", kinds=(DENSENET,), steps=(0, 5, 100))
    for name in ("steps", "spectrum"):
        rows = [pq.read_table(d / "tables" / f"{name}.parquet") for d in (one, other)]
        pq.write_table(_stack(rows), one / "tables" / f"{name}.parquet")
    summaries = [json.loads((d / "summary.json").read_text()) for d in (one, other)]
    summaries[0]["networks"] += summaries[1]["networks"]
    (one / "summary.json").write_text(json.dumps(summaries[0]))
    payload = read(write_page(one)).payload
    assert payload["steps"] == [0, 5, 10, 100]
    steps = payload["tables"]["steps"]
    shown = list(zip(steps["network"], steps["step"], steps["first"], steps["last"], strict=True))
    assert shown == [(0, 0, 0, 1), (0, 10, 2, 2), (0, 100, 3, 3), (1, 0, 0, 0), (1, 5, 1, 2), (1, 100, 3, 3)]


def _stack(tables: list[Any]) -> Any:
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="permissive")


# Refusals ---------------------------------------------------------------------------------------------------


def damage(run: Path, what: str) -> None:
    summary = run / "summary.json"
    content = json.loads(summary.read_text())
    table = run / "tables" / "spectrum.parquet"
    match what:
        case "no summary":
            summary.unlink()
        case "half a summary":
            summary.write_text(summary.read_text()[:400])
        case "newer version":
            summary.write_text(json.dumps(content | {"version": 99}))
        case "another format":
            summary.write_text(json.dumps(content | {"format": "holiday-photos"}))
        case "no networks":
            summary.write_text(json.dumps(content | {"networks": []}))
        case "no table":
            table.unlink()
        case "half a table":
            table.write_bytes(table.read_bytes()[:1000])
        case "no column":
            pq.write_table(pq.read_table(table).drop_columns(["norm_share"]), table)
        case "no depth":
            column = pq.read_table(table).column_names.index("depth")
            rows = pq.read_table(table)
            pq.write_table(rows.set_column(column, "depth", [[None] * len(rows)]), table)
        case "other networks":
            content["networks"][0] |= {"name": "X", "slug": "x"}
            summary.write_text(json.dumps(content))
        case "other degrees":
            degrees = run / "tables" / "degrees.parquet"
            pq.write_table(pq.read_table(degrees).slice(0, 10), degrees)
        case "uneven degrees":
            degrees = run / "tables" / "degrees.parquet"
            pq.write_table(pq.read_table(degrees).slice(1), degrees)
        case "no share":
            degrees = run / "tables" / "degrees.parquet"
            pq.write_table(pq.read_table(degrees).drop_columns(["share"]), degrees)
        case "other steps":
            steps = run / "tables" / "steps.parquet"
            pq.write_table(pq.read_table(steps).slice(1), steps)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("no summary", "summary.json"),
        ("half a summary", "summary.json"),
        ("newer version", "99"),
        ("another format", "holiday-photos"),
        ("no networks", "summary.json"),
        ("no table", "spectrum.parquet"),
        ("half a table", "spectrum.parquet"),
        ("no column", "norm_share"),
        ("other networks", "ResNet-20, X"),
        ("other steps", "steps.parquet"),
        ("no depth", "depth None"),
        ("other degrees", "degrees.parquet"),
        ("uneven degrees", "not the same at every step"),
        ("no share", "no column share"),
    ],
)
def test_bad_runs_are_refused_and_the_old_page_stays(tmp_path: Path, what: str, names: str) -> None:
    run = make_run(tmp_path, steps=(0, 1, 10), degrees=(0.2, 0.1))
    before = write_page(run).read_bytes()
    damage(run, what)
    with pytest.raises(RecordError, match=re.escape(names)):
        write_page(run)
    assert (run / "report.html").read_bytes() == before


# In a browser -----------------------------------------------------------------------------------------------

MARKS = """(chart) => Object.fromEntries(["rect", "line", "area", "symbol", "rule"].map((kind) => {
  const found = [...chart.querySelectorAll(`svg .mark-${kind}:not(.role-axis-grid):not(.role-axis-tick) > *`)];
  const inside = found.filter((item) => !item.closest(".role-axis") && item.getAttribute("fill-opacity") !== "0");
  return [kind, inside.filter((item) => { const box = item.getBBox(); return box.width + box.height > 0; }).length];
}))"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with headless.chromium() as browser:
        yield browser


def counts(page: Any, slug: str) -> list[dict[str, int]]:
    return [chart.evaluate(MARKS) for chart in page.query_selector_all(f'.chart[data-figure="{slug}"]')]


@pytest.mark.parametrize(
    ("constants", "scheme", "width"),
    [("pooled", "light", 1200), ("by_depth", "dark", 1200), ("pooled", "light", 380), ("by_depth", "dark", 380)],
)
def test_every_figure_is_drawn(chromium: Any, tmp_path: Path, constants: str, scheme: str, width: int) -> None:
    path = write_page(make_run(tmp_path, constants=constants))
    with headless.opened(chromium, path, width=width, scheme=scheme) as (page, wrong):
        depths = [len(RESNET.depths), len(DENSENET.depths)]
        beside = [1, 1] if constants == "pooled" else [20, 22]
        drawn = counts(page, "spectrum")
        assert [marks["rect"] for marks in drawn] == [d + c for d, c in zip(depths, beside, strict=True)]
        assert all(marks["area"] >= 1 and marks["rule"] >= 10 for marks in drawn)
        heat = counts(page, "heat")
        assert [marks["rect"] for marks in heat] == [d * len(STEPS) for d in depths]
        assert all(marks["line"] == 7 for marks in heat)  # the loss; three quantiles, each with its halo
        for marks, count in zip(counts(page, "truncated"), depths, strict=True):
            assert marks["line"] == marks["area"] == 3 and marks["symbol"] == 3 * count and marks["rule"] == 2
        (mean,) = counts(page, "mean")
        assert mean["line"] == (2 if constants == "pooled" else 4) and mean["symbol"] == 2 * len(STEPS)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        inside = "(c) => c.querySelector('svg').getBoundingClientRect().width <= c.clientWidth + 0.5"
        assert all(chart.evaluate(inside) for chart in page.query_selector_all(".chart"))
        sizes = page.eval_on_selector_all(".legend svg", "all => all.map((svg) => svg.getBoundingClientRect().width)")
        assert len(sizes) >= 13 and max(sizes) < 80
        labels = [chart.get_attribute("aria-label") for chart in page.query_selector_all(".chart")]
        assert len(labels) == 11 and all(text and re.search("ResNet-20|DenseNet-22", text) for text in labels)
    assert wrong == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 380)])
def test_degrees_are_drawn(chromium: Any, tmp_path: Path, scheme: str, width: int) -> None:
    path = write_page(make_run(tmp_path, degrees=(0.2, 0.1)))
    with headless.opened(chromium, path, width=width, scheme=scheme) as (page, wrong):
        for marks in counts(page, "degrees"):
            assert marks["line"] == marks["area"] == 7 and marks["symbol"] == 7 * len(STEPS) and marks["rule"] == 1
        section = page.locator('section[data-figure="degrees"]')
        labels = section.locator(".chart").first.locator(".mark-text:not(.role-axis-label):not(.role-axis-title) text")
        shown = [text for text in labels.all_text_contents() if text in ("1", "2", "3", "4", "5–6", "7–9", "10+")]
        assert {"5–6", "7–9", "10+"} <= set(shown)
        strokes = section.locator(".mark-line path").evaluate_all("all => all.map((p) => getComputedStyle(p).stroke)")
        swatches = section.locator(".legend line").evaluate_all("all => all.map((l) => getComputedStyle(l).stroke)")
        assert len(set(swatches)) == 7 and sorted(strokes) == sorted(2 * swatches)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        alternative = section.locator(".chart").first.get_attribute("aria-label")
        assert alternative is not None and "at step 440: 80 % of degree 1, " in alternative
        section.locator("summary").click()
        assert section.locator("tbody tr").first.inner_text().split("\t")[:4] == ["ResNet-20", "0", "1", "0.6000"]
        assert section.locator("tbody tr").count() == 2 * 7 * len(STEPS)
    assert wrong == []


def test_a_large_constant_is_cut_and_its_number_written(chromium: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path, kinds=(RESNET,), steps=(0, 10))
    table = pq.read_table(run / "tables" / "spectrum.parquet")
    rows = [
        row | {"norm_share": 7.25 if row["origin"] == "constant" else row["norm_share"]} for row in table.to_pylist()
    ]
    pq.write_table(table.from_pylist(rows), run / "tables" / "spectrum.parquet")
    with headless.opened(chromium, write_page(run)) as (page, wrong):
        chart = page.locator('.chart[data-figure="spectrum"]')
        assert chart.locator(".mark-text text", has_text="7.25").text_content() == "7.25 ↑"
        assert "off the scale" in page.locator('section[data-figure="spectrum"] .legend').inner_text()
    assert wrong == []


@pytest.mark.parametrize("constants", ["pooled", "by_depth"])
def test_frozen_parts_stand_apart(chromium: Any, tmp_path: Path, constants: str) -> None:
    run = make_run(tmp_path, kinds=(RESNET,), steps=(0, 10), constants=constants)
    table = pq.read_table(run / "tables" / "spectrum.parquet")
    rows = table.to_pylist()
    frozen = [row | {"origin": "frozen", "depth": None, "norm_share": 0.05} for row in rows if row["depth"] == 2]
    pq.write_table(table.from_pylist(rows + frozen), run / "tables" / "spectrum.parquet")
    with headless.opened(chromium, write_page(run)) as (page, wrong):
        labels = page.locator('.chart[data-figure="spectrum"] .role-axis-label text').all_text_contents()
        assert "frozen" in labels and ("const." in labels) == (constants == "pooled")
    assert wrong == []


@pytest.mark.parametrize("steps", [(0,), (7,), (0, 1)], ids=str)
def test_short_runs_are_drawn(chromium: Any, tmp_path: Path, steps: tuple[int, ...]) -> None:
    path = write_page(make_run(tmp_path, kinds=(PLAIN,), steps=steps))
    with headless.opened(chromium, path) as (page, wrong):
        assert counts(page, "heat")[0]["rect"] == len(steps)
        assert counts(page, "spectrum")[0]["rect"] == 2
    assert wrong == []


def test_missing_values_leave_gaps(chromium: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path, kinds=(RESNET,), steps=(0, 1, 10))
    for name, column in (("steps", "loss"), ("spectrum", "head_accuracy")):
        table = pq.read_table(run / "tables" / f"{name}.parquet")
        values = [None, float("nan"), *table[column].to_pylist()[2:]]
        pq.write_table(
            table.set_column(table.column_names.index(column), column, [values]), run / "tables" / f"{name}.parquet"
        )
    with headless.opened(chromium, write_page(run)) as (page, wrong):
        assert counts(page, "heat")[0]["rect"] == 3 * len(RESNET.depths)
    assert wrong == []


def test_slider_moves_the_figure_and_its_table(chromium: Any, run: Path) -> None:
    with headless.opened(chromium, write_page(run)) as (page, wrong):
        section = page.locator('section[data-figure="truncated"]')
        line = section.locator(".chart").first.locator(".mark-line path").last
        before = line.get_attribute("d")
        section.locator("summary").click()
        first = section.locator("tbody tr").first.inner_text()
        assert section.locator("tbody tr").count() == len(RESNET.depths) + len(DENSENET.depths)
        slider = section.locator("input[type=range]")
        slider.focus()
        slider.press("Home")
        assert section.locator("output").inner_text() == "step 0"
        assert slider.get_attribute("aria-valuetext") == "step 0"
        page.wait_for_function("([path, d]) => path.getAttribute('d') !== d", arg=[line.element_handle(), before])
        assert section.locator("tbody tr").first.inner_text() != first
        assert section.locator("thead th").all_inner_texts()[:6] == [
            "network",
            "step",
            "depth",
            "up to k",
            "low",
            "high",
        ]
        # A redraw (another width) keeps the chosen step.
        page.set_viewport_size({"width": 700, "height": 900})
        page.wait_for_timeout(400)
        assert section.locator("output").inner_text() == "step 0"
        assert page.evaluate("document.getElementById('at-truncated').value") == "0"
        assert page.evaluate("document.getElementById('at-spectrum').value") == "0"
    assert wrong == []


def test_data_can_be_downloaded(chromium: Any, tmp_path: Path) -> None:
    with headless.opened(chromium, write_page(hostile_run(tmp_path))) as (page, wrong):
        with page.expect_download() as waiting:
            page.locator('section[data-figure="mean"] button.csv').click()
        assert waiting.value.suggested_filename == "termwise-mean.csv"
        with open(waiting.value.path(), newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["network"] for row in rows[::3]] == [
            '</script><img src=x onerror="alert(2)">',
            "'=1+1'; alert(3) //",
        ]
        stored = pq.read_table(tmp_path / "tables" / "steps.parquet").column("mean_depth").to_pylist()
        assert [float(row["mean_depth"]) for row in rows] == pytest.approx(stored, rel=1e-5)
        assert page.locator("h1").inner_text() == HOSTILE and page.title() == f"{HOSTILE} · Termwise"
        assert page.locator("img, b").count() == 0
    assert wrong == []


def test_printing_is_light(chromium: Any, run: Path) -> None:
    with headless.opened(chromium, write_page(run), scheme="dark") as (page, wrong):
        label = "getComputedStyle(document.querySelector('.chart svg .role-axis-label text')).fill"
        dark = page.evaluate(label)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(label) != dark
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(label) == dark
    assert wrong == []
