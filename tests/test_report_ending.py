"""What the report shows of the finished network: the unravelled view, lesions, tiles; in words and in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import browser as headless
from finished_runs import BANDS, SMALL, finish, lesions, routes, tiles
from run_directories import DENSENET, PLAIN, RESNET, Kind, make_run
from termwise.errors import RecordError
from termwise.report import write_page
from test_report import Page, in_english, read, titles

KINDS = (SMALL, RESNET)
DEEP = Kind("ResNet-110", "resnet-110", 1_700_000, 2, 2, 54, 60.0, 40.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_run(tmp_path_factory.mktemp("run"), kinds=KINDS)
    return finish(directory, KINDS, excess=(0.03, -0.002))


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return read(write_page(run))


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def branches(path: Path) -> list[str]:
    """The label of each branch of the stream."""
    return [
        plain(label)
        for label in re.findall(r'class="branch[^"]*" tabindex="0" role="img" aria-label="([^"]*)"', in_english(path))
    ]


def changed(run: Path, table: str, row: dict[str, Any]) -> None:
    """Write a table anew with the cells of its first row changed."""
    path = run / "tables" / f"{table}.parquet"
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([rows[0] | row, *rows[1:]]), path)


# --- what is embedded, and what is left out ---


def test_tables_are_embedded_as_they_are(page: Page) -> None:
    tables = page.payload["tables"]
    stored = [row for kind in KINDS for row in lesions(kind)]
    assert tables["lesions"]["accuracy"] == pytest.approx([row["accuracy"] for row in stored], rel=1e-5)
    # Numbers of blocks are counted from 1 on the page.
    expected = [" → ".join(str(int(i) + 1) for i in row["gone"].split()) or "–" for row in stored]
    assert tables["lesions"]["gone"] == expected
    own = routes(SMALL)
    own = [row for row in own if row["origin"] == "input"]
    assert tables["routes"]["norm_share"] == pytest.approx([row["norm_share"] for row in own], rel=1e-5)
    assert tables["routes"]["route"][:3] == ["–", "1", "2"] and tables["routes"]["route"][-1] == "1 → 2 → 3 → 4"
    # Of the tiles no more than figures show: the network's own.
    rows = [row for kind in KINDS for row in tiles(kind) if row["comparator"] == "own"]
    assert len(rows) == len(tables["tiles"]["joint"])
    assert tables["tiles"]["joint"] == pytest.approx([row["weight"] * row["share"] for row in rows], rel=1e-5)
    assert tables["tiles"]["frequency"][: len(BANDS)] == ["0–1", "2", "3–4", "5–8", "9–15", "16+"]
    for name in ("unravelled", "lesions", "tiles"):
        for shown in page.payload["figures"][name]["tables"]:
            assert set(shown["columns"]) <= set(tables[shown["source"]]) & set(page.payload["columns"])


def test_an_old_run_has_no_such_figures(tmp_path: Path) -> None:
    figures = read(write_page(make_run(tmp_path))).payload["figures"]
    assert "lesions" not in figures and "tiles" not in figures
    # Lengths are in every run.
    assert [shown["source"] for shown in figures["unravelled"]["tables"]] == ["spectrum"]


def test_networks_of_one_path_are_left_out(tmp_path: Path) -> None:
    kinds = (PLAIN, SMALL)
    path = write_page(finish(make_run(tmp_path, kinds=kinds), kinds))
    payload = read(path).payload
    assert len(payload["figures"]["lesions"]["panels"]) == 1
    assert "Plain-9" not in titles(path)["unravelled"] and len(branches(path)) == 16
    assert "unravelled" not in read(write_page(make_run(tmp_path / "one", kinds=(PLAIN,)))).payload["figures"]


@pytest.mark.parametrize(
    ("table", "row", "told"),
    [
        ("lesions", {"removed": -1}, "lesions.parquet: column removed holds -1, expected a whole number"),
        ("lesions", {"accuracy": None}, "lesions.parquet: column accuracy holds None, expected a number"),
        ("lesions", {"removed": 2}, "lesions.parquet: ResNet-10 has no row with 0 or none with 1 block removed"),
        ("routes", {"through": "1;2"}, "routes.parquet: column through holds '1;2', expected numbers of blocks"),
        ("routes", {"paths": "1 2"}, "routes.parquet: column paths holds '1 2', expected a count in digits"),
        ("routes", {"through": None}, "routes.parquet: a row of the input has no through"),
        ("routes", {"length": None}, "routes.parquet: a row of the input has no length"),
        ("tiles", {"depth": None}, "tiles.parquet: a row of the input has no depth"),
        ("routes", {"network": "X"}, "routes.parquet: not the networks of summary.json (X)"),
        ("tiles", {"comparator": None}, "tiles.parquet: column comparator holds None, expected text"),
    ],
)
def test_a_table_that_cannot_be_true_is_refused(tmp_path: Path, table: str, row: dict[str, Any], told: str) -> None:
    run = finish(make_run(tmp_path, kinds=KINDS), KINDS, excess=(0.03, -0.002))
    before = write_page(run).read_bytes()
    changed(run, table, row)
    with pytest.raises(RecordError, match=re.escape(told)):
        write_page(run)
    assert (run / "report.html").read_bytes() == before


@pytest.mark.parametrize("table", ["lesions", "routes", "tiles", "trends"])
def test_a_damaged_table_is_refused(tmp_path: Path, table: str) -> None:
    run = finish(make_run(tmp_path, kinds=KINDS), KINDS, excess=(0.03, -0.002))
    path = run / "tables" / f"{table}.parquet"
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(RecordError, match=f"{table}.parquet"):
        write_page(run)
    path.write_bytes(raw)
    pq.write_table(pq.read_table(path).drop_columns(["network"]), path)
    with pytest.raises(RecordError, match=f"{table}.parquet: no column network"):
        write_page(run)


# --- what is said ---


def test_the_stream_says_which_path_is_widest(run: Path, tmp_path: Path) -> None:
    found = plain(titles(write_page(run))["unravelled"])
    assert found == (
        "The largest share of the summed norms goes through blocks 2, 3 and 4 in ResNet-10 (17 %) and "
        "along paths of length 10 in ResNet-20 (29 %)"
    )
    # Where the intervals of the two widest overlap, none stands out.
    kinds = (RESNET, DENSENET)
    demo = plain(titles(write_page(finish(make_run(tmp_path, kinds=kinds), kinds)))["unravelled"])
    assert demo.endswith("and along paths of no single length that stands out in DenseNet-22 (15 % at the most)")


def test_the_widest_path_stands_out_of_all_others(tmp_path: Path) -> None:
    """Not only of the second: the third's interval may reach further than that one's."""
    run = finish(make_run(tmp_path, kinds=(SMALL,)), (SMALL,))
    path = run / "tables" / "routes.parquet"
    rows = sorted(pq.read_table(path).to_pylist(), key=lambda row: -(row["norm_share"] * (row["origin"] == "input")))
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert "goes through blocks 2, 3 and 4 in ResNet-10" in titles(write_page(run))["unravelled"]
    rows[2] |= {"norm_share_high": rows[0]["norm_share_low"] + 0.001}
    assert rows[1]["norm_share_high"] < rows[0]["norm_share_low"]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert plain(titles(write_page(run))["unravelled"]).endswith(
        "along no single path that stands out in ResNet-10 (17 % at the most)"
    )


def test_beads_and_grouped_lengths_are_spoken_of_where_they_are(run: Path, tmp_path: Path) -> None:
    beads, grouped = "Beads are the steps of the paths", "neighbouring lengths share a branch"
    both = read(write_page(run)).text
    assert "where single paths are not told apart, it is all paths of one length" in both
    assert beads in both and grouped not in both
    routes_alone = read(write_page(finish(make_run(tmp_path / "a", kinds=(SMALL,)), (SMALL,)))).text
    assert beads not in routes_alone and grouped not in routes_alone
    deep = read(write_page(make_run(tmp_path / "b", kinds=(DEEP,), steps=(0, 10)))).text
    assert "Of a network with more than 20 lengths neighbouring lengths share a branch." in deep and beads not in deep


def test_every_path_has_a_label_with_its_share(run: Path) -> None:
    found = branches(write_page(run))
    assert len(found) == 16 + 10
    for row, label in zip(routes(SMALL)[:-1], found, strict=False):
        share = row["norm_share"]
        written = f"{100 * share:.1f}" if share < 0.1 else f"{100 * share:.0f}"
        assert f": {written} % [" in label and "of the output" in label
    assert found[0].startswith("path past all blocks: ")
    assert found[1].startswith("path through block 1 alone: ")
    assert found[6].startswith("path through blocks 1 and 3: ")
    assert found[16].startswith("paths of length 2: ") and found[16].endswith("and 1 path")


def test_ribbons_are_as_wide_as_their_shares(run: Path) -> None:
    svg = re.findall(r"<svg[^>]*role=\"group\".*?</svg>", in_english(write_page(run)), flags=re.DOTALL)[0]
    ribbons = re.findall(r'<path d="M26 ([\d.]+)C[^"]*V([\d.]+)C', svg)
    widths = [float(end) - float(start) for start, end in ribbons]
    shares = [row["norm_share"] for row in routes(SMALL)[:-1]]
    assert len(widths) == 16
    for width, share in zip(widths, shares, strict=True):
        assert width == pytest.approx(130 * share / sum(shares), abs=0.11)
    assert svg.count('class="station"') == 4 * 8 and "style=" not in svg


def test_a_deep_network_has_few_branches(tmp_path: Path) -> None:
    path = write_page(make_run(tmp_path, kinds=(DEEP,), steps=(0, 10)))
    found = branches(path)
    assert len(found) == 19 and found[0].startswith("paths of lengths 2 to 6: ")
    assert found[-1].startswith("paths of length 110: ")
    # 2, 4, 6 together have no beads; 110 alone would have too many to count.
    assert 'class="bead' not in in_english(path)


def test_lesions_are_told_with_what_is_left(run: Path, tmp_path: Path) -> None:
    # 0.96 whole; one block gone leaves 0.936 down to 0.906 of four, 0.936 to 0.856 of nine.
    assert plain(titles(write_page(run))["lesions"]) == (
        "Of the accuracy, ResNet-10 keeps 96 % in the mean with one of its 4 blocks removed (94 to 98 %) and "
        "ResNet-20 keeps 93 % in the mean with one of its 9 blocks removed (89 to 98 %)"
    )
    many = plain(titles(write_page(finish(make_run(tmp_path, kinds=(DENSENET,)), (DENSENET,))))["lesions"])
    assert many == "Of the accuracy, DenseNet-22 keeps 93 % [91, 95] in the mean with one of its 18 blocks removed"


def test_a_block_that_is_like_any_other_is_said_so(tmp_path: Path) -> None:
    run = finish(make_run(tmp_path, kinds=(RESNET,)), (RESNET,))
    path = run / "tables" / "lesions.parquet"
    rows = [row | {"accuracy": 0.9} if row["removed"] == 1 else row for row in pq.read_table(path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), path)
    told = "Of the accuracy, ResNet-20 keeps 94 % whichever one of its 9 blocks is removed"
    assert plain(titles(write_page(run))["lesions"]) == told


def test_of_many_networks_a_title_counts(tmp_path: Path) -> None:
    kinds = tuple(Kind(f"ResNet {i}", f"r-{i}", 10, 2, 2, 4, 7.0, 6.0) for i in range(4))
    found = titles(write_page(finish(make_run(tmp_path, kinds=kinds), kinds, excess=(0.03,) * 4)))
    assert found["unravelled"] == "The networks as the paths that they are sums of"
    assert (
        plain(found["lesions"]) == "With one of its blocks removed each of 4 networks keeps 94 to 98 % of its accuracy"
    )
    assert found["tiles"].endswith("with depth terms get rougher in 4 networks")


def test_nothing_is_claimed_of_a_network_at_chance(tmp_path: Path) -> None:
    run = finish(make_run(tmp_path, kinds=(RESNET,)), (RESNET,))
    path = run / "tables" / "lesions.parquet"
    rows = [row | {"accuracy": 0.1, "mean_accuracy": 0.1} for row in pq.read_table(path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert titles(write_page(run))["lesions"] == "How accurate the networks are with some of their blocks removed"


@pytest.mark.parametrize(
    ("excess", "expected"),
    [
        ((0.03, 0.03), "get rougher in ResNet-10 and ResNet-20"),
        ((0.03, -0.002), "get rougher in ResNet-10 and do not clearly get rougher in ResNet-20"),
        ((-0.03, -0.03), "get less rough in ResNet-10 and ResNet-20"),
    ],
)
def test_tiles_are_told_beyond_what_stands_beside(tmp_path: Path, excess: tuple[float, float], expected: str) -> None:
    path = write_page(finish(make_run(tmp_path, kinds=KINDS), KINDS, excess=excess))
    assert titles(path)["tiles"] == f"Beyond what gates and first weights alone do, with depth terms {expected}"
    value = f"{100 * excess[0]:.2f}".replace("-", "−")
    assert f"points a step: {value} [" in plain(read(path).text)
    assert "The estimator warns: aliasing." in read(path).text


def test_without_first_weights_gates_alone_are_named(tmp_path: Path) -> None:
    run = finish(make_run(tmp_path, kinds=KINDS), KINDS, excess=(0.03, 0.03))
    path = run / "tables" / "trends.parquet"
    rows = [row for row in pq.read_table(path).to_pylist() if row["comparator"] != "initial"]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert titles(write_page(run))["tiles"].startswith("Beyond what gates alone do, with depth terms get rougher")
    pq.write_table(pa.Table.from_pylist([row | {"excess": None} for row in rows]), path)
    assert titles(write_page(run))["tiles"] == "How fast the terms of each depth vary over the inputs"


def test_comparators_that_not_every_network_has_are_not_named(tmp_path: Path) -> None:
    run = finish(make_run(tmp_path, kinds=KINDS), KINDS, excess=(0.03, 0.03))
    path = run / "tables" / "trends.parquet"
    rows = pq.read_table(path).to_pylist()
    low = dict(zip(("excess", "excess_low", "excess_high"), (-0.03, -0.04, -0.02), strict=True))
    rows = [row | low if row["comparator"] == "initial" else row for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), path)
    both = "Beyond what gates and first weights alone do, with depth terms do not clearly get rougher in "
    assert titles(write_page(run))["tiles"] == f"{both}ResNet-10 and ResNet-20"
    pq.write_table(pa.Table.from_pylist(rows[:-1]), path)
    alone = "Beyond what gates alone do, with depth terms get rougher in ResNet-10 and ResNet-20"
    assert titles(write_page(run))["tiles"] == alone


def test_names_are_text(tmp_path: Path) -> None:
    hostile = Kind('"><script>alert(1)</script>', "a", 10, 2, 2, 3, 4.0, 3.0)
    page = read(write_page(finish(make_run(tmp_path, kinds=(hostile,)), (hostile,), excess=(0.1,))))
    assert len(page.scripts) == len(read(write_page(make_run(tmp_path / "plain"))).scripts)
    assert page.text.count(hostile.name) >= 3 and page.payload["networks"] == [hostile.name]


# --- in a browser ---


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with headless.chromium() as browser:
        yield browser


OPACITY = "(each) => each.map((branch) => getComputedStyle(branch.querySelector('.flow')).opacity)"
TOLD = (
    "(each) => each.filter((text) => getComputedStyle(text).visibility === 'visible').map((text) => text.textContent)"
)


def test_pointing_and_focus_light_one_branch(chromium: Any, run: Path) -> None:
    with headless.opened(chromium, write_page(run)) as (page, wrong):
        stream = page.locator("section[data-figure=unravelled] svg[role=group]").first
        lanes, told = stream.locator(".branch"), stream.locator(".told, .hint")
        assert set(lanes.evaluate_all(OPACITY)) == {"1"}
        assert told.evaluate_all(TOLD) == ["Point at a branch, or go through them with the tab key"]
        lanes.nth(6).locator(".hit").hover(force=True)
        page.wait_for_timeout(400)
        dimmed = lanes.evaluate_all(OPACITY)
        assert dimmed[6] == "1" and {each for i, each in enumerate(dimmed) if i != 6} == {"0.14"}
        shown = told.evaluate_all(TOLD)
        assert shown[0] == "path through blocks 1 and 3" and "of the summed norms" in shown[1] and len(shown) == 2
        page.mouse.move(0, 0)
        lanes.nth(2).focus()
        page.keyboard.press("Tab")
        page.wait_for_timeout(400)
        assert [i for i, each in enumerate(lanes.evaluate_all(OPACITY)) if each == "1"] == [3]
        assert told.evaluate_all(TOLD)[0] == "path through block 3 alone"
    assert wrong == []


@pytest.mark.parametrize("width", [1200, 380])
def test_figures_are_drawn_and_fit(chromium: Any, run: Path, width: int) -> None:
    with headless.opened(chromium, write_page(run), width=width, scheme="dark") as (page, wrong):
        for name in ("unravelled", "lesions", "tiles"):
            section = page.locator(f"section[data-figure={name}]")
            assert section.locator(".panels svg").count() == 2
            for i in range(2):
                box = section.locator(".panels svg").nth(i).bounding_box()
                assert box is not None and box["width"] > 280 and box["x"] >= 0 and box["x"] + box["width"] <= width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        section = page.locator("section[data-figure=unravelled]")
        section.locator("summary").first.click()
        section.locator("tbody tr").first.wait_for()  # the table is filled when the page is told that it is open
        assert section.locator("table").first.locator("tbody tr").count() == 16
        tiles_ = page.locator("section[data-figure=tiles] .chart svg").first
        # Tiles, bars beside them and bars above.
        assert tiles_.locator(".mark-rect path").count() == 5 * 6 + 5 + 6
    assert wrong == []
