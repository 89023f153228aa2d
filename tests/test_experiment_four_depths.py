"""Four notions of depth: sums that must be one, ends that must agree, and what is concluded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from termwise.experiments import four_depths, run
from termwise.leakage import EVALUATED, FROZEN_THROUGHOUT

# Four notions.


def notion_rows(**shares: Sequence[float]) -> dict[str, list[dict[str, Any]]]:
    """Rows of five seeds, with shares by notion as they are given and accuracies that grow with k."""
    names = {"a": four_depths.A, "b": four_depths.B, "w": four_depths.WALSH, "m": four_depths.MOEBIUS}
    values = [
        {"notion": names[name], "k": k, "measure": "share", "value": share, "seed": seed}
        for name, by_k in shares.items()
        for seed in range(5)
        for k, share in enumerate(by_k)
        if not math.isnan(share)
    ]
    accuracies = {four_depths.A: (0.5, 0.95, 1.0), four_depths.B: (0.5, 0.6, 0.7), four_depths.D: (0.2, 0.4, 1.0)}
    values += [
        {"notion": notion, "k": k, "measure": "accuracy", "value": right, "seed": seed}
        for notion, by_k in accuracies.items()
        for seed in range(5)
        for k, right in enumerate(by_k)
    ]
    leaked = [
        {"seed": seed, "k": k, "network": network, "accuracy": accuracy + 0.01 * (seed % 2)}
        for seed in range(5)
        for network, by_k in ((FROZEN_THROUGHOUT, (0.5, 0.9)), (EVALUATED, (0.5, 0.7)))
        for k, accuracy in enumerate(by_k)
    ]
    series = [{"seed": seed, "converges": "no"} for seed in range(5)]
    return {"values": values, "series": series, "leakage": leaked}


def test_notions_that_differ_hold_and_notions_that_agree_fail() -> None:
    protocol = four_depths.Protocol(blocks=2)
    frozen = (0.2, 0.4, 0.4)
    apart = four_depths.conclude(
        notion_rows(a=frozen, b=(0.6, 0.2, 0.2), w=(math.nan, 0.9, 0.1), m=(0.2, 0.8, 0.0)), protocol
    )
    # Half the sum of |differences|; Walsh has no order 0, so A's from 1 on are shared out anew: a half each.
    assert [line["found"] for line in apart.found[:3]] == pytest.approx([0.4, 0.4, 0.4])
    assert {line["verdict"] for line in apart.found[:3]} == {"holds"}
    shares, accuracy, short = apart.charts
    assert [line["found"] for line in apart.found[3:]] == pytest.approx([0.0, 0.2])
    assert str(short.title).startswith("To gates that long paths helped to set, paths of at most one block owe 0.20")
    assert str(shares.title).startswith("No other notion agrees")
    assert str(accuracy.title) == (
        "Nine tenths of the accuracy are there from depth 1 on by frozen paths, from 2 on by blocks left"
    )
    alike = four_depths.conclude(notion_rows(a=frozen, b=frozen, w=(math.nan, 0.5, 0.5), m=frozen), protocol)
    assert {line["verdict"] for line in alike.found[:3]} == {"fails"}
    assert str(alike.charts[0].title).startswith("B unfrozen is nearest to frozen paths: 0.00")
    assert "C Moebius is not clearly apart from A frozen: shares differ most at k = 0, by +0.000" in str(alike.notes[1])


def test_shares_that_add_up_to_the_network_sum_to_one() -> None:
    values = run(four_depths.EXPERIMENT, [0], four_depths.Protocol.quick()).tables["values"]
    for notion in (four_depths.A, four_depths.MOEBIUS):
        assert values.where(notion=notion, measure="share")["value"].sum() == pytest.approx(1)
    assert np.nansum(values.where(notion=four_depths.WALSH, measure="share")["value"]) == pytest.approx(1)


def test_the_whole_network_is_the_last_of_frozen_paths_and_of_blocks_that_are_left() -> None:
    values = run(four_depths.EXPERIMENT, [0], four_depths.Protocol.quick()).tables["values"]
    last = four_depths.Protocol.quick().blocks
    whole = {n: values.where(notion=n, measure="accuracy", k=last)["value"] for n in (four_depths.A, four_depths.D)}
    assert whole[four_depths.A] == whole[four_depths.D]
