"""Loss credit against autograd and sums of many small steps; time learned on curves whose times are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from termwise.credit import Credits, credits_over, cross_entropy, loss_credit, time_learned


def pair(scale: float, seed: int = 0, parts: int = 4, samples: int = 6, classes: int = 5):
    draw = np.random.default_rng(seed)
    before = draw.normal(size=(parts, samples, classes))
    return before, before + scale * draw.normal(size=before.shape), draw.integers(0, classes, samples)


def loss_of(terms: np.ndarray, targets: np.ndarray) -> float:
    return float(F.cross_entropy(torch.from_numpy(terms.sum(axis=0)), torch.from_numpy(targets)))


def brute_force(before: np.ndarray, after: np.ndarray, targets: np.ndarray, pieces: int = 20_000) -> np.ndarray:
    """- sum over many small pieces of <grad l at the middle of the piece, what each part moves in it>."""
    start, end = torch.from_numpy(before.sum(axis=0)), torch.from_numpy(after.sum(axis=0))
    s = (torch.arange(pieces, dtype=torch.float64) + 0.5) / pieces
    points = (start + s[:, None, None] * (end - start)).requires_grad_()
    losses = F.cross_entropy(points.flatten(0, 1), torch.from_numpy(targets).repeat(pieces), reduction="none")
    # The mean over samples, summed over the pieces: each piece's gradient by itself.
    (slope,) = torch.autograd.grad(losses.sum() / len(targets), points)
    moves = torch.from_numpy(after - before) / pieces
    return -torch.einsum("inc,pnc->p", slope, moves).numpy()


@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
def test_credit_is_the_path_integral_of_the_gradient(scale):
    before, after, targets = pair(scale)
    found, expected = loss_credit(before, after, targets), brute_force(before, after, targets)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).sum())


def test_credit_of_a_small_move_is_minus_gradient_times_move():
    before, after, targets = pair(1e-6)
    logits = torch.from_numpy(before.sum(axis=0)).requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, torch.from_numpy(targets)), logits)
    expected = -np.einsum("nc,pnc->p", slope.numpy(), after - before)
    np.testing.assert_allclose(loss_credit(before, after, targets), expected, rtol=1e-4)


@pytest.mark.parametrize(("scale", "seed"), [*itertools.product([0.0, 1e-3, 1.0, 30.0], range(3)), (500.0, 0)])
def test_credits_sum_to_the_fall_of_the_loss(scale, seed):
    before, after, targets = pair(scale, seed, samples=50, classes=10)
    fell = loss_of(before, targets) - loss_of(after, targets)
    assert loss_credit(before, after, targets).sum() == pytest.approx(fell, rel=1e-10, abs=1e-10)


def test_nothing_of_a_part_that_stays_and_plus_for_one_that_helps():
    before, after, targets = pair(1.0)
    after[0] = before[0]
    after[1] = before[1] + 0.5 * np.eye(5)[targets]
    after[2] = before[2] - 0.5 * np.eye(5)[targets]
    credit = loss_credit(before, after, targets)
    assert credit[0] == 0 and credit[1] > 0 > credit[2]
    assert credit[1] == pytest.approx(-credit[2], rel=1e-12)


def test_credit_adds_over_parts_and_does_not_see_a_shift_of_all_classes():
    before, after, targets = pair(2.0)
    credit = loss_credit(before, after, targets)
    merged = [np.stack([t[0] + t[1], t[2], t[3]]) for t in (before, after)]
    np.testing.assert_allclose(
        loss_credit(merged[0], merged[1], targets), [credit[0] + credit[1], *credit[2:]], atol=1e-12
    )
    shift = np.linspace(-3, 3, after.shape[1])[None, :, None]
    np.testing.assert_allclose(loss_credit(before, after + shift, targets), credit, atol=1e-9)


def test_terms_of_half_the_precision_are_summed_in_double():
    before, after, targets = (t.astype(np.float32) if t.dtype == float else t for t in pair(1.0))
    fell = loss_of(before.astype(float), targets) - loss_of(after.astype(float), targets)
    assert loss_credit(before, after, targets).sum() == pytest.approx(fell, abs=1e-12)


def test_cross_entropy_is_that_of_torch():
    terms, _, targets = pair(1.0)
    assert cross_entropy(1e3 * terms.sum(axis=0), targets) == pytest.approx(loss_of(1e3 * terms, targets), rel=1e-14)


def walk(records: int, curved: bool):
    """Terms that move on a straight line, or two of them around each other."""
    before, after, targets = pair(2.0, seed=7)
    path = []
    for u in np.linspace(0, 1, records):
        terms = before + u * (after - before)
        if curved:
            terms[0] += 6 * math.sin(9 * u) * np.eye(5)[targets]
            terms[1] += 6 * math.cos(9 * u) * np.eye(5)[0]
        path.append(terms)
    return path, targets


def over(path, targets, losses=None):
    return credits_over(range(len(path)), path, targets, losses or [loss_of(terms, targets) for terms in path])


def test_credits_over_a_run():
    path, targets = walk(9, curved=True)
    credits = over(path, targets)
    each = [loss_credit(a, b, targets) for a, b in itertools.pairwise(path)]
    np.testing.assert_array_equal(credits.between, each)
    np.testing.assert_allclose(credits.cumulative, [np.zeros(4), *np.cumsum(each, axis=0)])
    total = loss_of(path[0], targets) - loss_of(path[-1], targets)
    assert credits.cumulative[-1].sum() == pytest.approx(total, abs=1e-10)
    assert credits.closure < 1e-9
    assert np.abs(credits.fractions).sum() == pytest.approx(1)


def test_closure_is_taken_against_the_losses_of_the_network():
    path, targets = walk(4, curved=False)
    losses = [loss_of(terms, targets) for terms in path]
    losses[2] += 1e-3
    sizes = np.abs(over(path, targets).between).sum(axis=1)
    assert over(path, targets, losses).closure == pytest.approx(1e-3 / sizes[1:].min(), rel=1e-6)


@pytest.mark.parametrize("records", [5, 6])
def test_drift_compares_with_every_other_record_and_keeps_the_ends(records):
    path, targets = walk(records, curved=True)
    credits = over(path, targets)
    half = [*path[:-1:2], path[-1]]
    moved = np.abs(over(half, targets).cumulative[-1] - credits.cumulative[-1]).max()
    assert credits.drift == pytest.approx(moved / np.abs(credits.cumulative[-1]).sum())
    assert credits.converged is False and moved > 0.05 * np.abs(credits.cumulative[-1]).sum()


def test_no_drift_on_a_straight_line_and_none_to_tell_of_two_records():
    path, targets = walk(9, curved=False)
    assert over(path, targets).drift == pytest.approx(0, abs=1e-9) and over(path, targets).converged is True
    assert over(path[:2], targets).drift is None and over(path[:2], targets).converged is None


def test_drift_vanishes_with_denser_records():
    drifts = [over(*walk(records, curved=True)).drift or 0.0 for records in (9, 17, 33, 65)]
    assert drifts == sorted(drifts, reverse=True) and drifts[-1] < 0.02


def test_a_run_that_stands_still():
    path, targets = walk(1, curved=False)
    credits = over(path * 4, targets)
    assert credits.closure == 0 and credits.drift == 0
    assert credits.times() == [(None, None, None)] * 4
    assert not credits.fractions.any()


STEPS = [0, 1, 3, 7, 15]  # log2(step + 1) = 0, 1, 2, 3, 4


def test_time_learned_is_linear_in_the_logarithm_of_the_step():
    found = time_learned(STEPS, np.array([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert found == pytest.approx([2 ** (4 * level) - 1 for level in (0.1, 0.5, 0.9)])


@pytest.mark.parametrize("sign", [1, -1])
def test_time_learned_of_a_jump(sign):
    found = time_learned(STEPS, sign * np.array([0.0, 0.0, 0.0, 2.0, 2.0]))
    assert found == pytest.approx([2 ** (2 + level) - 1 for level in (0.1, 0.5, 0.9)])


def test_a_level_that_is_passed_more_than_once_has_no_time():
    assert time_learned(STEPS, np.array([0.0, 0.7, 0.3, 1.2, 1.0]))[1] is None
    # 10 % is passed once, 50 % three times, 90 % once.
    found = time_learned(STEPS, np.array([0.0, 0.6, 0.4, 0.8, 1.0]))
    assert found[0] == pytest.approx(2 ** (1 / 6) - 1) and found[1] is None
    assert found[2] == pytest.approx(2**3.5 - 1)
    # Below 10 % for a while after the start: a negative excursion passes no level.
    assert None not in time_learned(STEPS, np.array([0.0, -1.0, 0.2, 0.8, 1.0]))


def test_a_level_that_is_met_exactly_counts_as_reached():
    assert time_learned(STEPS, np.array([0.0, 0.5, 0.5, 0.5, 1.0]), levels=[0.5]) == pytest.approx([1.0])


def test_no_time_where_nothing_is_left():
    assert time_learned(STEPS, np.array([0.0, 1.0, -1.0, 0.5, 0.0])) == (None, None, None)


def test_no_time_below_two_percent_of_all_credit():
    rise = np.array([0.25, 0.25, 0.25, 0.25])
    between = np.stack([0.97 * rise, -0.021 * rise, 0.009 * rise], axis=1)
    times = Credits(np.array(STEPS), between, 0.0, 0.0).times()
    assert times[0] == pytest.approx(times[1]) and None not in times[0]
    assert times[2] == (None, None, None)
