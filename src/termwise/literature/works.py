"""The works by part, as `works.toml` has them."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Literal

import msgspec

from termwise.errors import UsageError

Kind = Literal["article", "book", "chapter", "dataset", "preprint", "proceedings", "report", "software"]
Language = Literal["en", "zh"]


class Work(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One work; whatever is not known for certain is empty.

    Attributes:
        key: its name here, and in the files of a reference manager.
        kind: what it is.
        title: in English.
        relation: to Termwise, a sentence in each language.
        summary: what it says and what Termwise does with it, in Markdown; of the paper alone.
        title_zh: the title in Chinese, where it has one.
        authors: each "Family, Given", or the name of a group without a comma; "others" for those not named.
        year: of publication; of a preprint, of its first version.
        where: the journal, proceedings or book that it is in; the publisher or institution of what stands alone.
        volume: of the journal or of the proceedings.
        number: of the issue.
        pages: "155-165", or the number of the article.
        doi: without an address in front.
        arxiv: the number on arXiv.
        pmid: the number in PubMed.
    """

    key: str
    kind: Kind
    title: str
    relation: dict[Language, str]
    summary: dict[Language, str] = {}
    title_zh: str = ""
    authors: tuple[str, ...] = ()
    year: int | None = None
    where: str = ""
    volume: str = ""
    number: str = ""
    pages: str = ""
    doi: str = ""
    arxiv: str = ""
    pmid: str = ""

    @property
    def version(self) -> str:
        """Of Termwise itself, as it is installed; nothing else here has one."""
        return version(self.key) if self.kind == "software" else ""

    @property
    def url(self) -> str:
        """Where it can be found; empty where that is not known."""
        if self.doi:
            return f"https://doi.org/{self.doi}"
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Works that belong together: a heading, what is said of them all (in Markdown), and the works."""

    heading: dict[Language, str]
    text: dict[Language, str] = {}
    work: tuple[Work, ...]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    part: tuple[Part, ...]


@functools.cache
def parts() -> tuple[Part, ...]:
    """All parts, in the order of the pages."""
    return msgspec.toml.decode(files("termwise.literature").joinpath("works.toml").read_bytes(), type=_File).part


def find(keys: Sequence[str] | None = None) -> tuple[Work, ...]:
    """The works of these keys, in their order; all of them where no keys are given.

    Raises:
        UsageError: when no work has one of the keys.
    """
    works = {work.key: work for part in parts() for work in part.work}
    if keys is None:
        return tuple(works.values())
    for key in keys:
        if key not in works:
            near = difflib.get_close_matches(key, works)
            hint = f"Did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(f"cite: no work has the key {key!r}. {hint}`termwise cite --all` lists them all.")
    return tuple(works[key] for key in keys)
