"""The claims together: what each scale runs, one correction by other means, and a run that is killed."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from termwise.cli import main
from termwise.errors import UsageError
from termwise.experiments import (
    NAMES,
    VERDICT,
    Result,
    dense_vs_res,
    depth_degree,
    find,
    shallow_first,
    train_by_paths,
    variants,
)
from termwise.experiments.grid import Part, run_all
from termwise.experiments.reproduce import Plan, plan, reproduce, verdicts
from termwise.loop import Training
from termwise.report import write_page
from termwise.verdict import CLAIMS, EFFECT, EXCESS, SHARE, Endpoint, Verdict, decided

MEASURED = ("shallow-first", "variants", "train-by-paths", "depth-degree", "dense-vs-res")
"""The experiments that decide the claims."""


def tiny() -> Plan:
    """A plan of seconds and one seed, of the experiments that decide the claims."""
    whole = plan("quick")
    parts = tuple(Part(part.experiment, [0], part.experiment.protocol.quick(), part.cost) for part in whole.parts)
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
        "plain-8",
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
    return {result.name: result for result in reproduce(tiny(), tmp_path_factory.mktemp("reproduce"))}


def test_the_claims_are_corrected_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # Five numbers around a mean, further from 0 from claim to claim.
    spread = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    made = {
        claim: decided(Endpoint(claim, "made up", "a number"), [*(mean + spread)])
        for claim, mean in zip(CLAIMS, (1.9, -2.3, 2.5, 3.0, -5.0), strict=True)
    }
    monkeypatch.setattr(train_by_paths, "causal", lambda rows: [1.0])
    monkeypatch.setattr(shallow_first, "claims", lambda rows, protocol, causal: (made["H1"], made["H2"]))
    for module, claim in ((depth_degree, "H3"), (dense_vs_res, "H4"), (variants, "H5")):
        monkeypatch.setattr(module, "claim", lambda rows, protocol, claim=claim: made[claim])
    found = verdicts({name: {} for name in MEASURED}, dict.fromkeys(MEASURED))
    assert [each.claim for each in found] == [*CLAIMS]
    # By the definition: the i-th smallest of five counts 5 - i times, and none less than those before it.
    error = spread.std(ddof=1) / 5**0.5
    p = [2 * float(stats.t.sf(abs(mean) / error, 4)) for mean in (1.9, -2.3, 2.5, 3.0, -5.0)]
    order, least, expected = np.argsort(p), 0.0, [0.0] * 5
    for rank, i in enumerate(order):
        least = expected[i] = max(least, min(1.0, (5 - rank) * p[i]))
    assert [each.p_holm for each in found] == pytest.approx(expected)
    sides = ["holds" if each.estimate > 0 else "fails" for each in found]
    assert [each.verdict for each in found] == [
        side if value <= 0.05 else "undecided" for side, value in zip(sides, expected, strict=True)
    ]
    assert {each.verdict for each in found} == {"undecided", "fails"}  # and not all that had p below 0.05
    assert sum(value <= 0.05 for value in p) > sum(value <= 0.05 for value in expected)


def test_the_third_endpoint_of_h1_comes_from_training_by_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(train_by_paths, "causal", lambda rows: [-1.0, -1.1, -1.2, -1.1, -1.0])

    def claims(rows: Any, protocol: Any, causal: Verdict) -> tuple[Verdict, Verdict]:
        seen.append(causal)
        return decided(SHARE, []), decided(EFFECT, [])

    monkeypatch.setattr(shallow_first, "claims", claims)
    for module, endpoint in (
        (depth_degree, EXCESS),
        (dense_vs_res, Endpoint("H4", "", "")),
        (variants, Endpoint("H5", "", "")),
    ):
        monkeypatch.setattr(module, "claim", lambda rows, protocol, endpoint=endpoint: decided(endpoint, []))
    verdicts({name: {} for name in MEASURED}, dict.fromkeys(MEASURED))
    assert [(each.endpoint, each.verdict) for each in seen] == [("causal", "fails")]


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


def test_the_page_has_the_claims_on_top_and_the_command_that_gives_them(
    results: dict[str, Result], tmp_path: Path
) -> None:
    for name, result in results.items():
        result.save(tmp_path / f"{name}.termwise")
    page = write_page(tmp_path).read_text()
    assert page.index(CLAIMS["H1"]) < page.index(CLAIMS["H5"]) < page.index("H1 (by")
    title, verdict = re.search(r"<h1[^>]*>(?:<span[^>]*>)?(.*?)<.*?<p[^>]*>(.*?)</p>", page, re.DOTALL).groups()  # type: ignore[union-attr]
    assert (title, verdict) == (str(results[VERDICT].question), "All 5 claims are undecided.")
    assert "termwise reproduce --quick --data digits" in page


def test_what_was_not_run_is_said(results: dict[str, Result]) -> None:
    (words,) = (str(note) for note in results[VERDICT].notes if "Not run" in str(note))
    assert "lesion" in words and "shallow-first" not in words


def test_a_part_is_there_as_soon_as_its_last_job_is(tmp_path: Path) -> None:
    parts = [
        Part(part.experiment, [0, 1], part.protocol, cost) for part, cost in zip(tiny().parts[2:4], (1, 2), strict=True)
    ]
    cheap, dear = (part.experiment.name for part in parts)
    lines: list[str] = []
    came = [(result.name, lines[-1]) for result in run_all(parts, tmp_path, progress=lines.append)]
    # The dear one first; of two parts each line says whose it is.
    assert [name for name, _ in came] == [dear, cheap]
    ends = [line for line in lines if ": done, " in line]
    assert came[0][1] == ends[len(parts[1].jobs) - 1]
    assert all(line.startswith((f"{cheap}, seed ", f"{dear}, seed ")) for line in lines)
    assert all("; about " in line for line in ends[:-1]) and ends[-1].endswith(f"done, {len(ends)} of {len(ends)}")
    again = {result.name: str(result) for result in run_all(parts, tmp_path, progress=lines.append)}
    assert lines[-1] == f"{len(ends)} of {len(ends)} jobs are done already"
    assert [*again] == [cheap, dear]


# Killed.

_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from termwise.experiments.reproduce import reproduce
from test_reproduce import tiny
if __name__ == "__main__":
    for result in reproduce(tiny(), Path({directory!r}), jobs=2):
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
