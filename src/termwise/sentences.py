"""Sentences whose numbers are kept apart, so that a saved result can be read in another language than its own."""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Mapping
from typing import Any

_FORMAT = re.compile(r"[+,]*(\.\d\d?)?[defg%]?")


@dataclasses.dataclass(frozen=True)
class Sentence:
    """An English sentence, as a template and what is put into it; `str()` says it.

    Attributes:
        template: in Python's format language, its fields by name: "{share:.1%} of the paths".
        values: numbers and names for the fields.

    Raises:
        ValueError: when a field is more than a name and a number of digits (a template may come from a file, and
            Python's formats can reach into objects or pad to any length), or does not fit its value.
    """

    template: str
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be said."""
        try:
            for _, name, form, conversion in string.Formatter().parse(self.template):
                if name is not None and (not name.isidentifier() or conversion or not _FORMAT.fullmatch(form or "")):
                    raise ValueError(f"{{{name}}} is no plain field")
            str(self)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ValueError(f"{self.template!r} does not fit its values: {error!r}") from error

    def __str__(self) -> str:
        """The sentence in English."""
        return self.template.format(**self.values)


def say(template: str, **values: Any) -> Sentence:
    """A sentence, with the values of its fields as keywords."""
    return Sentence(template, values)
