"""Run the Python blocks of pages, and compare what they print with the `text` block that follows each.

python docs/outputs.py docs/start.md            says what differs
python docs/outputs.py --write docs/start.md    puts what is printed into the page

The blocks of a page are run in their order, as one program, on one thread.  What they print hangs on the machine in the
last digits, and after a training in more than these: `alike` compares all but the numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import torch

_BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```\n(?:\n\1```text\n(.*?)^\1```\n)?", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[-+±]?\d[\d.,]*(?:e[-+]\d+)?%?|(?<=\s)-(?=\s)")
_BARS = re.compile("[▏▎▍▌▋▊▉█]+")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code, and what the page says that it prints (None: nothing is shown).

    Attributes:
        code: without the indentation of the page.
        shown: likewise.
        found: what it really prints, without spaces at the ends of lines.
        span: of `shown` in the page.
        indent: of both in the page.
    """

    code: str
    shown: str | None
    found: str
    span: tuple[int, int]
    indent: str


def run(page: Path) -> Iterator[Block]:
    """Run the blocks of a page, one after the other, in one namespace."""
    names: dict[str, object] = {"__name__": page.stem}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
                indent, code, shown = match.groups()
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(textwrap.dedent(code), str(page), "exec", dont_inherit=True), names)
                known = None if shown is None else textwrap.dedent(shown)
                found = "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())
                yield Block(textwrap.dedent(code), known, found, match.span(3), indent)
    finally:
        torch.set_num_threads(threads)


def alike(shown: str, found: str) -> bool:
    """Whether two printed texts are the same but for their numbers, and the bars and gaps that follow these."""
    return _words(shown) == _words(found)


def _words(text: str) -> list[str]:
    return _NUMBER.sub("#", _BARS.sub("", text)).split()


def write(page: Path) -> None:
    """Put what the blocks of a page print into it."""
    text = page.read_text(encoding="utf-8")
    for block in reversed([block for block in run(page) if block.shown is not None]):
        start, end = block.span
        text = text[:start] + textwrap.indent(block.found, block.indent) + text[end:]
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Check, or write, the pages that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="put what is printed into the pages")
    given = parser.parse_args()
    differ = 0
    for page in given.pages:
        if given.write:
            write(page)
            continue
        for block in run(page):
            if block.found != (block.shown or ""):
                differ += 1
                print(f"{page}: after\n{block.code}\nprinted:\n{block.found}")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
