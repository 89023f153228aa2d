"""Rows that wait: never a stale number, never more arithmetic than somebody reads."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import termwise as tw
from termwise.deferred import Added, Convolved, Deferred, Projected, Shifted, Viewed, alike, empty_rows


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-10, atol=1e-12)


# --- what changes meanwhile ---


class WritesAfterwards(nn.Module):
    """y = (q k) / 2 of the old k, although k is doubled in place before anybody reads the product."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(4, 4, bias=False).double(), nn.Linear(4, 4, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        product = torch.bmm(q[:, None], k[:, :, None])
        k.mul_(2)
        return product[:, 0] + 0 * k.sum(dim=1, keepdim=True)


def test_a_factor_that_is_written_into_before_the_product_is_read() -> None:
    torch.manual_seed(0)
    model, x = WritesAfterwards(), torch.randn(3, 4).double()
    expansion = tw.expand(model, x)
    product = ((x @ model.q.weight.T) * (x @ model.k.weight.T)).sum(dim=1, keepdim=True)
    assert close(expansion.terms[1], product)  # both factors are one step away, so it is all in one term


class WritesWeight(nn.Module):
    """A buffer serves as a weight, and is cleared right after."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.buffer = nn.Parameter(torch.randn(3, 4).double()), nn.Buffer(torch.zeros(3, 4).double())

    def forward(self, x: Tensor) -> Tensor:
        self.buffer.copy_(self.weight)
        y = functional.linear(x, self.buffer)
        self.buffer.zero_()
        return y.relu() + y


def test_a_weight_that_is_written_into_before_its_product_is_read() -> None:
    torch.manual_seed(0)
    model, x = WritesWeight(), torch.randn(5, 4).double()
    y = x @ model.weight.detach().T
    expansion = tw.expand(model, x)
    assert close(expansion.terms[1], y.relu() + y)
    assert expansion.closure is not None and expansion.closure < 1e-12


# --- what nobody reads ---


class Attention(nn.Module):
    """One head; queries, keys and values from one product."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        pattern = (q @ k.transpose(1, 2) / 8).softmax(dim=-1)
        return x + self.out(pattern @ v)


def flops(run: object) -> int:
    with FlopCounterMode(display=False) as counter:
        run()  # type: ignore[operator]
    return counter.get_total_flops()


def test_of_attention_only_the_path_of_the_values_is_computed() -> None:
    n, tokens, width = 2, 5, 8
    attention, table = nn.Sequential(Attention(width), Attention(width)).double(), torch.ones(tokens, width).double()
    x = torch.randn(n, tokens, width).double()
    product = 2 * n * tokens * width * width  # of all tokens by a square matrix
    mixing = 2 * n * tokens * tokens * width
    plain = flops(lambda: attention(x + table))
    assert plain == 2 * (4 * product + 2 * mixing)
    # Values, their mixing and the projection: of the input and the constants in the first attention, of the terms of
    # depths 0 and 2 and the constants in the second.
    assert flops(lambda: tw.expand(lambda x: attention(x + table), x)) == plain + (2 + 3) * (2 * product + mixing)


def test_values_alone_are_right() -> None:
    torch.manual_seed(0)
    model, x = Attention(8).double(), torch.randn(2, 5, 8).double()
    q, k, v = functional.linear(x, model.qkv.weight, model.qkv.bias).chunk(3, dim=-1)
    pattern = (q @ k.transpose(1, 2) / 8).softmax(dim=-1)
    matrix = model.qkv.weight[16:]
    expansion = tw.expand(model, x)
    assert close(expansion.terms[0], x)
    assert close(expansion.terms[2], pattern @ (x @ matrix.T) @ model.out.weight.T)
    assert close(expansion.constant, (pattern @ model.qkv.bias[16:].expand_as(v)) @ model.out.weight.T + model.out.bias)


class Twice(nn.Module):
    """Two gates on one convolution, which gives its memory away only once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.mean, self.variance = torch.randn(3).double(), torch.rand(3).double() + 0.5
        self.norm.running_mean, self.norm.running_var = self.mean, self.variance

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.norm(y)
        return torch.cat([y.relu(), (-y).relu(), z.relu(), z, torch.nn.functional.gelu(z)], dim=1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_convolution_with_many_readers(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = Twice().double().eval()
    x = torch.randn(4, 2, 6, 6).double().to(memory_format=layout)
    expansion = tw.expand(model, x)
    bare = functional.conv2d(x, model.conv.weight, padding=1)
    assert model.conv.bias is not None
    y = bare + model.conv.bias[:, None, None]
    scale = (model.norm.weight / (model.variance + model.norm.eps).sqrt())[:, None, None]
    z = model.norm(y)
    gates = [(y > 0) * 1.0, (-y > 0) * -1.0, (z > 0) * scale, scale.expand(4, 3, 6, 6)]
    gates.append(functional.gelu(z) / z * scale)
    assert close(expansion.terms[1], torch.cat([gate * bare for gate in gates], dim=1))
    assert expansion.closure is not None and expansion.closure < 1e-12


class Doubling(nn.Module):
    """Sums of waiting rows with themselves: 2^64 ways to reach the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        for _ in range(64):
            x = x * 0.25 + x * 0.75
        buffer = torch.zeros(1)
        buffer.add_(1)  # a write, at which everything that waits is looked through
        for _ in range(400):
            x = x * 1.0
        return x


def test_long_chains_and_diamonds_of_waiting_rows() -> None:
    torch.manual_seed(0)
    model, x = Doubling(), torch.randn(2, 3).double()
    assert close(tw.expand(model, x).terms[1], x @ model.layer.weight.T)


def test_nothing_is_left_to_autograd_or_autocast() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(2, 4)

    def product(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return x @ layer.weight.T

    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = tw.expand(product, x)
    (term,) = whole.terms.values()
    assert not term.requires_grad
    assert torch.equal(term, x @ layer.weight.T)


# --- each kind by itself ---


def test_memory_is_given_away_once() -> None:
    made: list[Tensor] = []

    def make() -> Tensor:
        made.append(torch.ones(2, 3))
        return made[-1]

    rows = Deferred(make)
    assert rows.take() is made[0]
    made[0].zero_()
    assert rows.take() is None  # others may come
    assert bool((rows.read() == 1).all()) and rows.read() is made[1] and len(made) == 2
    assert rows.take() is None


def test_views_are_not_given_away() -> None:
    base = torch.ones(2, 3)
    assert Deferred(lambda: base[:, :2], owned=False).take() is None


@pytest.mark.parametrize("read_before", [False, True])
def test_every_kind_against_plain_arithmetic(read_before: bool) -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(3, 2, 4, 5, 5).double(), torch.randn(6, 4, 3, 3).double()
    factor, constant = torch.randn(1, 6, 1, 1).double(), torch.randn(1, 6, 1, 1).double()
    gate = torch.randn(2, 6, 3, 3).double()

    def convolve(by: Tensor) -> Tensor:
        return torch.conv2d(rows.flatten(0, 1), by).unflatten(0, rows.shape[:2])

    def deferred() -> Deferred:
        made = Convolved(rows, convolve, weight)
        if read_before:
            made.read()
        return made

    whole = convolve(weight)
    shifted = whole * factor
    shifted[1] += constant
    added = whole.clone()
    added[1] += constant
    assert close(deferred().read(), whole)
    assert close(deferred().scaled(factor), whole * factor)
    assert close(deferred().scaled(gate), whole * gate)
    assert close(Added(deferred(), constant, 1).read(), added)
    assert close(Shifted(deferred(), factor, constant, 1).read(), shifted)
    assert close(Shifted(deferred(), factor, constant, 1).scaled(gate), shifted * gate)
    assert close(Shifted(whole, factor, constant, 1).scaled(gate), shifted * gate)


def test_columns_of_a_product() -> None:
    torch.manual_seed(0)
    rows, matrix, bias = torch.randn(3, 4, 5).double(), torch.randn(5, 6).double(), torch.randn(6).double()
    whole = rows @ matrix
    whole[2] += bias
    product = Projected(rows, matrix, bias, 2)
    flat = Viewed(product, lambda r: r.reshape(-1, 2, 2, 6), torch.Size([4, 6]), [])
    middle = Viewed(flat, lambda r: r.transpose(1, 2)[..., 2:4], torch.Size([2, 2, 6]), [])
    assert close(middle.read(), whole.reshape(3, 2, 2, 6).transpose(1, 2)[..., 2:4])
    assert not product.is_read
    assert close(product.read(), whole)
    assert close(Projected(rows, matrix).plus(bias, 2).read(), whole)


def test_memory_in_the_order_of_other_rows() -> None:
    last = torch.randn(2, 3, 4, 5, 6).permute(0, 1, 4, 2, 3)  # channels last, behind the axis of the rows
    one = torch.randn(3, 6, 4, 5)
    assert empty_rows(7, one, last).stride()[1:] == last.stride()[1:]
    assert torch.equal(alike(one, last), one) and alike(one, last).stride() == last.stride()[1:]
    assert empty_rows(7, torch.randn(3, 9, 4, 5), last)[0].is_contiguous(memory_format=torch.channels_last)


def test_rows_that_nobody_needs_are_gone_at_once() -> None:
    rows, one = torch.randn(3, 2, 4, 5, 5), torch.randn(1)
    base = Deferred(rows.clone)

    def kinds() -> list[Deferred]:
        return [
            Deferred(rows.clone),
            Added(base, one, 0),
            Shifted(rows, one, one, 0),
            Convolved(rows, lambda by: rows * by, one),
            Projected(torch.randn(2, 3, 4), torch.randn(4, 5)),
            Viewed(base, lambda r: r[:, :1], rows.shape[1:], []),
        ]

    gc.collect()
    gc.disable()  # a cycle would keep them until the collector comes by, and with them gigabytes
    try:
        left = [weakref.ref(kind) for kind in kinds()]
        assert all(reference() is None for reference in left)
    finally:
        gc.enable()


def test_no_gradients_are_recorded_whenever_rows_are_read() -> None:
    rows, weight = torch.randn(3, 2, 4), torch.randn(4, 5, requires_grad=True)
    kernel = torch.randn(6, 4, 1, requires_grad=True)

    def convolve(by: Tensor) -> Tensor:
        return torch.conv1d(rows[..., None].flatten(0, 1), by).unflatten(0, (3, 2))

    with torch.enable_grad():
        assert not Projected(rows, weight).read().requires_grad
        made = Convolved(rows, convolve, kernel).scaled(torch.ones(1, 6, 1))
        assert not made.requires_grad and made.shape == (3, 2, 6, 1)


def test_nothing_to_see_of_a_product() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 8).double(), torch.randn(3, 4).double()

    def program(x: Tensor) -> Tensor:
        y = layer(x + 1)
        return torch.cat([y[:, :0], y[:, 2:4]], dim=1)

    expansion = tw.expand(program, x)
    assert close(expansion.terms[1], x @ layer.weight[2:4].T)


def test_numbers_that_are_seen_as_complex_ones() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 8).double(), torch.randn(3, 4).double()
    turn = torch.polar(torch.ones(4).double(), torch.arange(4).double())

    def program(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(layer(x + 1).reshape(3, 4, 2))
        return torch.view_as_real(pairs * turn).flatten(1)

    expansion = tw.expand(program, x)
    term = torch.view_as_complex((x @ layer.weight.T).reshape(3, 4, 2)) * turn
    assert close(expansion.terms[1], torch.view_as_real(term).flatten(1))


def test_a_copy_of_what_is_written_into_afterwards() -> None:
    torch.manual_seed(0)
    table, layer = nn.Embedding(9, 4).double(), nn.Linear(4, 4, bias=False).double()
    tokens = torch.randint(9, (2, 5))

    def program(tokens: Tensor) -> Tensor:
        h = table(tokens)
        before = h.clone()
        h *= 3
        return layer(h) + before

    expansion = tw.expand(program, tokens)
    assert close(expansion.terms[0], table(tokens))
    assert close(expansion.terms[1], 3 * table(tokens) @ layer.weight.T)


def test_rows_are_read_in_the_precision_of_their_operands() -> None:
    rows, weight = torch.randn(3, 2, 4), torch.randn(4, 5)
    expected = (rows.double() @ weight.double()).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        read = Projected(rows, weight).read()
        waiting = Deferred(lambda: rows @ weight).read()
    assert torch.allclose(read, expected, rtol=1e-5, atol=1e-6)
    assert waiting.dtype == torch.float32 and torch.allclose(waiting, expected, rtol=1e-5, atol=1e-6)
