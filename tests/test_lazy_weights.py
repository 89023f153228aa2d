"""Weights that stay in their files until a module runs: the same numbers, little memory, and what is refused."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from termwise import Expansion, expand
from termwise.cli import main
from termwise.errors import DataError, ModelError, TermwiseError, UsageError
from termwise.models import load_model

TOKENS = torch.randint(50, (2, 6), generator=torch.Generator().manual_seed(0))


def llama(*, tied: bool = False) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config).eval()


def gpt2() -> Any:
    """Tied, with biases, and with weights that lie transposed in their file."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


MODELS = {"llama": llama, "llama, tied": lambda: llama(tied=True), "gpt2": gpt2}


def same(a: Expansion, b: Expansion) -> bool:
    """Whether two expansions agree bit for bit."""
    assert a.depths == b.depths and a.paths == b.paths and a.weights == b.weights
    assert torch.equal(a.total, b.total) and torch.equal(a.constant, b.constant)
    return all(torch.equal(a.terms[k], b.terms[k]) for k in a.terms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
@pytest.mark.parametrize("name", MODELS)
def test_terms_equal_those_of_the_model_loaded_whole(
    name: str, shard: str, stored: torch.dtype, dtype: torch.dtype, tmp_path: Path
) -> None:
    MODELS[name]().to(stored).save_pretrained(tmp_path, max_shard_size=shard)
    assert (len([*tmp_path.glob("*.safetensors")]) > 1) == (shard == "20KB")
    whole = load_model(f"hf:{tmp_path}", dtype=dtype)
    lazy = load_model(f"hf:{tmp_path}", lazy_weights=True, dtype=dtype)
    blank = list(lazy.parameters())
    units: list[Any] = ["layers", "blocks", "activations", [n for n, _ in lazy.named_modules() if n.endswith(".1")]]
    for unit in units:
        assert same(expand(lazy, TOKENS, unit=unit), expand(whole, TOKENS, unit=unit))
    assert all(a is b and a.is_meta for a, b in zip(lazy.parameters(), blank, strict=True)), "nothing is left on it"
    with torch.no_grad():
        assert torch.equal(lazy(TOKENS).logits, whole(TOKENS).logits), "it is a model like any other"


def test_half_precision_in_the_file_closes_as_float32_does(tmp_path: Path) -> None:
    llama().to(torch.bfloat16).save_pretrained(tmp_path)
    closure = expand(load_model(f"hf:{tmp_path}", lazy_weights=True), TOKENS).closure
    assert closure is not None and closure < 5e-6


def test_a_file_of_the_bare_model_is_taken_under_the_prefix_of_its_head(tmp_path: Path) -> None:
    model = gpt2()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    bare = {key.removeprefix("transformer."): value.clone() for key, value in model.state_dict().items()}
    del bare["lm_head.weight"]  # tied
    safetensors.torch.save_file(bare, tmp_path / "bare.safetensors")
    lazy = load_model(f"hf:{tmp_path}", tmp_path / "bare.safetensors", lazy_weights=True)
    assert same(expand(lazy, TOKENS), expand(model, TOKENS))


@pytest.fixture
def live() -> Iterator[list[int]]:
    """After every module, the bytes of all the weights that are anywhere in memory."""
    seen: dict[int, weakref.ref[Tensor]] = {}
    sizes: list[int] = []

    def look(module: nn.Module, args: Any, output: Any) -> None:
        found = [p for p in module.parameters(recurse=False) if not p.is_meta]
        seen.update({id(p): weakref.ref(p) for p in found})
        alive = [p for p in (ref() for ref in seen.values()) if p is not None]
        sizes.append(sum(p.numel() * p.element_size() for p in alive))

    handle = register_module_forward_hook(look)
    yield sizes
    handle.remove()


@pytest.mark.parametrize("name", MODELS)
def test_only_the_weights_of_what_runs_are_in_memory(name: str, tmp_path: Path, live: list[int]) -> None:
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    largest = max(sum(p.numel() for p in m.parameters(recurse=False)) for m in model.modules()) * 4
    layers = model.transformer.h if name == "gpt2" else model.model.layers
    block = sum(p.numel() for p in layers[0].parameters()) * 4
    lazy = load_model(f"hf:{tmp_path}", lazy_weights=True)
    for unit in ("layers", "blocks"):
        live.clear()
        expand(lazy, TOKENS, unit=unit)
        assert max(live) <= max(largest, block)  # rows may wait for their weights, but not beyond the block
    with torch.no_grad():
        live.clear()
        lazy(TOKENS)
    assert max(live) == largest


def test_weights_are_let_go_of_after_an_error(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    lazy = load_model(f"hf:{tmp_path}", lazy_weights=True)

    class Stop(Exception):
        pass

    def stop(module: nn.Module, args: Any) -> None:
        raise Stop

    handle = lazy.model.layers[1].mlp.act_fn.register_forward_pre_hook(stop)
    for run in (lazy, lambda x: expand(lazy, x)):
        with pytest.raises(Stop):
            run(TOKENS)
        assert all(p.is_meta for p in lazy.parameters())
    handle.remove()


# --- what is refused ---


def refused(kind: type[TermwiseError], spec: str, weights: Path | None = None, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        load_model(spec, weights, lazy_weights=True, **options)
    text = str(caught.value)
    assert len(text) < 900, "a message, not a listing"
    return text


def test_damaged_and_missing_files_are_refused_before_anything_runs(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path, max_shard_size="20KB")
    spec, shard = f"hf:{tmp_path}", sorted(tmp_path.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert f"{shard.name}: not readable as weights" in refused(DataError, spec)
    shard.write_bytes(content[:5])
    assert f"{shard.name}: not readable as weights" in refused(DataError, spec)
    shard.unlink()
    assert f"1 of {len([*tmp_path.glob('*.safetensors')]) + 1} files" in refused(DataError, spec)
    index = tmp_path / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": {key: f"../{name}" for key, name in table["weight_map"].items()}}))
    assert "names" in refused(DataError, spec)
    index.write_text("{}")
    assert "not readable as an index" in refused(DataError, spec)
    index.unlink()
    assert "neither model.safetensors nor" in refused(DataError, spec)


def test_keys_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = safetensors.torch.load_file(file)
    for change, words in (
        ({"model.norm.weight": None}, "1 missing (model.norm.weight)"),
        ({"model.norm.weight": torch.ones(31)}, "model.norm.weight (31,) where the model has (32,)"),
        ({"model.norm.weight": torch.ones(32, dtype=torch.int32)}, "model.norm.weight is I32"),
    ):
        changed = {key: value for key, value in {**state, **change}.items() if value is not None}
        safetensors.torch.save_file(changed, file, metadata={"format": "pt"})
        assert words in refused(ModelError, f"hf:{tmp_path}")


def test_weights_that_are_no_numbers_are_refused_when_they_are_read(tmp_path: Path) -> None:
    for value in (torch.nan, torch.inf, -torch.inf):
        model = llama()
        model.model.layers[1].mlp.up_proj.weight.data[3, 5] = value
        model.save_pretrained(tmp_path)
        lazy = load_model(f"hf:{tmp_path}", lazy_weights=True)
        with pytest.raises(ModelError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' in .* NaN or infinite"):
            expand(lazy, TOKENS)
        assert all(p.is_meta for p in lazy.parameters())


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    assert "add --weights" in refused(UsageError, "timm:resnet18")
    assert "from a directory" in refused(UsageError, "hf:nobody/nothing")
    assert "--dtype is for hf:" in refused(UsageError, "timm:resnet18", dtype=torch.bfloat16)
    torch.save({}, tmp_path / "w.pt")
    assert "only .safetensors" in refused(UsageError, "timm:test_vit", tmp_path / "w.pt")
    assert "no such file" in refused(DataError, "timm:test_vit", tmp_path / "w.safetensors")


# --- models of other kinds ---

OWN = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("positions", torch.arange(24.0).reshape(4, 6) / 24, persistent=False)
        self.register_buffer("mean", torch.zeros(6))
        self.token = nn.Parameter(torch.zeros(6))
        self.first = nn.Linear(6, 6, bias=False)
        self.again = nn.Linear(6, 6, bias=False)
        self.again.weight = self.first.weight
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.scaled = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.several = nn.ParameterList([nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))])
        self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(6, 3))

    def forward(self, x):
        h = self.again(torch.relu(self.first(x - self.mean + self.positions + self.token)))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.head(self.scaled(h) * self.several[0] + self.several[1])


def build():
    torch.manual_seed(0)
    return Own()
"""


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    """Shared weights, buffers in the file and not in it, and weights that a parent uses in the place of its child."""
    (tmp_path / "own.py").write_text(OWN)
    spec, file, x = f"{tmp_path / 'own.py'}:build", tmp_path / "w.safetensors", torch.randn(5, 4, 6)
    whole = load_model(spec)
    with torch.no_grad():
        for tensor in (*whole.parameters(), whole.mean, whole.head[0].running_mean):
            tensor.copy_(torch.randn_like(tensor))
    state = {key: value.clone() for key, value in whole.state_dict().items()}
    safetensors.torch.save_file(state, file)
    lazy = load_model(spec, file, lazy_weights=True)
    assert sorted(n for n, p in lazy.named_parameters()) == sorted(n for n, _ in whole.named_parameters())
    assert same(expand(lazy, x), expand(whole, x))
    # safetensors.torch.save_model keeps one name of what is shared.
    del state["again.weight"]
    safetensors.torch.save_file({f"module.{key}": value for key, value in state.items()}, file)
    assert same(expand(load_model(spec, file, lazy_weights=True), x), expand(whole, x))
    safetensors.torch.save_file({**state, "surplus": torch.ones(1)}, file)
    assert "1 unexpected (surplus)" in refused(ModelError, spec, file)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_model_of_timm(name: str, tmp_path: Path) -> None:
    whole = load_model(f"timm:{name}")
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "w.safetensors")
    lazy = load_model(f"timm:{name}", tmp_path / "w.safetensors", lazy_weights=True)
    assert all(p.is_meta for p in lazy.parameters())
    size = whole.pretrained_cfg["input_size"]
    x = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    assert same(expand(lazy, x), expand(whole, x))


# --- the command ---


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    llama().save_pretrained("m", max_shard_size="20KB")
    stream = np.random.default_rng(0).integers(50, size=700)
    np.save("t.npy", stream.astype("int64"))
    command = ["profile", "hf:m", "--data", "tokens:t.npy", "--size", "8", "--samples", "8"]
    printed = []
    for options in ([], ["--lazy-weights"]):
        main([*command, *options])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and printed[0].startswith("closure ")
    main(["support", "hf:m", "--lazy-weights"])
    assert "layers" in capsys.readouterr().out
    main([*command, "--lazy-weights", "--dtype", "bfloat16"])
    closure = float(capsys.readouterr().out.split()[1].rstrip(",;:"))
    assert 1e-5 < closure < 0.1
    with pytest.raises(SystemExit) as refusal:
        main([*command, "--lazy-weights", "--device", "mps"])
    assert refusal.value.code == 2
