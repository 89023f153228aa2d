"""Numbers of residual blocks: as many as the authors of an architecture say."""

from typing import Any

import pytest
import torch
from torch import nn

from blocks_at_hand import blocks_of, images, language_models
from termwise import nets
from termwise.expand import expand


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


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


@pytest.mark.parametrize("name", ["gpt2", "parallel", "llama", "bert", "t5"])
def test_number_of_blocks_of_a_language_model(name: str) -> None:
    make, tokens, count = language_models()[name]
    model = make().eval()
    assert len(blocks_of(model, tokens)) == count
    found = expand(model, tokens, unit="blocks")
    assert found.closure is not None and found.closure < 5e-6
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
