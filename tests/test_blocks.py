"""Residual branches, found from the data flow: which there are, and what paths and terms they give."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import oracles
from blocks_at_hand import X, blocks_of, chained, made_of
from programs import DOUBLE, Written, dense
from termwise.causal import without
from termwise.errors import ModelError
from termwise.expand import expand, locate


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def paths_of(model: Any, x: Any, **options: Any) -> dict[int, int]:
    return dict(expand(model, x, unit="blocks", **options).paths)


# What is a branch.


def post_normed(m: Any, x: Tensor) -> Tensor:
    v = F.layer_norm(x + m.p(x), (4,))
    return F.layer_norm(v + m.q(v), (4,))


def rectified(m: Any, x: Tensor) -> Tensor:
    v = torch.relu(x + m.p(x))
    return torch.relu(v + m.q(v))


def in_place(m: Any, x: Tensor) -> Tensor:
    out = m.p(x)
    out += x
    out.relu_()
    branch = m.q(out)
    branch.add_(out)
    return branch


def written_gelu(m: Any, x: Tensor) -> Tensor:
    v = x + m.p(x)
    return v * (1 + torch.tanh(0.7978845608 * (v + 0.044715 * v**3)))


def cubed(m: Any, x: Tensor) -> Tensor:
    v = x + m.p(x)
    return v + 0.044715 * v**3


def cubed_otherwise(m: Any, x: Tensor) -> Tensor:
    y = m.p(x)
    return x + (y + 0.044715 * (x + y) ** 3)


def pre_activated(m: Any, x: Tensor) -> Tensor:
    active = torch.relu(x)
    return m.f(active) + m.p(active)


def highway(m: Any, x: Tensor) -> Tensor:
    carry = torch.sigmoid(m.f(x))
    return (1 - carry) * torch.relu(m.g(x)) + carry * x


def recalibrated(m: Any, x: Tensor) -> Tensor:
    return x + x * torch.sigmoid(m.f(x))


def gated_recurrence(m: Any, h: Tensor) -> Tensor:
    for _ in range(2):
        z, r = torch.sigmoid(m.f(h)), torch.sigmoid(m.g(h))
        h = (1 - z) * torch.relu(r * m.h(h)) + z * h
    return h


def attention(m: Any, x: Tensor) -> Tensor:
    pattern = torch.softmax(m.f(x) @ m.g(x).T, dim=-1)
    return x + pattern @ x


def positional(m: Any, x: Tensor) -> Tensor:
    """The values beside their attention through a lone projection (a locally enhanced position)."""
    v, pattern = m.h(x), torch.softmax(m.f(x) @ m.g(x).T, dim=-1)
    return x + m.p(pattern @ v + m.q[0](v))


def multiplied(m: Any, x: Tensor) -> Tensor:
    return x + torch.addmm(m.f(x), m.g(x), m.h.weight)


def widened(m: Any, x: Tensor) -> Tensor:
    """The shortcut reaches only the first channels (ReXNet)."""
    y = m.p(x)
    return torch.cat([y[:, :2] + x[:, :2], y[:, 2:]], dim=1)


def in_parts(m: Any, x: Tensor) -> Tensor:
    y = m.p(x)
    return torch.cat([x, y[:, :1], y[:, 1:]], dim=1)


def pooled_less_itself(m: Any, x: Tensor) -> Tensor:
    """A token mixer that takes its input away, on a stream that is a sum itself (EfficientFormer)."""
    v = x + m.p(x)
    return v + 0.1 * (F.avg_pool1d(v, 3, 1, 1, count_include_pad=False) - v)


def scattered(m: Any, x: Tensor) -> Tensor:
    """Some rows have experts, which add to what there is (mixtures of experts)."""
    first, second = torch.tensor([0, 2]), torch.tensor([1, 2])
    return x.index_add(0, first, m.p(x[first])).index_add(0, second, m.q(x[second]))


FORMS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[int, int]]] = {
    "none": (lambda m, x: m.p(x), {0: 1}),
    "one": (lambda m, x: x + m.p(x), {0: 1, 1: 1}),
    "shortcut-first-or-last": (lambda m, x: m.p(x) + x, {0: 1, 1: 1}),
    "chained": (chained, {0: 1, 1: 2, 2: 1}),
    "post-normed": (post_normed, {0: 1, 1: 2, 2: 1}),
    "rectified": (rectified, {0: 1, 1: 2, 2: 1}),
    "in-place": (in_place, {0: 1, 1: 2, 2: 1}),
    "linear-branch": (lambda m, x: x + m.f(x), {0: 1, 1: 1}),
    "normed-shortcut": (lambda m, x: F.layer_norm(x, (4,)) + m.f(x), {0: 1, 1: 1}),
    "scaled": (lambda m, x: 0.5 * x + 0.1 * m.p(x), {0: 1, 1: 1}),
    "projected": (lambda m, x: m.f(x) + m.p(x), {0: 1, 1: 1}),
    "pre-activated": (pre_activated, {0: 1, 1: 1}),
    "subtracted-branch": (lambda m, x: x - m.p(x), {0: 1, 1: 1}),
    "difference": (lambda m, x: m.p(x) - x, {0: 2}),
    "difference-of-sums": (lambda m, x: m.p(x) - (x + m.q(x)), {0: 2, 1: 1}),
    "difference-of-all": (lambda m, x: m.p(x) - x - m.q(x), {0: 2, 1: 1}),
    "pooled-less-itself": (pooled_less_itself, {0: 1, 1: 3, 2: 2}),
    "widened": (widened, {0: 1, 1: 2}),
    "in-parts": (in_parts, {0: 1, 1: 2}),
    "twice-scaled": (lambda m, x: x + 0.5 * (y := m.p(x)) + 0.25 * y, {0: 1, 1: 2}),
    "twice-past-a-copy": (lambda m, x: (x + (y := m.p(x))).clone() + y, {0: 1, 1: 2}),
    "parallel": (lambda m, x: x + m.p(x) + m.q(x), {0: 1, 1: 2}),
    "two-projections": (lambda m, x: m.f(x) + m.g(x), {0: 2}),
    "two-branches-alone": (lambda m, x: m.p(x) + m.q(x), {0: 2}),
    "nested": (lambda m, x: x + m.f(torch.tanh(x + m.p(x))), {0: 1, 1: 1, 2: 1}),
    "elementwise": (lambda m, x: x + 0.044 * x**3, {0: 2}),
    "elementwise-on-the-stream": (written_gelu, {0: 1, 1: 1}),
    "elementwise-beside-a-sum": (cubed, {0: 2, 1: 2}),
    "elementwise-in-a-sum": (cubed_otherwise, {0: 2, 1: 2}),
    "concatenated": (lambda m, x: m.f(torch.cat([x, m.p(x)])[2:5]), {0: 1, 1: 1}),
    "pooled-and-concatenated": (
        lambda m, x: torch.cat([F.max_pool1d(x, 2), m.p(x)[:, :2]]),
        {0: 2},
    ),
    "pooled-and-projected": (lambda m, x: m.f(x)[:, ::2] + F.max_pool1d(m.p(x), 2), {0: 1, 1: 1}),
    "stacked": (lambda m, x: torch.stack([m.p(x), x]).sum(0), {0: 1, 1: 1}),
    "averaged": (lambda m, x: torch.stack([x, m.p(x), m.q(x)], -1).mean(-1), {0: 1, 1: 2}),
    "scattered": (scattered, {0: 1, 1: 2}),
    "scattered-in-place": (
        lambda m, x: x.clone().scatter_add_(0, torch.zeros(1, 4, dtype=torch.int64), m.p(x)),
        {0: 1, 1: 1},
    ),
    "nonlinear-shortcut": (lambda m, x: torch.relu(x) + m.p(x), {0: 2}),
    "nonlinear-shortcut-of-two": (lambda m, x: torch.maximum(x, torch.zeros(1, dtype=DOUBLE)) + m.p(x), {0: 2}),
    "highway": (highway, {0: 1, 1: 1}),
    "gate-alone": (recalibrated, {0: 2}),
    "gated-recurrence": (gated_recurrence, {0: 1, 1: 2, 2: 1}),
    "attention": (attention, {0: 1, 1: 1}),
    "attention-beside-projection": (positional, {0: 1, 1: 1, 2: 1}),
    "summed-while-multiplied": (multiplied, {0: 1, 1: 2}),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_is_a_branch(name: str) -> None:
    run, paths = FORMS[name]
    found = expand(made_of(run), X, unit="blocks")
    assert dict(found.paths) == paths
    assert found.closure is not None and found.closure < 1e-12
    assert found.unit == "blocks"


# Ways of writing the same sum.


def as_written(m: Any, x: Tensor) -> Tensor:
    v = x + m.p(x)
    return v + m.q(v)


def later_first(m: Any, x: Tensor) -> Tensor:
    first = m.p(x)
    return x + (first + m.q(x + first))


def swapped(m: Any, x: Tensor) -> Tensor:
    first = m.p(x)
    return (m.q(first + x) + x) + first


def stepwise(m: Any, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    first = m.p(x)
    for part in (first, x, m.q(x + first)):
        out = out + part
    return out


@pytest.mark.parametrize("other", [later_first, swapped, stepwise])
def test_the_order_of_additions_does_not_matter(other: Any) -> None:
    model = made_of(as_written)
    rewritten = Written(other, p=model.p, q=model.q)
    one, two = expand(model, X, unit="blocks"), expand(rewritten, X, unit="blocks")
    assert dict(one.paths) == dict(two.paths) == {0: 1, 1: 2, 2: 1}
    for depth in one.depths:
        assert oracles.disagreement(two.terms[depth], one.terms[depth]) < 1e-12


AVERAGED: list[Callable[[Any, Tensor], Tensor]] = [
    lambda m, x: 0.5 * x + 0.5 * m.p(x) + 0.5 * x + 0.5 * m.q(x),
    lambda m, x: 0.5 * (x + m.p(x)) + 0.5 * (x + m.q(x)),
    lambda m, x: torch.stack([x + m.p(x), x + m.q(x)]).mean(0),
    lambda m, x: torch.stack([(x + m.p(x)).clone(), (x + m.q(x)).clone()]).mean(0),
    lambda m, x: (x + m.p(x)).view(3, 2, 2).view(3, 4) / 2 + (x + m.q(x)).to(torch.float64, copy=True) / 2,
]


def test_a_scaled_copy_beside_the_sum_is_no_branch() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v = x + m.p(x)
        return v + 0.5 * F.layer_norm(v, (4,))

    assert paths_of(made_of(run), X) == {0: 2, 1: 2}


@pytest.mark.parametrize("way", range(len(AVERAGED)))
def test_factors_and_copies_between_additions_do_not_matter(way: int) -> None:
    model = made_of(AVERAGED[0])
    one = expand(model, X, unit="blocks")
    other = expand(Written(AVERAGED[way], p=model.p, q=model.q), X, unit="blocks")
    assert dict(one.paths) == dict(other.paths) == {0: 2, 1: 2}
    for depth in one.depths:
        assert oracles.disagreement(other.terms[depth], one.terms[depth]) < 1e-12


def test_parallel_branches_in_any_bracketing() -> None:
    ways: list[Callable[[Any, Tensor], Tensor]] = [
        lambda m, x: (x + m.p(x)) + m.q(x),
        lambda m, x: x + (m.p(x) + m.q(x)),
        lambda m, x: m.q(x) + (m.p(x) + x),
    ]
    model = made_of(ways[0])
    results = [expand(Written(way, p=model.p, q=model.q), X, unit="blocks") for way in ways]
    for one, other in itertools.pairwise(results):
        assert dict(one.paths) == dict(other.paths) == {0: 1, 1: 2}
        for depth in one.depths:
            assert oracles.disagreement(other.terms[depth], one.terms[depth]) < 1e-12


def test_the_states_of_a_recurrence_are_laid_side_by_side() -> None:
    """h_t = tanh(W x_t + U h_{t-1}): the branch is U h_{t-1}; that the states are stacked at last is no other."""

    def run(m: Any, x: Tensor) -> Tensor:
        states = [torch.tanh(m.f(x[0]))]
        for row in x[1:]:
            states.append(torch.tanh(m.f(row) + m.g(states[-1])))
        return torch.stack(states)

    assert paths_of(made_of(run), X) == {0: 3, 1: 2, 2: 1}


# Programs whose way depends on the data.


def either_way(m: Any, x: Tensor) -> Tensor:
    """As many operator calls on both ways."""
    return x + m.p(x) if x.mean() > 0 else m.p(x + x)


def either_order(m: Any, x: Tensor) -> Tensor:
    """The same operator calls on both ways."""
    return x + m.p(x) if x.mean() > 0 else m.p(x) + x


@pytest.mark.parametrize(("run", "paths"), [(either_way, {0: 2}), (either_order, {0: 1, 1: 1})])
def test_blocks_of_another_way_through_the_program_are_not_used(run: Any, paths: dict[int, int]) -> None:
    model = made_of(run)
    unit = locate("blocks", model, X.abs())
    found, fresh = expand(model, -X.abs(), unit=unit), expand(model, -X.abs(), unit="blocks")
    assert dict(found.paths) == dict(fresh.paths) == paths
    assert all(torch.equal(found.terms[depth], fresh.terms[depth]) for depth in paths)


def test_a_program_that_never_goes_the_same_way_twice_is_refused() -> None:
    model: Any = made_of(chained)
    runs = itertools.count()

    def run(x: Tensor) -> Tensor:
        v = model.p(x) + x if next(runs) % 2 else x + model.q(model.p(x))
        return v + model.q(v)

    with pytest.raises(ModelError, match="another way through its code each time"):
        expand(run, X, unit="blocks")


# Terms, against every subset of branches.


def test_terms_are_sums_over_subsets_of_branches() -> None:
    """A linear network: the term of depth k is the sum over all ways to go through exactly k branches."""
    layers = [nn.Sequential(dense(4, 3), dense(3, 4)) for _ in range(4)]

    def run(x: Tensor) -> Tensor:
        for layer in layers:
            x = x + layer(x)
        return x

    found = expand(run, X, unit="blocks")
    weights = [[parameter.detach() for parameter in layer.parameters() if parameter.dim() == 2] for layer in layers]
    maps = [second @ first for first, second in weights]
    for depth in range(5):
        expected = torch.zeros_like(X)
        for chosen in itertools.combinations(maps, depth):
            walked = X
            for matrix in chosen:
                walked = walked @ matrix.T
            expected = expected + walked
        assert oracles.disagreement(found.terms[depth], expected) < 1e-12
    assert found.depths == (0, 1, 2, 3, 4)


def test_constants_by_depth_count_branches_too() -> None:
    model = made_of(chained)
    found = expand(model, X, unit="blocks", constants="by_depth")
    pooled = expand(model, X, unit="blocks")
    assert set(found.constants) == {1, 2}
    assert oracles.disagreement(torch.stack(list(found.constants.values())).sum(0), pooled.constant) < 1e-12


def test_a_feature_that_is_handed_on_is_one_block() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        features = [x]
        for layer in (m.f, m.g, m.h):
            features.append(layer(torch.stack([torch.cat(features)[: len(x)], features[-1]]).sum(0)))
        return torch.cat(features)

    found = blocks_of(made_of(run), X)
    assert len(found) == 3
    # In each layer's concatenation from the next on, in the last one, and in the sum of the layer right after it.
    assert [len(block.places) for block in found] == [4, 3, 1]


@pytest.mark.parametrize("sliced", [lambda y: (y[:, :2], y[:, 2:]), lambda y: y.chunk(2, dim=1)])
def test_a_branch_that_joins_in_slices_is_one_block(sliced: Any) -> None:
    model = made_of(lambda m, x: torch.cat([x, *sliced(m.p(x))], dim=1))
    (block,) = blocks_of(model, X)
    assert (block.name, len(block.places)) == ("p", 2)
    assert torch.equal(without(model, X, [block]), F.pad(X, (0, 4)))
