"""The command: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from termwise import DepthProfile, nets
from termwise.cli import main

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


def test_units_are_activations_or_modules(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", "model.py:build", "--data", "d.npz", "--unit", "activations") == 0
    assert "unit: activations" in capsys.readouterr().out
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
    ("arguments", "code", "message"),
    [
        (["profile", "model"], 2, "write FILE.py:callable"),
        (["profile", "none.py:build"], 2, "none.py"),
        (["profile", "model.py:build", "--data", "nothing"], 2, "none of the known forms"),
        (["profile", "model.py:build", "--data", "fashion-mnist:nowhere"], 1, "nowhere"),
        (["profile", "model.py:build", "--data", "d.npz", "--weights", "none.safetensors"], 1, "no such file"),
        (["profile", "model.py:build", "--data", "d.npz", "--weights", "model.py"], 2, "expected a .safetensors file"),
        (
            ["profile", "model.py:build", "--data", "d.npz", "--weights", "d.pt"],
            1,
            "damaged, or holds more than plain tensors",
        ),
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


def test_a_state_dictionary_is_no_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
