"""Models by name: what is built, which weights are in it, and what is refused; without a network."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import safetensors.torch
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from termwise.errors import DataError, ModelError, TermwiseError, UsageError
from termwise.models import load_model


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a connection, nor what an earlier one has left in a cache."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read on import alone
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models hold the same numbers under the same names."""
    ours, theirs = a.state_dict(), b.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


def message(kind: type[TermwiseError], spec: str, weights: Path | None = None, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        load_model(spec, weights, **options)
    text = str(caught.value)
    assert len(text) < 900, "a message, not a listing"
    return text


# --- timm and torchvision ---


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("timm:test_resnet", "ResNet"),
        ("timm:test_vit", "VisionTransformer"),
        ("timm:resnet18.a1_in1k", "ResNet"),
        ("torchvision:squeezenet1_1", "SqueezeNet"),
        ("torchvision:lraspp_mobilenet_v3_large", "LRASPP"),
        ("torchvision:ssdlite320_mobilenet_v3_large", "SSD"),
        ("torchvision:mc3_18", "VideoResNet"),
    ],
)
def test_a_name_builds_a_random_model_that_says_so(spec: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    model = load_model(spec)
    assert type(model).__name__ == kind
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state is as it was"
    assert f"{spec} has random weights (seed 0)" in caplog.text
    torch.rand(7)
    assert same(load_model(spec), model), "one name, one model"


def test_the_random_model_is_the_library_s_own() -> None:
    torch.manual_seed(0)
    assert same(load_model("timm:test_resnet"), timm.create_model("test_resnet"))
    torch.manual_seed(0)
    assert same(load_model("torchvision:squeezenet1_1"), torchvision.models.squeezenet1_1())


def wrapped(state: dict[str, Tensor], form: str) -> Any:
    forms = {
        "plain": state,
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "compiled": {f"_orig_mod.{key}": value for key, value in state.items()},
        "inner compiled": {key.replace("layer1.", "layer1._orig_mod."): value for key, value in state.items()},
        "lightning": {"epoch": 3, "state_dict": {f"model.{key}": value for key, value in state.items()}},
        "checkpoint": {"epoch": 3, "model": state, "optimizer": {"state": {0: {}}, "param_groups": [{"lr": 0.1}]}},
        "both": {"net": {f"module._orig_mod.{key}": value for key, value in state.items()}},
    }
    return forms[form]


SAID = {
    "plain": "",
    "parallel": "taken off the keys: 'module.'",
    "compiled": "taken off the keys: '_orig_mod.'",
    "inner compiled": "taken off the keys: '_orig_mod.'",
    "lightning": "taken off the keys: 'model.'",
    "checkpoint": "what it holds under 'model'",
    "both": "taken off the keys: '_orig_mod.', 'module.'",
}


@pytest.mark.parametrize(
    ("form", "suffix"),
    [
        *((form, ".pth") for form in SAID),
        *((form, ".safetensors") for form in ("plain", "parallel", "compiled", "inner compiled")),
        ("plain", ".pt"),
        ("plain", ".bin"),
        ("lightning", ".ckpt"),
    ],
)
def test_weights_come_back_however_they_were_wrapped(
    form: str, suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(5)
    original = timm.create_model("test_resnet")
    path = tmp_path / f"w{suffix}"
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(wrapped(original.state_dict(), form), path)
    loaded = load_model("timm:test_resnet", path)
    assert same(loaded, original)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), original.eval()(x))
    assert SAID[form] in caplog.text
    assert ("w." in caplog.text) == bool(SAID[form])
    assert "random" not in caplog.text


def test_a_prefix_that_is_the_model_s_own_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.model = nn.Linear(2, 3)\n"
    )
    weights = {"model.weight": torch.ones(3, 2), "model.bias": torch.ones(3)}
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    model = load_model(f"{tmp_path / 'm.py'}:Net", tmp_path / "w.safetensors")
    assert torch.equal(model.model.weight, torch.ones(3, 2))
    assert caplog.text == ""


def test_heads_used_in_training_alone_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = torchvision.models.get_model("fcn_resnet50", weights=None, weights_backbone=None, aux_loss=True)
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model("torchvision:fcn_resnet50", tmp_path / "w.safetensors")
    del trained.aux_classifier
    assert same(loaded, trained)
    assert "aux_classifier.0.weight" in caplog.text and "training only" in caplog.text


def test_weights_that_do_not_fit_are_told_in_a_few_keys(tmp_path: Path) -> None:
    ten = timm.create_model("test_resnet", num_classes=10).state_dict()
    safetensors.torch.save_file(ten, tmp_path / "ten.safetensors")
    text = message(ModelError, "timm:test_resnet", tmp_path / "ten.safetensors")
    assert "2 of another shape (fc.weight (10, 96) where the model has (1000, 96), fc.bias" in text
    full = timm.create_model("test_resnet").state_dict()
    del full["bn1.weight"]
    full["extra.weight"] = torch.zeros(2)
    safetensors.torch.save_file(full, tmp_path / "part.safetensors")
    text = message(ModelError, "timm:test_resnet", tmp_path / "part.safetensors")
    assert "1 missing (bn1.weight)" in text and "1 unexpected (extra.weight)" in text
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    text = message(ModelError, "timm:test_resnet", tmp_path / "other.safetensors")
    assert f"{len(full)} missing (conv1.0.weight, " in text and "..." in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "holds epoch, and none of it could be the model's weights"),
        ({"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}, "holds a, b, and several of it"),
    ],
)
def test_files_without_weights_are_refused(content: Any, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert said in message(DataError, "timm:test_resnet", tmp_path / "w.pt")


class Trap:
    """Unpickling it makes a directory."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.where),)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_weights_that_would_execute_are_refused_unexecuted(suffix: str, tmp_path: Path) -> None:
    torch.save({"fc.weight": Trap(tmp_path / "sprung")}, tmp_path / f"w{suffix}")
    assert "more than plain tensors" in message(DataError, "timm:test_resnet", tmp_path / f"w{suffix}")
    assert not (tmp_path / "sprung").exists()


def test_published_weights_that_would_execute_are_refused_unexecuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision itself would unpickle them: its loader is told not to, and the setting is put back."""

    def download(url: str, destination: str, *_: Any, **__: Any) -> None:
        torch.save({"fc.weight": Trap(tmp_path / "sprung")}, destination)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert "cannot be had" in message(ModelError, "torchvision:squeezenet1_1", pretrained=True)
    assert not (tmp_path / "sprung").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_published_weights_are_the_library_s_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(7)
    published = torchvision.models.squeezenet1_1()

    def download(url: str, destination: str, *_: Any, **__: Any) -> None:
        torch.save(published.state_dict(), destination)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert same(load_model("torchvision:squeezenet1_1", pretrained=True), published)
    assert "random" not in caplog.text


def test_published_weights_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for spec in ("timm:resnet18", "torchvision:resnet18"):
        text = message(ModelError, spec, pretrained=True)
        assert f"{spec}: its published weights cannot be had" in text and "--weights FILE.safetensors" in text
    assert "No pretrained weights exist" in message(ModelError, "timm:resnetblur18", pretrained=True)


# --- transformers ---


def tiny(**options: Any) -> Any:
    torch.manual_seed(1)
    settings: dict[str, Any] = {"vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**settings, bos_token_id=0, eos_token_id=0, **options)
    ).eval()


@pytest.mark.parametrize("shard", ["5GB", "3KB"], ids=["one file", "shards"])
def test_a_directory_gives_the_saved_model_back(shard: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = tiny()
    saved.save_pretrained(tmp_path / "m", max_shard_size=shard)
    assert (tmp_path / "m" / "model.safetensors.index.json").is_file() == (shard == "3KB")
    caplog.clear()
    loaded = load_model(f"hf:{tmp_path / 'm'}")
    assert type(loaded) is transformers.GPT2LMHeadModel and not loaded.training
    assert same(loaded, saved)
    tokens = torch.arange(10).reshape(2, 5)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, saved(tokens).logits)
    assert caplog.text == ""


def test_half_precision_is_read_into_single(tmp_path: Path) -> None:
    saved = tiny().to(torch.bfloat16)
    saved.save_pretrained(tmp_path / "m")
    loaded = load_model(f"hf:{tmp_path / 'm'}")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert same(loaded, saved.float())


def test_without_a_named_head_the_bare_model_is_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny().transformer.save_pretrained(tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(config.read_text().replace("GPT2Model", "NobodysModel"))
    loaded = load_model(f"hf:{tmp_path / 'm'}")
    assert type(loaded) is transformers.GPT2Model
    assert "transformers has no NobodysModel" in caplog.text
    config.write_text(config.read_text().replace("NobodysModel", "AutoTokenizer"))
    assert type(load_model(f"hf:{tmp_path / 'm'}")) is transformers.GPT2Model, "only a model's class is one"


@pytest.mark.parametrize("form", ["plain", "parallel", "lightning"])
def test_a_configuration_takes_weights_from_a_file(form: str, tmp_path: Path) -> None:
    saved = tiny()
    saved.config.architectures = ["GPT2LMHeadModel"]
    saved.config.save_pretrained(tmp_path / "m")
    torch.save(wrapped(saved.state_dict(), form), tmp_path / "w.pt")
    loaded = load_model(f"hf:{tmp_path / 'm'}", tmp_path / "w.pt")
    assert type(loaded) is transformers.GPT2LMHeadModel
    assert same(loaded, saved)


def test_a_configuration_without_weights_is_no_model(tmp_path: Path) -> None:
    tiny().config.save_pretrained(tmp_path / "m")
    text = message(DataError, f"hf:{tmp_path / 'm'}")
    assert "holds config.json, and no weights" in text and "--weights FILE" in text
    saved = tiny().transformer
    torch.save(saved.state_dict(), tmp_path / "m" / "pytorch_model.bin")
    text = message(DataError, f"hf:{tmp_path / 'm'}")
    assert "no weights but pytorch_model.bin" in text and f"--weights {tmp_path / 'm' / 'pytorch_model.bin'}" in text
    loaded = load_model(f"hf:{tmp_path / 'm'}", tmp_path / "m" / "pytorch_model.bin")
    assert same(loaded, saved)


def test_what_transformers_would_fill_with_random_numbers_is_refused(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    state = safetensors.torch.load_file(file)
    short = {key: value for key, value in state.items() if not key.endswith("ln_f.bias")}
    safetensors.torch.save_file(short, file, metadata={"format": "pt"})
    assert "1 missing (transformer.ln_f.bias)" in message(ModelError, f"hf:{tmp_path / 'm'}")
    state["transformer.ln_f.bias"] = torch.zeros(5)
    safetensors.torch.save_file(state, file, metadata={"format": "pt"})
    text = message(ModelError, f"hf:{tmp_path / 'm'}")
    assert "transformer.ln_f.bias (5,) where the model has (8,)" in text
    assert "1 of another shape" in message(ModelError, f"hf:{tmp_path / 'm'}", file)


def test_weights_without_use_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny().save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    safetensors.torch.save_file(
        safetensors.torch.load_file(file) | {"surplus": torch.zeros(2)}, file, metadata={"format": "pt"}
    )
    assert same(load_model(f"hf:{tmp_path / 'm'}"), tiny())
    assert "has no use for 1 of the weights (surplus" in caplog.text


CONFIGURATION = """import os
from transformers import PretrainedConfig
os.makedirs({where!r}, exist_ok=True)
class OwnConfig(PretrainedConfig):
    model_type = "own"
"""
MODELLING = """import torch
from transformers import PreTrainedModel
from .configuration_own import OwnConfig
class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.line = torch.nn.Linear(2, 3)
        self.post_init()
    def forward(self, x):
        return self.line(x)
"""


def test_code_that_comes_with_a_model_runs_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("transformers.dynamic_module_utils", "transformers.utils.hub"):
        monkeypatch.setattr(f"{place}.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    own = tmp_path / "own"
    own.mkdir()
    (own / "configuration_own.py").write_text(CONFIGURATION.format(where=str(tmp_path / "ran")))
    (own / "modeling_own.py").write_text(MODELLING)
    (own / "config.json").write_text(
        '{"model_type": "own", "architectures": ["OwnModel"], "auto_map": '
        '{"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}}'
    )
    weights = {"line.weight": torch.ones(3, 2), "line.bias": torch.zeros(3)}
    safetensors.torch.save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    assert "--trust-remote-code" in message(UsageError, f"hf:{own}")
    assert not (tmp_path / "ran").exists()
    model = load_model(f"hf:{own}", trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    assert torch.equal(model(torch.ones(1, 2)), torch.full((1, 3), 2.0))


def test_what_is_no_model_of_transformers(tmp_path: Path) -> None:
    assert "neither a directory here nor in the cache" in message(ModelError, "hf:nobody/nothing")
    assert "no such directory" in message(DataError, "hf:./nowhere")
    assert "holds no config.json" in message(DataError, f"hf:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "no such directory" in message(DataError, f"hf:{tmp_path / 'model.safetensors'}")
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    assert "transformers cannot load it: ValueError" in message(ModelError, f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    assert "not a valid JSON file" in message(ModelError, f"hf:{tmp_path}")


# --- what is refused for all of them ---


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("timm:resnet181", "Did you mean timm:resnet18"),
        ("timm:resnet18.a1_in1", "Did you mean timm:resnet18.a1_in1k"),
        ("timm:hf-hub:someone/something", "timm has no model"),
        ("torchvision:resnet_18", "Did you mean torchvision:resnet18"),
        ("torchvision:ResNet18", "Did you mean torchvision:resnet18"),
        ("tim:resnet18", "Did you mean timm:resnet18?"),
        ("huggingface:gpt2", "Did you mean hf:gpt2?"),
        ("resnet18", "Did you mean timm:resnet18 or torchvision:resnet18?"),
        ("timm:", "none of the known forms"),
        ("", "none of the known forms"),
    ],
)
def test_unknown_names_get_near_ones(spec: str, said: str) -> None:
    assert said in message(UsageError, spec)


@pytest.mark.parametrize("spec", ["w.safetensors", "dir/w.pt", "w.pth", "w.bin", "W.PT"])
def test_weights_alone_are_no_model(spec: str) -> None:
    text = message(UsageError, spec)
    assert "numbers without the program" in text and f"FILE.py:callable --weights {spec}" in text


@pytest.mark.parametrize(
    ("module", "spec", "extra"),
    [("timm", "timm:x", "timm"), ("torchvision", "torchvision:x", "vision"), ("transformers", "hf:x", "huggingface")],
)
def test_a_missing_extra_is_named(module: str, spec: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert f"pip install 'termwise[{extra}]'" in message(UsageError, spec)


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    assert "give one of them" in message(UsageError, "timm:resnet18", tmp_path / "w.pt", pretrained=True)
    assert "--trust-remote-code is for hf:" in message(UsageError, "timm:resnet18", trust_remote_code=True)
    assert "--pretrained is for" in message(UsageError, f"{tmp_path / 'm.py'}:build", pretrained=True)


def test_functions_that_return_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\n\n\ndef state():\n    return nn.Linear(2, 2).state_dict()\n\n\n"
        "def number():\n    return 3\n\n\ndef broken():\n    raise ValueError('no file here')\n\n\n"
        "def function():\n    return abs\n"
    )
    file = tmp_path / "m.py"
    assert "numbers without the program" in message(ModelError, f"{file}:state")
    assert "returns a int" in message(ModelError, f"{file}:number")
    assert "fails when it is called: ValueError: no file here." in message(ModelError, f"{file}:broken")
    assert load_model(f"{file}:function") is abs
    assert "takes no weights" in message(ModelError, f"{file}:function", tmp_path / "w.pt")
