"""The command: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import transformers

from termwise import DepthProfile, data, nets, profile
from termwise.cli import main
from termwise.training import build_network

MODEL = "from termwise import nets\n\n\ndef build():\n    return nets.mlp([12, 8, 3])\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, weights and data, and the command run in it."""
    (tmp_path / "model.py").write_text(MODEL)
    torch.manual_seed(0)
    safetensors.torch.save_file(nets.mlp([12, 8, 3]).state_dict(), tmp_path / "w.safetensors")
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(120, 12)).astype("float32")
    np.savez(tmp_path / "d.npz", inputs=inputs, targets=np.arange(120) % 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    """The exit code."""
    try:
        main(list(arguments))
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_profile_prints_and_saves(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["profile", "model.py:build", "--weights", "w.safetensors", "--data", "d.npz", "--save", "p.termwise"]
    assert run(*command) == 0
    out = capsys.readouterr().out
    assert out.startswith("closure ")
    assert "every path from the input has 2 steps" in out
    assert str(DepthProfile.load(here / "p.termwise")) in out


def test_prune_prints_and_saves(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "deep.py").write_text(
        "import torch\n"
        "class Block(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.one, self.two = torch.nn.Linear(12, 12), torch.nn.Linear(12, 12)\n"
        "    def forward(self, v):\n"
        "        return v + self.two(self.one(v).relu())\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(Block(), Block(), Block(), torch.nn.Linear(12, 3))\n"
    )
    assert run("prune", "deep.py:build", "--data", "d.npz", "--keep", "0.6", "--heal", "3", "--save", "short") == 0
    told = capsys.readouterr().out
    assert "keep=0.6: without 1 of 3 blocks" in told and "After healing the loss is" in told
    assert {path.name for path in (here / "short").iterdir()} == {
        *("plan.json", "plan.termwise", "model.safetensors", "rebuild.py")
    }
    assert run("prune", "deep.py:build", "--data", "d.npz") == 2
    assert "give exactly one" in capsys.readouterr().err
    refused = {("--save", "d.npz"): "d.npz is a file", ("--save", "."): "holds other files"}
    for options, words in refused.items():  # before anything is done
        assert run("prune", "no.py:model", "--data", "d.npz", "--keep", "0.6", *options) == 2
        assert words in capsys.readouterr().err
    for option in ("--samples", "--heal"):
        assert run("prune", "deep.py:build", "--data", "d.npz", "--keep", "0.6", option, "-5") == 2
    capsys.readouterr()
    assert run("prune", "model.py:build", "--data", "d.npz", "--keep", "0.6") == 2
    assert "no residual blocks" in capsys.readouterr().err


def test_units_are_blocks_activations_or_modules(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", "model.py:build", "--data", "d.npz", "--unit", "activations") == 0
    assert "unit: activations" in capsys.readouterr().out
    assert run("profile", "model.py:build", "--data", "d.npz", "--unit", "blocks") == 0
    assert "every path from the input has 0 steps" in capsys.readouterr().out
    assert run("profile", "model.py:build", "--data", "d.npz", "--unit", "nonsense") == 2
    assert "no module called 'nonsense'" in capsys.readouterr().err


def test_train_writes_a_run_and_report_writes_its_page_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "<script>alert(1)</script>"
    command = ["train", "mlp-12-8-3", "--data", "d.npz", "--directory", "r", "--epochs", "2", "--probe", "16"]
    assert run(*command, "--name", name) == 0
    out = capsys.readouterr().out
    summary = json.loads((here / "r" / "summary.json").read_text())
    assert summary["verdict"] in out and "r/report.html" in out
    page = (here / "r" / "report.html").read_text()
    assert name not in page and "&lt;script&gt;alert(1)" in page
    (here / "r" / "report.html").unlink()
    assert run("report", "r") == 0
    assert (here / "r" / "report.html").read_text() == page
    # The same command again has nothing left to do; another one is refused.
    assert run(*command, "--name", name) == 0
    assert run(*command, "--seed", "1") == 1
    assert "seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spelling", "family", "arguments"),
    [
        ("resnet-20", "resnet", {"depth": 20}),
        ("resnet20-projection", "resnet", {"depth": 20, "shortcut": "projection"}),
        ("preact-resnet-20", "preact_resnet", {"depth": 20}),
        ("se-resnet-20", "se_resnet", {"depth": 20}),
        ("sk-resnet-20", "sk_resnet", {"depth": 20}),
        ("densenet-22-12", "densenet", {"depth": 22, "growth": 12}),
        (
            "densenet-bc-100-12",
            "densenet",
            {"depth": 100, "growth": 12, "bottleneck": True, "compression": 0.5},
        ),
        ("plain-20", "plain", {"depth": 20}),
        ("mlp-64-32-10", "mlp", {"sizes": [64, 32, 10]}),
        ("vit-4-64", "vit", {"depth": 4, "width": 64}),
        ("lstm-64", "lstm", {"hidden": 64}),
        ("lstm-64-2", "lstm", {"hidden": 64, "layers": 2}),
    ],
)
def test_networks_as_they_are_spelled(
    monkeypatch: pytest.MonkeyPatch, spelling: str, family: str, arguments: dict[str, Any]
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("termwise.cli._run", lambda config, directory: seen.append(config))
    assert run("train", spelling, "--directory", "r") == 0
    (network,) = seen[0].networks
    assert (network.name, network.family, network.arguments) == (spelling, family, arguments)
    images = data.load("digits", size=8)
    assert build_network(network, images, 0).eval()(images.test_inputs[:2]).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["profile", "model"], 2, "write FILE.py:callable"),
        (["profile", "none.py:build"], 2, "none.py"),
        (["profile", "timm:resnet181"], 2, "Did you mean timm:resnet18"),
        (["profile", "timm:resnet18", "--pretrained", "--weights", "w.safetensors"], 2, "give one of them"),
        (["profile", "hf:./nowhere"], 1, "no such directory"),
        (["profile", "model.py:build", "--data", "nothing"], 2, "none of the known forms"),
        (["profile", "model.py:build", "--data", "fashion-mnist:nowhere"], 1, "nowhere"),
        (["profile", "model.py:build", "--data", "d.npz", "--weights", "none.safetensors"], 1, "no such file"),
        (["profile", "model.py:build", "--data", "d.npz", "--weights", "model.py"], 2, "expected a .safetensors file"),
        (
            ["profile", "model.py:build", "--data", "d.npz", "--weights", "d.pt"],
            1,
            "damaged, or holds more than plain tensors",
        ),
        (["profile", "model.py:build", "--data", "d.npz", "--save", "/proc/nowhere"], 1, "/proc/nowhere: No such file"),
        (["support", "timm:test_resnet", "--shape", "3x32"], 1, "timm:test_resnet fails on --shape 3x32: "),
        (["report", "nowhere"], 1, "nowhere"),
        (["train", "resnet", "--directory", "r"], 2, "network 'resnet' is unknown"),
        (["train", "resnet-21", "--data", "digits", "--directory", "r"], 2, "21"),
        (["demo", "--slow"], 2, "--slow"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_message_and_an_exit_code(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    (here / "d.pt").write_bytes(b"no weights at all")
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert "Traceback" not in captured.err


def test_weights_that_would_execute_are_refused_unexecuted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.mkdir, (str(here / "sprung"),)

    torch.save({"weight": Trap()}, here / "trap.pt")
    assert run("profile", "model.py:build", "--data", "d.npz", "--weights", "trap.pt") == 1
    assert "holds more than plain tensors" in capsys.readouterr().err
    assert not (here / "sprung").exists()


def test_weights_that_do_not_fit_say_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors.torch.save_file({"other": torch.zeros(2)}, here / "o.safetensors")
    assert run("profile", "model.py:build", "--data", "d.npz", "--weights", "o.safetensors") == 1
    assert "does not fit" in capsys.readouterr().err


def test_a_model_by_name_is_profiled_as_it_was_made(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = timm.create_model("test_resnet", num_classes=1000)
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, here / "w.pth")
    command = ["profile", "timm:test_resnet", "--samples", "12", "--size", "32"]
    assert run(*command) == 1
    err = capsys.readouterr().err
    assert "termwise: timm:test_resnet has random weights (seed 0)" in err
    assert "takes inputs of 3x160x160, and a sample of digits is 1x32x32: write --size 160 --channels 3." in err
    assert run(*command, "--channels", "3", "--weights", "w.pth", "--save", "p.termwise") == 0
    captured = capsys.readouterr()
    assert "12 samples" in captured.out and "made for 3x160x160: write --size 160." in captured.err
    assert "termwise: w.pth: taken off the keys: 'module.'" in captured.err and "random" not in captured.err
    # The same by hand.
    digits = data.load("digits", size=32)
    pair = (digits.test_inputs[:12].repeat(1, 3, 1, 1), digits.test_targets[:12])
    assert str(profile(model, pair)) == str(DepthProfile.load(here / "p.termwise"))


def test_a_convolution_on_the_way_asks_nothing_of_flat_inputs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "deep.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(4, 3))\n"
    )
    assert run("profile", "deep.py:build", "--data", "d.npz") == 0
    captured = capsys.readouterr()
    assert "every path from the input has 2 steps" in captured.out and captured.err == ""


def test_the_size_that_was_asked_for_is_enough(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    settings |= {"image_size": 32, "patch_size": 8, "num_labels": 10}
    config = transformers.ViTConfig(**settings)
    transformers.ViTForImageClassification(config).save_pretrained(here / "vit")
    command = ["profile", "hf:vit", "--samples", "12", "--channels", "3"]
    assert run(*command) == 1
    assert "takes inputs of 3x32x32, and a sample of digits is 3x16x16: write --size 32." in capsys.readouterr().err
    assert run(*command, "--size", "32") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("closure ") and "made for" not in captured.err


def test_video_and_detection_are_refused_in_one_message(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", "torchvision:mc3_18", "--samples", "2", "--channels", "3") == 1
    assert "takes inputs of 3xframesx112x112, and a sample of digits is 3x16x16" in capsys.readouterr().err
    assert run("profile", "torchvision:raft_small", "--samples", "2", "--channels", "3") == 1
    assert "fails on one sample of digits, which is 3x16x16: TypeError" in capsys.readouterr().err


def test_a_directory_of_transformers_is_profiled_on_tokens(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {"vocab_size": 7, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(**settings, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(here / "lm")
    np.save(here / "t.npy", np.arange(3000) % 7)
    command = ["profile", "hf:lm", "--data", "tokens:t.npy", "--samples", "12"]
    assert run(*command) == 1
    assert "which is 128: IndexError" in (err := capsys.readouterr().err) and "--size N shortens it" in err
    assert run(*command, "--size", "16") == 0
    by_default = capsys.readouterr().out
    # One block of attention (by its values) and perceptron, and the head: 1 + 2 {0, 1} + 2 {0, 1} steps.
    assert re.findall(r"^ +(\d+) +(\d+)  ", by_default, flags=re.M) == [("1", "1"), ("3", "2"), ("5", "1")]
    assert run(*command, "--size", "16", "--output", "logits") == 0
    assert capsys.readouterr().out == by_default
    assert run(*command, "--size", "16", "--output", "0") == 0
    assert capsys.readouterr().out == by_default
    assert run(*command, "--size", "16", "--output", "17") == 1
    assert "output=17 is not in what the model returned" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused_first(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device, said in [
        ("mps", "--device mps is not available: PyTorch finds cpu and 1 x cuda"),
        ("cuda:1", "--device cuda:1 is not available"),
        ("gpu", "expected cpu, cuda, cuda:1 or mps"),
        ("meta", "expected cpu, cuda, cuda:1 or mps"),
    ]:
        assert run("profile", "none.py:build", "--device", device) == 2
        assert said in capsys.readouterr().err
    assert run("profile", "model.py:build", "--data", "d.npz", "--device", "cpu") == 0
    (here / "plain.py").write_text("def build():\n    return lambda x: x\n")
    assert run("profile", "plain.py:build", "--data", "d.npz", "--device", "cuda") == 1
    assert "a function cannot be moved there" in capsys.readouterr().err


def test_channels_are_repeated_for_grey_images_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for channels, source in (("3", "d.npz"), ("0", "digits")):
        assert run("profile", "model.py:build", "--data", source, "--channels", channels) == 2
        assert f"--channels {channels}: the one channel of grey images" in capsys.readouterr().err


def test_a_state_dictionary_is_no_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", "w.safetensors", "--data", "d.npz") == 2
    assert "FILE.py:callable --weights w.safetensors" in capsys.readouterr().err
    (here / "lone.py").write_text("import torch\n\n\ndef build():\n    return {'weight': torch.zeros(2)}\n")
    assert run("profile", "lone.py:build", "--data", "d.npz") == 1
    assert "numbers without the program" in capsys.readouterr().err


def test_help_is_there_for_newcomers(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("demo", "train", "profile", "report"):
        assert run(command, "--help") == 0
        assert "Usage: termwise" in capsys.readouterr().out


def test_a_language_model_is_profiled_on_tokens(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "lm.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 7))\n"
    )
    np.save(here / "t.npy", np.arange(3000) % 7)
    assert run("profile", "lm.py:build", "--data", "tokens:t.npy") == 0
    assert "every path from the input has 2 steps" in capsys.readouterr().out
    assert run("train", "mlp-7-8-7", "--data", "tokens:t.npy", "--directory", "r") == 2
    assert "these are tokens" in capsys.readouterr().err


def test_support_says_what_a_model_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("support", "timm:resnet10t", "--unit", "blocks") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("supported: every operator has a rule")
    assert "16 paths, of 0 to 4 blocks: 5 terms" in printed


def test_support_asks_for_a_shape_that_nobody_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "dense.py").write_text("import torch\n\ndef build(): return torch.nn.Linear(4, 2)\n")
    assert run("support", "dense.py:build") == 2
    assert "--shape 3x224x224" in capsys.readouterr().err
    assert run("support", "dense.py:build", "--shape", "four") == 2
    assert "such as 3x224x224" in capsys.readouterr().err
    assert run("support", "dense.py:build", "--shape", "4") == 0
    assert "1 path, of 1 layers" in capsys.readouterr().out


def test_support_ends_with_1_for_a_model_that_is_not_supported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "import torch\n\ndef build(): return torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Softmax(-1))\n"
    (here / "soft.py").write_text(lines)
    assert run("support", "soft.py:build", "--shape", "4") == 1
    assert "not supported: expand: the output is frozen" in capsys.readouterr().out


def test_support_makes_tokens_for_a_language_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hf: Any = pytest.importorskip("transformers")
    config = hf.T5Config(vocab_size=9, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    hf.T5ForConditionalGeneration(config).save_pretrained(here / "t5")
    capsys.readouterr()
    assert run("support", f"hf:{here / 't5'}", "--unit", "blocks") == 0
    assert "10 residual branches" in capsys.readouterr().out


def test_strict_refuses_what_is_linearised(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "odd.py").write_text(ODD)
    assert run("profile", "odd.py:build", "--data", "d.npz") == 0
    assert "linearised: termwise_cli.odd" in capsys.readouterr().out
    assert run("profile", "odd.py:build", "--data", "d.npz", "--strict") == 1
    assert "termwise_cli.odd in 'act'" in capsys.readouterr().err


ODD = """
import torch

lib = torch.library.Library("termwise_cli", "FRAGMENT")
if not hasattr(torch.ops.termwise_cli, "odd"):
    lib.define("odd(Tensor x) -> Tensor")
    lib.impl("odd", lambda x: x + torch.sin(x), "CompositeExplicitAutograd")
    torch.library.register_autograd(
        "termwise_cli::odd",
        lambda ctx, grad: grad * (1 + torch.cos(ctx.saved_tensors[0])),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
        lib=lib,
    )


class Act(torch.nn.Module):
    def forward(self, x):
        return torch.ops.termwise_cli.odd(x)


def build():
    model = torch.nn.Sequential(torch.nn.Linear(12, 3))
    model.add_module("act", Act())
    return model
"""
