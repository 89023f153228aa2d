"""Verdicts on planted data and on none, against the statistics by their definitions."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from termwise.errors import UsageError
from termwise.sentences import Sentence
from termwise.verdict import (
    CAUSAL,
    EFFECT,
    EXCESS,
    SHALLOWER,
    SHARE,
    Expected,
    Verdict,
    agreed,
    corrected,
    decided,
    every,
    h1,
    h4,
    h5,
    learned,
    order,
    table,
)
from termwise.verdict.claims import permuted
from termwise.verdict.decision import holm, p_value, t_interval
from termwise.verdict.measures import At

ABOVE = Expected("above 0", low=0.0)


def part(p: float | None, sign: float = 1.0, name: str = "share", seeds: int = 5) -> Verdict:
    """A part of a claim, of a given p-value, above or below 0."""
    side = "holds" if sign > 0 else "fails"
    verdict = side if p is not None and p <= 0.05 else "undecided"
    return Verdict("H1", name, "resnet-20", "what is measured", sign, sign - 0.5, sign + 0.5, p, None, seeds, verdict)


def courses(seeds: int, depths: int, slope: float, noise: float, rng: np.random.Generator) -> list[dict[int, float]]:
    """Times learned that rise with depth, and scatter."""
    return [{2 * k: 20 + slope * k + noise * rng.standard_normal() for k in range(1, depths + 1)} for _ in range(seeds)]


def t_test(values: Any) -> Any:
    """Of the mean against 0."""
    return stats.ttest_1samp(values, 0.0)


def kendall(first: Any, second: Any) -> float:
    """tau_b."""
    found: Any = stats.kendalltau(first, second)
    return found.statistic


# What any verdict rests on.


@pytest.mark.parametrize("seed", range(20))
def test_interval_p_value_and_rule_are_those_of_a_t_test(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.8, 1.0, size=5 + seed % 4)
    test = t_test(values)
    assert t_interval(values) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert p_value(values) == pytest.approx(test.pvalue)
    beyond = "holds" if values.mean() > 0 else "fails"
    assert ABOVE.verdict(values) == (beyond if test.pvalue < 0.05 else "undecided")


def test_p_values_where_there_is_no_scatter_or_no_number() -> None:
    assert (p_value([0.0] * 5), p_value([2.0] * 5)) == (1.0, 0.0)
    assert p_value([1.0, 1.1, 1.2, 1.3]) is None
    assert p_value([1.0, 1.1, 1.2, 1.3, math.nan]) is None
    assert p_value([1.0, 1.1, 1.2, 1.3, math.inf]) is None


def stepped_down(p: list[float], level: float) -> set[int]:
    """Holm's procedure as he states it: the smallest against level / m, the next against level / (m - 1), ..."""
    rejected: set[int] = set()
    for left, place in zip(range(len(p), 0, -1), sorted(range(len(p)), key=lambda i: p[i]), strict=True):
        if p[place] > level / left:
            break
        rejected.add(place)
    return rejected


def test_holm_rejects_what_the_procedure_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = (10 ** rng.uniform(-4, 0, size=5)).tolist()
        for level in (0.01, 0.05, 0.3):
            assert {i for i, value in enumerate(holm(p)) if value <= level} == stepped_down(p, level)
    assert holm([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    assert holm([0.02, None]) == [0.04, 1.0]


# One endpoint.


@pytest.mark.parametrize(
    ("values", "verdict", "words"),
    [
        ([1.0, 1.1, 1.2, 1.3, 0.9], "holds", "H1 (share) of resnet-20 holds: the rise of the mean depth"),
        ([-1.0, -1.1, -1.2, -1.3, -0.9], "fails", "is -1.1 [-1.3, -0.9] over 5 seeds, p = 0.0001, exploratory."),
        ([1.0, -1.1, 1.2, -1.3, 0.9], "undecided", "is undecided"),
        ([1.0, 1.1, 1.2, 1.3], "undecided", "over 4 seeds; fewer than 5 decide nothing"),
        ([1.0, 1.1, 1.2, 1.3, None], "undecided", "not every seed has a number"),
        ([0.0] * 5, "undecided", "is +0 [+0, +0]"),
        ([], "undecided", "over 0 seeds; fewer than 5 decide nothing"),
    ],
)
def test_one_endpoint(values: list[float | None], verdict: str, words: str) -> None:
    found = decided(SHARE, values, of="resnet-20")
    assert found.verdict == verdict
    assert words in str(found)
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(found.words)), Sentence) == found.words
    assert not found.primary


def test_a_null_takes_verdicts_away_and_a_comparator_does_not() -> None:
    values = [1.0, 1.1, 1.2, 1.3, 0.9]
    assert decided(SHARE, values, null=0.2).verdict == "undecided"
    assert decided(SHARE, values, null=0.2).p == 0.2
    found = decided(SHARE, values, null=0.001, beside={"labels shuffled": [1.0, 1.5, 2.0, 1.5, 1.0]})
    assert (found.verdict, found.beside) == ("holds", {"labels shuffled": pytest.approx(1.4)})
    assert found.p == pytest.approx(0.001)
    assert str(found).endswith("labels shuffled: +1.4.")


def test_without_an_effect_about_19_in_20_are_undecided() -> None:
    rng = np.random.default_rng(0)
    found = [decided(EFFECT, rng.normal(size=5).tolist()).verdict for _ in range(1000)]
    # 3 standard errors of a binomial about 0.95, and about 0.025 on either side
    assert abs(found.count("undecided") - 950) < 21
    assert abs(found.count("holds") - 25) < 15


# The order in which terms are learned.


def test_tau_is_that_of_pairs_in_order() -> None:
    times: dict[int, float | None] = {2: 1.0, 4: 3.0, 6: 2.0, 8: 3.0, 10: 5.0, 12: 4.0, 14: None}
    known = [(depth, time) for depth, time in times.items() if time is not None]
    pairs = [np.sign((a[0] - b[0]) * (a[1] - b[1])) for a, b in itertools.combinations(known, 2)]
    tied = 1  # pair of equal times
    assert order(times) == pytest.approx(sum(pairs) / math.sqrt(15 * (15 - tied)))
    assert order({**times, 12: None}) is None
    assert order(dict.fromkeys(range(6), 7.0)) is None


def test_the_null_is_that_of_all_permutations() -> None:
    rng = np.random.default_rng(3)
    depths = range(6)
    times = [{k: float(v) for k, v in enumerate(0.6 * np.arange(6) + rng.normal(size=6))} for _ in range(3)]

    def mean(shuffled: tuple[int, ...]) -> float:
        return float(np.mean([kendall(shuffled, [*each.values()]) for each in times]))

    found = abs(mean(tuple(depths)))
    exact = np.mean([abs(mean(each)) >= found - 1e-9 for each in itertools.permutations(depths)])
    assert permuted(times, draws=20_000) == pytest.approx(exact, abs=3 * math.sqrt(exact / 20_000))


def test_a_term_that_one_seed_does_not_know_counts_in_the_others() -> None:
    times: list[dict[int, float | None]] = [
        {**{k: k + 0.1 * (k * seed % 3) for k in range(9)}, seed: None} for seed in range(5)
    ]
    found = learned(times)
    known = [{k: t for k, t in each.items() if t is not None} for each in times]
    taus = [kendall([*each], [*each.values()]) for each in known]
    assert found.estimate == pytest.approx(np.mean(taus))
    assert found.verdict == "holds"


@pytest.mark.parametrize(("slope", "verdict"), [(3.0, "holds"), (-3.0, "fails")])
def test_a_planted_order_is_found(slope: float, verdict: str) -> None:
    found = learned(courses(5, 9, slope, 3.0, np.random.default_rng(0)), of="resnet-20")
    assert found.verdict == verdict
    assert found.p is not None and found.p >= 1 / 2000


def test_a_moderate_order_is_found_mostly() -> None:
    rng = np.random.default_rng(1)
    repetitions = [courses(5, 10, 1.0, 4.0, rng) for _ in range(40)]
    assert 0.3 < np.mean([order(each) or 0.0 for times in repetitions for each in times]) < 0.6
    assert [learned(times).verdict for times in repetitions].count("holds") >= 32


def test_without_an_order_at_most_9_in_100_hold() -> None:
    rng = np.random.default_rng(0)
    found = [learned(courses(5, 10, 0.0, 1.0, rng)).verdict for _ in range(100)]
    assert found.count("holds") <= 9
    assert found.count("undecided") >= 89


def test_seeds_that_share_an_order_without_depth_do_not_pass_for_one_by_depth() -> None:
    """One and the same trajectory for all seeds, at random depths: a t-interval alone takes it for an order."""
    rng = np.random.default_rng(0)
    found, intervals = [], []
    for _ in range(100):
        common = rng.permutation(10)
        times = [{k: float(common[k] + rng.normal()) for k in range(10)} for _ in range(5)]
        found.append(learned(times))
        intervals.append(ABOVE.verdict([order(each) or 0.0 for each in times]))
    assert [each.verdict for each in found].count("holds") <= 9
    assert intervals.count("holds") > 20


def test_fewer_than_six_terms_or_five_seeds_decide_nothing() -> None:
    few = learned([{k: float(k) for k in range(5)}] * 5)
    assert (few.verdict, few.p) == ("undecided", None)
    assert math.isnan(few.estimate)
    four = learned(courses(4, 9, 3.0, 1.0, np.random.default_rng(0)))
    assert (four.verdict, four.p, four.seeds) == ("undecided", None, 4)
    assert four.estimate > 0.5
    one = [*courses(4, 9, 3.0, 1.0, np.random.default_rng(0)), {k: float(k) for k in range(5)}]
    assert learned(one).verdict == "undecided"
    assert learned([]).verdict == "undecided"


# Claims of several endpoints.


@pytest.mark.parametrize(
    ("parts", "verdict", "p", "decider"),
    [
        ([(0.001, 1), (0.02, 1), (0.01, 1)], "holds", 0.02, "by b of resnet-20"),
        ([(0.001, 1), (0.06, 1), (0.01, 1)], "undecided", 0.06, "by b of resnet-20"),
        ([(0.001, 1), (0.002, -1), (0.03, -1)], "fails", 0.006, "by b of resnet-20"),
        ([(0.001, 1), (0.02, -1), (0.01, 1)], "undecided", 0.06, "by b of resnet-20"),  # one of three would do
        ([(0.001, 1), (None, math.nan), (0.01, 1)], "undecided", None, "by b of resnet-20"),
        ([(0.001, -1), (None, math.nan), (0.01, 1)], "fails", 0.003, "by a of resnet-20"),
        ([(None, -1), (None, 1), (None, 1)], "undecided", None, "by a of resnet-20"),
    ],
)
def test_a_claim_that_everything_holds(
    parts: list[tuple[float | None, float]], verdict: str, p: float | None, decider: str
) -> None:
    found = every("H1", [part(*each, name=name) for each, name in zip(parts, "abc", strict=True)])
    assert (found.claim, found.verdict, found.endpoint) == ("H1", verdict, decider)
    assert found.p == (None if p is None else pytest.approx(p))


def test_a_claim_that_everything_holds_keeps_its_level() -> None:
    """On its border, where two endpoints hold for certain and one is at 0, and where all three are at 0."""
    rng = np.random.default_rng(0)
    for effects in ((9.0, 9.0, 0.0), (0.0, 0.0, 0.0)):
        found = [
            every("H1", [decided(SHARE, (effect + rng.normal(size=5)).tolist()) for effect in effects]).verdict
            for _ in range(400)
        ]
        assert max(found.count("holds"), found.count("fails")) <= 20  # 2.5 % expected; 10 + 3.2 standard errors


@pytest.mark.parametrize(
    ("parts", "verdict", "p"),
    [
        ([(0.001, 1), (0.02, 1)], "holds", 0.02),
        ([(0.001, -1), (0.02, -1)], "fails", 0.02),
        ([(0.001, 1), (0.001, -1)], "undecided", 1.0),
        ([(0.001, 1), (0.2, 1)], "undecided", 0.2),
    ],
)
def test_a_claim_in_two_units(parts: list[tuple[float, float]], verdict: str, p: float) -> None:
    found = agreed("H4", [part(*each, name=name) for each, name in zip(parts, "ab", strict=True)])
    assert (found.claim, found.verdict, found.p) == ("H4", verdict, p)


@pytest.mark.parametrize(
    ("layers", "blocks", "verdict"), [(1, 1, "holds"), (-1, -1, "fails"), (1, -1, "undecided"), (1, 0, "undecided")]
)
def test_h4_needs_both_units(layers: float, blocks: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    sizes = {"layers": layers, "blocks": blocks}
    found: dict[tuple[str, At], Verdict] = {
        (unit, at): decided(endpoint, (sizes[unit] + 0.3 * (rng.normal(size=10) if sizes[unit] else signs)).tolist())
        for (unit, at), endpoint in SHALLOWER.items()
        for signs in [np.tile([1.0, -1.2], 5)]
    }
    whole = h4(found, (271_824, 270_000), of="resnet-20 and densenet-22")
    assert (whole.verdict, whole.of) == (verdict, "resnet-20 and densenet-22")
    with pytest.raises(UsageError, match="5% apart"):
        h4(found, (271_824, 200_000))
    with pytest.raises(UsageError, match="layers at equal loss"):
        h4({key: value for key, value in found.items() if key != ("layers", "loss")}, (1, 1))


def test_h5_is_lost_by_one_variant() -> None:
    one, other = [1.0, 1.1, 1.2, 1.3, 0.9], [-1.0, -1.1, -1.2, -1.3, -0.9]
    held = [decided(SHARE, one, of=name) for name in ("se-resnet-20", "sk-resnet-20")]
    assert h5(held).verdict == "holds"
    lost = h5([held[0], decided(SHARE, other, of="sk-resnet-20")])
    assert (lost.verdict, lost.endpoint) == ("fails", "by share of sk-resnet-20")
    with pytest.raises(UsageError, match="no endpoints"):
        h5([])


# Five claims.


def five(values: dict[str, list[float]]) -> list[Verdict]:
    """H1 to H5 by made-up numbers."""
    rng = np.random.default_rng(0)
    order_found = learned(courses(5, 9, 3.0, 2.0, rng))
    first = h1(decided(SHARE, values["share"]), order_found, decided(CAUSAL, values["causal"]))
    shallower = {key: decided(endpoint, values["H4"]) for key, endpoint in SHALLOWER.items()}
    variants = h5([decided(SHARE, values["H5"], of=name) for name in ("se-resnet-20", "sk-resnet-20")])
    return [first, decided(EFFECT, values["H2"]), decided(EXCESS, values["H3"]), h4(shallower, (100, 100)), variants]


def test_the_five_claims_are_corrected_for_each_other() -> None:
    clear, faint = [1.0, 1.1, 1.2, 1.3, 0.9], [1.0, 2.0, 0.1, 0.9, 1.4]
    names = ("share", "causal", "H2", "H3", "H4", "H5")
    faint_p = t_test(faint).pvalue
    assert 0.0125 < faint_p < 0.05
    found = corrected(five(dict.fromkeys(names, clear)))
    assert [each.verdict for each in found] == ["holds"] * 5
    assert all(each.primary for each in found)
    lost = corrected(five(dict.fromkeys(names, clear) | {"H2": faint, "H3": faint}))
    assert [each.verdict for each in lost] == ["holds", "undecided", "undecided", "holds", "holds"]
    assert lost[1].p_holm == pytest.approx(2 * faint_p)
    alone = decided(EFFECT, faint)
    assert alone.verdict == "holds"
    assert corrected([alone])[0].p_holm == pytest.approx(5 * faint_p)  # the four others were not tested


def test_only_the_five_claims_are_primary_and_each_once() -> None:
    with pytest.raises(UsageError, match="each at most once"):
        corrected([decided(EFFECT, [1.0] * 5)] * 2)
    with pytest.raises(UsageError, match="H1, H2, H3, H4, H5"):
        corrected([dataclasses.replace(decided(EFFECT, [1.0] * 5), claim="H6")])


def test_a_table_of_verdicts_says_which_are_exploratory() -> None:
    first = decided(SHARE, [1.0, 1.1, 1.2, 1.3, None], beside={"labels shuffled": [0.25] * 5})
    (second,) = corrected([decided(EFFECT, [1.0, 1.1, 1.2, 1.3, 0.9])])
    found = table([first, second])
    assert [row["role"] for row in found.rows()] == ["exploratory", "primary"]
    assert [row["verdict"] for row in found.rows()] == ["undecided", "holds"]
    assert [row["beside"] for row in found.rows()] == ["labels shuffled 0.25", ""]
    assert [row["estimate"] for row in found.rows()] == [None, pytest.approx(1.1)]
    assert "p_holm" in repr(found)
