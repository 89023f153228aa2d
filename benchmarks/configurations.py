"""How a small Hugging Face model is described: its class, its inputs, and the sizes that its configuration names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.examine import Subject

Inputs = Mapping[str, Any]
WORDS, LENGTH = 99, 9


def generator() -> torch.Generator:
    """The same numbers every time."""
    return torch.Generator().manual_seed(0)


def tokens() -> Inputs:
    """Two sentences, the second of which is padded."""
    ids = torch.randint(5, WORDS, (2, LENGTH), generator=generator())
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def bare_tokens() -> Inputs:
    """Two sentences of one length."""
    return {"input_ids": tokens()["input_ids"]}


def two_texts() -> Inputs:
    """A padded source, and the start of a target."""
    return {**tokens(), "decoder_input_ids": tokens()["input_ids"].flip(1)[:, :5]}


def numbers(name: str, *shape: int) -> Callable[[], Inputs]:
    """Random numbers under one name."""
    return lambda: {name: torch.randn(shape, generator=generator())}


def images(size: int = 32, channels: int = 3) -> Callable[[], Inputs]:
    """One image."""
    return lambda: {"pixel_values": torch.randn(1, channels, size, size, generator=generator())}


def video(size: int = 16, frames: int = 4) -> Callable[[], Inputs]:
    """One clip."""
    return lambda: {"pixel_values": torch.randn(1, frames, 3, size, size, generator=generator())}


def sound(length: int = 1000) -> Inputs:
    """One stretch of sound."""
    return {"input_values": torch.randn(1, length, generator=generator())}


def spectrum(frames: int, bands: int, name: str = "input_features", *, by_time: bool = True) -> Callable[[], Inputs]:
    """One spectrogram."""
    shape = (1, frames, bands) if by_time else (1, bands, frames)
    return lambda: {name: torch.randn(shape, generator=generator())}


def spoken(inputs: Callable[[], Inputs]) -> Callable[[], Inputs]:
    """A sound or an image, and the start of a text."""
    return lambda: {**inputs(), "decoder_input_ids": tokens()["input_ids"][:1, :5]}


def captioned(size: int = 32) -> Callable[[], Inputs]:
    """One text and one image."""
    return lambda: {**{name: x[:1] for name, x in tokens().items()}, **images(size)()}


def build(name: str, sizes: dict[str, Any], inputs: Callable[[], Inputs]) -> tuple[nn.Module, Inputs]:
    """The model of that class with random weights, and its inputs."""
    import transformers

    cls = getattr(transformers, name)
    return cls(cls.config_class(**sizes)), inputs()


def architecture(name: str, inputs: Callable[[], Inputs], output: Any = None, **sizes: Any) -> Subject:
    """Any class of the library; `sizes` are its configuration."""
    return Subject(name, functools.partial(build, name, sizes, inputs), output)


def llama_like(name: str, inputs: Callable[[], Inputs] = tokens, output: Any = None, **more: Any) -> Subject:
    """Decoders whose configuration has Llama's names."""
    sizes = dict(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    return architecture(name, inputs, output, **{**sizes, **more})


def bert_like(name: str, inputs: Callable[[], Inputs] = tokens, output: Any = None, **more: Any) -> Subject:
    """Encoders whose configuration has BERT's names; vision transformers have them too."""
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    if inputs in (tokens, bare_tokens):
        sizes |= dict(vocab_size=WORDS, max_position_embeddings=64)
    return architecture(name, inputs, output, **{**sizes, **more})


def bart_like(name: str, inputs: Callable[[], Inputs] = two_texts, **more: Any) -> Subject:
    """Encoder-decoders whose configuration has BART's names."""
    sizes = dict(
        vocab_size=WORDS,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    return architecture(name, inputs, **{**sizes, **more})


def t5_like(name: str, **more: Any) -> Subject:
    """Encoder-decoders whose configuration has T5's names."""
    sizes = dict(vocab_size=WORDS, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return architecture(name, two_texts, **{**sizes, **more})


def wav_like(name: str, **more: Any) -> Subject:
    """Sound encoders whose configuration has wav2vec 2.0's names."""
    sizes = dict(
        vocab_size=20,
        conv_dim=(16, 16, 16),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 3),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
    )
    return bert_like(name, sound, **{**sizes, **more})


def tower(**sizes: Any) -> dict[str, Any]:
    """The configuration of one tower."""
    return dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4) | sizes


TEXT: dict[str, Any] = tower(
    vocab_size=WORDS, max_position_embeddings=64, eos_token_id=98, bos_token_id=97, pad_token_id=0
)
PICTURE: dict[str, Any] = tower(image_size=32, patch_size=8)
STAGES: dict[str, Any] = dict(embed_dim=8, depths=(1, 1), num_heads=(2, 2), window_size=4, image_size=32, patch_size=4)
EXPERTS: dict[str, Any] = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2)


MAMBA: dict[str, Any] = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=4)
ROUTED: dict[str, Any] = dict(
    moe_intermediate_size=16, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, first_k_dense_replace=1
)
GPT: dict[str, Any] = dict(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64)
LATENT: dict[str, Any] = dict(kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8)
