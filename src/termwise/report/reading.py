"""What the page reads of a run directory: `summary.json` and its tables, validated.

Nothing here computes: a file that is absent, corrupt, of a newer version or short of a column is a
`RecordError` that names the file. Names inside the files are only ever shown, never used as paths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from termwise.errors import RecordError
from termwise.records import RunSummary, read_parquet, read_summary
from termwise.report.finished import Columns, Finished, read_finished

FORMAT = "termwise-run"


@dataclass(frozen=True)
class Run:
    """A run as the page sees it; in the tables `network` is an index into `summary.networks`, NaN is None.

    Attributes:
        summary: of the run.
        steps: a row a network and record.
        spectrum: a row a network, record and part of the output; with the columns of `LEARNED` where the file has them.
        degrees: None where degrees were not recorded.
        seeds: the networks that are the same but for their seed: a name, and their places in the summary. Where it is
            empty, each network stands for itself.
        finished: what was measured when the trainings were over.
    """

    summary: RunSummary
    steps: Columns
    spectrum: Columns
    degrees: Columns | None = None
    seeds: tuple[tuple[str, tuple[int, ...]], ...] = ()
    finished: Finished = field(default_factory=Finished)


SHARE = ("norm_share", "norm_share_low", "norm_share_high")
ACCURACIES = tuple(f"{part}_accuracy{end}" for part in ("head", "tail", "alone") for end in ("", "_low", "_high"))
MEAN = ("mean_depth", "mean_depth_low", "mean_depth_high", "mean_depth_constants")
QUANTILES = ("depth_p10", "depth_p50", "depth_p90")
STEPS = (
    "network",
    "step",
    "loss",
    "accuracy",
    *MEAN,
    *QUANTILES,
    "cancellation",
    "closure",
    "constant_share",
)
SPECTRUM = ("network", "step", "origin", "depth", "paths", *SHARE, *ACCURACIES)
LEARNED = ("credit_cumulative", "time_10", "time_50", "time_90")  # null where no credit was recorded
MEAN_DEGREE = ("mean_degree", "mean_degree_low", "mean_degree_high")
DEGREES = ("network", "step", "lowest", "highest", "share", "share_low", "share_high", *MEAN_DEGREE, "warnings")


def read_run(directory: Path) -> Run:
    """The summary and tables of a run directory.

    Raises:
        RecordError: a file is missing, corrupt, of a newer version, or lacks a column or a network's rows.
    """
    summary = read_summary(directory)
    where = directory / "summary.json"
    if summary.format != FORMAT:
        raise RecordError(f"{where}: its format is {summary.format!r}, expected {FORMAT!r}. Give a run directory.")
    if not summary.networks:
        raise RecordError(f"{where}: no network in it, so there is nothing to report. Finish the run first.")
    steps = _read_table(directory / "tables" / "steps.parquet", STEPS, summary)
    path = directory / "tables" / "spectrum.parquet"
    spectrum = _read_table(path, SPECTRUM, summary, LEARNED)
    _check(path, steps, spectrum)
    path = directory / "tables" / "degrees.parquet"
    finished = read_finished(directory, summary)
    if not path.exists():
        return Run(summary, steps, spectrum, finished=finished)
    degrees = _read_table(path, DEGREES, summary)
    _check_degrees(path, steps, degrees)
    return Run(summary, steps, spectrum, degrees, finished=finished)


def _check(path: Path, steps: Columns, spectrum: Columns) -> None:
    """What the page relies on: every recorded step has input-born terms, each with a depth and a number of paths."""
    rows = list(zip(*(spectrum[name] for name in ("network", "step", "origin", "depth", "paths")), strict=True))
    born = [row for row in rows if row[2] == "input"]
    recorded = set(zip(steps["network"], steps["step"], strict=True))
    if {row[:2] for row in rows} != recorded or {row[:2] for row in born} != recorded:
        raise RecordError(f"{path}: its steps are not those of steps.parquet beside it. Run the same command again.")
    for network, step, origin, depth, paths in rows:
        counted = isinstance(depth, int) and str(paths).isdecimal()
        if origin in ("constant", "frozen") or (origin == "input" and counted):
            continue
        raise RecordError(
            f"{path}: network {network}, step {step}: a row of origin {origin!r}, depth {depth}, paths {paths!r}; "
            "expected 'constant', 'frozen', or 'input' with both. Run the same command again to have it written anew."
        )


def _check_degrees(path: Path, steps: Columns, degrees: Columns) -> None:
    """What the page relies on: at every recorded step the same degree groups, a degree above 0 among them."""
    groups: dict[tuple[int, int], list[tuple[Any, Any]]] = {}
    for network, step, *group in zip(*(degrees[name] for name in DEGREES[:4]), strict=True):
        groups.setdefault((network, step), []).append(tuple(group))
    found = next(iter(groups.values()))
    if set(groups) != set(zip(steps["network"], steps["step"], strict=True)):
        raise RecordError(f"{path}: its steps are not those of steps.parquet beside it. Run the same command again.")
    whole = all(isinstance(low, int) and (high is None or isinstance(high, int)) for low, high in found)
    if any(own != found for own in groups.values()) or not whole or not any(low > 0 for low, _ in found):
        raise RecordError(
            f"{path}: its degrees are not the same at every step, or no numbers. Run the same command again to have it "
            "written anew."
        )


def _read_table(path: Path, names: tuple[str, ...], summary: RunSummary, more: tuple[str, ...] = ()) -> Columns:
    """The columns of those names, which must be there, and of `more` if all of these are there."""
    table = read_parquet(path).to_arrow()
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise RecordError(f"{path}: no column {', '.join(missing)}. It was written by another version: run it again.")
    names += more if set(more) <= set(table.column_names) else ()
    columns = {name: [_finite(value) for value in table.column(name).to_pylist()] for name in names}
    return _ordered(path, columns, summary)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ordered(path: Path, columns: Columns, summary: RunSummary) -> Columns:
    """Rows by network (in the summary's order), step, origin and depth or degree; names replaced by indices."""
    index = {network.slug: i for i, network in enumerate(summary.networks)}
    index |= {network.name: i for i, network in enumerate(summary.networks)}
    unknown = sorted({str(name) for name in columns["network"]} - set(index))
    absent = [n.name for n in summary.networks if n.name not in columns["network"] and n.slug not in columns["network"]]
    if unknown or absent:
        raise RecordError(f"{path}: not the networks of summary.json ({', '.join(unknown + absent)}). Run it again.")
    columns = {**columns, "network": [index[name] for name in columns["network"]]}
    depths = columns.get("depth", columns.get("lowest", [0] * len(columns["step"])))

    def place(row: int) -> tuple[int, int, bool, bool, int]:
        origin = columns["origin"][row] if "origin" in columns else ""
        return columns["network"][row], columns["step"][row], origin != "input", depths[row] is None, depths[row] or 0

    order = sorted(range(len(columns["step"])), key=place)
    return {name: [values[row] for row in order] for name, values in columns.items()}
