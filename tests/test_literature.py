"""The literature: its facts agree with what the project cites, and reference managers can read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import rispy
import yaml
from bibtexparser.entrypoint import parse_string
from bibtexparser.middlewares import LatexDecodingMiddleware, NameParts, SeparateCoAuthors, SplitNameParts

from termwise.cli import main
from termwise.errors import UsageError
from termwise.experiments import NAMES
from termwise.literature import Work, cite, find, formats, pages, parts

ROOT = Path(__file__).parents[1]
TITLE = "Low-degree term first in ResNet, its variants and the whole neural network family"
TITLE_ZH = "低阶项优先于 ResNet 及其变体和整个神经网络家族"
# What a reader of either format takes each kind for.
TYPES = {
    "article": ("article", "JOUR"),
    "book": ("book", "BOOK"),
    "chapter": ("incollection", "CHAP"),
    "dataset": ("misc", "DATA"),
    "preprint": ("misc", "UNPB"),
    "proceedings": ("inproceedings", "CONF"),
    "report": ("techreport", "RPRT"),
    "software": ("software", "COMP"),
}
ODD = Work(
    key="odd2020",
    kind="article",
    title=r"50 % of A_b & {C} in $x^2$ ~ \n #1: an LSTM",
    relation={"en": "", "zh": ""},
    authors=("van der Maaten, Laurens", "Brown & Sons", "Göpel, Jürgen H.", "others"),
    year=2020,
    where="Science & Art",
    doi="10.1000/a_b(1)",
)


def read_bibtex(text: str) -> dict[str, dict[str, Any]]:
    """The fields of each entry, with LaTeX decoded and names taken apart."""
    steps = [SeparateCoAuthors(), LatexDecodingMiddleware(), SplitNameParts()]
    library = parse_string(text, append_middleware=steps)
    assert not library.failed_blocks
    return {entry.key: {"type": entry.entry_type} | {f.key: f.value for f in entry.fields} for entry in library.entries}


def spelled(name: NameParts) -> str:
    """As in the data; the name of a group is braced, so that nobody takes it apart."""
    family = " ".join((*name.von, *name.last))
    if name.first:
        return f"{family}, {' '.join(name.first)}"
    assert family == "others" or family[0] + family[-1] == "{}"
    return family.strip("{}").replace(r"\&", "&")  # what is braced is not decoded


@pytest.mark.parametrize("work", [*find(), ODD], ids=lambda work: work.key)
def test_bibtex_is_read_back(work: Work) -> None:
    entry = read_bibtex(formats.bibtex(work))[work.key]
    assert entry["type"] == TYPES[work.kind][0]
    assert entry["title"].replace("ˆ", "^") == work.title  # which of the two signs it is LaTeX does not say
    assert tuple(spelled(name) for name in entry.get("author", [])) == work.authors
    assert entry.get("doi", "") == work.doi
    assert entry.get("eprint", "") == work.arxiv
    assert entry.get("archiveprefix", "") == ("arXiv" if work.arxiv else "")
    assert entry.get("titleaddon", "") == work.title_zh
    assert entry.get("pages", "").replace("–", "-").replace("--", "-") == work.pages
    assert entry.get("year", "") == str(work.year or "")
    assert work.where in entry.values() or not work.where
    assert [entry.get("volume", ""), entry.get("number", "")] == [work.volume, work.number]


@pytest.mark.parametrize("work", [*find(), ODD], ids=lambda work: work.key)
def test_ris_is_read_back(work: Work) -> None:
    (entry,) = rispy.loads(formats.ris(work))
    assert (
        entry["type_of_reference"] == TYPES[work.kind][1]
        and entry["type_of_reference"] in rispy.TYPE_OF_REFERENCE_MAPPING
    )
    assert entry["id"] == work.key
    assert entry["title"] == work.title
    assert entry.get("translated_title", "") == work.title_zh
    assert tuple(entry.get("authors", ())) == tuple(name for name in work.authors if name != "others")
    assert entry.get("doi", "") == work.doi or entry["doi"] == f"10.48550/arXiv.{work.arxiv}"
    assert entry.get("accession_number", "") in (f"arXiv:{work.arxiv}", f"PMID:{work.pmid}", "")
    assert "-".join(filter(None, (entry.get("start_page"), entry.get("end_page")))) == work.pages
    assert entry.get("year", "") == str(work.year or "")
    assert work.where in (entry.get("secondary_title", ""), entry.get("publisher", ""))


def test_the_record_of_the_paper() -> None:
    """Typed here from the record itself, and not from the data."""
    entry = read_bibtex(cite(["sun2022"], "bibtex"))["sun2022"]
    assert [spelled(name) for name in entry.pop("author")] == ["Sun, T.", "Ding, S.", "Guo, L."]
    assert entry == {
        **{"type": "article", "title": TITLE, "titleaddon": TITLE_ZH, "journal": "Neural Networks", "year": "2022"},
        **{"volume": "148", "pages": "155–165", "doi": "10.1016/j.neunet.2022.01.012", "pmid": "35134597"},
    }
    assert cite(["sun2022"]) == (
        f"[sun2022] T. Sun, S. Ding, L. Guo. {TITLE} ({TITLE_ZH}). Neural Networks 148 (2022) 155-165. "
        "doi 10.1016/j.neunet.2022.01.012."
    )


def test_a_file_of_all_has_all() -> None:
    keys = [work.key for work in find()]
    assert list(read_bibtex(cite(form="bibtex"))) == keys
    assert [entry["id"] for entry in rispy.loads(cite(form="ris"))] == keys
    assert re.findall(r"^\[(\w+)\] ", cite(), re.MULTILINE) == keys


def test_acronyms_keep_their_capitals() -> None:
    """What a style may put into lower case stands outside of braces."""
    for key, expected in {
        "sun2022": ["ResNet"],
        "pulse2021": ["ResNet", "CycleGAN", "He-4"],
        "pancreas2023": ["RCNN", "CT-based"],
        "psfhsp2024": ["PSFHSP-Net"],
        "balasubramanian2024": ["ViTs", "CLIP"],
        "dong2021": [],
    }.items():
        title = re.findall(r"^  title = \{(.*)\},$", cite([key], "bibtex"), re.MULTILINE)[0]
        assert re.findall(r"\{(.*?)\}", title) == expected


def test_names_are_shortened() -> None:
    assert "Y. Dong, J.-B. Cordonnier, A. Loukas. Attention" in cite(["dong2021"])
    assert "G. Huang, Z. Liu, L. van der Maaten, K. Q. Weinberger. " in cite(["huang2016dense"])
    assert "C. Olsson et al. In-context" in cite(["olsson2022"])
    assert "Efficiently? 2025. arXiv 2505.13898." in cite(["csordas2025"])
    assert cite(["termwise"]).startswith("[termwise] The Termwise developers. Termwise. Version ")


def test_everything_that_the_project_cites_is_there() -> None:
    works = find()
    known = {work.arxiv for work in works}
    dois = {work.doi for work in works}
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]:
        words = path.read_text()
        assert set(re.findall(r"\b\d{4}\.\d{5}\b(?=\S*[\s).;,:\]])", words)) <= known, path.name
        assert {doi.rstrip(".") for doi in re.findall(r"\bdoi (10\.\d{4,}/[^\s;),\]]+)", words)} <= dois, path.name


def test_the_facts_are_whole() -> None:
    works = find()
    assert len({work.key for work in works}) == len(works)
    for work in works:
        assert work.title and work.relation.keys() == {"en", "zh"}
        assert (work.year is None) == (work.kind == "software")
        assert str(work.year or "") in work.key
        assert bool(work.arxiv) or work.kind != "preprint"
        assert not work.arxiv or re.fullmatch(r"\d{4}\.\d{4,5}", work.arxiv)
        assert not work.doi or re.fullmatch(r"10\.\d{4,}/\S+", work.doi)
        assert not any(
            value != value.strip() for value in (work.title, work.where, *work.authors, *work.relation.values())
        )
    for part in parts():
        assert part.heading.keys() == {"en", "zh"} and part.text.keys() in ({"en", "zh"}, set())


def test_experiments_that_are_named_exist() -> None:
    """Both languages name the same ones."""
    for work in find():
        named = {language: re.findall(r"`([a-z-]+)`", words) for language, words in work.relation.items()}
        assert named["en"] == named["zh"] and {*named["en"]} <= {*NAMES}, work.key


def test_chinese_is_set_as_chinese() -> None:
    """Full-width punctuation behind Chinese characters; every sentence ends."""
    for words in [work.relation["zh"] for work in find()] + [pages.page("zh")]:
        assert not re.search(r"[\u4e00-\u9fff][,;:?!]|[\u4e00-\u9fff]\.(\s|$)", words)
    assert all(work.relation["zh"].endswith("。") for work in find())


def test_the_citation_file_says_the_same() -> None:
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (reference,) = cff["references"]
    own, paper = find(["termwise", "sun2022"])
    assert (cff["title"], tuple(author["name"] for author in cff["authors"])) == (own.title, own.authors)
    assert cff["version"] == own.version
    authors = tuple(f"{each['family-names']}, {each['given-names']}" for each in reference["authors"])
    assert (reference["title"], authors, reference["journal"]) == (paper.title, paper.authors, paper.where)
    assert (str(reference["volume"]), reference["year"], reference["doi"]) == (paper.volume, paper.year, paper.doi)
    assert f"{reference['start']}-{reference['end']}" == paper.pages


@pytest.mark.parametrize("language", pages.NAMES)
def test_the_pages_are_made_of_the_facts(language: Any, tmp_path: Path) -> None:
    """Where they differ: `python -m termwise.literature.pages docs`."""
    pages.write(tmp_path)
    name = pages.NAMES[language]
    assert (ROOT / "docs" / name).read_text() == (tmp_path / name).read_text()


@pytest.mark.parametrize("language", pages.NAMES)
def test_a_page_has_every_work_and_its_links_lead_somewhere(language: Any) -> None:
    page = pages.page(language)
    for work in find():
        assert page.count(f"`{work.key}`\\\n") == 1 and work.title in page and work.relation[language] in page
        assert work.url in page
    for target in re.findall(r"\]\(([a-z.-]+\.md)\)", page):
        assert (ROOT / "docs" / target).exists()
    assert all(f"- H{number}" in page for number in range(1, 6))


def run(*arguments: str) -> int:
    """The exit code."""
    try:
        main(["cite", *arguments])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert re.findall(r"^\[(\w+)\]", capsys.readouterr().out, re.MULTILINE) == ["termwise", "sun2022"]
    assert run("veit2016", "dong2021", "--format", "bibtex") == 0
    assert list(read_bibtex(capsys.readouterr().out)) == ["veit2016", "dong2021"]
    assert run("--format", "ris") == 0
    assert [entry["title"] for entry in rispy.loads(capsys.readouterr().out)] == ["Termwise", TITLE]
    assert run("--all") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(find())


def test_what_the_command_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("viet2016") == 2
    assert "no work has the key 'viet2016'. Did you mean veit2016" in capsys.readouterr().err
    assert run("--all", "veit2016") == 2
    assert "--all has veit2016 in it" in capsys.readouterr().err
    assert run("--format", "html") == 2
    with pytest.raises(UsageError, match="termwise cite --all"):
        find(["x"])
