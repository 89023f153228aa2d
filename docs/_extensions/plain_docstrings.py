r"""Docstrings that are plain text, read as such: a formula is set off by its indentation, and |x| is a norm.

reStructuredText would take the one for a quotation and the other for a substitution.  After napoleon has turned
Google's sections into fields, each indented block becomes a literal one, and what looks like markup is escaped.
"""

import re
from typing import Any

from sphinx.application import Sphinx

_CODE = re.compile(r"(``.+?``|`[^`]+`(?:_{1,2})?)")
_FIELD = re.compile(r"\s*(?::[\w ]+.*?:|\.\. )")
_ITEM = re.compile(r"\s*(?:- |\d\. )")


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place."""
    out: list[str] = []
    edge = 0  # where text of the current paragraph, or list item, begins
    literal: int | None = None
    for i, line in enumerate(lines):
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if literal is not None and (not text or indent >= literal):
            out.append(line)
            continue
        literal = None
        after_gap = i > 0 and not lines[i - 1].strip()
        if text and after_gap and indent > edge and not _ITEM.match(line) and not _FIELD.match(line):
            out += [" " * edge + "::", ""]
            out.append(line)
            literal = indent
            continue
        if text:
            mark = _ITEM.match(line) or _FIELD.match(line)
            edge = indent if not mark else max(indent, _edge(line, mark))
        out.append(_escaped(line))
    lines[:] = out


def _edge(line: str, mark: re.Match[str]) -> int:
    """Where the text of a list item goes on; that of a field is indented by as much as anybody likes."""
    return mark.end() if _ITEM.match(line) else mark.end() + 80


def _escaped(line: str) -> str:
    if _FIELD.match(line) and line.lstrip().startswith(".. "):
        return line
    pieces = _CODE.split(line)
    return "".join(
        piece if i % 2 else re.sub(r"(?<=\w)_(?=[\s,.;:)]|$)", r"\\_", piece.replace("|", r"\|"))
        for i, piece in enumerate(pieces)
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Come after napoleon."""
    app.connect("autodoc-process-docstring", process, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
