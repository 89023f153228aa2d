r"""The page: `write_page` makes one offline HTML file of what a run records, or of what experiments found.

It says everything in every language, of which one is shown, and carries every table once.

Security: every text is escaped (`markup`), `<` in the embedded JSON is written \u003c, and a content security
policy allows nothing but the page's own scripts and its own style sheet, by their hashes. Vega evaluates its
expressions with its interpreter, so no `eval` is needed; nothing is fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from termwise.errors import UsageError
from termwise.records import write_atomically
from termwise.report import sections
from termwise.report.charts import Figure, Shown, column_name
from termwise.report.comparison import compared, merged, notices, read_runs
from termwise.report.conclusion import conclusion
from termwise.report.experiments import experiments_page
from termwise.report.figures import build_figures
from termwise.report.markup import Html, element, escape, join, slug
from termwise.report.reading import Columns, Run
from termwise.report.results import Study, read_saved
from termwise.report.strings import LANGUAGES, listing, saved_in, say, sentences, speaking
from termwise.report.tables import build_tables

VENDORED = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js")
LICENCES = ("vega.LICENSE", "vega-lite.LICENSE", "vega-embed.LICENSE", "third-party.LICENSES")
REPORT = "report.html"
SCRIPT = ("failed", "step", "depth", "keys.depth", "keys.step", "keys.both", "licences")  # what the page's script says
SWITCH = "Language, 语言"


@dataclass(frozen=True)
class _Contents:
    """What the page says in one language, and the figures that its script draws there."""

    title: str
    eyebrow: str
    name: str | Html
    verdict: Html
    head: Html
    main: Html
    methods: Html
    figures: dict[str, Any]
    columns: Mapping[str, str]


class _Head(NamedTuple):
    """The first words of a page of networks: what it is, its verdict and its language, what else must be known."""

    eyebrow: str
    verdict: str
    notices: list[str]
    lang: str | None = None


def write_page(directory: Path | str, destination: Path | None = None, *, language: str = "en") -> Path:
    """Write the report of a run, or of experiments, whole or not at all, and return where it is.

    Args:
        directory: of a run, of which only `summary.json` and `tables/*.parquet` are read; or one that holds saved
            results of experiments, or one such file.
        destination: the file to write; by default `report.html` in the directory, or beside the one file under its
            name.
        language: that the page opens in, "en" or "zh"; it has both, and a switch.

    Raises:
        RecordError: a file is missing, corrupt, of a newer version, or does not fit the others.
        UsageError: the page has no such language.
    """
    place = Path(directory)
    default = place.with_suffix(".html") if place.is_file() else place / REPORT
    page = _page(place, language).encode()
    return write_atomically(default if destination is None else Path(destination), lambda file: file.write(page))


def write_comparison(directories: Sequence[Path | str], destination: Path | str, *, language: str = "en") -> Path:
    """Write the page of several runs, all of their networks side by side, whole or not at all; return where it is.

    Args:
        directories: of two runs or more.
        destination: the file to write.
        language: that the page opens in, "en" or "zh".

    Raises:
        RecordError: a run cannot be read, or two of them do not measure the same thing.
        UsageError: these are not two runs, or the page has no such language.
    """
    page = _of_runs(read_runs(directories), language).encode()
    return write_atomically(Path(destination), lambda file: file.write(page))


def _page(place: Path, language: str) -> str:
    found = read_saved(place)
    return _of_run(found, language) if isinstance(found, Run) else _of_experiments(found, language)


def _of_run(run: Run, language: str) -> str:
    def head() -> _Head:
        lang = saved_in() if run.summary.finding is None else None
        return _Head(say("eyebrow"), conclusion(run.summary), [], lang)

    return _of_networks(run, [run], head, language)


def _of_runs(runs: Sequence[Run], language: str) -> str:
    whole = merged(runs)

    def head() -> _Head:
        return _Head(say("compare.eyebrow", count=len(runs)), compared(runs, whole), notices(runs, whole))

    return _of_networks(whole, runs, head, language)


def _of_networks(whole: Run, runs: Sequence[Run], head: Callable[[], _Head], language: str) -> str:
    """The page of networks that were recorded in one run, or in several that are one as a whole."""
    tables = build_tables(whole)
    names = [network.name for network in whole.summary.networks]
    shared = {"networks": names, "steps": tables.axis.steps, "tables": tables.embedded()}

    def contents() -> _Contents:
        figures = build_figures(whole, tables)
        drawn = [sections.figure(figure, names, tables.axis.steps) for figure in figures]
        columns = {name: column_name(name) for figure in figures for shown in figure.shown for name in shown.columns}
        first = head()
        told = [element("p", notice, class_="notice") for notice in first.notices]
        name = listing(list(dict.fromkeys(run.summary.name for run in runs)))
        return _Contents(
            title=name,
            eyebrow=first.eyebrow,
            name=name,
            verdict=element("span", sections.verdict(first.verdict, names), lang=first.lang),
            head=join([*told, sections.numbers(whole), sections.closure(whole)]),
            main=join([*drawn, sections.networks(whole), sections.meaning(whole, several=len(runs) > 1)]),
            methods=sections.methods(runs),
            figures=_figures(figures),
            columns=columns,
        )

    return _document(contents, shared, language, unit=whole.summary.unit)


def _of_experiments(studies: Sequence[Study], language: str) -> str:
    embedded = experiments_page(studies).embedded
    shared = {"tables": embedded.tables, "names": embedded.names}

    def contents() -> _Contents:
        page = experiments_page(studies)
        claims = {"claims": {"panels": [], "tables": [_table("claims", page.found, "")]}}
        return _Contents(
            title=page.title,
            eyebrow=page.eyebrow,
            name=page.name,
            verdict=escape(page.verdict),
            head=page.head(),
            main=page.main(),
            methods=Html(""),
            figures=claims | _figures(page.figures),
            columns=page.embedded.headings,
        )

    return _document(contents, shared, language)


def _document(
    contents: Callable[[], _Contents], shared: Mapping[str, Any], language: str, *, unit: str = "layers"
) -> str:
    """The page, as HTML: everything in every language, one of them shown; the tables once.

    Raises:
        UsageError: the page has no such language.
    """
    if language not in LANGUAGES:
        raise UsageError(f"language {language!r}: the page has {', '.join(LANGUAGES)}.")
    said = {each: _in(each, unit, contents) for each in LANGUAGES}
    drawn, bodies, switch = {}, {}, []
    for each, own in said.items():
        with speaking(each):
            bodies[each] = _body(own)
            strings = {name: sentences()[f"script.{name}"] for name in SCRIPT}
            drawn[each] = {
                "title": f"{own.title} · Termwise",
                "figures": own.figures,
                "columns": own.columns,
                "strings": strings,
            }
            words = {"lang": each, "data_language": each, "aria_pressed": str(each == language).lower()}
            switch.append(element("button", say("language.name"), type_="button", **words))
    style, licences = _asset("page.css"), [_asset("vendor", name) for name in LICENCES]
    scripts = [*(_asset("vendor", name) for name in VENDORED), _asset("page.js")]
    return Template(_asset("template.html")).substitute(
        language=language,
        policy=escape(_policy(scripts, style)),
        title=escape(drawn[language]["title"]),
        style=style,
        # Without the script there is nothing that could switch.
        switch=element("nav", *switch, class_="languages", aria_label=SWITCH, hidden=True),
        shown=element("div", bodies.pop(language), id_="page"),
        # Of what is in a template nothing is there until the script takes it: no id is there twice.
        others=join([element("template", body, lang=each) for each, body in bodies.items()]),
        licences=sections.licences(drawn[language]["strings"]["licences"], licences),
        payload=_embed({**shared, "tables": _packed(shared["tables"]), "languages": drawn}),
        scripts=join([element("script", Html(script)) for script in scripts]),
    )


def _in(language: str, unit: str, contents: Callable[[], _Contents]) -> _Contents:
    with speaking(language, unit=unit):
        return contents()


def _body(said: _Contents) -> Html:
    """All that the page says in one language."""
    header = element(
        "header",
        element("p", said.eyebrow, class_="eyebrow"),
        element("h1", said.name),
        element("p", said.verdict, class_="verdict"),
        said.head,
    )
    notice = element("noscript", element("p", say("noscript"), class_="notice"))
    footer = element("footer", said.methods) if said.methods else Html("")
    main = element("main", notice, said.main)
    return join([header, main, footer])


def _figures(figures: Sequence[Figure]) -> dict[str, Any]:
    found = {}
    for figure in figures:
        several = len(figure.shown) > 1
        tables = [_table(figure.slug, each, f"-{slug(each.name)}" if several else "") for each in figure.shown]
        found[figure.slug] = {"panels": [panel.spec for panel in figure.panels], "tables": tables}
    return found


def _table(name: str, shown: Shown, suffix: str) -> dict[str, Any]:
    file = f"termwise-{name}{suffix}.csv"
    return {"source": shown.source, "columns": shown.columns, "where": shown.where, "file": file}


def _packed(tables: Mapping[str, Columns]) -> dict[str, dict[str, Any]]:
    """Columns in which values stand many times in a row as runs, (value, how often): a third of a large table."""
    packed: dict[str, dict[str, Any]] = {}
    for name, columns in tables.items():
        packed[name] = {}
        for key, values in columns.items():
            runs = [(value, len(list(group))) for value, group in groupby(values)]
            packed[name][key] = {"runs": runs} if 4 * len(runs) < len(values) else values
    return packed


def _embed(value: object) -> Html:
    """JSON that no HTML parser can mistake for markup: without `<`, hence without `</script` and `<!--`."""
    return Html(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def _policy(scripts: list[str], style: str) -> str:
    """Nothing but these scripts and this style sheet: no connection, frame, form, plug-in or other base."""
    allowed = " ".join(_hash(script) for script in scripts)
    own = f"script-src {allowed}; style-src {_hash(style)}"
    # A picture is drawn for its download from a blob that the page's own script has made.
    return f"default-src 'none'; {own}; img-src blob:; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(*path: str) -> str:
    # Read as bytes: the hash of a script holds only while no line ending is translated.
    return files("termwise.report").joinpath(*path).read_bytes().decode()
