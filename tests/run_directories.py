"""Synthetic run directories: the shape and size of a real run's summary and tables, without training anything."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

STEPS = (0, 1, 2, 3, 4, 6, 8, 11, 15, 21, 28, 38, 52, 71, 96, 130, 176, 239, 324, 440)


@dataclass(frozen=True)
class Kind:
    """A network to imitate: `base` layers on its shortest path, and `branches` optional ones of `stride` layers."""

    name: str
    slug: str
    parameters: int
    base: int
    stride: int
    branches: int
    first: float
    last: float

    @property
    def depths(self) -> list[int]:
        return [self.base + self.stride * j for j in range(self.branches + 1)]


RESNET = Kind("ResNet-20", "resnet-20", 272474, 2, 2, 9, 13.0, 10.0)
DENSENET = Kind("DenseNet-22", "densenet-22", 269962, 4, 1, 18, 9.6, 8.1)
PLAIN = Kind("Plain-9", "plain-9", 90000, 9, 1, 0, 9.0, 9.0)


def _spread(depths: np.ndarray, mean: float, width: float) -> np.ndarray:
    weight = np.exp(-0.5 * ((depths - mean) / width) ** 2)
    return weight / weight.sum()


def _quantile(depths: list[int], share: np.ndarray, level: float) -> float:
    return float(depths[min(int(np.searchsorted(np.cumsum(share), level)), len(depths) - 1)])


def _network(kind: Kind, steps: tuple[int, ...], by_depth: bool, rng: np.random.Generator) -> tuple[list, list]:
    depths = np.array(kind.depths)
    step_rows: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for step in steps:
        done = math.log1p(step) / math.log1p(steps[-1] or 1)
        mean = kind.first + (kind.last - kind.first) * done**1.5
        share = _spread(depths, mean, 3.4 - 0.6 * done)
        accuracy = 0.1 + 0.86 / (1 + math.exp(-12 * (done - 0.62)))
        loss = 2.35 - 2.2 / (1 + math.exp(-11 * (done - 0.6)))
        center = float(share @ depths)
        step_rows.append(
            {
                "network": kind.name,
                "step": step,
                "loss": loss,
                "accuracy": accuracy,
                "train_loss": loss * 0.96 if step else None,
                "mean_depth": center,
                "mean_depth_low": center - 0.12,
                "mean_depth_high": center + 0.12,
                "mean_depth_constants": 8.9 - 4.0 * done if by_depth else None,
                "depth_p10": _quantile(kind.depths, share, 0.1),
                "depth_p50": _quantile(kind.depths, share, 0.5),
                "depth_p90": _quantile(kind.depths, share, 0.9),
                "cancellation": 1.6 + 0.7 * done,
                "closure": 2e-7 + 1e-7 * rng.random(),
                "constant_share": 0.11 + 0.1 * done,
                "frozen_share": 0.0,
            }
        )
        rows += _terms(kind, step, done, share, accuracy, loss, rng)
        rows += _constants(kind, step, done, by_depth)
    return step_rows, rows


def _blank() -> dict[str, Any]:
    names = [
        f"{part}_{what}" for part in ("norm", "aligned", "margin") for what in ("share", "share_low", "share_high")
    ]
    names += [
        f"{part}_{what}"
        for part in ("head", "tail", "alone")
        for what in ("accuracy", "accuracy_low", "accuracy_high", "loss")
    ]
    return dict.fromkeys([*names, "learned_norm", "credit", "credit_cumulative", "time_10", "time_50", "time_90"])


def _terms(
    kind: Kind,
    step: int,
    done: float,
    share: np.ndarray,
    accuracy: float,
    loss: float,
    rng: np.random.Generator,
) -> list:
    rows = []
    held = np.cumsum(share)
    for j, depth in enumerate(kind.depths):
        paths = math.comb(kind.branches, j)
        row = _blank() | {
            "network": kind.name,
            "step": step,
            "origin": "input",
            "depth": depth,
            "paths": str(paths),
            "log10_paths": math.log10(paths),
            "learned_norm": float(share[j]) * done,
            "credit": 0.01,
            "credit_cumulative": done * float(share[j]),
        }
        for part in ("norm", "aligned", "margin"):
            value = float(share[j]) * (1 if part == "norm" else 1 + 0.2 * rng.standard_normal())
            row |= {
                f"{part}_share": value,
                f"{part}_share_low": value * 0.93,
                f"{part}_share_high": value * 1.07,
            }
        kept = {
            "head": held[j] ** 1.3,
            "tail": (1 - held[j] + share[j]) ** 2,
            "alone": min(4 * share[j], 1) ** 2,
        }
        for part, much in kept.items():
            value = float(
                np.clip(0.1 + (accuracy - 0.1) * much + 0.012 * rng.standard_normal() * (j < kind.branches), 0, 1)
            )
            row |= {
                f"{part}_accuracy": value,
                f"{part}_accuracy_low": max(value - 0.035, 0.0),
                f"{part}_accuracy_high": min(value + 0.035, 1.0),
                f"{part}_loss": loss + 1 - float(much),
            }
        rows.append(row)
    return rows


def _constants(kind: Kind, step: int, done: float, by_depth: bool) -> list:
    depths: list[int | None] = list(range(1, kind.depths[-1] + 1)) if by_depth else [None]
    total = 0.22 + 0.12 * done
    weights = _spread(np.array([d or 0 for d in depths], dtype=float), 8.9 - 4.0 * done, 2.6)
    rows = []
    for depth, weight in zip(depths, weights, strict=True):
        value = float(total * weight)
        row = _blank() | {
            "network": kind.name,
            "step": step,
            "origin": "constant",
            "depth": depth,
            "paths": "0",
        }
        row |= {
            "log10_paths": None,
            "norm_share": value,
            "norm_share_low": 0.95 * value,
            "norm_share_high": 1.05 * value,
        }
        rows.append(
            row
            | {
                "aligned_share": value / 2,
                "aligned_share_low": value / 2.2,
                "aligned_share_high": value / 1.8,
            }
        )
    return rows


def learn(kind: Kind, rows: list[dict[str, Any]], delay: float) -> None:
    """Write times learned into a network's terms: from the shallowest to the deepest they grow by a factor e^delay.

    Those with less than 2 % of the final credit have none.
    """
    last = max(row["step"] for row in rows)
    own = [row for row in rows if row["origin"] == "input"]
    final = {row["depth"]: row["credit_cumulative"] for row in own if row["step"] == last}
    for row in own:
        if final[row["depth"]] >= 0.02 * sum(final.values()):
            place = kind.depths.index(row["depth"]) / max(len(kind.depths) - 1, 1)
            half = 0.15 * last * math.exp(delay * (place - 0.5))
            row |= {"time_10": half / 2, "time_50": half, "time_90": min(2 * half, last)}


GROUPS = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 9), (10, None))


def _degrees(kind: Kind, steps: tuple[int, ...], change: float) -> list[dict[str, Any]]:
    """Shares of degree 1 that rise from 0.6 by `change`; the rest is halved from degree to degree."""
    rows = []
    for step in steps:
        linear = 0.6 + change * math.log1p(step) / math.log1p(steps[-1] or 1)
        rest = np.array([0.5**k for k in range(1, 7)])
        shares = [None, linear, *((1 - linear) * rest / rest.sum())]
        for (lowest, highest), share in zip(GROUPS, shares, strict=True):
            row: dict[str, Any] = {"network": kind.name, "step": step, "lowest": lowest, "highest": highest}
            ends = (None, None) if share is None else (max(share - 0.02, 0.0), share + 0.02)
            row |= {"share": share, "share_low": ends[0], "share_high": ends[1], "energy": 1.0 if share else 0.0}
            row |= {"mean_degree": 2.0, "mean_degree_low": 1.9, "mean_degree_high": 2.125}
            rows.append(row | {"warnings": "heavy tails, truncation" if step == 1 else ""})
    return rows


def _about(kind: Kind, steps: list[dict[str, Any]]) -> dict[str, Any]:
    first, last = steps[0], steps[-1]
    return {
        "name": kind.name,
        "slug": kind.slug,
        "parameters": kind.parameters,
        "steps": last["step"],
        "accuracy": last["accuracy"],
        "loss": last["loss"],
        "mean_depth": [first["mean_depth"], last["mean_depth"]],
        "mean_depth_interval": [[row["mean_depth_low"], row["mean_depth_high"]] for row in (first, last)],
        "mean_depth_with_constants": None,
        "effective_depth": kind.depths[-max(len(kind.depths) // 5, 1)],
        "shortest": kind.depths[0],
        "longest": kind.depths[-1],
        "depths": kind.depths,
        "closure": max(row["closure"] for row in steps),
        "constant_share": last["constant_share"],
        "frozen_share": 0.0,
        "cancellation": last["cancellation"],
        "recipe": kind.slug,
        "credit_closure": 3.1e-6,
        "credit_drift": 0.062,
        "training_seconds": 74.2,
        "recording_seconds": 8.8,
        "operators": [
            {"operator": "aten.convolution", "rule": "linear", "kind": "exact", "count": 19},
            {"operator": "aten.relu", "rule": "gate", "kind": "exact", "count": 19},
            {"operator": "aten._native_batch_norm_legit_no_training", "rule": "norm", "kind": "frozen", "count": 19},
        ],
    }


def make_run(
    directory: Path,
    *,
    name: str = "demo on digits",
    constants: str = "pooled",
    kinds: tuple[Kind, ...] = (RESNET, DENSENET),
    steps: tuple[int, ...] = STEPS,
    change: dict[str, Any] | None = None,
    degrees: tuple[float, ...] | None = None,
    learned: tuple[float | None, ...] = (),
) -> Path:
    """A run directory of those networks and steps; `change` is merged into the summary at the end.

    With `degrees` each network's share of degree 1 rises by so much; with `learned` each network's terms have times,
    deeper ones later by a factor e^(that number), or no times for None.
    """
    rng = np.random.default_rng(0)
    made = [_network(kind, steps, constants == "by_depth", rng) for kind in kinds]
    for kind, (_, terms), delay in zip(kinds, made, learned, strict=False):
        if delay is not None:
            learn(kind, terms, delay)
    tables = {"steps": [row for rows, _ in made for row in rows], "spectrum": [row for _, rows in made for row in rows]}
    if degrees is not None:
        pairs = zip(kinds, degrees, strict=True)
        tables["degrees"] = [row for kind, much in pairs for row in _degrees(kind, steps, much)]
    (directory / "tables").mkdir(parents=True, exist_ok=True)
    for table, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows), directory / "tables" / f"{table}.parquet")
    summary: dict[str, Any] = {
        "format": "termwise-run",
        "version": 1,
        "name": name,
        "created": "2026-03-02T10:20:30Z",
        "termwise": "0.1.0",
        "torch": "2.15.0",
        "python": "3.11.2",
        "threads": 2,
        "seed": 0,
        "unit": "layers",
        "constants": constants,
        "data": {
            "name": "digits",
            "title": "UCI optical digits, 8x8",
            "sha256": "ab" * 32,
            "attribution": "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits (UCI), CC BY 4.0",
            "train": 1437,
            "probe": 256,
            "classes": 10,
        },
        "verdict": "From the first to the last step the mean path length fell from 13.0 to 10.0 layers in ResNet-20 "
        "and from 9.6 to 8.1 in DenseNet-22, at 95.9 % and 95.9 % accuracy: shallower paths took over in both.",
        "networks": [_about(kind, m[0]) for kind, m in zip(kinds, made, strict=True)],
    }
    (directory / "summary.json").write_text(json.dumps(summary | (change or {})), encoding="utf-8")
    return directory
