"""Cases of what is made of many operators: attention, recurrent layers, and what has no rule."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import oracles
from cases import INDEX, Case
from oracles import Known, alone, frozen, gated, halves, plus, scaled, stepped

# Attention: the pattern by hand, then linear in the values.


def attended(q: Known, k: Known, v: Known, mask: Tensor | None = None) -> Known:
    weights = oracles.pattern(q.value, k.value, mask)
    return alone(lambda part: weights @ part, v)


def causal(n: int) -> Tensor:
    return torch.full((n, n), -torch.inf).double().triu(1)


def normalised(u: Known, mask: Tensor) -> Known:
    """Log-probabilities without the masked, whose score is a large negative number."""
    scores = plus(scaled(u, (~mask).double()), oracles.constant((mask.double() * -1e30).expand(3, 4)))
    total = u.value.masked_fill(mask, -1e30).logsumexp(1, keepdim=True)
    return plus(scores, frozen(-total.expand(3, 4)))


_BAGS = torch.tensor([[0, 2, 1], [2, 2, 1]])
_TABLE = nn.Parameter(torch.arange(12.0).double().view(3, 4) / 4 - 1)


def attentions() -> list[Case]:
    shape = (2, 3, 4)
    three = (shape, shape, shape)
    heads = ((2, 2, 3, 4),) * 3
    allowed = torch.tensor([[True, False, True], [True, True, False], [False, True, True]])
    closed = torch.zeros(3, 3).double().masked_fill(~allowed, -torch.inf)
    sdpa = F.scaled_dot_product_attention

    def grouped(q: Known, k: Known, v: Known) -> Known:
        k, v = (alone(lambda p: p.repeat_interleave(2, dim=1), kv) for kv in (k, v))
        return attended(q, k, v)

    return [
        Case("attention", sdpa, attended, "_safe_softmax bmm", "frozen", three),
        Case("attention-heads", sdpa, attended, "bmm", None, heads),
        Case(
            "attention-causal",
            lambda q, k, v: sdpa(q, k, v, is_causal=True),
            lambda q, k, v: attended(q, k, v, causal(3)),
            "bmm",
            None,
            heads,
        ),
        Case(
            "attention-masked",
            lambda q, k, v: sdpa(q, k, v, attn_mask=allowed),
            lambda q, k, v: attended(q, k, v, closed),
            "bmm",
            None,
            heads,
        ),
        Case(
            "attention-biased",
            lambda q, k, v: sdpa(q, k, v, attn_mask=closed / 2 + 1, scale=0.5),
            lambda q, k, v: attended(q, k, v, closed / 2 + 1),
            "bmm",
            None,
            heads,
        ),
        Case(
            "attention-grouped-queries",
            lambda q, k, v: sdpa(q, k, v, enable_gqa=True),
            grouped,
            "bmm",
            None,
            ((2, 4, 3, 4), (2, 2, 3, 4), (2, 2, 3, 4)),
        ),
        Case(
            "log-softmax",
            lambda u: u.log_softmax(dim=1),
            lambda u: plus(u, frozen(-u.value.logsumexp(1, keepdim=True).expand(3, 4))),
            "_log_softmax",
            "frozen",
        ),
        Case(
            "embedding-bag-of-values",
            lambda u: F.embedding_bag(_BAGS, u, mode="mean"),
            lambda u: alone(lambda p: p[_BAGS].mean(dim=1), u),
            "_embedding_bag_forward_only",
            "exact",
        ),
        Case(
            "embedding-bag-by-weights",
            lambda u: F.embedding_bag(_BAGS, _TABLE, per_sample_weights=u, mode="sum"),
            lambda u: alone(lambda p: (p[..., None] * _TABLE[_BAGS]).sum(dim=1), u),
            "_embedding_bag",
            "exact",
            ((2, 3),),
        ),
        Case(
            "masked-log-softmax",
            lambda u: u + u.masked_fill(INDEX == 2, -torch.inf).log_softmax(dim=1).exp(),
            lambda u: plus(u, gated(torch.exp, normalised(u, INDEX == 2))),
            "_log_softmax",
            "frozen",
            counted=False,
        ),
        Case(
            "embedding-by-data",
            lambda u: F.embedding(u.argmax(dim=1) % 3, u),
            lambda u: alone(lambda p: p[u.value.argmax(dim=1) % 3], u),
            "embedding",
            "exact",
        ),
        Case(
            "embedding-of-values",
            lambda u: F.embedding(INDEX, u),
            lambda u: alone(lambda p: p[INDEX], u),
            "embedding",
            "exact",
        ),
    ]


# Multi-head attention, by hand.


class SelfAttention(nn.Module):
    """nn.MultiheadAttention on one operand, its result alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64, **options)
        g = torch.Generator().manual_seed(3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=g, dtype=torch.float64)

    def forward(self, u: Tensor, mask: Tensor | None = None, weights: bool = False) -> Tensor:
        return self.attention(u, u, u, attn_mask=mask, need_weights=weights)[0]

    def by_hand(self, u: Known, mask: Tensor | None = None) -> Known:
        """Two steps: the values' matrix and the output's; the queries and keys make the pattern alone."""
        module = self.attention
        w_q, w_k, w_v = module.in_proj_weight.chunk(3)
        b_q, b_k, b_v = module.in_proj_bias.chunk(3)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (2, 2)).transpose(1, 2)

        weights = oracles.pattern(heads(u.value @ w_q.t() + b_q), heads(u.value @ w_k.t() + b_k), mask)
        values = stepped(alone(lambda part: heads(part @ w_v.t() + b_v), u))
        mixed = alone(lambda part: (weights @ part).transpose(1, 2).flatten(2), values)
        return stepped(alone(lambda p: p @ module.out_proj.weight.t() + module.out_proj.bias, mixed))


def multihead() -> list[Case]:
    shape = ((2, 3, 4),)
    mask = causal(3)
    plain_attention = SelfAttention()
    return [
        Case("multi-head", plain_attention, plain_attention.by_hand, "", None, shape),
        Case(
            "multi-head-causal",
            lambda u: plain_attention(u, mask),
            lambda u: plain_attention.by_hand(u, mask),
            "",
            None,
            shape,
        ),
        Case(
            "multi-head-with-weights",
            lambda u: plain_attention(u, None, True),
            plain_attention.by_hand,
            "_softmax bmm",
            "frozen",
            shape,
        ),
    ]


# Recurrent layers: a loop in plain numbers, gates held.


def projected(u: Known, w: Tensor, b: Tensor) -> Known:
    return stepped(alone(lambda part: part @ w.t() + b, u))


def at_rest(like: Known, hidden: int) -> Known:
    return Known(torch.zeros(like.value.shape[1], hidden, dtype=like.value.dtype), {}, {})


def frames(u: Known) -> list[Known]:
    return [alone(lambda part, t=t: part[t], u) for t in range(u.value.shape[0])]


def stacked(steps: list[Known]) -> Known:
    keys = oracles.keys_of(steps)
    parts = {k: torch.stack([s.parts.get(k, torch.zeros_like(s.value)) for s in steps]) for k in keys}
    return Known(torch.stack([s.value for s in steps]), parts, {})


def quarter(u: Known, i: int, of: int) -> Known:
    return alone(lambda part: part.chunk(of, -1)[i], u)


def weights(module: nn.RNNBase, suffix: str) -> list[Tensor]:
    return [getattr(module, f"{name}_{suffix}").detach() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def lstm_by_hand(module: nn.LSTM, u: Known, suffix: str = "l0", reverse: bool = False) -> Known:
    """sigmoid and tanh are both gates, so i * g and o * tanh(c) are halved; f only scales what the cell held."""
    w_ih, w_hh, b_ih, b_hh = weights(module, suffix)
    h = c = at_rest(u, module.hidden_size)
    out = []
    for frame in frames(u)[::-1] if reverse else frames(u):
        gates = plus(projected(frame, w_ih, b_ih), projected(h, w_hh, b_hh))
        i, f, o = (gated(torch.sigmoid, quarter(gates, k, 4)) for k in (0, 1, 3))
        g = gated(torch.tanh, quarter(gates, 2, 4))
        c = plus(scaled(c, f.value), halves(torch.mul, i, g))
        h = halves(torch.mul, o, gated(torch.tanh, c))
        out.append(h)
    return stacked(out[::-1] if reverse else out)


def gru_by_hand(module: nn.GRU, u: Known, suffix: str = "l0", reverse: bool = False) -> Known:
    """h' = n + z (h - n): the reset gate r scales the hidden projection, z scales the difference.

    At the first step h is a constant.  Then its projection is one too, and r carries the product with it; and h - n is
    a tanh shifted, a gate like z, so that their product is halved.
    """
    w_ih, w_hh, b_ih, b_hh = weights(module, suffix)
    h = at_rest(u, module.hidden_size)
    out = []
    for frame in frames(u)[::-1] if reverse else frames(u):
        from_x, from_h = projected(frame, w_ih, b_ih), projected(h, w_hh, b_hh)
        r, z = (gated(torch.sigmoid, quarter(plus(from_x, from_h), k, 3)) for k in (0, 1))
        held = quarter(from_h, 2, 3)
        reset = scaled(held, r.value) if h.parts else scaled(r, held.value)
        n = gated(torch.tanh, plus(quarter(from_x, 2, 3), reset))
        gap = plus(h, scaled(n, -1))
        h = plus(n, scaled(gap, z.value) if h.parts else halves(torch.mul, z, gap))
        out.append(h)
    return stacked(out[::-1] if reverse else out)


def rnn_by_hand(module: nn.RNN, u: Known, suffix: str = "l0", reverse: bool = False) -> Known:
    w_ih, w_hh, b_ih, b_hh = weights(module, suffix)
    h = at_rest(u, module.hidden_size)
    out = []
    for frame in frames(u)[::-1] if reverse else frames(u):
        h = gated(torch.tanh, plus(projected(frame, w_ih, b_ih), projected(h, w_hh, b_hh)))
        out.append(h)
    return stacked(out[::-1] if reverse else out)


def deep(layer: Callable[..., Known]) -> Callable[..., Known]:
    """Layers after one another, directions side by side."""

    def run(module: nn.RNNBase, u: Known) -> Known:
        for index in range(module.num_layers):
            sides = [layer(module, u, f"l{index}")]
            if module.bidirectional:
                sides.append(layer(module, u, f"l{index}_reverse", True))
            keys = oracles.keys_of(sides)
            zero = torch.zeros_like(sides[0].value)
            parts = {k: torch.cat([s.parts.get(k, zero) for s in sides], -1) for k in keys}
            u = Known(torch.cat([s.value for s in sides], -1), parts, {})
        return u

    return run


def recurrences() -> list[Case]:
    cases = []
    kinds: list[tuple[str, Callable[..., nn.RNNBase], Callable[..., Known]]] = [
        ("lstm", nn.LSTM, lstm_by_hand),
        ("gru", nn.GRU, gru_by_hand),
        ("rnn", nn.RNN, rnn_by_hand),
    ]
    variants: list[tuple[str, dict[str, Any]]] = [
        ("", {}),
        ("-bidirectional", {"bidirectional": True}),
        ("-two-layers", {"num_layers": 2}),
        ("-two-layers-bidirectional", {"num_layers": 2, "bidirectional": True}),
    ]
    for name, kind, layer in kinds:
        for suffix, options in variants:
            module: nn.RNNBase = kind(*(4, 3), dtype=torch.float64, **options)
            g = torch.Generator().manual_seed(5)
            for parameter in module.parameters():
                parameter.data = torch.randn(parameter.shape, generator=g, dtype=torch.float64) / 2
            cases.append(
                Case(
                    f"{name}{suffix}",
                    lambda u, module=module: module(u)[0],
                    lambda u, module=module, layer=layer: deep(layer)(module, u),
                    "addmm tanh stack",
                    shapes=((3, 2, 4),),
                    counted=False,
                )
            )
    return cases


# Packed sequences: each sequence by itself, as long as it is, and zeros behind it.

_LENGTHS = (2, 4)


def unpadded(module: nn.RNNBase, layer: Callable[..., Known], u: Known) -> Known:
    rows = []
    for i, length in enumerate(_LENGTHS):
        one = deep(layer)(module, alone(lambda part, i=i, n=length: part[:n, i : i + 1], u))
        rows.append(alone(lambda part, n=length: F.pad(part, (0, 0, 0, 0, 0, max(_LENGTHS) - n)), one))
    keys = oracles.keys_of(rows)
    parts = {k: torch.cat([r.parts.get(k, torch.zeros_like(r.value)) for r in rows], 1) for k in keys}
    return Known(torch.cat([r.value for r in rows], 1), parts, {})


def packed() -> list[Case]:
    cases = []
    kinds: list[tuple[str, Callable[..., nn.RNNBase], Callable[..., Known]]] = [
        ("lstm", nn.LSTM, lstm_by_hand),
        ("gru", nn.GRU, gru_by_hand),
        ("rnn", nn.RNN, rnn_by_hand),
    ]
    for name, kind, layer in kinds:
        # Backwards the short sequence starts beside one that is under way: to a gated recurrent unit, which treats a
        # state at rest in its own way (see above), it is no state at rest.
        many = {"num_layers": 2, "bidirectional": name != "gru"}
        for suffix, options in (("", {}), ("-two-layers", many)):
            module: nn.RNNBase = kind(*(4, 3), dtype=torch.float64, **options)
            g = torch.Generator().manual_seed(6)
            for parameter in module.parameters():
                parameter.data = torch.randn(parameter.shape, generator=g, dtype=torch.float64) / 2

            def run(u: Tensor, module: nn.RNNBase = module) -> Tensor:
                sequences = nn.utils.rnn.pack_padded_sequence(u, torch.tensor(_LENGTHS), enforce_sorted=False)
                return nn.utils.rnn.pad_packed_sequence(module(sequences)[0])[0]

            cases.append(
                Case(
                    f"packed-{name}{suffix}",
                    run,
                    lambda u, module=module, layer=layer: unpadded(module, layer, u),
                    "_pack_padded_sequence addmm tanh",
                    shapes=((4, 2, 4),),
                    counted=False,
                )
            )
    return cases


# What has no rule is linearised; what has none but is composite is taken apart first.

_LINEARISED: list[tuple[str, Callable[..., Tensor], str, tuple[tuple[int, ...], ...]]] = [
    ("determinant", torch.linalg.det, "_linalg_det", ((3, 3),)),
    ("logcumsumexp", lambda u: torch.logcumsumexp(u, 1), "logcumsumexp", ((3, 4),)),
    ("matrix-exponential", torch.linalg.matrix_exp, "linalg_matrix_exp", ((3, 3),)),
    ("singular-values", lambda u: torch.linalg.svd(u)[1], "_linalg_svd", ((3, 3),)),
    ("orthogonal-factor", lambda u: torch.linalg.qr(u)[0], "linalg_qr", ((3, 3),)),
    (
        "scattered-product",
        lambda u, v: u.scatter_reduce(0, INDEX.expand(3, 4), v, "prod"),
        "scatter_reduce",
        ((3, 4), (3, 4)),
    ),
    ("bilinear-by-value", lambda u, v, w: F.bilinear(u, v, w), "_trilinear", ((2, 4), (2, 3), (5, 4, 3))),
]


def linearised() -> list[Case]:
    return [
        Case(name, op, lambda *known, op=op: oracles.linearised(op, *known), packet, "linearised", shapes)
        for name, op, packet, shapes in _LINEARISED
    ]
