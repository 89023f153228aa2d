r"""The page: `write_page` makes one offline HTML file of what a run records, or of what experiments found.

Security: every text is escaped (`markup`), `<` in the embedded JSON is written \u003c, and a content security
policy allows nothing but the page's own scripts and its own style sheet, by their hashes. Vega evaluates its
expressions with its interpreter, so no `eval` is needed; nothing is fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from termwise.errors import RecordError
from termwise.records import write_atomically
from termwise.report import sections
from termwise.report.charts import Figure, Shown, column_name
from termwise.report.experiments import experiments_page
from termwise.report.figures import build_figures
from termwise.report.markup import Html, element, escape, join, slug
from termwise.report.reading import Run, read_run
from termwise.report.results import Study, has_results, read_results
from termwise.report.strings import say, sentences
from termwise.report.tables import Columns, build_tables

SCRIPTS = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js")
LICENCES = ("vega.LICENSE", "vega-lite.LICENSE", "vega-embed.LICENSE", "third-party.LICENSES")
REPORT = "report.html"


@dataclass(frozen=True)
class _Contents:
    """What is between the page's frame and its scripts."""

    title: str
    eyebrow: str
    name: str
    verdict: Html
    head: Html
    main: Html
    methods: Html
    payload: dict[str, Any]


def write_page(directory: Path | str, destination: Path | None = None) -> Path:
    """Write the report of a run, or of experiments, whole or not at all, and return where it is.

    Args:
        directory: of a run, of which only `summary.json` and `tables/*.parquet` are read; or one that holds saved
            results of experiments, or one such file.
        destination: the file to write; by default `report.html` in the directory, or beside the one file under its
            name.

    Raises:
        RecordError: a file is missing, corrupt, of a newer version, or does not fit the others.
    """
    place = Path(directory)
    default = place.with_suffix(".html") if place.is_file() else place / REPORT
    page = _document(_contents(place)).encode()
    return write_atomically(default if destination is None else Path(destination), lambda file: file.write(page))


def _contents(place: Path) -> _Contents:
    if (place / "summary.json").exists():
        return _of_run(read_run(place))
    if place.is_file() or has_results(place):
        return _of_experiments(read_results(place))
    raise RecordError(
        f"{place}: there is neither a finished run (summary.json) nor the result of an experiment (NAME.termwise) in "
        "it. Give the directory of `termwise train` or of `termwise experiment NAME --directory DIR`."
    )


def _document(contents: _Contents) -> str:
    """The page, as HTML."""
    style = _asset("page.css")
    scripts = [*(_asset("vendor", name) for name in SCRIPTS), _asset("page.js")]
    return Template(_asset("template.html")).substitute(
        language=say("language"),
        policy=escape(_policy(scripts, style)),
        title=escape(f"{contents.title} · Termwise"),
        style=style,
        eyebrow=escape(contents.eyebrow),
        name=escape(contents.name),
        verdict=contents.verdict,
        head=contents.head,
        noscript=escape(say("noscript")),
        main=contents.main,
        methods=contents.methods,
        licences=sections.licences([_asset("vendor", name) for name in LICENCES]),
        payload=_embed(contents.payload),
        scripts=join([element("script", Html(script)) for script in scripts]),
    )


def _of_run(run: Run) -> _Contents:
    tables = build_tables(run)
    figures = build_figures(run, tables)
    names = [network.name for network in run.summary.networks]
    drawn = [sections.figure(figure, names, tables.axis.steps) for figure in figures]
    columns = {column: column_name(column) for figure in figures for shown in figure.shown for column in shown.columns}
    payload = {
        "networks": names,
        "steps": tables.axis.steps,
        **_payload(tables.embedded(), _figures(figures), columns),
    }
    return _Contents(
        title=run.summary.name,
        eyebrow=say("eyebrow"),
        name=run.summary.name,
        verdict=sections.unbroken(run.summary.verdict, names),
        head=sections.closure(run),
        main=join([*drawn, sections.networks(run), sections.meaning(run)]),
        methods=sections.methods(run, tables),
        payload=payload,
    )


def _of_experiments(studies: Sequence[Study]) -> _Contents:
    page = experiments_page(studies)
    claims = {"claims": {"panels": [], "tables": [_table("claims", page.found, "")]}}
    embedded = page.embedded
    payload = _payload(embedded.tables, claims | _figures(page.figures), embedded.headings)
    return _Contents(
        title=page.title,
        eyebrow=page.eyebrow,
        name=page.title,
        verdict=escape(page.verdict),
        head=page.head(),
        main=page.main(),
        methods=Html(""),
        payload={**payload, "names": embedded.names},
    )


def _payload(tables: Mapping[str, Columns], figures: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the page's script needs: the tables once, and the figures that share them."""
    strings = {"columns": columns, "failed": sentences()["failed"], "step": sentences()["control.step.value"]}
    return {"language": say("language"), "tables": tables, "figures": figures, "strings": strings}


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


def _embed(value: object) -> Html:
    """JSON that no HTML parser can mistake for markup: without `<`, hence without `</script` and `<!--`."""
    return Html(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def _policy(scripts: list[str], style: str) -> str:
    """Nothing but these scripts and this style sheet: no connection, frame, form, plug-in or other base."""
    allowed = " ".join(_hash(script) for script in scripts)
    own = f"script-src {allowed}; style-src {_hash(style)}"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(*path: str) -> str:
    # Read as bytes: the hash of a script holds only while no line ending is translated.
    return files("termwise.report").joinpath(*path).read_bytes().decode()
