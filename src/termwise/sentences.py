"""Sentences whose numbers are kept apart, so that a saved result can be read in another language than its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sentence:
    """An English sentence, as a template and what is put into it; `str()` says it.

    Attributes:
        template: in Python's format language, its fields by name: "{share:.1%} of the paths".
        values: numbers and names for the fields.
    """

    template: str
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """The sentence in English."""
        return self.template.format(**self.values)


def say(template: str, **values: Any) -> Sentence:
    """A sentence, with the values of its fields as keywords."""
    return Sentence(template, values)
