"""The claims together: what each scale runs, one correction by other means, and a run that is killed."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from termwise.cli import main
from termwise.errors import UsageError
from termwise.experiments import NAMES, VERDICT, Result, find
from termwise.experiments.grid import Part, run_all
from termwise.experiments.reproduce import Plan, plan, reproduce
from termwise.loop import Training
from termwise.verdict import CLAIMS

MEASURED = ("shallow-first", "variants", "train-by-paths", "depth-degree", "dense-vs-res")
"""The experiments that decide the claims."""


def tiny(seeds: int = 2) -> Plan:
    """A plan of seconds, of the experiments that decide the claims."""
    whole = plan("quick")
    parts = tuple(
        Part(part.experiment, range(seeds), part.experiment.protocol.quick(), part.cost) for part in whole.parts
    )
    return dataclasses.replace(whole, parts=parts)


# What is run.


@pytest.mark.parametrize("scale", ["quick", "standard", "full"])
def test_what_a_scale_runs_and_leaves_out_is_everything(scale: Any) -> None:
    chosen = plan(scale)
    names = [part.experiment.name for part in chosen.parts]
    assert sorted([*names, *chosen.left_out]) == sorted(NAMES)
    assert {*MEASURED} <= {*names}
    assert {len(part.seeds) for part in chosen.parts} == {10 if scale == "full" else 5}
    assert (not chosen.left_out) == (scale == "full")
    assert all(part.cost > 0 for part in chosen.parts)


def test_the_quick_scale_is_four_networks_and_at_most_a_hundred_updates() -> None:
    protocols = {part.experiment.name: part.protocol for part in plan("quick").parts}
    assert {*protocols["shallow-first"].networks, *protocols["variants"].networks} == {
        "resnet-20",
        "densenet-22-6",
        "se-resnet-20",
        "sk-resnet-20",
    }
    for name, protocol in protocols.items():
        data = protocol.load()
        assert (data.name, tuple(data.train_inputs.shape)) == ("digits", (1438, 1, 8, 8))
        if name == "train-by-paths":
            assert protocol.steps <= 100
        elif name != "depth-degree":
            assert Training(protocol.epochs, protocol.batch).steps(1438) <= 100


def test_the_standard_scale_is_six_thousand_images_and_three_epochs() -> None:
    protocols = {part.experiment.name: part.protocol for part in plan("standard").parts}
    assert {*protocols["shallow-first"].networks, *protocols["variants"].networks} == {
        "resnet-20",
        "densenet-22-12",
        "se-resnet-20",
        "sk-resnet-20",
        "plain-20",
    }
    for name in MEASURED:
        assert (protocols[name].data, protocols[name].samples) == ("fashion-mnist", 6000)
    assert {protocols[name].epochs for name in MEASURED if name != "train-by-paths"} == {3}
    for name in ("overfitting", "bn-lag", "capacity", "even-activation", "lone-parity"):
        assert protocols[name] == find(name).protocol()


def test_data_of_another_kind_are_refused_and_folders_are_kept() -> None:
    with pytest.raises(UsageError, match=r"data 'induction'; choose digits"):
        plan("quick", "induction")
    assert {part.protocol.data for part in plan("quick", "cifar10:/a/b").parts} == {"cifar10:/a/b"}


def test_one_scale_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["reproduce", "--quick", "--full"])
    assert caught.value.code == 2
    assert "Mutually exclusive" in capsys.readouterr().err


# The claims.


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Of five seeds, as few as decide anything."""
    directory = tmp_path_factory.mktemp("reproduce")
    return {result.name: result for result in reproduce(tiny(5), directory, jobs=2)}


def holm(p: list[float | None]) -> list[float]:
    """The definition: the i-th smallest of five counts (5 - i) times, and none less than those before it."""
    order = sorted(range(5), key=lambda i: 1.0 if p[i] is None else p[i])
    found, least = [0.0] * 5, 0.0
    for rank, i in enumerate(order):
        value = p[i]
        least = max(least, 1.0 if value is None else min(1.0, (5 - rank) * value))
        found[i] = least
    return found


def test_the_claims_are_corrected_together(results: dict[str, Result]) -> None:
    claims = results[VERDICT].tables["verdicts"].rows()
    assert [line["claim"] for line in claims] == [*CLAIMS]
    assert [line["p_holm"] for line in claims] == pytest.approx(holm([line["p"] for line in claims]))
    assert {line["role"] for line in claims} == {"primary"}
    for line, found in zip(claims, results[VERDICT].found.rows(), strict=True):
        assert line["verdict"] == found["verdict"]
        assert found["quantity"].startswith(f"{line['claim']}: {CLAIMS[line['claim']]} (")
        assert line["verdict"] == "undecided" or line["p_holm"] <= 0.05


def test_each_claim_has_the_number_of_the_experiment_that_measures_it(results: dict[str, Result]) -> None:
    claims = {line["claim"]: line for line in results[VERDICT].tables["verdicts"].rows()}
    own = {
        name: {line["claim"]: line for line in results[name].tables["verdicts"].rows() if line["role"] == "primary"}
        for name in ("shallow-first", "variants", "dense-vs-res")
    }
    for claim, name in {"H2": "shallow-first", "H4": "dense-vs-res", "H5": "variants"}.items():
        for what in ("estimate", "low", "high", "p"):
            assert claims[claim][what] == pytest.approx(own[name][claim][what], nan_ok=True)
    excess = [line["found"] for line in results["depth-degree"].found.rows() if line["expected"]]
    assert [claims["H3"]["estimate"]] == pytest.approx(excess, nan_ok=True)


def test_what_was_not_run_is_said(results: dict[str, Result]) -> None:
    (words,) = (str(note) for note in results[VERDICT].notes if "Not run" in str(note))
    assert "lesion" in words and "shallow-first" not in words


def test_a_part_is_there_as_soon_as_its_last_job_is(tmp_path: Path) -> None:
    lines: list[str] = []
    names = []
    for result in run_all(tiny().parts[:2], tmp_path, progress=lines.append):
        names.append(result.name)
        count = len([line for line in lines if "done" in line])
        left = [part for part in tiny().parts[:2] if part.experiment.name not in names]
        assert count + sum(len(part.jobs) for part in left) == sum(len(part.jobs) for part in tiny().parts[:2])
    assert sorted(names) == sorted(part.experiment.name for part in tiny().parts[:2])
    assert all("left" in line for line in lines if "done" in line and "of" in line) or lines[-1].endswith("of 9")


# Killed.

_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from termwise.experiments.reproduce import reproduce
from test_reproduce import tiny
if __name__ == "__main__":
    for result in reproduce(tiny(5), Path({directory!r}), jobs=2):
        result.save(Path({directory!r}) / f"{{result.name}}.termwise")
"""


def test_killed_and_begun_again_it_gives_the_same_tables(results: dict[str, Result], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    there = tmp_path / "there"
    script.write_text(_SCRIPT.format(tests=str(Path(__file__).parent), directory=str(there)))
    command = [sys.executable, str(script)]
    process = subprocess.Popen(command, start_new_session=True, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 300
        while len([*there.glob("*-seed-*.termwise")]) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in there.glob("*-seed-*.termwise")}
    assert not (there / f"{VERDICT}.termwise").exists()
    subprocess.run(command, check=True, cwd=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for name, result in results.items():
        again = Result.load(there / f"{name}.termwise")
        assert str(again) == str(result)
        assert repr({key: table.rows() for key, table in again.tables.items()}) == repr(
            {key: table.rows() for key, table in result.tables.items()}
        )
