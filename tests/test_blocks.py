"""Residual branches, found from the data flow: which there are, what paths they give, and what is left without one."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import oracles
from programs import DOUBLE, Written, dense
from termwise import nets
from termwise.blocks import Block
from termwise.causal import without
from termwise.errors import UsageError
from termwise.expand import expand, locate


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def blocks_of(model: nn.Module, x: Any, **options: Any) -> tuple[Block, ...]:
    found = locate("blocks", model.eval(), x, **options).blocks
    assert found is not None
    return found


def paths_of(model: Any, x: Any, **options: Any) -> dict[int, int]:
    return dict(expand(model, x, unit="blocks", **options).paths)


def made_of(run: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """A forward with the linear layers f, g, h and the two-layer branches p, q at its disposal."""
    layers = {name: dense(4, 4) for name in "fgh"}
    branches = {name: nn.Sequential(dense(4, 4), nn.Tanh(), dense(4, 4)) for name in "pq"}
    return Written(run, **layers, **branches)


X = torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


# What is a branch.


def chained(m: Any, x: Tensor) -> Tensor:
    v = x + m.p(x)
    return v + m.q(v)


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
    assert found.closure < 1e-12
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


# Architectures: as many blocks as their authors say.


def images(size: int) -> Tensor:
    return torch.randn(1, 3, size, size)


TIMM = {
    "resnet18": (64, 8),
    "resnet26d": (64, 8),
    "resnet50": (64, 16),
    "resnetv2_50": (64, 16),
    "seresnet50": (64, 16),
    "skresnet18": (64, 8),
    "densenet121": (64, 6 + 12 + 24 + 16),
    "vit_tiny_patch16_224": (224, 2 * 12),
    "swin_tiny_patch4_window7_224": (224, 2 * (2 + 2 + 6 + 2)),
    "convnext_atto": (64, 2 + 2 + 6 + 2),
    "poolformer_s12": (64, 2 * 12),
    "mixer_s32_224": (224, 2 * 8),
    "inception_v3": (128, 0),
    "regnety_002": (64, 1 + 1 + 4 + 7),
    # Inverted residuals have a shortcut from the second of each stage on.
    "mobilenetv2_050": (64, 0 + 1 + 2 + 3 + 2 + 2 + 0),
    "efficientnet_b0": (64, 0 + 1 + 1 + 2 + 2 + 3 + 0),
    # Where the image keeps its size, the first channels get the shortcut.
    "rexnet_100": (64, 11),
    "lcnet_035": (64, 0),
    "nf_resnet26": (64, 2 * 4),
    "darknet53": (64, 1 + 2 + 8 + 8 + 4),
    # Two convolutions beside the identity, which the first block of a stage lacks.
    "repvgg_a0": (64, 2 * (1 + 3 + 13 + 0)),
    # Four aggregations of the input with a chain of three.
    "ese_vovnet19b_dw": (64, 4 * 3),
    # Inverted residuals with a shortcut, concatenations of the input with its transformer, and the transformers.
    "mobilevit_xxs": (64, 3 + 3 + 2 * (2 + 4 + 3)),
    "levit_128s": (224, 2 * (2 + 3 + 4) + 2),
    "efficientformer_l1": (224, 2 * (3 + 2 + 6 + 4)),
    # Position encodings by convolution are residual, and the class token passes by them.
    "coat_lite_tiny": (224, 3 * (2 + 2 + 2 + 2)),
    "xcit_nano_12_p16_224": (224, 3 * 12 + 2 * 2),
    "resmlp_12_224": (224, 2 * 12),
}


@pytest.mark.parametrize("name", TIMM)
def test_number_of_blocks_of_a_timm_model(name: str) -> None:
    timm: Any = pytest.importorskip("timm")
    size, count = TIMM[name]
    assert len(blocks_of(timm.create_model(name), images(size))) == count


def test_number_of_blocks_of_our_own_networks() -> None:
    x = images(8)
    assert len(blocks_of(nets.resnet(20), x)) == 9
    assert len(blocks_of(nets.resnet(20, shortcut="projection"), x)) == 9
    assert len(blocks_of(nets.densenet(22, 12), x)) == 18
    assert blocks_of(nets.plain(20), x) == ()


def language_models() -> dict[str, tuple[Callable[[], Any], dict[str, Any], int]]:
    hf: Any = pytest.importorskip("transformers")
    tokens = torch.arange(8)[None] % 5
    one: dict[str, Any] = {"input_ids": tokens}
    two = {**one, "decoder_input_ids": tokens.flip(1)}
    small: dict[str, Any] = {"vocab_size": 9, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    gpt: dict[str, Any] = {
        "vocab_size": 9,
        "n_embd": 16,
        "n_layer": 3,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return {
        "gpt2": (lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt)), one, 6),
        "parallel": (lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**gpt, rotary_dim=4)), one, 6),
        "llama": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**small, num_hidden_layers=3)), one, 6),
        "bert": (lambda: hf.BertForSequenceClassification(hf.BertConfig(**small, num_hidden_layers=3)), one, 6),
        # Two for each layer of the encoder, three for each of the decoder.
        "t5": (
            lambda: hf.T5ForConditionalGeneration(
                hf.T5Config(vocab_size=9, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=2, num_heads=2)
            ),
            two,
            2 * 1 + 3 * 2,
        ),
    }


@pytest.mark.parametrize("name", ["gpt2", "parallel", "llama", "bert", "t5"])
def test_number_of_blocks_of_a_language_model(name: str) -> None:
    make, tokens, count = language_models()[name]
    model = make().eval()
    assert len(blocks_of(model, tokens)) == count
    found = expand(model, tokens, unit="blocks")
    assert found.closure < 5e-6
    if name == "parallel":
        assert dict(found.paths) == {0: 1, 1: 6, 2: 12, 3: 8}  # (1 + 2 eps)^3


# Of three layers each; the model's class, what it needs beside the sizes that all have, its blocks.
FURTHER: dict[str, tuple[str, dict[str, Any], int]] = {
    "gpt-neox": ("GPTNeoXForCausalLM", {"use_parallel_residual": False}, 6),
    "gpt-neox-parallel": ("GPTNeoXForCausalLM", {"use_parallel_residual": True}, 6),
    "falcon": ("FalconForCausalLM", {"parallel_attn": False}, 6),
    "phi": ("PhiForCausalLM", {}, 6),
    "gemma2": ("Gemma2ForCausalLM", {"num_key_value_heads": 1, "head_dim": 8}, 6),
    "opt-post-norm": (
        "OPTForCausalLM",
        {"ffn_dim": 32, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
        6,
    ),
    "albert": ("AlbertForSequenceClassification", {"embedding_size": 8}, 6),
    "fnet": ("FNetForSequenceClassification", {}, 6),
    "xlnet": ("XLNetForSequenceClassification", {"d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 32}, 6),
    # A convolution beside the first layer.
    "deberta-v2": ("DebertaV2ForSequenceClassification", {"conv_kernel_size": 3}, 7),
    # Two for each layer of the encoder, three for each of the decoder.
    "bart": ("BartForConditionalGeneration", {"d_model": 16, "decoder_layers": 2}, 2 * 3 + 3 * 2),
    # The position encoding is a convolution.
    "wav2vec2": ("Wav2Vec2ForSequenceClassification", {"conv_dim": (8, 8), "conv_stride": (5, 2)}, 1 + 6),
}


@pytest.mark.parametrize("name", FURTHER)
def test_number_of_blocks_of_a_transformer(name: str) -> None:
    hf: Any = pytest.importorskip("transformers")
    kind, options, count = FURTHER[name]
    sizes: dict[str, Any] = {
        "vocab_size": 16,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "pad_token_id": 0,
    }
    if name == "bart":
        sizes |= {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("attention_heads", "ffn_dim")}
    if name == "wav2vec2":
        sizes |= {"conv_kernel": (10, 3), "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    model = getattr(hf, kind)(getattr(hf, kind).config_class(**{**sizes, **options}))
    x = {"input_values": torch.randn(1, 200)} if name == "wav2vec2" else {"input_ids": torch.arange(1, 9)[None]}
    if name == "bart":
        x["decoder_input_ids"] = x["input_ids"].flip(1)
    assert len(blocks_of(model, x)) == count


def test_blocks_have_the_names_of_their_modules() -> None:
    names = [block.name for block in blocks_of(nets.resnet(8), images(8))]
    assert names == ["stages.0.0", "stages.1.0", "stages.2.0"]
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    assert [block.name for block in blocks_of(model, torch.randn(1, 5, 8))] == ["0.self_attn", "0"]


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


# What is left without a block: the same as cutting it out by hand.


class Off(nn.Module):
    def forward(self, v: Tensor, **_: Any) -> Tensor:
        return torch.zeros_like(v)


def bare_resnet(model: Any, chosen: int) -> nn.Module:
    block = [block for stage in model.stages for block in stage][chosen]
    block.norm2 = Off()
    return model


def bare_densenet(model: Any, chosen: int) -> nn.Module:
    layers = [m for m in model.modules() if type(m).__name__ == "DenseLayer"]
    layers[chosen].branch.append(Off())
    return model


def bare_timm_stages(model: Any, chosen: int) -> nn.Module:
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    blocks[chosen].bn2 = nn.Sequential(blocks[chosen].bn2, Off())
    return model


def bare_vit(model: Any, chosen: int) -> nn.Module:
    block = model.blocks[chosen // 2]
    setattr(block, "mlp" if chosen % 2 else "attn", Off())
    return model


def bare_convnext(model: Any, chosen: int) -> nn.Module:
    block = [block for stage in model.stages for block in stage.blocks][chosen]
    block.mlp = Off()
    return model


def bare_preact(model: Any, chosen: int) -> nn.Module:
    block = [block for stage in model.stages for block in stage.blocks][chosen]
    block.conv3 = nn.Sequential(block.conv3, Off())
    return model


def bare_selective(model: Any, chosen: int) -> nn.Module:
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    blocks[chosen].conv2 = nn.Sequential(blocks[chosen].conv2, Off())
    return model


def bare_swin(model: Any, chosen: int) -> nn.Module:
    block = [block for stage in model.layers for block in stage.blocks][chosen // 2]
    setattr(block, "mlp" if chosen % 2 else "attn", Off())
    return model


def bare_gpt2(model: Any, chosen: int) -> nn.Module:
    layer = model.transformer.h[chosen // 2]
    for parameter in (layer.mlp if chosen % 2 else layer.attn).c_proj.parameters():
        parameter.data.zero_()
    return model


def bare_llama(model: Any, chosen: int) -> nn.Module:
    layer = model.model.layers[chosen // 2]
    (layer.mlp.down_proj if chosen % 2 else layer.self_attn.o_proj).weight.data.zero_()
    return model


def bare_t5(model: Any, chosen: int) -> nn.Module:
    encoder, decoder = model.encoder.block, model.decoder.block
    layers = [*(layer for block in encoder for layer in block.layer), *(la for block in decoder for la in block.layer)]
    branch = layers[chosen]
    name = next(n for n in ("SelfAttention", "EncDecAttention", "DenseReluDense") if hasattr(branch, n))
    module = getattr(branch, name)
    (module.wo if name == "DenseReluDense" else module.o).weight.data.zero_()
    return model


def lesioned() -> dict[str, tuple[Callable[[], Any], Any, Callable[[Any, int], nn.Module]]]:
    def of_timm(name: str, **options: Any) -> Callable[[], Any]:
        return lambda: pytest.importorskip("timm").create_model(name, **options)

    return {
        "resnet": (lambda: nets.resnet(14, width=4), images(8), bare_resnet),
        "resnet-projection": (lambda: nets.resnet(14, width=4, shortcut="projection"), images(8), bare_resnet),
        "densenet": (lambda: nets.densenet(10, 4), images(8), bare_densenet),
        "timm-resnet": (of_timm("resnet10t"), images(32), bare_timm_stages),
        "timm-seresnet": (of_timm("seresnet18", channels=(8, 8, 16, 16)), images(32), bare_timm_stages),
        "timm-preact": (of_timm("resnetv2_50", layers=(1, 2, 1, 1), channels=(8, 16, 16, 16)), images(32), bare_preact),
        "timm-sknet": (of_timm("skresnet18", channels=(16, 16, 32, 32)), images(32), bare_selective),
        "swin": (
            of_timm("swin_tiny_patch4_window7_224", depths=(1, 2), num_heads=(2, 2), embed_dim=16, img_size=28 * 2),
            images(28 * 2),
            bare_swin,
        ),
        "gpt2": (*language_models()["gpt2"][:2], bare_gpt2),
        "vit": (of_timm("vit_tiny_patch16_224", depth=3, img_size=32), images(32), bare_vit),
        "convnext": (of_timm("convnext_atto", depths=(1, 1, 2, 1)), images(32), bare_convnext),
        "llama": (*language_models()["llama"][:2], bare_llama),
        "t5": (*language_models()["t5"][:2], bare_t5),
    }


NAMES = ["resnet", "resnet-projection", "densenet", "timm-resnet", "timm-preact", "timm-seresnet", "timm-sknet"]
NAMES += ["vit", "swin", "convnext", "gpt2", "llama", "t5"]


def shaken(model: nn.Module) -> nn.Module:
    """Every parameter away from the zeros and ones of an initialisation, so that no branch is silent."""
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=g)
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_without_a_block_is_the_network_with_the_block_cut_out(name: str) -> None:
    make, x, cut = lesioned()[name]
    torch.manual_seed(0)
    model = shaken(make())
    count = len(blocks_of(model, x))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    whole = without(model, x, [])
    assert count > 1
    for chosen in range(count):
        left = without(model, x, [chosen])
        by_hand = cut(copy.deepcopy(model), chosen)
        with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            expected = by_hand(**x) if isinstance(x, dict) else by_hand(x)
        expected = expected if isinstance(expected, Tensor) else expected.logits
        torch.testing.assert_close(left, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        assert float((left - whole).norm()) > 1e-3 * float(whole.norm())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


JOINED_WITHIN: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "addcmul": (lambda m, x: torch.addcmul(x, m.p(x), torch.full((4,), 2.0, dtype=DOUBLE)), lambda x: x),
    "addmm": (lambda m, x: torch.addmm(x, torch.tanh(m.f(x)), m.g.weight), lambda x: x),
    "lerp": (lambda m, x: torch.lerp(x, m.p(x), 0.5), lambda x: x),
    "computed-bias": (lambda m, x: F.linear(torch.tanh(x[:1]), m.g.weight, x[0]), lambda x: x[:1]),
}


@pytest.mark.parametrize("name", JOINED_WITHIN)
def test_without_a_block_that_joins_within_an_operator(name: str) -> None:
    run, left = JOINED_WITHIN[name]
    model = made_of(run)
    assert len(blocks_of(model, X)) == 1
    assert torch.equal(without(model, X, [0]), left(X))


def test_without_all_branches_only_the_shortcuts_are_left() -> None:
    model = made_of(chained)
    assert torch.equal(without(model, X, range(2)), X)
    assert torch.equal(without(model, X, blocks_of(model, X)), X)
    with pytest.raises(UsageError, match="none of the 2 blocks"):
        without(model, X, [2])
