"""What users see first: the public names, the import, the README."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import termwise

ROOT = Path(__file__).parent.parent


def test_the_public_names_are_sorted_and_exact() -> None:
    assert termwise.__all__ == sorted(termwise.__all__)
    tree = ast.parse(Path(termwise.__file__).read_text())
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == termwise.__all__
    assert all(getattr(termwise, name).__doc__ for name in termwise.__all__)


def test_importing_brings_no_extra_and_no_report() -> None:
    code = (
        "import sys, termwise; print([m for m in ('torchvision', 'matplotlib', 'timm', 'transformers', 'sklearn', "
        "'playwright', 'cyclopts', 'termwise.report') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_modules_import_only_from_above() -> None:
    """The order is that of the list in CONTRIBUTING.md."""
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| `src/termwise/` | |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    order = [name.strip("/").removesuffix(".py") for row in rows for name in re.findall(r"`(.*?)`", row)]
    package = Path(termwise.__file__).parent
    found = {path.stem if path.is_file() else path.name for path in package.iterdir() if not path.name.startswith("_")}
    assert found - {"py.typed"} - {"py"} == set(order)
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        # Imports at the top of the file; what a function imports when it is called may point anywhere.
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("termwise."):
                other = (node.module or "").split(".")[1]
                assert order.index(other) <= order.index(room), f"{path.name} imports {node.module}"


def test_the_readme_runs_as_written() -> None:
    first = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 5
    run = subprocess.run([sys.executable, "-c", first], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("closure ")
    assert "mean path length" in run.stdout
