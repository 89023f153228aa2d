"""The tables of docs/findings.md, from a directory that `termwise reproduce` has filled.

    python -m benchmarks.findings runs/standard             prints them
    python -m benchmarks.findings runs/standard --write     puts them into the page

The words around the tables are written by hand; of the numbers none is.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from termwise.errors import UsageError
from termwise.experiments import NAMES, VERDICT, Result

PAGE = Path(__file__).parents[1] / "docs" / "findings.md"


def main() -> None:
    """Print the tables, and write them where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="of a finished `termwise reproduce`")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/findings.md")
    options = parser.parse_args()
    results = read(options.directory)
    parts = {"claims": claims(results[0]), "experiments": "\n\n".join(experiments(results[1:]))}
    print("\n\n".join(parts.values()))
    if options.write:
        PAGE.write_text(written(PAGE.read_text(), parts))


def read(directory: Path) -> list[Result]:
    """The verdict on the claims, then the experiments in the order in which the command lists them.

    Raises:
        UsageError: when the run is not finished.
    """
    if not (directory / f"{VERDICT}.termwise").exists():
        raise UsageError(f"{directory}: no finished `termwise reproduce` is in it: there is no {VERDICT}.termwise.")
    paths = [directory / f"{name}.termwise" for name in (VERDICT, *NAMES)]
    return [Result.load(path) for path in paths if path.exists()]


def written(page: str, parts: dict[str, str]) -> str:
    """The page with each part between its marks."""
    for name, text in parts.items():
        page = re.sub(
            rf"(?s)(<!-- {name} -->\n).*?(<!-- end of {name} -->)",
            lambda m, text=text: f"{m[1]}{text}\n{m[2]}",
            page,
        )
    return page


def claims(result: Result) -> str:
    """How it was made, the table of the five claims, and each in words."""
    settings, verdicts = result.settings, result.tables["verdicts"].rows()
    protocol, versions = settings["protocol"], settings["versions"]
    made = (
        f"`termwise reproduce --{protocol['scale']}` on {protocol['data']} (sha256 {protocol['sha256'][:12]}), "
        f"{len(settings['seeds'])} seeds; Termwise {versions['termwise']}, PyTorch {versions['torch']}."
    )
    rows = [
        [found["quantity"], _found(found), f"{line['p_holm']:.2g}", f"**{line['verdict']}**"]
        for found, line in zip(result.found.rows(), verdicts, strict=True)
    ]
    words = "\n".join(f"- {note}" for note in result.notes)
    parts = [
        [line["claim"], line["endpoint"], line["of"], _found(line | {"found": line["estimate"]}), line["verdict"]]
        for line in result.tables["endpoints"].rows()
    ]
    endpoints = _table(["claim", "endpoint", "of", "found", "verdict"], parts)
    return f"{made}\n\n{_table(['claim', 'found', 'p', 'verdict'], rows)}\n\n{words}\n\n{endpoints}"


def experiments(results: Sequence[Result]) -> Iterator[str]:
    """Of each what was expected, what was found, and what else there is to say."""
    for result in results:
        rows = [
            [line["quantity"], _found(line), line["expected"], line["verdict"]]
            for line in result.found.rows()
            if line["expected"]
        ]
        notes = "\n".join(f"- {note}" for note in result.notes)
        table = _table(["quantity", "found", "expected", "verdict"], rows)
        yield "\n\n".join([f"### {result.question} (`{result.name}`)", table, *([notes] if notes else [])])


def _found(line: dict[str, Any]) -> str:
    """A mean and its interval, to three digits."""
    value, low, high = (line[name] for name in ("found", "low", "high"))
    if value is None or not math.isfinite(value):
        return "not known"
    return f"{value:.3g}" + (f" [{low:.3g}, {high:.3g}]" if low is not None and math.isfinite(low) else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    main()
