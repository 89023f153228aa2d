"""Recurrent layers and attention in every state, and every precision: against loops in plain numbers, gates held."""

import copy
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import rnn

import oracles
from cases_modules import frames, quarter, stacked, weights
from oracles import Known, alone, constant, gated, halves, plus, scaled, stepped
from programs import DOUBLE, Written, alike, dense
from snapshots import snapshot, unchanged
from termwise import nets
from termwise.errors import DataError, RuleError
from termwise.expand import CLOSURE, Expansion, expand
from termwise.rules import RULES
from termwise.series import Origin, Part, add_rows


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


# Recurrent layers.

Start = tuple[Known, ...]


def flows(known: Known) -> bool:
    return any(isinstance(key, int) for key in known.parts)


def projected(u: Known, w: Tensor, b: Tensor) -> Known:
    return stepped(alone(lambda part: part @ w.t() + b, u))


def kept(held: Known, gate: Known) -> Known:
    """gate * held: the gate is frozen, except where what it scales is a constant, which then scales the gate."""
    return scaled(held, gate.value) if flows(held) else scaled(gate, held.value)


def lstm_steps(module: nn.LSTM, u: Known, start: Start, suffix: str) -> list[tuple[Known, Known]]:
    w_ih, w_hh, b_ih, b_hh = weights(module, suffix)
    h, c = start
    out = []
    for frame in frames(u):
        gates = plus(projected(frame, w_ih, b_ih), projected(h, w_hh, b_hh))
        i, f, o = (gated(torch.sigmoid, quarter(gates, k, 4)) for k in (0, 1, 3))
        c = plus(kept(c, f), halves(torch.mul, i, gated(torch.tanh, quarter(gates, 2, 4))))
        h = halves(torch.mul, o, gated(torch.tanh, c))
        if module.proj_size:
            w_hr = getattr(module, f"weight_hr_{suffix}").detach()
            h = projected(h, w_hr, torch.zeros((), dtype=w_hr.dtype))
        out.append((h, c))
    return out


def gru_steps(module: nn.GRU, u: Known, start: Start, suffix: str) -> list[tuple[Known, ...]]:
    w_ih, w_hh, b_ih, b_hh = weights(module, suffix)
    (h,) = start
    out = []
    for frame in frames(u):
        from_x, from_h = projected(frame, w_ih, b_ih), projected(h, w_hh, b_hh)
        r, z = (gated(torch.sigmoid, quarter(plus(from_x, from_h), k, 3)) for k in (0, 1))
        n = gated(torch.tanh, plus(quarter(from_x, 2, 3), kept(quarter(from_h, 2, 3), r)))
        gap = plus(h, scaled(n, -1))
        # A constant less a tanh is a gate, as z is.
        h = plus(n, scaled(gap, z.value) if flows(h) else halves(torch.mul, z, gap))
        out.append((h,))
    return out


def rnn_steps(module: nn.RNN, u: Known, start: Start, suffix: str) -> list[tuple[Known, ...]]:
    w_ih, w_hh, b_ih, b_hh = weights(module, suffix)
    (h,) = start
    out = []
    for frame in frames(u):
        h = gated(torch.tanh, plus(projected(frame, w_ih, b_ih), projected(h, w_hh, b_hh)))
        out.append((h,))
    return out


STEPS: dict[Any, Callable[..., list[tuple[Known, ...]]]] = {
    nn.LSTM: lstm_steps,
    nn.GRU: gru_steps,
    nn.RNN: rnn_steps,
}


def reversed_in_time(u: Known) -> Known:
    return alone(lambda part: part.flip(0), u)


def beside(left: Known, right: Known) -> Known:
    keys = oracles.keys_of([left, right])
    sides = [{k: s.parts.get(k, torch.zeros_like(s.value)) for k in keys} for s in (left, right)]
    return Known(torch.cat([left.value, right.value], -1), {k: torch.cat([s[k] for s in sides], -1) for k in keys}, {})


def by_hand(module: nn.RNNBase, x: Tensor, states: tuple[Tensor, ...] | None) -> Known:
    """The output (time, batch, features) of all layers and directions; x is (time, batch, features)."""
    u = Known(x, {0: x}, {})
    number = 2 if isinstance(module, nn.LSTM) else 1
    place = iter(range(100))
    for index in range(module.num_layers):
        sides = []
        for side in ("", "_reverse") if module.bidirectional else ("",):
            at = next(place)
            sizes = (module.proj_size or module.hidden_size, module.hidden_size)
            zeros = [torch.zeros(x.shape[1], size, dtype=x.dtype) for size in sizes]
            start = tuple(constant(state[at]) for state in states) if states else tuple(map(constant, zeros[:number]))
            towards = reversed_in_time(u) if side else u
            out = stacked([h for h, *_ in STEPS[type(module)](module, towards, start, f"l{index}{side}")])
            sides.append(reversed_in_time(out) if side else out)
        u = sides[0] if len(sides) == 1 else beside(*sides)
    return u


def matches(found: Expansion, expected: Known, tolerance: float) -> None:
    assert found.closure is not None and found.closure <= CLOSURE[found.total.dtype]
    assert not any(use.kind == "linearised" for use in found.operators)
    vanishing = [depth for depth in expected.terms if depth not in found.depths]
    assert set(found.depths) <= set(expected.terms) and not any(expected.parts[depth].any() for depth in vanishing)
    assert oracles.disagreement(found.total, expected.value) < tolerance
    for depth in found.depths:
        assert oracles.disagreement(found.terms[depth], expected.terms[depth]) < tolerance
    assert oracles.disagreement(found.constant, expected.constant.expand_as(found.total)) < tolerance


def recurrent(kind: Any, dtype: torch.dtype, **options: Any) -> nn.RNNBase:
    module = kind(4, 3, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.5)
    return module


def states_for(module: nn.RNNBase, batch: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    n = module.num_layers * (1 + module.bidirectional)
    sizes = [module.proj_size or module.hidden_size, module.hidden_size][: 2 if isinstance(module, nn.LSTM) else 1]
    return tuple(torch.randn(n, batch, size, dtype=dtype) for size in sizes)


def called(module: nn.RNNBase, states: tuple[Tensor, ...] | None) -> nn.Module:
    given: Any = states if states is None or isinstance(module, nn.LSTM) else states[0]
    return Written(lambda m, x: m.layer(x, given)[0], layer=module)


SHAPES = list(itertools.product((1, 2), (False, True), (False, True)))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize(("layers", "both_ways", "given"), SHAPES)
@pytest.mark.parametrize("kind", STEPS)
def test_recurrent_layers(kind: Any, layers: int, both_ways: bool, given: bool, dtype: torch.dtype) -> None:
    module = recurrent(kind, dtype, num_layers=layers, bidirectional=both_ways, batch_first=given)
    x = torch.randn(3, 2, 4, dtype=dtype)
    states = states_for(module, 2, dtype) if given else None
    with torch.no_grad():
        expected = by_hand(module, x, states)
    found = expand(called(module, states), x.transpose(0, 1) if given else x)
    if given:
        expected = alone(lambda part: part.transpose(0, 1), expected)
    matches(found, expected, 1e-5 if dtype is torch.float32 else 1e-12)
    assert min(found.depths) >= layers


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("given", [False, True])
def test_lstm_with_projections(given: bool, dtype: torch.dtype) -> None:
    module = recurrent(nn.LSTM, dtype, num_layers=2, proj_size=2, bidirectional=True)
    x = torch.randn(3, 2, 4, dtype=dtype)
    states = states_for(module, 2, dtype) if given else None
    with torch.no_grad():
        expected = by_hand(module, x, states)
    matches(expand(called(module, states), x), expected, 1e-5 if dtype is torch.float32 else 1e-12)


@pytest.mark.parametrize("kind", STEPS)
def test_an_unbatched_sequence(kind: Any) -> None:
    module, x = recurrent(kind, DOUBLE), torch.randn(3, 4, dtype=DOUBLE)
    found, batched = expand(module, x, output=0), expand(module, x[:, None], output=0)
    assert found.depths == batched.depths
    for depth in found.depths:
        assert oracles.disagreement(found.terms[depth], batched.terms[depth][:, 0]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", STEPS)
def test_packed_sequences(kind: Any, dtype: torch.dtype) -> None:
    """Each sequence is expanded as it would be alone; what is padded is nothing."""
    module, x, lengths = recurrent(kind, dtype), torch.randn(4, 3, 4, dtype=dtype), [2, 4, 1]

    def run(m: Any, x: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        return rnn.pad_packed_sequence(m.layer(packed)[0])[0]

    found = expand(Written(run, layer=module), x)
    for i, length in enumerate(lengths):
        with torch.no_grad():
            expected = by_hand(module, x[:length, i : i + 1], None)
        for depth in found.depths:
            alone_term = expected.terms.get(depth, torch.zeros(length, 1, 3, dtype=dtype))
            assert oracles.disagreement(found.terms[depth][:length, i : i + 1], alone_term) < 1e-5
            assert not found.terms[depth][length:, i].any()
    assert found.closure is not None and found.closure <= CLOSURE[dtype]


def test_recurrent_layers_in_training_mode_drop_nothing() -> None:
    module = recurrent(nn.LSTM, DOUBLE, num_layers=2, dropout=0.5)
    x = torch.randn(3, 2, 4, dtype=DOUBLE)
    before = snapshot(module)
    with torch.no_grad():
        matches(expand(module, x, output=0), by_hand(module, x, None), 1e-12)
    unchanged(before, snapshot(module))


@pytest.mark.parametrize("name", ["_cudnn_rnn", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "miopen_rnn"])
def test_recurrent_kernels_of_a_gpu_are_refused(name: str) -> None:
    call: Any = SimpleNamespace(func=f"aten.{name}.default")
    with pytest.raises(RuleError, match=rf"aten\.{name}\.default: recurrent layers on a GPU.*model\.cpu\(\)"):
        RULES[getattr(torch.ops.aten, name)].rule(call)


# Attention.


def closed(open_: Tensor) -> Tensor:
    return torch.zeros(open_.shape, dtype=DOUBLE).masked_fill(~open_, -torch.inf)


CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()
PRESENT = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
MASKS: dict[str, tuple[dict[str, Tensor], Tensor]] = {
    "none": ({}, torch.ones(2, 1, 5, 5, dtype=torch.bool)),
    "boolean": ({"src_mask": ~CAUSAL}, CAUSAL.expand(2, 1, 5, 5)),
    "additive": ({"src_mask": closed(CAUSAL)}, CAUSAL.expand(2, 1, 5, 5)),
    "padding": ({"src_key_padding_mask": ~PRESENT}, PRESENT[:, None, None].expand(2, 1, 5, 5)),
    "additive-padding": ({"src_key_padding_mask": closed(PRESENT)}, PRESENT[:, None, None].expand(2, 1, 5, 5)),
    "both": ({"src_mask": ~CAUSAL, "src_key_padding_mask": ~PRESENT}, CAUSAL & PRESENT[:, None, None]),
}


def encoder_layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True, dtype=DOUBLE, **options)


def normed(u: Known, norm: nn.LayerNorm) -> Known:
    out = oracles.normed(u, [-1], norm.eps)
    return alone(lambda part: part * norm.weight + norm.bias, out)


def encoded(layer: nn.TransformerEncoderLayer, u: Known, open_: Tensor) -> Known:
    """One layer by hand, norms first or last, the pattern frozen."""
    attention: Any = layer.self_attn

    def attend(v: Known) -> Known:
        w = attention.in_proj_weight.chunk(3)
        b = attention.in_proj_bias.chunk(3)

        def heads(t: Tensor) -> Tensor:
            return t.unflatten(-1, (2, 4)).transpose(1, 2)

        query, key = (heads(v.value @ w[i].t() + b[i]) for i in (0, 1))
        pattern = oracles.pattern(query, key, closed(open_))
        values = stepped(alone(lambda part: heads(part @ w[2].t() + b[2]), v))
        mixed = alone(lambda part: (pattern @ part).transpose(1, 2).flatten(2), values)
        return projected(mixed, attention.out_proj.weight, attention.out_proj.bias)

    def feed(v: Known) -> Known:
        hidden = gated(torch.relu, projected(v, layer.linear1.weight, layer.linear1.bias))
        return projected(hidden, layer.linear2.weight, layer.linear2.bias)

    for branch, norm in ((attend, layer.norm1), (feed, layer.norm2)):
        u = plus(u, branch(normed(u, norm))) if layer.norm_first else normed(plus(u, branch(u)), norm)
    return u


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("norm_first", [False, True], ids=["norm-last", "norm-first"])
@pytest.mark.parametrize("name", MASKS)
def test_transformer_encoder_layer(name: str, norm_first: bool) -> None:
    masks, open_ = MASKS[name]
    layer, x = encoder_layer(norm_first=norm_first), torch.randn(2, 5, 8, dtype=DOUBLE)
    before = snapshot(layer)
    found = expand(layer, {"src": x, **masks})
    unchanged(before, snapshot(layer))
    with torch.no_grad():
        expected = encoded(layer, Known(x, {0: x}, {}), open_)
    matches(found, expected, 1e-12)
    assert found.paths == {0: 1, 2: 2, 4: 1} and found.depths == (0, 2, 4)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("name", MASKS)
def test_transformer_encoder(name: str) -> None:
    masks, open_ = MASKS[name]
    encoder, x = nn.TransformerEncoder(encoder_layer(), 2), torch.randn(2, 5, 8, dtype=DOUBLE)
    given = {key.replace("src_mask", "mask"): mask for key, mask in masks.items()}
    for training in (True, False):
        found = expand(encoder.train(training), {"src": x, **given})
        with torch.no_grad():
            u = Known(x, {0: x}, {})
            for layer in encoder.layers:
                assert isinstance(layer, nn.TransformerEncoderLayer)
                u = encoded(layer, u, open_)
        matches(found, u, 1e-12)


def test_multihead_attention_of_other_sizes_and_without_a_batch() -> None:
    attention: Any = nn.MultiheadAttention(8, 2, kdim=3, vdim=4, add_bias_kv=True, add_zero_attn=True, dtype=DOUBLE)
    query, key, value = (torch.randn(5, n, dtype=DOUBLE) for n in (8, 3, 4))
    found = expand(attention, (query, key, value), output=0)
    with torch.no_grad():
        assert oracles.disagreement(found.total, attention(query, key, value)[0]) < 1e-12
    assert found.paths == {2: 1} and found.closure is not None and found.closure <= 1e-12


def test_a_mask_alone_is_no_input() -> None:
    with pytest.raises(DataError, match="10 values that are NaN or infinite"):
        expand(lambda x: x * 2, closed(CAUSAL))


# Precisions.


class Tower(nn.Module):
    """Two residual blocks of the kinds of layers that autocast treats in different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(2)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)


HALVES = [torch.bfloat16, torch.float16]
# Six roundings on the longest path, one by each of its layers.
ROUNDING = {torch.bfloat16: 6 * 2.0**-8, torch.float16: 6 * 2.0**-11}


def near(found: Expansion, exactly: Expansion, dtype: torch.dtype) -> None:
    """The same paths, and the same terms up to the rounding of the precision."""
    assert found.paths == exactly.paths == {2: 1, 4: 2, 6: 1}
    assert found.closure is not None and found.closure <= CLOSURE[dtype]
    for depth in exactly.depths:
        assert oracles.disagreement(found.terms[depth].double(), exactly.terms[depth].double()) < ROUNDING[dtype]
    assert not any(use.kind == "linearised" for use in found.operators)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_weights_of_half_precision(dtype: torch.dtype) -> None:
    model, x = Tower().to(dtype), torch.randn(5, 6).to(dtype)
    found = expand(model, x)
    with torch.no_grad():
        assert found.total.dtype is dtype and torch.equal(found.total, model.eval()(x))
    near(found, expand(copy.deepcopy(model).double(), x.double()), dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_logits_that_are_cast_up(dtype: torch.dtype) -> None:
    """The output is in float32 and the closure is that of half precision; no warning says otherwise."""
    model, x = Written(lambda m, x: m.tower(x).float(), tower=Tower().to(dtype)), torch.randn(5, 6).to(dtype)
    found = expand(model, x)
    assert found.total.dtype is torch.float32
    near(found, expand(copy.deepcopy(model).double(), x.double()), dtype)


@pytest.mark.parametrize("where", ["around", "inside", "around-already", "inside-already"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_autocast(where: str, dtype: torch.dtype) -> None:
    tower, x = Tower(), torch.randn(5, 6)
    exactly = expand(tower, x)

    def cast(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return m.tower(x)

    with torch.no_grad():
        expected = cast(Written(cast, tower=tower.eval()), x)
    with torch.autocast("cpu", dtype=dtype, enabled=where.startswith("around")):
        if where.endswith("already"):
            tower(x)  # the casts of the weights are kept
        found = expand(tower if where.startswith("around") else Written(cast, tower=tower), x)
        tower(x).sum().backward()
    assert torch.equal(found.total, expected)
    assert all(p.grad is not None for p in tower.parameters())
    near(found, exactly, dtype)


def test_autocast_of_a_layer_that_is_called_twice() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = expand(lambda x: layer(torch.relu(layer(x))), x)
    assert found.paths == {2: 1}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_sum_of_many_parts_is_rounded_once(dtype: torch.dtype) -> None:
    stacks = [torch.rand(2, 50, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(40)]
    parts = (Part(Origin.INPUT, 0), Part(Origin.INPUT, 1))
    rows, found = add_rows(stacks[0][0], [(stack, parts) for stack in stacks])
    assert found == parts and torch.equal(rows, torch.stack(stacks).double().sum(dim=0).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, torch.bfloat16], ids=str)
def test_channels_last(dtype: torch.dtype) -> None:
    model = nets.resnet(8, width=4).to(dtype)
    x = torch.randn(2, 3, 8, 8).to(dtype)
    plainly = expand(model, x)
    last = expand(
        copy.deepcopy(model).to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    )
    if dtype is torch.bfloat16:
        assert last.paths == plainly.paths and last.closure is not None and last.closure <= CLOSURE[dtype]
    else:
        alike(last, plainly, 1e-5 if dtype is torch.float32 else 1e-12)


def test_several_outputs() -> None:
    a, b = dense(4, 3), dense(3, 2)
    model = Written(lambda m, x: {"a": m.a(x), "rest": [m.b(m.a(x)), x]}, a=a, b=b)
    x = torch.randn(5, 4, dtype=DOUBLE)
    assert expand(model, x, output="a").paths == {1: 1}
    deep = expand(model, x, output=lambda result: result["rest"][0])
    assert deep.paths == {2: 1}
    with torch.no_grad():
        assert oracles.disagreement(deep.terms[2], x @ a.weight.t() @ b.weight.t()) < 1e-12
        bias = F.linear(a.bias, b.weight, b.bias)
    assert oracles.disagreement(deep.constant, bias.expand(5, 2)) < 1e-12
