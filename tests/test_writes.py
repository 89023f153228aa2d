"""Writes: each in-place line means what the functional one does, through any chain of views."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import DOUBLE, Written, alike, source
from termwise.errors import RuleError
from termwise.expand import expand


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


# Writes: each line in place, and what it means without.


def written_into(
    make: Callable[[Tensor], Tensor], *lines: Callable[[Tensor, Tensor], Any]
) -> Callable[[Tensor], Tensor]:
    """Makes y of u, runs the lines on (y, u) and returns y."""

    def run(u: Tensor) -> Tensor:
        y = make(u)
        for line in lines:
            line(y, u)
        return y

    return run


def put(at: Any, what: Callable[[Tensor], Any]) -> Callable[[Tensor, Tensor], None]:
    return lambda y, u: y.__setitem__(at, what(u))


def blank(u: Tensor) -> Tensor:
    return held(4, 4)


def held(*shape: int) -> Tensor:
    return torch.full(shape, 0.3, dtype=DOUBLE)


def copied(u: Tensor) -> Tensor:
    return u.clone()


def over(y: Tensor, at: Any, new: Tensor) -> Tensor:
    """y with the places `at` replaced: by a mask, without writing."""
    mask = torch.zeros(y.shape, dtype=torch.bool)
    mask[at] = True
    return torch.where(mask, new, y)


def early_view(u: Tensor) -> Tensor:
    base = blank(u)
    view = base.t()[1:]
    base.copy_(u)
    return view


def late_base(u: Tensor) -> Tensor:
    base = blank(u)
    base.view(2, 8)[1].view(2, 4)[:, 1:3].copy_(u[:2, :2])
    return base


def residual(u: Tensor) -> Tensor:
    out = torch.relu(u)
    out += u
    return out


def pushed_along(u: Tensor) -> Tensor:
    sums = torch.zeros(4, 4, dtype=DOUBLE)
    for i in range(4):
        sums[:, i] = u[:, i] + sums[:, max(i - 1, 0)]
    return sums


def swapped(u: Tensor) -> Tensor:
    y = u.clone()
    y.t_()
    return y.unsqueeze_(0)


def swallowed(u: Tensor) -> Tensor:
    y = u * 1
    a, b = y.chunk(2, dim=1)
    a.add_(b)
    return y


def through_detach(u: Tensor) -> Tensor:
    y = torch.zeros(4, 4, dtype=DOUBLE)
    y.detach().copy_(u)
    return y + u


def through_data(u: Tensor) -> Tensor:
    y = torch.zeros(4, 4, dtype=DOUBLE)
    y.data.copy_(u)
    return y + u


WRITES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "relu": (written_into(copied, lambda y, u: y.relu_()), torch.relu),
    "functional-relu": (lambda u: F.relu(u.clone(), inplace=True), torch.relu),
    "add": (written_into(copied, lambda y, u: y.add_(u, alpha=2)), lambda u: u + 2 * u),
    "add-residual": (residual, lambda u: torch.relu(u) + u),
    "subtract-and-scale": (
        written_into(copied, lambda y, u: y.sub_(1).mul_(3).neg_()),
        lambda u: -((u - 1) * 3),
    ),
    "divide": (written_into(copied, lambda y, u: y.div_(torch.tensor(3.0).double())), lambda u: u / torch.tensor(3.0)),
    "divide-by-number": (written_into(copied, lambda y, u: y.div_(3)), lambda u: u * (1 / 3)),
    "clamp-and-exponential": (
        written_into(copied, lambda y, u: y.clamp_(min=0.1).exp_()),
        lambda u: u.clamp(min=0.1).exp(),
    ),
    "zero": (lambda u: u + written_into(copied, lambda y, u: y.zero_())(u), lambda u: u + 0),
    "fill": (lambda u: u + written_into(copied, lambda y, u: y.fill_(0.3))(u), lambda u: u + held()),
    "masked-fill": (
        written_into(copied, lambda y, u: y.masked_fill_(u > 0, 0.3)),
        lambda u: torch.where(u > 0, held(), u),
    ),
    "mask-assigned": (written_into(copied, lambda y, u: y.__setitem__(u > 0, 0.0)), lambda u: u.masked_fill(u > 0, 0)),
    "fill-diagonal": (
        written_into(copied, lambda y, u: y.fill_diagonal_(0.3)),
        lambda u: u.masked_fill(torch.eye(4, dtype=torch.bool), 0.3),
    ),
    "scatter-number": (
        written_into(copied, lambda y, u: y.scatter_(1, torch.zeros(4, 1, dtype=torch.int64), 0.3)),
        lambda u: torch.cat([held(4, 1), u[:, 1:]], 1),
    ),
    "index-fill": (
        written_into(copied, lambda y, u: y.index_fill_(1, torch.tensor([0]), 0.3)),
        lambda u: torch.cat([held(4, 1), u[:, 1:]], 1),
    ),
    "index-assigned": (
        written_into(copied, put((slice(None), torch.tensor([2, 0])), lambda u: u[:, :2])),
        lambda u: torch.stack([u[:, 1], u[:, 1], u[:, 0], u[:, 3]], 1),
    ),
    "relu-on-a-view": (
        written_into(copied, lambda y, u: y[:, 1:3].relu_()),
        lambda u: torch.cat([u[:, :1], torch.relu(u[:, 1:3]), u[:, 3:]], 1),
    ),
    "chained-views": (
        written_into(copied, lambda y, u: y.view(2, 8)[1].view(2, 4).t()[1:3].mul_(3)),
        lambda u: torch.where(torch.tensor([[0, 1, 1, 0]] * 4).bool() & (torch.arange(4) > 1)[:, None], u * 3, u),
    ),
    "a-view-of-what-is-written": (
        lambda u: (lambda y: (y.t(), y.add_(1))[0])(u.clone()),
        lambda u: u.t() + 1,
    ),
    "siblings": (swallowed, lambda u: torch.cat([u[:, :2] + u[:, 2:], u[:, 2:]], 1)),
    "diagonal-view": (
        written_into(copied, lambda y, u: y.diagonal().mul_(2)),
        lambda u: u * (1 + torch.eye(4).double()),
    ),
    "transposed-in-place": (swapped, lambda u: u.t()[None]),
    "row-assigned": (
        written_into(copied, put(1, lambda u: u[2] * 2)),
        lambda u: torch.stack([u[0], u[2] * 2, u[2], u[3]]),
    ),
    "number-assigned": (
        written_into(copied, put(1, lambda u: 0.3)),
        lambda u: over(u, 1, held()),
    ),
    "slice-of-a-buffer": (
        written_into(blank, put((slice(None), slice(1, 3)), lambda u: u[:, :2])),
        lambda u: torch.cat([held(4, 1), u[:, :2], held(4, 1)], 1),
    ),
    "slice-of-a-buffer-incremented": (
        written_into(blank, lambda y, u: y[:, 1:3].add_(u[:, :2])),
        lambda u: F.pad(u[:, :2], (1, 1)) + held(),
    ),
    "buffer-scaled-by-a-gate": (
        written_into(blank, lambda y, u: y.mul_(torch.sigmoid(u))),
        lambda u: held(4, 4) * torch.sigmoid(u),
    ),
    "buffer-scaled-by-a-value": (written_into(blank, lambda y, u: y.mul_(u)), lambda u: u * held()),
    "buffer-through-chained-views": (
        late_base,
        lambda u: torch.cat(
            [
                held(2, 4),
                torch.cat([held(2, 1), u[:2, :2], held(2, 1)], 1),
            ]
        ),
    ),
    "buffer-through-an-earlier-view": (early_view, lambda u: u.t()[1:]),
    "buffer-filled-step-by-step": (
        pushed_along,
        lambda u: torch.stack([u[:, 0], u[:, :2].sum(1), u[:, :3].sum(1), u.sum(1)], 1),
    ),
    "buffer-by-unbind": (
        lambda u: (lambda y: (y.unbind(0)[1].copy_(u[0]), y)[1])(blank(u)),
        lambda u: torch.stack([*held(1, 4), u[0], *held(2, 4)]),
    ),
    "buffer-through-detach": (through_detach, lambda u: u + u),
    "buffer-through-data": (through_data, lambda u: u + u),
}


# Cases that fail, and why; the marks are strict.
@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("constants", ["pooled", "by_depth"])
def test_a_write_means_what_it_says(name: str, constants: Any) -> None:
    in_place, functional = WRITES[name]
    before, x = source()
    found = expand(Written(lambda m, x: in_place(m.before(x)), before=before), x, constants=constants)
    expected = expand(Written(lambda m, x: functional(m.before(x)), before=before), x, constants=constants)
    assert found.closure is not None and found.closure <= 1e-12
    alike(found, expected)
    with torch.no_grad():
        assert torch.equal(found.total, in_place(before(x)))


@pytest.mark.parametrize(
    "line",
    [
        lambda y, u: torch.mul(u, 2, out=y),
        lambda y, u: torch.add(u, u, out=y),
        lambda y, u: torch.sigmoid(u, out=y),
        lambda y, u: torch.mm(u, u, out=y),
        lambda y, u: torch.mul(torch.ones(4).double(), 2, out=u),
    ],
    ids=["mul", "add", "sigmoid", "mm", "into-a-series"],
)
def test_out_is_refused_by_name(line: Any) -> None:
    before, x = source()
    model = nn.Sequential(before, Written(lambda m, u: written_into(blank, line)(u)))
    with pytest.raises(RuleError, match=r"\.out in module '1'.*writes into an argument.*without out="):
        expand(model, x)


def test_a_buffer_need_not_be_contiguous() -> None:
    before, x = source()
    strided = written_into(lambda u: torch.zeros(8, 8).double()[::2].t()[::2], put((slice(None), 0), lambda u: u[:, 0]))
    model = Written(lambda m, x: strided(m.before(x)), before=before)
    plainly = Written(lambda m, x: F.pad(m.before(x)[:, :1], (0, 3)), before=before)
    alike(expand(model, x), expand(plainly, x))


def test_what_is_written_over_whole_leaves_no_part_behind() -> None:
    layer = nn.Linear(4, 4, bias=False, dtype=DOUBLE)

    def run(x: Tensor) -> Tensor:
        held = x.clone()
        held.view(-1).copy_(layer(x).view(-1))
        return held

    found = expand(run, torch.randn(3, 4, dtype=DOUBLE))
    assert found.depths == (1,) and found.paths == {1: 1}


def test_as_strided_needs_dense_memory() -> None:
    with pytest.raises(RuleError, match=r"gaps or overlaps: call \.contiguous\(\)"):
        expand(lambda u: u.expand(4, 4).as_strided((2, 2), (1, 1)), torch.randn(1, 4, dtype=DOUBLE))


def test_a_model_may_write_into_its_own_buffer() -> None:
    model: Any = Written(lambda m, x: m.held.copy_(x) * 2, held=torch.zeros(2, 4, dtype=DOUBLE))
    x = torch.randn(2, 4, dtype=DOUBLE)
    found = expand(model, x)
    assert torch.equal(found.terms[0], 2 * x)
    assert type(model.held) is Tensor


def test_a_write_into_a_conjugate_is_refused() -> None:
    def run(u: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(u)
        spectrum.conj().mul_(2)
        return torch.fft.irfft(spectrum)

    with pytest.raises(RuleError, match="a write into a view that cannot be followed"):
        expand(run, torch.randn(2, 4))


def test_tokens_copied_into_a_buffer_are_tokens() -> None:
    """As sequences are shifted by one to the right, for a decoder."""
    table, head = nn.Embedding(7, 4).double(), nn.Linear(4, 2).double()
    tokens = torch.tensor([[1, 3, 5], [6, 2, 2]])

    def written(ids: Tensor) -> Tensor:
        shifted = ids.new_zeros(ids.shape)
        shifted[:, 1:] = ids[:, :-1].clone()
        shifted[:, 0] = 4
        shifted.masked_fill_(shifted == 2, 0)
        return head(table(shifted))

    def joined(ids: Tensor) -> Tensor:
        shifted = torch.cat([torch.full((2, 1), 4), ids[:, :-1]], dim=1)
        return head(table(shifted.masked_fill(shifted == 2, 0)))

    found, expected = expand(written, tokens), expand(joined, tokens)
    assert found.depths == expected.depths == (1,)
    assert torch.equal(found.terms[1], expected.terms[1])
    assert torch.equal(found.constant, expected.constant)
    assert found.frozen is None
