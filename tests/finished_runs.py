"""Synthetic tables of what is measured when a training is over, for the run directories of `run_directories`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from run_directories import Kind

SMALL = Kind("ResNet-10", "resnet-10", 77000, 2, 2, 4, 7.0, 6.0)
BANDS = ((0, 1), (2, 2), (3, 4), (5, 8), (9, 15), (16, None))


def finish(run: Path, kinds: tuple[Kind, ...], *, excess: tuple[float, ...] | None = None) -> Path:
    """Write lesions and routes of those networks that have blocks; with `excess` tiles, each trend being that."""
    tables: dict[str, list[dict[str, Any]]] = {
        "lesions": [row for kind in kinds if kind.branches for row in lesions(kind)],
        "routes": [row for kind in kinds if 0 < kind.branches <= 4 for row in routes(kind)],
    }
    if excess is not None:
        tables["tiles"] = [row for kind in kinds for row in tiles(kind)]
        tables["trends"] = [row for kind, much in zip(kinds, excess, strict=True) for row in trends(kind, much)]
    for name, rows in tables.items():
        if rows:
            pq.write_table(pa.Table.from_pylist(rows), run / "tables" / f"{name}.parquet")
    return run


def lesions(kind: Kind) -> list[dict[str, Any]]:
    """Accuracies of 0.96, less 0.02 for each block that is gone, and again a little less with every choice."""
    rows = []
    counts = sorted({0, 1, kind.branches, *(k for k in (2, 4, 8, 16) if k < kind.branches)})
    for removed in counts:
        every = math.comb(kind.branches, removed)
        draws = min(every, 9 if removed == 1 else 5)
        accuracies = [max(0.96 - 0.02 * removed - 0.01 * draw - 0.004 * removed**2, 0.1) for draw in range(draws)]
        mean, exhaustive = float(np.mean(accuracies)), draws == every
        for draw, accuracy in enumerate(accuracies):
            gone = " ".join(str((draw + i) % kind.branches) for i in range(removed))
            row = {
                "network": kind.name,
                "removed": removed,
                "kept": kind.branches - removed,
                "draw": draw,
                "gone": gone,
            }
            row |= {"accuracy": accuracy, "loss": 1 - accuracy, "draws": draws, "exhaustive": exhaustive}
            ends = (None, None) if exhaustive else (mean - 0.02, mean + 0.02)
            rows.append(row | {"mean_accuracy": mean, "mean_accuracy_low": ends[0], "mean_accuracy_high": ends[1]})
    return rows


def routes(kind: Kind) -> list[dict[str, Any]]:
    """A share for each subset of the blocks: half as much through the first, more through each of the others."""
    subsets = [[i for i in range(kind.branches) if mask >> i & 1] for mask in range(2**kind.branches)]
    subsets.sort(key=lambda passed: (len(passed), passed))
    sizes = [math.prod(0.5 if i == 0 else 1.3 + 0.2 * i for i in passed) for passed in subsets]
    rows = []
    for passed, size in zip(subsets, sizes, strict=True):
        share = size / sum(sizes)
        row = {"network": kind.name, "origin": "input", "through": " ".join(map(str, passed)), "length": len(passed)}
        row |= {"paths": "1", **around("norm_share", share), **around("aligned_share", share - 0.02)}
        rows.append(row)
    born = {"network": kind.name, "origin": "constant", "through": None, "length": None, "paths": None}
    return [*rows, born | around("norm_share", 0.3) | around("aligned_share", 0.32)]


def around(name: str, value: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - 0.01, f"{name}_high": value + 0.01}


def tiles(kind: Kind) -> list[dict[str, Any]]:
    """Terms that lose of their lowest frequencies with depth, in the network and in what stands beside it."""
    rows = []
    weights = np.exp(-0.5 * ((np.array(kind.depths) - kind.last) / 3) ** 2)
    for comparator in ("own", "shuffled", "initial"):
        for depth, weight in zip(kind.depths, weights / weights.sum(), strict=True):
            shares = np.array([2.0 ** -(i * (1 - 0.04 * depth)) for i in range(len(BANDS))])
            for (lowest, highest), share in zip(BANDS, shares / shares.sum(), strict=True):
                row = {"network": kind.name, "comparator": comparator, "part": "input", "depth": depth}
                row |= {"lowest": lowest, "highest": highest, "energy": float(weight * share), "share": float(share)}
                rows.append(row | around("weight", float(weight)))
    return rows


def trends(kind: Kind, excess: float) -> list[dict[str, Any]]:
    about = {"network": kind.name, "terms": 6, "warnings": "aliasing", **around("excess", excess)}
    return [{"comparator": comparator, **about} for comparator in ("shuffled", "initial")]
