"""`termwise degrees`: what it prints, keeps and refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from termwise import DegreeSpectrum
from termwise.cli import main

MODEL = "from termwise import nets\n\n\ndef build():\n    return nets.mlp([12, 8, 3])\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    inputs = np.random.default_rng(0).normal(size=(600, 12)).astype("float32")
    np.savez(tmp_path / "d.npz", inputs=inputs, targets=np.arange(600) % 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    """The exit code."""
    try:
        main(["degrees", "model.py:build", "--data", "d.npz", *arguments])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


@pytest.mark.parametrize(
    ("inputs", "options", "method"),
    [
        ("fitted", ["--samples", "50", "--angles", "32"], "circles"),
        ("standard", ["--samples", "50", "--highest", "8"], "circles"),
        ("boolean", [], "walsh"),
        ("real", ["--components", "4", "--highest", "2"], "ladder"),
    ],
)
def test_it_prints_a_spectrum_and_keeps_it(
    here: Path, capsys: pytest.CaptureFixture[str], inputs: str, options: list[str], method: str
) -> None:
    assert run("--inputs", inputs, *options, "--save", "s.termwise") == 0
    out = capsys.readouterr().out
    kept = DegreeSpectrum.load(here / "s.termwise")
    assert kept.method == method
    assert out == f"{kept}\nsaved: s.termwise\n"
    assert f"degrees by {method}" in out and "share" in out


def test_what_makes_no_spectrum_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--samples", "3") == 2
    assert "at least 20" in capsys.readouterr().err
    assert run("--inputs", "real", "--components", "12", "--highest", "5") == 1
    assert "too few" in capsys.readouterr().err
    assert run("--inputs", "real", "--angles", "32") == 2
    assert "angles" in capsys.readouterr().err
