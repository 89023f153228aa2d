"""Networks with residual branches, and how their blocks are asked for; shared by the tests of blocks and lesions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from programs import DOUBLE, Written, dense
from termwise.blocks import Block
from termwise.expand import locate


def blocks_of(model: nn.Module, x: Any, **options: Any) -> tuple[Block, ...]:
    found = locate("blocks", model.eval(), x, **options).blocks
    assert found is not None
    return found


def made_of(run: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """A forward with the linear layers f, g, h and the two-layer branches p, q at its disposal."""
    layers = {name: dense(4, 4) for name in "fgh"}
    branches = {name: nn.Sequential(dense(4, 4), nn.Tanh(), dense(4, 4)) for name in "pq"}
    return Written(run, **layers, **branches)


X = torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def chained(m: Any, x: Tensor) -> Tensor:
    v = x + m.p(x)
    return v + m.q(v)


def images(size: int) -> Tensor:
    return torch.randn(1, 3, size, size)


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
