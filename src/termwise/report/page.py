r"""The page: `write_page` makes one offline HTML file from what a run directory records.

Security: every text is escaped (`markup`), `<` in the embedded JSON is written \u003c, and a content security
policy allows nothing but the page's own scripts and its own style sheet, by their hashes. Vega evaluates its
expressions with its interpreter, so no `eval` is needed; nothing is fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from termwise.records import write_atomically
from termwise.report import sections
from termwise.report.charts import Figure, column_name
from termwise.report.figures import build_figures
from termwise.report.markup import Html, element, escape, join
from termwise.report.reading import Run, read_run
from termwise.report.strings import ENGLISH, say
from termwise.report.tables import Tables, build_tables

SCRIPTS = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js")
LICENCES = ("vega.LICENSE", "vega-lite.LICENSE", "vega-embed.LICENSE", "third-party.LICENSES")
REPORT = "report.html"


def write_page(directory: Path | str, destination: Path | None = None) -> Path:
    """Write the report of a run directory, whole or not at all, and return where it is.

    Args:
        directory: a run directory; only its `summary.json` and `tables/*.parquet` are read.
        destination: the file to write; by default `report.html` in the run directory.

    Raises:
        RecordError: a file of the run is missing, corrupt, of a newer version, or does not fit the others.
    """
    directory = Path(directory)
    target = Path(destination) if destination is not None else directory / REPORT
    page = render(read_run(directory)).encode()
    return write_atomically(target, lambda file: file.write(page))


def render(run: Run) -> str:
    """The page of a run, as HTML."""
    tables = build_tables(run)
    figures = build_figures(run, tables)
    names = [network.name for network in run.summary.networks]
    style = _asset("page.css")
    scripts = [*(_asset("vendor", name) for name in SCRIPTS), _asset("page.js")]
    return Template(_asset("template.html")).substitute(
        language=say("language"),
        policy=escape(_policy(scripts, style)),
        title=escape(f"{run.summary.name} · Termwise"),
        style=style,
        eyebrow=escape(say("eyebrow")),
        name=escape(run.summary.name),
        verdict=sections.unbroken(run.summary.verdict, names),
        closure=sections.closure(run),
        noscript=escape(say("noscript")),
        figures=join([sections.figure(figure, tables, names) for figure in figures]),
        networks=sections.networks(run),
        meaning=sections.meaning(run),
        methods=sections.methods(run, tables),
        licences=sections.licences([_asset("vendor", name) for name in LICENCES]),
        payload=_embed(_payload(run, tables, figures)),
        scripts=join([element("script", Html(script)) for script in scripts]),
    )


def _payload(run: Run, tables: Tables, figures: list[Figure]) -> dict[str, Any]:
    """Everything that the page's script needs: the tables once, and the figures that share them."""
    columns = {column: column_name(column) for figure in figures for column in figure.columns}
    shown = {
        figure.slug: {
            "panels": [panel.spec for panel in figure.panels],
            "source": figure.source,
            "columns": figure.columns,
            "where": figure.where,
        }
        for figure in figures
    }
    return {
        "language": say("language"),
        "networks": [network.name for network in run.summary.networks],
        "steps": tables.axis.steps,
        "tables": tables.embedded(),
        "figures": shown,
        "strings": {"columns": columns, "failed": ENGLISH["failed"], "step": ENGLISH["control.step.value"]},
    }


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
