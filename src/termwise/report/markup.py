"""HTML in which text is escaped unless it says that it is markup.

`element("td", name)` escapes `name`; only an `Html` passes as it is.
"""

from __future__ import annotations

import html
import re


class Html(str):
    """A string that is markup already."""

    __slots__ = ()


VOID = frozenset({"br", "hr", "input", "circle", "line", "rect"})


def escape(value: object) -> Html:
    """`value` as markup: an `Html` as it is, anything else as text with `& < > " '` escaped."""
    return value if isinstance(value, Html) else Html(html.escape(str(value), quote=True))


def join(parts: list[Html], separator: str = "\n") -> Html:
    """Pieces of markup, one after the other."""
    return Html(separator.join(parts))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """One element.

    Attributes: a trailing underscore is dropped, inner ones become hyphens; None is left out, True is bare.
    """
    words = [tag]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words.append(f'{name}="{escape(value)}"')
    opening = f"<{' '.join(words)}>"
    if tag in VOID:
        # Closed with a slash: inside SVG nothing closes by itself.
        return Html(f"{opening[:-1]}/>")
    return Html(f"{opening}{''.join(escape(child) for child in children)}</{tag}>")


def slug(name: str) -> str:
    """A name as an id and as a part of a file's name: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "figure"
