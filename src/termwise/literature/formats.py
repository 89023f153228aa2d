"""Works as text, as BibTeX and as RIS.

BibTeX is UTF-8, with `eprint` and `archiveprefix` for arXiv and `titleaddon` (of biblatex) for a title in Chinese.
Words that a bibliography style must not put into lower case are braced.  RIS has the title in Chinese as TT, the
"translated title"; there the DOI of a work that arXiv alone has is the one that arXiv gives it, 10.48550/arXiv.NUMBER.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from termwise.literature.works import Kind, Work, find

Format = Literal["text", "bibtex", "ris"]

# Of each kind: the type in BibTeX and the field for `where`; the type in RIS and the tag for `where`.
KINDS: dict[Kind, tuple[str, str, str, str]] = {
    "article": ("article", "journal", "JOUR", "T2"),
    "book": ("book", "publisher", "BOOK", "PB"),
    "chapter": ("incollection", "booktitle", "CHAP", "T2"),
    "dataset": ("misc", "publisher", "DATA", "PB"),
    "preprint": ("misc", "", "UNPB", ""),
    "proceedings": ("inproceedings", "booktitle", "CONF", "T2"),
    "report": ("techreport", "institution", "RPRT", "PB"),
    "software": ("software", "", "COMP", ""),
}
_SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def cite(keys: Sequence[str] | None = None, form: Format = "text") -> str:
    """Works as they are cited; all of them where no keys are given.

    Args:
        keys: of the works, in the order in which they are wanted.
        form: "text" to read, "bibtex" or "ris" for a reference manager.

    Raises:
        UsageError: when no work has one of the keys.
    """
    return "\n".join(FORMATS[form](work) for work in find(keys))


def text(work: Work) -> str:
    """A line to read, with the key in front."""
    links = (f"doi {work.doi}" if work.doi else "", f"arXiv {work.arxiv}" if work.arxiv else "")
    return f"[{work.key}] {reference(work, links)}"


def reference(work: Work, links: Sequence[str], emphasis: str = "") -> str:
    """Who, what, where and when, then the links; `emphasis` stands around the title."""
    names = ", ".join(_short(name) for name in work.authors if name != "others")
    title = f"{emphasis}{work.title}{emphasis}" + (f" ({work.title_zh})" if work.title_zh else "")
    issue = work.volume + (f"({work.number})" if work.number else "")
    year = "" if work.year is None else f"({work.year})" if work.where else str(work.year)
    sentences = (
        names + (" et al." if "others" in work.authors else ""),
        title,
        " ".join(filter(None, (work.where, issue, year, work.pages))),
        f"Version {work.version}" if work.version else "",
        *links,
    )
    return " ".join(each if each.strip("*")[-1] in ".?" else f"{each}." for each in sentences if each)


def _short(name: str) -> str:
    """T. Sun of "Sun, Tongfeng"; J.-B. Cordonnier of "Cordonnier, Jean-Baptiste"."""
    family, _, given = name.partition(", ")
    initials = [re.sub(r"(\w)[\w.]*", r"\1.", each) for each in given.split()]
    return " ".join((*initials, family))


def bibtex(work: Work) -> str:
    """An entry of BibTeX and biblatex."""
    kind, place, _, _ = KINDS[work.kind]
    fields = {
        "author": " and ".join(_bibtex_name(name) for name in work.authors),
        "title": re.sub(r"[\w-]+", _protected, _escaped(work.title)),
        "titleaddon": work.title_zh,
        place: _escaped(work.where),
        "year": str(work.year or ""),
        "volume": work.volume,
        "number": work.number,
        "pages": work.pages.replace("-", "--"),
        "version": work.version,
        "doi": work.doi,
        "eprint": work.arxiv,
        "archiveprefix": "arXiv" if work.arxiv else "",
        "pmid": work.pmid,
    }
    lines = (f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
    return f"@{kind}{{{work.key},\n{''.join(lines)}}}\n"


def _bibtex_name(name: str) -> str:
    """The name of a group is braced, so that it is not taken apart."""
    return name if "," in name or name == "others" else f"{{{_escaped(name)}}}"


def _protected(word: re.Match[str]) -> str:
    """Braces around what must keep its capitals, such as ResNets, CT-based, COVID-19 and He-4."""
    inside = any(part[1:] != part[1:].lower() for part in word[0].split("-"))
    numbered = word[0] != word[0].lower() and re.search(r"\d", word[0])
    return f"{{{word[0]}}}" if inside or numbered else word[0]


def _escaped(words: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in words)


def ris(work: Work) -> str:
    """A record of RIS: a tag, two spaces, a hyphen and the value on each line."""
    return "".join(f"{tag}  - {value}\n" for tag, value in _ris_lines(work) if value or tag == "ER")


def _ris_lines(work: Work) -> Iterator[tuple[str, str]]:
    _, _, kind, place = KINDS[work.kind]
    first, _, last = work.pages.partition("-")
    yield "TY", kind
    yield "ID", work.key
    yield from (("AU", name) for name in work.authors if name != "others")
    yield "TI", work.title
    yield "TT", work.title_zh
    yield place, work.where
    yield "PY", str(work.year or "")
    yield "VL", work.volume
    yield "IS", work.number
    yield "SP", first
    yield "EP", last
    yield "ET", work.version
    if work.arxiv:
        yield "AN", f"arXiv:{work.arxiv}"
    if work.pmid:
        yield "AN", f"PMID:{work.pmid}"
    yield "DO", work.doi or (f"10.48550/arXiv.{work.arxiv}" if work.arxiv else "")
    yield "UR", work.url
    yield "ER", ""


FORMATS = {"text": text, "bibtex": bibtex, "ris": ris}
