"""What a finished run says in numbers: those of each network, and how far apart two of them end.

That difference is bootstrapped in pairs, the same weights on the same probe samples for both networks, since what is a
hard sample for one often is for the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from termwise.moments import mean_depth_with_constants
from termwise.profile import DepthProfile, Estimate
from termwise.records import NetworkSummary


def depth_difference(
    first: tuple[Sequence[int], np.ndarray],
    second: tuple[Sequence[int], np.ndarray],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Mean path length of the first less that of the second, on the same samples, with a paired interval.

    Args:
        first: depths of the input-born terms, K of them, and the terms, shape (K, N, C).
        second: the same of the other network; N must be the same samples.
        replicates: of the Poisson bootstrap.
        seed: of the bootstrap.
    """
    samples = first[1].shape[1]
    draws = np.random.Generator(np.random.PCG64(seed)).poisson(1.0, size=(samples, replicates)).astype(np.float64)
    weights = np.concatenate([np.ones((samples, 1)), draws], axis=1)
    values = _mean_depth(*first, weights) - _mean_depth(*second, weights)
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return Estimate(float(values[0]), float(low), float(high))


def _mean_depth(depths: Sequence[int], terms: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Under the norm share of the terms, for every column of the weights (N, R)."""
    centred = terms - terms.mean(axis=-1, keepdims=True, dtype=np.float64)
    norms = np.linalg.norm(centred, axis=-1) @ weights
    return np.asarray(depths, dtype=np.float64) @ (norms / norms.sum(axis=0))


def network_summary(
    rows: Sequence[Mapping[str, Any]], first: DepthProfile, last: DepthProfile, **known: Any
) -> NetworkSummary:
    """The numbers of one network.

    Args:
        rows: of its steps table, ascending.
        first: the profile of the first record.
        last: the profile of the last one.
        known: name, slug, parameters, credit_closure, credit_drift, training_seconds, recording_seconds.
    """
    ends = (rows[0], rows[-1])
    counted: Any = (mean_depth_with_constants(first), mean_depth_with_constants(last))
    return NetworkSummary(
        steps=int(rows[-1]["step"]),
        accuracy=float(rows[-1]["accuracy"]),
        loss=float(rows[-1]["loss"]),
        mean_depth=(ends[0]["mean_depth"], ends[1]["mean_depth"]),
        mean_depth_interval=(
            (ends[0]["mean_depth_low"], ends[0]["mean_depth_high"]),
            (ends[1]["mean_depth_low"], ends[1]["mean_depth_high"]),
        ),
        mean_depth_with_constants=None if None in counted else counted,
        effective_depth=last.effective_depth,
        shortest=min(last.depths),
        longest=max(last.depths),
        depths=list(last.depths),
        closure=max(row["closure"] for row in rows),
        constant_share=rows[-1]["constant_share"],
        frozen_share=rows[-1]["frozen_share"] or 0.0,
        cancellation=rows[-1]["cancellation"],
        operators=[
            {"operator": use.operator, "rule": use.rule, "kind": use.kind, "count": use.count} for use in last.operators
        ],
        **known,
    )
