"""The number of a seed, from timelines whose parts are planted, and from one that was recorded."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from termwise import profile
from termwise.degree.tiles import DepthDegrees
from termwise.moments import Moment
from termwise.records import Table
from termwise.timeline import Recorder, Timeline
from termwise.verdict import (
    course,
    learned,
    mean_depths,
    order,
    shallow_effect,
    shallower,
    share_trend,
    smaller_excess,
    steps_saved,
    times_learned,
)

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)


class Residual(nn.Module):
    """Residual blocks with biases in front of a head: depths 1 to blocks + 1, of inputs and of constants."""

    def __init__(self, blocks: int = 7, width: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width) to logits."""
        for block in self.blocks:
            x = x + F.relu(block(x))
        return self.head(x)


def probe() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    targets = torch.arange(32) % 4
    centres = 2 * torch.randn(4, 6, generator=draw)
    return centres[targets] + torch.randn(32, 6, generator=draw), targets


def recorded(
    constants: Any = "by_depth", steps: tuple[int, ...] = STEPS, seed: int = 0, rate: float = 0.02
) -> Timeline:
    """A small network that learns while it is recorded."""
    torch.manual_seed(seed)
    model = Residual()
    inputs, targets = probe()
    recorder = Recorder(model, (inputs, targets), constants=constants, schedule=steps, replicates=2)
    optimiser = torch.optim.SGD(model.parameters(), lr=rate)
    for n in range(steps[-1]):
        recorder.step(n)
        optimiser.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    recorder.finish(steps[-1])
    return recorder.timeline


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    return recorded()


def planted(timeline: Timeline, half_at: dict[tuple[str, int | None], float], seed: int = 0) -> Timeline:
    """The same records with other parts: each grows towards the targets' classes, and is half there at its step.

    Growth is a logistic function of log(step + 1), and what a part has at last is about the same in all of them.
    """
    first = timeline.moments[0]
    assert first.targets is not None
    rng = np.random.default_rng(seed)
    goal = np.eye(4)[first.targets] - 0.25
    moments = []
    for moment in timeline.moments:
        terms = np.zeros(moment.terms.shape)
        for place, key in enumerate(moment.parts):
            if key in half_at:
                distance = math.log1p(moment.step) - math.log1p(half_at[key])
                terms[place] = 0.05 * goal / (1 + math.exp(-4 * distance)) * rng.uniform(0.97, 1.03)
        logits = torch.from_numpy(terms.astype(np.float32).sum(axis=0, dtype=np.float64))
        loss = float(F.cross_entropy(logits, torch.from_numpy(first.targets)))
        fresh = dataclasses.replace(moment.profile, loss=loss)
        moments.append(dataclasses.replace(moment, terms=terms.astype(np.float32), profile=fresh))
    return Timeline(moments)


def at_depth(timeline: Timeline, origin: str, depths: list[int]) -> list[np.ndarray]:
    return [
        sum(m.terms[i] for i, (o, d) in enumerate(m.parts) if o == origin and d in depths) + 0 * m.terms[0]
        for m in timeline.moments
    ]


# H1 share.


def test_the_trend_is_a_line_over_the_logarithm(timeline: Timeline) -> None:
    depths = [p.mean_depth.value for p in timeline.profiles]
    line: Any = stats.linregress(np.log(np.array(STEPS) + 1), depths)
    assert share_trend(timeline) == pytest.approx(line.slope * math.log(257))
    assert mean_depths(timeline) == pytest.approx(depths)


def test_the_mean_depth_with_constants_counts_all_norms(timeline: Timeline) -> None:
    for moment, found in zip(timeline.moments, mean_depths(timeline, constants=True), strict=True):
        norms = np.linalg.norm(moment.terms.astype(float), axis=2).mean(axis=1)
        depths = np.array([0 if depth is None else depth for _, depth in moment.parts])
        assert found == pytest.approx(depths @ norms / norms.sum(), rel=1e-5)
    assert share_trend(timeline, constants=True) != share_trend(timeline)


def test_one_length_has_no_trend_and_pooled_constants_have_no_depth() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 4))
    recorder = Recorder(model, probe(), constants="by_depth", replicates=2)
    recorder.step(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    recorder.finish(3)
    plain = recorder.timeline
    assert share_trend(plain) is None
    assert shallow_effect(plain) is None
    assert share_trend(plain, constants=True) is not None  # constants have shorter paths
    pooled = recorded("pooled", steps=(0, 2, 4))
    assert share_trend(pooled) is not None
    assert share_trend(pooled, constants=True) is None
    assert times_learned(pooled, constants=True) == {}
    assert shallow_effect(pooled, constants=True) is None


# H1 learned.


@pytest.mark.parametrize(("sign", "verdict"), [(1, "holds"), (-1, "fails")])
def test_planted_terms_are_learned_in_the_order_planted(timeline: Timeline, sign: int, verdict: str) -> None:
    halves: dict[tuple[str, int | None], float] = {
        ("input", k): 2.0 * 1.7 ** (sign * k + 4 - 4 * sign) for k in range(9)
    }
    times = [times_learned(planted(timeline, halves, seed)) for seed in range(5)]
    for each in times:
        assert order(each) == pytest.approx(sign)
        assert set(each) == set(range(1, 9))
    found = learned(times)
    assert (found.verdict, found.estimate) == (verdict, pytest.approx(sign))


def scaled(timeline: Timeline, factors: dict[tuple[str, int | None], float]) -> Timeline:
    """The same records with some of their parts larger or smaller."""
    by = np.array([factors.get(key, 1.0) for key in timeline.moments[0].parts], np.float32)[:, None, None]
    return Timeline([dataclasses.replace(moment, terms=by * moment.terms) for moment in timeline.moments])


def test_terms_of_little_credit_have_no_time(timeline: Timeline) -> None:
    grown = planted(timeline, {("input", k): 4.0 + k for k in range(1, 9)})
    assert None not in times_learned(grown).values()
    times = times_learned(scaled(grown, {("input", 3): 0.1}))
    assert [depth for depth, time in times.items() if time is None] == [3]


def test_with_constants_the_credits_of_a_depth_are_added(timeline: Timeline) -> None:
    """The input's terms early where they are shallow, constants of twice the credit early where they are deep."""
    halves: dict[tuple[str, int | None], float] = {("input", k): 4.0 * 1.5**k for k in range(1, 9)}
    halves |= {("constant", k): 4.0 * 1.5 ** (9 - k) for k in range(1, 9)}
    both = scaled(planted(timeline, halves), {("constant", k): 2.0 for k in range(1, 9)})
    assert order(times_learned(both)) == pytest.approx(1)
    assert order(times_learned(both, constants=True)) == pytest.approx(-1)


def test_with_constants_a_term_of_both_is_halfway_where_their_sum_is(timeline: Timeline) -> None:
    found = times_learned(timeline, constants=True)
    credit = timeline.credit
    assert credit is not None
    rows = credit.rows()
    finals = {(row["origin"], row["depth"]): row["credit_cumulative"] for row in rows if row["step"] == STEPS[-1]}
    depths = sorted({depth for _, depth in finals if depth is not None})
    assert sorted(found) == depths
    sums = {k: sum(value for (_, depth), value in finals.items() if depth == k) for k in depths}
    whole = sum(map(abs, sums.values()))
    known = 0
    for depth in depths:
        curve = [
            sum(row["credit_cumulative"] for row in rows if row["step"] == step and row["depth"] == depth)
            for step in STEPS
        ]
        above = [value / sums[depth] >= 0.5 for value in curve]
        crossings = [i for i in range(len(STEPS) - 1) if above[i] != above[i + 1]]
        if abs(sums[depth]) < 0.02 * whole or len(crossings) != 1:
            assert found[depth] is None
            continue
        known += 1
        (i,) = crossings
        x, y = np.log1p(STEPS[i : i + 2]), [value / sums[depth] for value in curve[i : i + 2]]
        assert found[depth] == pytest.approx(math.expm1(x[0] + (0.5 - y[0]) / (y[1] - y[0]) * (x[1] - x[0])))
    assert known > 1


def test_regression_has_no_times() -> None:
    torch.manual_seed(0)
    model = Residual()
    inputs, targets = probe()
    recorder = Recorder(model, (inputs, torch.eye(4)[targets]), constants="by_depth", replicates=2)
    recorder.step(0)
    with torch.no_grad():
        model.head.weight.mul_(2)
    recorder.finish(4)
    assert times_learned(recorder.timeline) == {}
    assert order({}) is None
    assert shallow_effect(recorder.timeline) is None


# H1 causal.


def test_steps_saved_are_counted_in_doublings() -> None:
    assert steps_saved(40, 160) == 2
    assert steps_saved(160, 40) == -2
    assert steps_saved(40, math.inf) is None
    assert steps_saved(math.inf, 40) is None


# H2.


def test_the_effect_is_that_of_halves_put_together_anew(timeline: Timeline) -> None:
    depths = [*range(0 if ("input", 0) in timeline.moments[0].parts else 1, 9)]
    half = math.ceil(len(depths) / 2)
    for record in (0, -1):
        moment = timeline.moments[record]
        constants = sum(moment.terms[i] for i, (origin, _) in enumerate(moment.parts) if origin != "input")

        def accuracy(logits: Any, moment: Moment = moment) -> float:
            return float((logits.argmax(axis=1) == moment.targets).mean())

        shallow = at_depth(timeline, "input", depths[:half])[record] + constants
        deep = at_depth(timeline, "input", depths[-half:])[record] + constants
        assert shallow_effect(timeline, record) == pytest.approx(accuracy(shallow) - accuracy(deep))
    assert shallow_effect(timeline) != 0


def test_with_constants_the_shallow_half_is_a_truncation(timeline: Timeline) -> None:
    depths = sorted({depth for _, depth in timeline.moments[0].parts if depth is not None})
    half = math.ceil(len(depths) / 2)
    last = timeline.spectrum.where(step=STEPS[-1])
    head = last.where(origin="input", depth=depths[half - 1])["head_accuracy"].item()
    deep = sum(at_depth(timeline, origin, depths[-half:])[-1] for origin in ("input", "constant"))
    right = (np.asarray(deep).argmax(axis=1) == timeline.moments[-1].targets).mean()
    assert shallow_effect(timeline, constants=True) == pytest.approx(head - right)


def test_the_effect_of_what_only_one_half_knows(timeline: Timeline) -> None:
    shallow: dict[tuple[str, int | None], float] = {("input", 2): 4.0}
    deep: dict[tuple[str, int | None], float] = {("input", 8): 4.0}
    effects = [shallow_effect(planted(timeline, each)) for each in (shallow, deep)]
    assert effects == [pytest.approx(0.75), pytest.approx(-0.75)]  # nothing but zeros is right in a class of four


# H3.


@pytest.mark.parametrize(
    ("excess", "smaller"),
    [
        ({"shuffled": 0.3, "initial": 0.1}, 0.1),
        ({"shuffled": -0.3, "initial": 0.1}, -0.3),
        ({"shuffled": 0.3, "initial": None}, None),
        ({"shuffled": 0.3}, None),
    ],
)
def test_both_excesses_are_needed(excess: dict[str, float | None], smaller: float | None) -> None:
    trend = Table({"comparator": [*excess], "excess": [*excess.values()]})
    found = DepthDegrees(trend, trend, trend, "layers", "", 0.0, (), {})
    assert smaller_excess(found) == smaller


# H4.


def with_courses(timeline: Timeline, depths: list[float], losses: list[float]) -> Timeline:
    """The records with other mean depths and losses."""
    moments = [
        dataclasses.replace(
            moment,
            profile=dataclasses.replace(
                moment.profile, mean_depth=moment.profile.mean_depth._replace(value=depth), loss=loss
            ),
        )
        for moment, depth, loss in zip(timeline.moments, depths, losses, strict=True)
    ]
    return Timeline(moments)


def test_shallower_at_equal_step_and_at_equal_loss() -> None:
    short = recorded(steps=(0, 2, 4))
    resnet = course(with_courses(short, [10.0, 9.0, 8.0], [2.0, 1.0, 0.5]))
    densenet = course(with_courses(short, [6.0, 5.0, 7.0], [2.0, 1.5, 0.7]))
    other = course(with_courses(short, [6.0, 5.0, 4.0], [0.4, 0.6, 0.7]))
    assert shallower(resnet, densenet, at="step") == 1.0
    # 0.7 is what both reach: the one three fifths of the way to its last record, the other there.
    assert shallower(resnet, densenet, at="loss") == pytest.approx(8.4 - 7.0)
    assert shallower(densenet, resnet, at="loss") == pytest.approx(7.0 - 8.4)
    assert shallower(resnet, other, at="loss") == pytest.approx(2.0)


def test_a_profile_of_its_own_has_the_mean_depth_that_is_compared(timeline: Timeline) -> None:
    torch.manual_seed(0)
    own = profile(Residual(), probe(), constants="by_depth")
    assert mean_depths(timeline)[0] == pytest.approx(own.mean_depth.value)
