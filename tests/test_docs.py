"""The pages of the documentation, followed literally: every block is run, and prints what the page says."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from termwise import DepthProfile, Timeline, rules
from termwise.experiments import NAMES, find
from termwise.experiments.reproduce import plan
from termwise.verdict import CLAIMS

DOCS = Path(__file__).parents[1] / "docs"
PAGE, LARGE = DOCS / "add-a-rule.md", DOCS / "large-models.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The table of rules and the random state, which the page changes."""
    table = dict(rules.RULES)
    with torch.random.fork_rng():
        yield
    rules.RULES.clear()
    rules.RULES.update(table)


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall(PAGE.read_text())


def test_every_block_prints_what_the_page_says() -> None:
    found = blocks()
    assert len(found) == PAGE.read_text().count("```python\n") and len(found) > 5
    names: dict[str, object] = {}
    for code, expected in found:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        assert printed.getvalue() == expected, code


def test_families_named_on_the_page_exist() -> None:
    families = {entry.family for entry in rules.RULES.values()}
    table = re.findall(r'^\|.*\| `"([a-z ]+)"` \| `rules\.([a-z_.]+)` \|$', PAGE.read_text(), re.MULTILINE)
    assert len(table) > 4
    for family, rule in table:
        assert family in families
        assert callable(eval(f"rules.{rule}", {"rules": rules}))


def test_the_page_of_several_processes_runs_as_written(tmp_path: Path) -> None:
    page = (DOCS / "several-processes.md").read_text()
    files = re.findall(r"`(\w+\.py)`.*?\n```python\n(.*?)^```\n", page, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["model.py", "train.py"]
    for name, code in files:
        (tmp_path / name).write_text(code)
    commands = re.findall(r"^```sh\n(.*?)\n```\n(?:\n```text\n(.*?)^```\n)?", page, re.MULTILINE | re.DOTALL)
    assert len(commands) == page.count("```sh\n") == 2
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for command, expected in commands:
        launcher, *arguments = shlex.split(command)
        assert launcher == "torchrun"
        line = [sys.executable, "-m", "torch.distributed.run", *arguments]
        run = subprocess.run(line, cwd=tmp_path, env=os.environ | fixed, capture_output=True, text=True, timeout=180)
        assert run.returncode == 0, run.stderr
        assert run.stdout == expected or (not expected and run.stdout.startswith("closure "))
    assert DepthProfile.load(tmp_path / "net.termwise").samples == 359
    assert Timeline.from_directory(tmp_path / "records").steps[-1] == 6


def test_the_script_for_large_models_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    model: Any = transformers.LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    found = re.findall(r"^```python\n(.*?)^```\n", LARGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    exec(compile(found[0], str(LARGE), "exec"), {"directory": tmp_path, "tokens": torch.randint(50, (1, 6))})
    assert "output (1, 1, 50)" in capsys.readouterr().out


def test_the_page_on_experiments_has_them_all() -> None:
    page = (DOCS / "experiments.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \|", page.partition("## What is expected")[0], re.MULTILINE)
    assert rows == [(name, str(find(name).question)) for name in NAMES]
    assert {name for name in NAMES if f"| `{name}` |" in page.partition("## What is expected")[2]} == {*NAMES}


def test_the_page_on_large_models_is_what_the_benchmark_wrote() -> None:
    """Its table of costs has a row for what was read under the limit, and for what is extrapolated."""
    from benchmarks.large import LARGEST, PUBLISHED

    table = LARGE.read_text().partition("<!-- measured -->")[2].partition("<!-- end -->")[0]
    for name in (LARGEST, *PUBLISHED):
        assert f"| {name}" in table


def test_the_page_of_findings_has_the_claims_and_every_experiment_that_was_run() -> None:
    page = (DOCS / "findings.md").read_text()
    claims = page.partition("<!-- claims -->")[2].partition("<!-- end of claims -->")[0]
    assert "`termwise reproduce --standard` on fashion-mnist" in claims
    assert [line[2:4] for line in claims.splitlines() if line.startswith("| H") and ": " in line] == [*CLAIMS]
    headings = re.findall(r"^### (.*) \(`([a-z-]+)`\)$", page, re.MULTILINE)
    run = {part.experiment.name: str(part.experiment.question) for part in plan("standard").parts}
    assert {name: question for question, name in headings} == run
