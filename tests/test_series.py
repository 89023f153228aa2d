"""The algebra of Series: laws that hold for every layout of parts."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from termwise.series import (
    CONSTANT,
    FROZEN,
    INPUT,
    Origin,
    Part,
    Parts,
    Series,
    add_paths,
    add_rows,
    align_rows,
    broadcast_rows,
    constant_series,
    frozen_series,
    input_series,
    merge_parts,
)

few = settings(max_examples=25, deadline=None)

parts_of = st.lists(
    st.one_of(
        st.builds(Part, st.just(Origin.CONSTANT), st.integers(0, 5)),
        st.just(FROZEN),
        st.builds(Part, st.just(Origin.INPUT), st.integers(0, 9)),
    ),
    min_size=1,
    max_size=7,
    unique=True,
).map(lambda parts: tuple(sorted(parts)))
shapes = st.sampled_from([(), (3,), (2, 3), (1, 3), (2, 1), (2, 0)])
counts = st.dictionaries(st.integers(0, 9), st.integers(1, 2**70), max_size=4)


@st.composite
def series(draw: st.DrawFn, shape: tuple[int, ...] | None = None) -> Series:
    """Whole numbers, so that sums are exact in any order."""
    parts = draw(parts_of)
    at = draw(shapes) if shape is None else shape
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    rows = torch.randint(-9, 10, (len(parts), *at), generator=generator).double()
    return Series(rows.sum(dim=0), rows, parts, draw(counts))


@st.composite
def stacks(draw: st.DrawFn, number: int) -> list[tuple[Tensor, Parts]]:
    drawn = [draw(series(draw(st.sampled_from([(2, 3), (1, 3), (3,), ()])))) for _ in range(number)]
    return [(s.rows, s.parts) for s in drawn]


WHOLE = torch.zeros(2, 3, dtype=torch.float64)


def same(left: tuple[Tensor, Parts], right: tuple[Tensor, Parts]) -> bool:
    return left[1] == right[1] and torch.equal(left[0], right[0])


@few
@given(stacks(2))
def test_addition_commutes(operands: list[tuple[Tensor, Parts]]) -> None:
    assert same(add_rows(WHOLE, operands), add_rows(WHOLE, operands[::-1]))


@few
@given(stacks(3))
def test_addition_associates(operands: list[tuple[Tensor, Parts]]) -> None:
    a, b, c = operands
    at_once = add_rows(WHOLE, operands)
    assert same(add_rows(WHOLE, [add_rows(WHOLE, [a, b]), c]), at_once)
    assert same(add_rows(WHOLE, [a, add_rows(WHOLE, [b, c])]), at_once)


@few
@given(stacks(1))
def test_the_sum_of_one_is_itself(operands: list[tuple[Tensor, Parts]]) -> None:
    rows, parts = operands[0]
    assert same(add_rows(WHOLE, operands), (broadcast_rows(rows, WHOLE), parts))


@few
@given(stacks(4))
def test_the_rows_of_a_sum_sum_to_the_sum_of_values(operands: list[tuple[Tensor, Parts]]) -> None:
    rows, parts = add_rows(WHOLE, operands)
    assert rows.shape == (len(parts), *WHOLE.shape)
    whole = torch.stack([rows.sum(dim=0).expand(2, 3) for rows, _ in operands]).sum(dim=0)
    assert torch.equal(rows.sum(dim=0), whole)


@few
@given(stacks(3))
def test_every_part_of_a_sum_is_the_sum_of_that_part(operands: list[tuple[Tensor, Parts]]) -> None:
    """By part and by summand: what `add_rows` does in stretches."""
    rows, parts = add_rows(WHOLE, operands)
    for part, row in zip(parts, rows, strict=True):
        expected = torch.zeros_like(WHOLE)
        for stack, layout in operands:
            if part in layout:
                expected = expected + stack[layout.index(part)]
        assert torch.equal(row, expected)


@few
@given(stacks(2))
def test_summands_are_left_as_they_are(operands: list[tuple[Tensor, Parts]]) -> None:
    before = [rows.clone() for rows, _ in operands]
    add_rows(WHOLE, operands)[0].fill_(7)
    assert all(torch.equal(rows, old) for (rows, _), old in zip(operands, before, strict=True))


@few
@given(st.lists(parts_of, min_size=1, max_size=4))
def test_merging_is_the_sorted_union(layouts: list[Parts]) -> None:
    merged = merge_parts(layouts)
    assert set(merged) == {part for layout in layouts for part in layout}
    assert list(merged) == sorted(set(merged))
    assert merge_parts([merged, *layouts]) == merged


def test_parts_are_ordered_by_origin_then_depth() -> None:
    parts = [INPUT, FROZEN, Part(Origin.CONSTANT, 3), Part(Origin.INPUT, 4), CONSTANT]
    assert sorted(parts) == [CONSTANT, Part(Origin.CONSTANT, 3), FROZEN, INPUT, Part(Origin.INPUT, 4)]


@few
@given(series(), parts_of)
def test_alignment_adds_zeros_and_nothing_else(s: Series, more: Parts) -> None:
    target = merge_parts([s.parts, more])
    rows = align_rows(s.rows, s.parts, target)
    assert rows.shape == (len(target), *s.shape)
    for part, row in zip(target, rows, strict=True):
        expected = s.rows[s.parts.index(part)] if part in s.parts else torch.zeros_like(s.value)
        assert torch.equal(row, expected)


@few
@given(series())
def test_alignment_to_its_own_parts_changes_nothing(s: Series) -> None:
    assert align_rows(s.rows, s.parts, s.parts) is s.rows


@few
@given(series(), st.booleans())
def test_a_step_moves_labels_and_no_numbers(s: Series, constants: bool) -> None:
    moved = s.shifted(constants=constants)
    assert moved.rows is s.rows and moved.value is s.value
    for before, after in zip(s.parts, moved.parts, strict=True):
        assert after.origin is before.origin
        moves = {Origin.INPUT: 1, Origin.FROZEN: 0, Origin.CONSTANT: int(constants)}
        assert after.depth == before.depth + moves[before.origin]
    assert list(moved.parts) == sorted(moved.parts)
    assert moved.paths == {depth + 1: count for depth, count in s.paths.items()}


@few
@given(series(), series(shape=(2, 3)))
def test_a_step_of_a_sum_is_the_sum_of_the_steps(s: Series, t: Series) -> None:
    if s.numel() == 0 or s.dim() > 1:
        s = t
    apart = [(x.shifted(constants=True).rows, x.shifted(constants=True).parts) for x in (s, t)]
    rows, parts = add_rows(WHOLE, [(s.rows, s.parts), (t.rows, t.parts)])
    together = Series(rows.sum(dim=0), rows, parts).shifted(constants=True)
    assert same(add_rows(WHOLE, apart), (together.rows, together.parts))


@few
@given(series(), st.integers(1, 4), st.integers(-9, 9))
def test_constants_by_depth_collapse_to_the_pooled_one(s: Series, steps: int, number: int) -> None:
    """A constant added between steps: kept apart or pooled, the sum over what is constant-born is the same."""

    def run(by_depth: bool) -> Series:
        x = s if by_depth else pool(s)
        for _ in range(steps):
            x = x.plus(torch.tensor(float(number), dtype=torch.float64), x.value + number).shifted(constants=by_depth)
        return x

    def pool(x: Series) -> Series:
        keep = [part for part in x.parts if part.origin is not Origin.CONSTANT]
        rows = [x.rows[x.parts.index(part)] for part in keep]
        constant = constant_part(x)
        return Series(x.value, torch.stack([constant, *rows]), (CONSTANT, *keep), x.paths)

    def constant_part(x: Series) -> Tensor:
        rows = [row for part, row in zip(x.parts, x.rows, strict=True) if part.origin is Origin.CONSTANT]
        return torch.stack([torch.zeros_like(x.value), *rows]).sum(dim=0)

    split, pooled = run(True), run(False)
    assert torch.equal(split.value, pooled.value)
    assert torch.equal(constant_part(split), constant_part(pooled))
    others = [[p for p in x.parts if p.origin is not Origin.CONSTANT] for x in (split, pooled)]
    assert others[0] == others[1]
    depths = {part.depth for part in split.parts if part.origin is Origin.CONSTANT}
    assert set(range(1, steps + 1)) <= depths


@few
@given(series(), st.integers(-9, 9), st.sampled_from([CONSTANT, FROZEN, Part(Origin.CONSTANT, 2)]))
def test_adding_what_is_born_here_touches_one_part(s: Series, number: int, part: Part) -> None:
    before = s.rows.clone()
    out = s.plus(torch.tensor(float(number), dtype=torch.float64), s.value + number, part=part)
    assert torch.equal(s.rows, before)
    assert torch.equal(out.rows.sum(dim=0), out.value)
    for other in s.parts:
        if other != part:
            assert torch.equal(out.rows[out.parts.index(other)], s.rows[s.parts.index(other)])


@few
@given(st.lists(counts, max_size=4))
def test_paths_add_by_depth_and_never_overflow(summands: list[dict[int, int]]) -> None:
    total = add_paths(summands)
    assert sum(total.values()) == sum(sum(paths.values()) for paths in summands)
    for depth, count in total.items():
        assert count == sum(paths.get(depth, 0) for paths in summands)


@few
@given(series())
def test_a_linear_operator_takes_all_rows_at_once(s: Series) -> None:
    out = s.mapped(lambda rows: rows * 3, s.value * 3)
    assert out.parts == s.parts and out.paths == s.paths
    assert torch.equal(out.rows.sum(dim=0), out.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_where_a_series_starts(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, -2.0, 0.5]).to(dtype)
    start = input_series(x)
    assert start.parts == (INPUT,) and start.paths == {0: 1} and start.has_input and not start.gate
    fixed = constant_series(x)
    assert fixed.parts == (CONSTANT,) and fixed.paths == {} and not fixed.has_input and not fixed.gate
    gate = frozen_series(x)
    assert gate.parts == (FROZEN,) and gate.paths == {} and gate.gate
    for s in (start, fixed, gate):
        assert s.shape == x.shape and s.dtype == dtype
        assert torch.equal(s.rows, x[None]) and torch.equal(s.value, x)


@pytest.mark.parametrize("x", [torch.tensor([1, 2]), torch.tensor([True, False])], ids=["integers", "booleans"])
def test_what_is_no_float_carries_no_parts(x: Tensor) -> None:
    for s in (input_series(x), frozen_series(x)):
        assert s.parts == () and s.rows.shape == (0, 2) and s.gate and not s.has_input


def test_the_input_is_not_shared_with_its_series() -> None:
    x = torch.ones(3)
    input_series(x).rows.zero_()
    assert torch.equal(x, torch.ones(3))


def test_a_series_looks_like_its_value() -> None:
    value = torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2)
    s = constant_series(value)
    assert (s.shape, s.stride(), s.dtype, s.device) == (value.shape, value.stride(), value.dtype, value.device)
    assert "depths=[]" in repr(s) and "Series(shape=(4, 3, 2)" in repr(s)


def test_a_series_outside_of_a_run_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"used outside termwise\.expand"):
        _ = input_series(torch.ones(3)) + 1


def test_a_series_is_freed_when_it_is_dropped() -> None:
    s = input_series(torch.ones(3))
    dead = weakref.ref(s.rows)
    del s
    gc.collect()
    assert dead() is None
