"""What a finished run says: the numbers of each network, and one sentence.

The sentence claims no more than its numbers: a mean path length "fell" or "rose" only where the intervals of the first
and the last record do not overlap, and one network is "shorter" only where the interval of the difference leaves zero
out.  That difference is bootstrapped in pairs, the same weights on the same probe samples for both networks, since what
is a hard sample for one often is for the other.  One seed decides no hypothesis.
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


def verdict(
    networks: Sequence[NetworkSummary],
    difference: Estimate | None,
    *,
    unit: str,
    samples: int,
    hypotheses: Sequence[str],
    when: str = "While training",
) -> str:
    """One sentence on what the run shows, and one on what it leaves open.

    Args:
        networks: the numbers of each.
        difference: mean path length at the end of the first of two networks less that of the second.
        unit: of depth, in the plural.
        samples: of the probe.
        hypotheses: those that a run like this bears on, such as H1.
        when: between the first record and the last.
    """
    changes = _joined([_change(network, unit, first=i == 0) for i, network in enumerate(networks)])
    end = _end(networks, difference, unit)
    counted = _counted(networks)
    undecided = f"{_joined(hypotheses)} stay{'s' if len(hypotheses) == 1 else ''} undecided"
    shown = f"{when}, {changes}; {end} (95 % intervals over {samples} probe samples)"
    return f"{shown}. {counted}One seed: {undecided}."


def _counted(networks: Sequence[NetworkSummary]) -> str:
    """What the means would be with the constants' paths among them."""
    pairs = [network.mean_depth_with_constants for network in networks]
    shown = [f"{pair[0]:.1f} to {pair[1]:.1f}" for pair in pairs if pair is not None]
    if len(shown) < len(pairs):
        return ""
    return f"With the paths of constants counted in, it would be {_joined(shown)}. "


def _change(network: NetworkSummary, unit: str, first: bool) -> str:
    """What the mean path length of one network did."""
    name = f"the mean path length of {network.name}" if first else f"that of {network.name}"
    if len(network.depths) == 1:
        return f"{name} stayed {network.depths[0]} {unit}, the only length it has"
    before, after = (
        _shown(Estimate(value, *interval))
        for value, interval in zip(network.mean_depth, network.mean_depth_interval, strict=True)
    )
    of = f"{unit} (of {network.longest})"
    (first_low, first_high), (last_low, last_high) = network.mean_depth_interval
    if last_high < first_low:
        return f"{name} fell from {before} to {after} {of}"
    if last_low > first_high:
        return f"{name} rose from {before} to {after} {of}"
    return f"{name} went from {before} to {after} {of}, no clear change"


def _end(networks: Sequence[NetworkSummary], difference: Estimate | None, unit: str) -> str:
    accuracies = [f"{100 * network.accuracy:.1f} %" for network in networks]
    if len(networks) == 1:
        return f"at the end it reaches {accuracies[0]} accuracy"
    if len(networks) > 2 or difference is None:
        reached = [f"{network.name} {accuracy}" for network, accuracy in zip(networks, accuracies, strict=True)]
        return f"at the end the accuracies are {_joined(reached)}"
    shorter, longer = (1, 0) if difference.value > 0 else (0, 1)
    if difference.low <= 0 <= difference.high:
        return (
            f"at the end {networks[0].name} and {networks[1].name} cannot be told apart by it (they differ by "
            f"{_shown(difference)} {unit}) at {accuracies[0]} and {accuracies[1]} accuracy"
        )
    size = Estimate(abs(difference.value), *sorted((abs(difference.low), abs(difference.high))))
    return (
        f"at the end {networks[shorter].name} is shorter by {_shown(size)} {unit} "
        f"at {accuracies[shorter]} accuracy against the {accuracies[longer]} of {networks[longer].name}"
    )


def _shown(estimate: Estimate) -> str:
    """With as many places as the interval is worth."""
    places = 1 if estimate.high - estimate.low >= 0.2 else 2
    value, low, high = (f"{number:.{places}f}" for number in estimate)
    return f"{value} [{low}, {high}]"


def _joined(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    between = ", and " if any("," in part for part in parts) else " and "
    return ", ".join(parts[:-1]) + between + parts[-1]
