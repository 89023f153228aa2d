"""The pages of the documentation, followed literally: every block is run, and prints what the page says."""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from termwise import rules

PAGE = Path(__file__).parents[1] / "docs" / "add-a-rule.md"
LARGE = PAGE.with_name("large-models.md")
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


def test_the_page_on_large_models_is_what_the_benchmark_wrote() -> None:
    """Its table of costs has a row for what was read under the limit, and for what is extrapolated."""
    from benchmarks.large import LARGEST, PUBLISHED

    table = LARGE.read_text().partition("<!-- measured -->")[2].partition("<!-- end -->")[0]
    for name in (LARGEST, *PUBLISHED):
        assert f"| {name}" in table
