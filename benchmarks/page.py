"""How long the report of a run with many depths and records takes to open, all figures drawn, and how large it is.

    python -m benchmarks.page [--quick] [--directory DIR]

A ResNet of 120 layers, 60 depths, is trained for a few steps on the digits and recorded 40 times (some minutes; kept in
DIR, if given). Its page is opened five times in a fresh context of a headless Chromium; the median counts, beside that
of a page that holds the same scripts and no figure, the floor. --quick: 14 layers and 8 records, for its form and not
for its figures.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measuring import Row
from benchmarks.performance import table
from termwise.report import write_page
from termwise.training import NetworkConfig, Recording, RunConfig, Training, run_training

SECONDS, MEGABYTES = 2.0, 2.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main() -> None:
    """Train, write, open, and print the two bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network; its figures show nothing")
    parser.add_argument("--directory", type=Path, help="where the run is kept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = given.directory or Path(scratch) / "run"
        records, depths = train(run, quick=given.quick)
        page = write_page(run)
        bare = Path(scratch) / "bare.html"
        bare.write_text(without_figures(page.read_text(encoding="utf-8")), encoding="utf-8")
        whole, floor = opened([page, bare])
        size = page.stat().st_size / 1e6
    name = f"{depths} depths, {records} records"
    note = f"median of 5; a page with no figure {floor:.2f} s"
    rows = [
        Row("page opened, all figures drawn (s)", name, whole, floor, whole, SECONDS, "at most", note=note),
        Row("page, one file (MB)", name, size, None, size, MEGABYTES, "at most"),
    ]
    print(table(rows))


def train(directory: Path, *, quick: bool) -> tuple[int, int]:
    """A run with so many records and depths."""
    depth, records = (14, 8) if quick else (122, 40)
    # One record every step, for so many steps.
    training = Training(epochs=1, batch_size=1437 // (records - 1))
    recording = Recording(probe=64, calibration=128, ratio=1.0001, replicates=50)
    network = NetworkConfig(f"ResNet-{depth}", "resnet", {"depth": depth, "width": 4, "channels": 1})
    summary = run_training(RunConfig("Benchmark", (network,), training=training, recording=recording), directory)
    found = summary.networks[0]
    return found.steps + 1, len(found.depths)


def without_figures(page: str) -> str:
    """The same page of which nothing is drawn: the scripts are parsed, and there is no place for a figure."""
    return re.sub(r"<section data-figure=.*?</section>", "", page, flags=re.DOTALL)


def opened(pages: list[Path]) -> list[float]:
    """The median time in seconds, of five, until each page says that all of its figures are drawn; in turns."""
    times: list[list[float]] = [[] for _ in pages]
    with chromium() as browser:
        for turn in range(6):
            for own, page in zip(times, pages, strict=True):
                context = browser.new_context(viewport={"width": 1200, "height": 900})
                start = time.perf_counter()
                tab = context.new_page()
                tab.goto(page.resolve().as_uri())
                tab.wait_for_selector("html[data-drawn]", timeout=60_000)
                if turn:  # the first warms up
                    own.append(time.perf_counter() - start)
                context.close()
    return [statistics.median(own) for own in times]


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise SystemExit(f"There is no Chromium on the path ({', '.join(NAMES)}). Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


if __name__ == "__main__":
    main()
