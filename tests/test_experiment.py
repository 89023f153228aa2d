"""How an experiment is run: seeds that are kept and found again, and those that processes share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from termwise.charts import Axis, Chart, Mark, Plot
from termwise.cli import main
from termwise.errors import RecordError, RunError, UsageError
from termwise.experiments import COLLECTIONS, NAMES, Result, find, run
from termwise.experiments.common import over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.records import read_record, write_record
from termwise.sentences import say
from termwise.verdict.decision import Expected


@dataclasses.dataclass(frozen=True)
class Protocol:
    size: int = 3
    rate: float = 0.5

    @staticmethod
    def quick() -> Protocol:
        return Protocol(1)


measured: list[tuple[int, str]] = []
failing: list[bool] = []


def measure(job: Job) -> Rows:
    measured.append((job.seed, job.cell))
    job.progress("measuring")
    assert torch.get_num_threads() == 1
    mark = job.directory / "half-way"
    found = mark.exists()
    mark.touch()
    if failing and not found:
        raise RuntimeError("stopped")
    values = [{"k": k, "value": job.seed + job.protocol.rate * k} for k in range(job.protocol.size)]
    return {"values": values, "marks": [{"found": found}], "none": []}


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    summary = over_seeds(rows["values"], ["k"])
    plot = Plot("means", "lines", Axis("k", say("k")), Axis("value", say("value")), marks=(Mark(1.5, say("1.5")),))
    return Conclusion(
        [row("value", [each["value"] for each in rows["values"] if each["k"] == 0], Expected("about 2", 0, 4))],
        (say("{n} rows", n=len(rows["values"])),),
        {"means": summary},
        (Chart("means", say("They rise by {rate}", rate=protocol.rate), say("a line"), (plot,)),),
        beside="means",
    )


EXPERIMENT = Experiment("toy", say("Is it so?"), Protocol, measure, conclude)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    measured.clear()
    failing.clear()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def _numbers(result: Result) -> tuple[Any, ...]:
    return str(result), {name: table.rows() for name, table in result.tables.items()}, result.found.rows()


def test_seeds_are_measured_and_concluded_from() -> None:
    lines: list[str] = []
    result = run(EXPERIMENT, range(5), progress=lines.append)
    assert [line for line in lines if "done" not in line] == [f"seed {k}: measuring" for k in range(5)]
    assert [line.partition(";")[0] for line in lines if "done" in line] == [
        f"seed {k}: done, {k + 1} of 5" for k in range(5)
    ]
    assert result.tables["values"].rows()[4] == {"seed": 1, "k": 1, "value": 1.5}
    # The mean of 0 to 4, with 4 degrees of freedom: 2 +- 2.776 sqrt(2.5 / 5).
    (found,) = result.found.rows()
    assert found["found"] == 2
    assert (found["low"], found["high"]) == (pytest.approx(0.0368, abs=1e-4), pytest.approx(3.9632, abs=1e-4))
    assert found["verdict"] == "holds"
    assert str(result).endswith("\n15 rows")
    assert not result.quick and run(EXPERIMENT, [0], Protocol.quick()).quick


def test_a_result_is_read_back(tmp_path: Path) -> None:
    result = run(EXPERIMENT, range(2))
    again = Result.load(result.save(tmp_path / "toy.termwise"))
    assert _numbers(again) == _numbers(result)
    assert (again.charts, again.settings, again.question) == (result.charts, result.settings, result.question)
    assert str(again.charts[0].title) == "They rise by 0.5"


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no\.termwise"):
        Result.load(tmp_path / "no.termwise")


@pytest.mark.parametrize(
    "template", ["{lost}", "{x.__class__}", "{x[0]}", "{x!r}", "{x:>999999999}", "{x:{x}}", "{}", "{0}", "{x:d}", "{"]
)
def test_a_sentence_names_its_values_and_no_more(template: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit its values"):
        say(template, x="text")
    path = run(EXPERIMENT, [0]).save(tmp_path / "toy.termwise")
    record = read_record(path, "experiment")
    record.metadata["notes"] = [{"template": template, "values": {"x": "text"}}]
    with pytest.raises(RecordError, match=r"toy\.termwise.*does not fit its values"):
        Result.load(write_record(path, record))


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    run(EXPERIMENT, [0, 2], directory=tmp_path)
    lines: list[str] = []
    result = run(EXPERIMENT, range(4), directory=tmp_path, progress=lines.append)
    assert measured == [(0, ""), (2, ""), (1, ""), (3, "")]
    assert lines[0] == "2 of 4 jobs are done already"
    assert _numbers(result) == _numbers(run(EXPERIMENT, range(4)))


def test_a_job_that_is_stopped_finds_what_it_had(tmp_path: Path) -> None:
    failing.append(True)
    with pytest.raises(RuntimeError, match="stopped"):
        run(EXPERIMENT, [0], directory=tmp_path)
    result = run(EXPERIMENT, [0], directory=tmp_path)
    assert result.tables["marks"].rows() == [{"seed": 0, "found": True}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy-seed-0.termwise"]


def test_each_cell_of_a_seed_is_a_job_of_its_own() -> None:
    parts = dataclasses.replace(EXPERIMENT, cells=lambda protocol: ("one", "other"))
    lines: list[str] = []
    result = run(parts, [0, 1], progress=lines.append)
    assert measured == [(seed, cell) for seed in (0, 1) for cell in ("one", "other")]
    assert "seed 1, other: measuring" in lines
    assert len(result.tables["values"]) == 2 * 2 * 3


def test_seeds_of_other_settings_are_refused(tmp_path: Path) -> None:
    run(EXPERIMENT, [0], directory=tmp_path)
    measured.clear()
    with pytest.raises(RunError, match="other settings"):
        run(EXPERIMENT, [0, 1], Protocol(2), directory=tmp_path)
    assert measured == []  # nothing was spent on what could not be concluded from


def test_processes_find_what_one_process_finds(tmp_path: Path) -> None:
    protocol = find("init-length").protocol.quick()
    alone, together = (run(find("init-length"), range(3), protocol, jobs=jobs) for jobs in (1, 2))
    assert _numbers(together) == _numbers(alone)


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_are_some_and_each_once(seeds: list[int]) -> None:
    with pytest.raises(UsageError, match="toy: seeds"):
        run(EXPERIMENT, seeds)


def test_an_unknown_name_is_refused_and_the_known_ones_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"no-such.*four-depths"):
        find("no-such")
    main(["experiment"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [*NAMES, *COLLECTIONS]
    assert {find(name).name for name in NAMES} == {*NAMES}


def test_there_is_a_process() -> None:
    with pytest.raises(UsageError, match="jobs=0"):
        run(EXPERIMENT, [0], jobs=0)


def test_over_seeds_is_the_mean_and_its_interval() -> None:
    rows = [{"seed": seed, "k": k, "value": seed * 10.0 + k} for seed in range(3) for k in (0, 1)]
    first, second = over_seeds(rows, ["k"])
    # 4.303 is the 97.5 % quantile of t with 2 degrees of freedom; 10 / sqrt(3) the standard error.
    ends = {"value_low": pytest.approx(-14.84, abs=0.01), "value_high": pytest.approx(34.84, abs=0.01)}
    assert first == {"k": 0, "value": 10.0, **ends}
    assert second["value"] == 11.0
    assert over_seeds(rows[:1], ["k"]) == [{"k": 0, "value": 0.0, "value_low": None, "value_high": None}]
