"""What all experiments share: their statistics by hand, their commands end to end."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from termwise.cli import main
from termwise.experiments import COLLECTIONS, NAMES, find, run
from termwise.experiments.common import by_quantity, row
from termwise.verdict.decision import Expected

# Statistics.


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.21, 0.22, 0.23, 0.22, 0.23], "holds"),
        ([0.31, 0.32, 0.33, 0.32, 0.33], "fails"),
        ([0.11, 0.12, 0.13, 0.12, 0.13], "fails"),
        ([0.21, 0.22, 0.23, 0.22, 0.29], "undecided"),
        ([0.21, 0.22, 0.23, 0.22], "undecided"),
        ([math.nan] * 5, "undecided"),
        ([math.inf, 0.22, 0.23, 0.22, 0.23], "undecided"),
    ],
)
def test_a_number_between_two_bounds(values: list[float], verdict: str) -> None:
    assert Expected("0.2 to 0.25", 0.2, 0.25).verdict(values) == verdict


def test_a_line_is_the_mean_over_seeds_and_its_interval() -> None:
    (values,) = by_quantity([{"quantity": "r", "seed": s, "value": 0.2 + 0.01 * s} for s in range(5)]).values()
    line = row("r", values, Expected("0.2 or more", 0.2))
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (line["found"], line["low"], line["high"]) == tuple(map(pytest.approx, (np.mean(values), low, high)))
    assert (line["expected"], line["verdict"]) == ("0.2 or more", "holds")


def test_a_number_that_a_seed_does_not_have_leaves_all_open() -> None:
    line = row("r", [0.21, None, 0.22, 0.23, math.nan], Expected("0.2 or more", 0.2))
    assert [math.isnan(line[name]) for name in ("found", "low", "high")] == [True] * 3
    assert line["verdict"] == "undecided"


# End to end.


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_a_collection_is_all_of_its_experiments(
    collection: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["experiment", collection, "--quick", "--seeds", "1", "--directory", str(tmp_path), "--jobs", "1"])
    printed = capsys.readouterr().out
    members = COLLECTIONS[collection]
    assert {*members} <= {*NAMES}
    places = [printed.index(f"saved: {tmp_path / name}.termwise") for name in members]
    assert places == sorted(places)
    page = (tmp_path / "report.html").read_text()
    assert all(str(find(name).question) in page for name in members)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_prints_what_was_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["experiment", name, "--quick", "--seeds", "1"])
    printed = capsys.readouterr().out
    result = run(find(name), [0], find(name).protocol.quick())
    assert str(result) in printed
    assert "its numbers and verdicts show nothing" in printed
    assert {"expected", "verdict"} <= set(result.found.columns)
    assert set(result.found["verdict"]) <= {"", "undecided"}
    page = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()
    assert all(words in page for words in result.found["expected"])
