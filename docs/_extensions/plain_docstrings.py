r"""Docstrings in Google's convention whose text is plain: a formula is set off by its indentation, and |x| is a norm.

reStructuredText would take the one for a quotation and the other for a substitution.  So napoleon turns the sections
into fields, and then each indented block becomes a literal one, and what looks like markup is escaped.
"""

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.domains.python import PyClasslike
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring

_NAPOLEON: Any = Config(napoleon_use_ivar=True, napoleon_use_rtype=False)
_CODE = re.compile(r"(``.+?``|`[^`]+`)")
_FIELD = re.compile(r"\s*(?::[\w ]+.*?:|\.\. )")
_ITEM = re.compile(r"\s*(?:- |\d\. )")
_SEVERAL = re.compile(r"(?<=:ivar )(\w+(?:, \w+)+)(?=:)")
_REFERENCE = re.compile(r"(?<=\w)_(?=[\s,.;:)]|$)")


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place."""
    # Of a property napoleon would take what stands before the first colon for its type.
    kind: Any = "method" if what in ("property", "attribute", "data") else what
    fields = GoogleDocstring(lines, _NAPOLEON, app, kind, name, obj, options).lines()
    # Sphinx would take all but the last of several names for the type of that one.
    lines[:] = _literal([_SEVERAL.sub(lambda found: found[0].replace(" ", ""), line) for line in fields])


def _literal(lines: list[str]) -> list[str]:
    """With indented blocks as literal ones, and the rest escaped."""
    out: list[str] = []
    edge = 0  # where the text of the current paragraph, or list item, begins
    block: int | None = None
    for before, line in zip(["", *lines], lines, strict=False):
        indent = len(line) - len(line.lstrip())
        if block is not None and (not line.strip() or indent >= block):
            out.append(line)
            continue
        block = None
        item, field = _ITEM.match(line), _FIELD.match(line)
        if line.strip() and not before.strip() and indent > edge and not item and not field:
            out += [" " * edge + "::", "", line]
            block = indent
            continue
        if item:
            edge = item.end()
        elif field:
            edge = len(line) + 80  # what belongs to a field is indented by as much as anybody likes
        elif line.strip():
            edge = indent
        out.append(line if line.lstrip().startswith(".. ") else _escaped(line))
    return out


def _escaped(line: str) -> str:
    pieces = _CODE.split(line)
    return "".join(p if i % 2 else _REFERENCE.sub(r"\\_", p.replace("|", r"\|")) for i, p in enumerate(pieces))


def sign(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None) -> Any:
    """Leave out a signature that a page writes as `()`: results are not made by their readers."""
    return ("", None) if what == "class" and signature == "()" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Take the place of `sphinx.ext.napoleon`."""
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", sign)
    for field in PyClasslike.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
