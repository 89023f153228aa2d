"""The page's static parts, readable without scripts: closure, frames of figures, networks, methods."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from termwise.credit import CONVERGED
from termwise.expand import CLOSURE
from termwise.records import NetworkSummary, RunSummary
from termwise.report.charts import Figure, Panel
from termwise.report.intervals import MANY
from termwise.report.markup import Html, element, escape, join
from termwise.report.palette import stops
from termwise.report.reading import Run
from termwise.report.strings import (
    accuracy,
    fixed,
    integer,
    listing,
    number,
    percent,
    saved_in,
    say,
    seconds,
    sentences,
    word,
)

TOLERANCE = CLOSURE[torch.float32]
SCALE = (-9.0, -3.0)  # the closure bar's ends, powers of ten


def closure(run: Run) -> Html:
    """The closure bar: one sentence, every network's worst closure on a logarithmic scale, the limit."""
    worst = max(network.closure for network in run.summary.networks)
    good = worst <= TOLERANCE
    names = [network.name for network in run.summary.networks]
    limit = number(TOLERANCE)
    told = {"count": len(names)} if len(names) > MANY else {"networks": listing(names)}
    note = say("closure.note.many" if len(names) > MANY else "closure.note", tolerance=limit, **told)
    values = listing([f"{network.name} {number(network.closure)}" for network in run.summary.networks])
    return element(
        "div",
        element("p", say("closure.good" if good else "closure.bad", closure=number(worst)), class_="says"),
        _gauge(
            run,
            say("closure.label", values=values, tolerance=limit),
            say("closure.tolerance", tolerance=limit),
        ),
        element("p", note, class_="note"),
        class_="closure" if good else "closure bad",
    )


def _gauge(run: Run, label: str, limit: str) -> Html:
    def place(value: float) -> str:
        low, high = SCALE
        power = min(max(math.log10(value), low), high) if value > 0 else low
        return f"{1 + 98 * (power - low) / (high - low):.1f}%"

    edge = place(TOLERANCE)
    parts = [
        element("line", x1="1%", x2="99%", y1=14, y2=14, class_="track"),
        element("line", x1="1%", x2=edge, y1=14, y2=14, class_="within"),
        element("line", x1=edge, x2=edge, y1=6, y2=22, class_="limit"),
        element("text", limit, x=edge, y=36, text_anchor="middle"),
        element("text", f"1e{SCALE[0]:.0f}", x="0%", y=36, text_anchor="start"),
        element("text", f"1e{SCALE[1]:.0f}", x="100%", y=36, text_anchor="end"),
    ]
    for network in run.summary.networks:
        title = element("title", say("plot.alt.series", name=network.name, words=number(network.closure)))
        parts.append(element("g", title, element("circle", cx=place(network.closure), cy=14, r=6, class_="dot")))
    return element("svg", *parts, height=40, role="img", aria_label=label)


def verdict(text: str, names: Sequence[str]) -> Html:
    """The sentence that a page begins with: its intervals are there, and do not stand in the way."""
    interval = r"\[[-−.,\d ]+\]"  # numbers alone: what else is in brackets may be markup
    return Html(re.sub(interval, lambda found: element("small", Html(found[0])), unbroken(text, names)))


def numbers(run: Run) -> Html:
    """The three numbers of each network: how long its paths are, from which depth on it is itself, how good it is."""
    networks = run.summary.networks
    if len(networks) > MANY:
        return Html("")

    def each(value: Callable[[NetworkSummary], str | Html]) -> Html:
        shown = [element("dd", element("strong", value(n)), *_whose(n, networks)) for n in networks]
        return join(shown)

    entries = [
        ("numbers.mean", each(lambda n: say("numbers.of", value=fixed(n.mean_depth[1], 1), most=n.longest))),
        ("numbers.effective", each(_effective_of)),
        ("numbers.accuracy", each(lambda n: accuracy(n.accuracy))),
    ]
    return element("dl", *(element("div", element("dt", say(key)), shown) for key, shown in entries), class_="numbers")


def _effective_of(network: NetworkSummary) -> str:
    known = network.effective_depth is not None
    return say("numbers.of", value=network.effective_depth, most=network.longest) if known else _effective(network)


def _whose(network: NetworkSummary, networks: Sequence[NetworkSummary]) -> list[object]:
    return [" ", element("span", network.name)] if len(networks) > 1 else []


def unbroken(text: str, names: Sequence[str]) -> Html:
    """A sentence in which no line breaks inside a network's name (ResNet-20 would break at its hyphen)."""
    for name in names:
        head, found, tail = text.partition(name)
        if found and 0 < len(name) <= 24:
            inner = element("span", name, class_="name")
            return Html(unbroken(head, names) + inner + unbroken(tail, names))
    return escape(text)


def figure(
    figure: Figure,
    names: Sequence[str] = (),
    steps: Sequence[int] = (),
    *,
    level: int = 2,
    lang: str | None = None,
) -> Html:
    """A figure's frame: finding, how to read it, key, slider, panels, its tables and its data.

    Args:
        figure: what is framed.
        names: of networks, in which no line of the title breaks.
        steps: that the slider goes over.
        level: of its heading.
        lang: of the figure's own words, where they are in another language than the page.
    """
    title = element(f"h{level}", unbroken(figure.title, names), id_=f"title-{figure.slug}", lang=lang)
    head = [title, element("p", figure.reading, class_="note", lang=lang)]
    drawn = [_panel(figure.slug, i, panel, level + 1, lang) for i, panel in enumerate(figure.panels)]
    panels = [*drawn, *figure.drawings]
    parts = [element("div", *head, class_="figure-head")]
    if figure.slider:
        parts.append(_slider(figure.slug, steps))
    if figure.key:
        parts.append(_key(figure.key, lang))
    parts += [element("div", *panels, class_="panels"), *_tools(figure)]
    whole = element("figure", *parts, aria_labelledby=f"title-{figure.slug}")
    return element("section", whole, data_figure=figure.slug)


def _tools(figure: Figure) -> Iterator[Html]:
    """The words that show a table, and the downloads: of each table behind a figure, and of its picture."""
    several = len(figure.shown) > 1
    for index, shown in enumerate(figure.shown):
        words = say("control.table.at" if figure.slider else "control.table")
        name = sentences().get(f"table.{shown.name}", shown.name.replace("_", " "))
        details = element(
            "details",
            element("summary", words, say("control.table.name", name=name) if several else ""),
            element("div", class_="scroll", tabindex="0", role="region", aria_labelledby=f"title-{figure.slug}"),
        )
        csv = say("control.csv.of", name=name) if several else say("control.csv.name")
        pictures = [button(kind, say(f"control.{kind}.name")) for kind in ("svg", "png") if not index]
        yield element("div", details, downloads(button("csv", csv), *pictures), class_="tools", data_table=index)


def downloads(*buttons: Html) -> Html:
    """What can be had, after the word that says so."""
    return element("span", element("span", say("control.download")), *buttons, class_="downloads")


def button(kind: str, name: str) -> Html:
    """A download: csv, svg or png."""
    return element("button", say(f"control.{kind}"), type_="button", class_=kind, aria_label=name)


def _panel(slug: str, index: int, panel: Panel, level: int, lang: str | None) -> Html:
    names = {"data_figure": slug, "data_panel": index}
    # Where arrow keys move over places, they must reach the script past a screen reader.
    keys = panel.spec.get("usermeta", {}).get("keys")
    kind = {"role": "application", "tabindex": "0"} if keys else {"role": "img"}
    chart = element("div", class_="chart", **kind, aria_label=panel.alternative, **names)
    heading = [element(f"h{level}", panel.heading, lang=lang)] if panel.heading else []
    detail = [element("p", panel.detail, class_="detail")] if panel.detail else []
    return element("div", *heading, *detail, chart, class_="panel")


def _slider(slug: str, steps: Sequence[int]) -> Html:
    words = say("control.step.value", step=integer(steps[-1]))
    last = len(steps) - 1
    bounds = {"min": 0, "max": last, "step": 1, "value": last, "aria_valuetext": words, "autocomplete": "off"}
    return element(
        "div",
        element("label", say("control.step"), for_=f"at-{slug}"),
        element("input", type_="range", id_=f"at-{slug}", **bounds),
        element("output", words, for_=f"at-{slug}"),
        class_="slider",
    )


def _key(entries: list[tuple[str, str]], lang: str | None) -> Html:
    items = (element("li", _swatch(style), text, class_=style) for style, text in entries)
    return element("ul", *items, class_="legend", lang=lang)


def _swatch(style: str) -> Html:
    """A sample of a style, coloured by the style sheet through its class.

    A style is one word, or a shape (line, dashes, dot, bar, ramp) and a colour.
    """
    shape, _, colour = style.partition(" ")
    if shape == "ramp":
        found = range(len(stops(colour))) if colour else ()
        classes = [f"is-{colour}-{i}" for i in found] or [f"ramp-{i + 1 if i else 0}" for i in range(4)]
        wide = 72 / len(classes)
        steps = [
            element("rect", x=f"{wide * i:g}", y=0, width=f"{wide + 0.5:g}", height=12, class_=f"sw {each}")
            for i, each in enumerate(classes)
        ]
        return element("svg", *steps, viewBox="0 0 72 12", aria_hidden="true")
    look = f"sw sw-{shape} is-{colour}" if colour else f"sw sw-{style}"
    if shape in ("input", "constant", "paths", "bar"):
        mark = element("rect", x=0.5, y=0.5, width=21, height=11, class_=look)
    elif shape == "dot":
        mark = element("circle", cx=11, cy=6, r=4, class_=look)
    else:
        mark = element("line", x1=1, x2=21, y1=6, y2=6, class_=look)
    return element("svg", mark, viewBox="0 0 22 12", aria_hidden="true")


Row = tuple[str, Callable[[NetworkSummary], "str | Html | None"]]


def _interval(network: NetworkSummary, which: int) -> Html:
    low, high = network.mean_depth_interval[which]
    value = fixed(network.mean_depth[which], 2)
    return Html(f"{value} {element('small', f'[{fixed(low, 2)}, {fixed(high, 2)}]')}")


def _time(network: NetworkSummary) -> str:
    training, recording = network.training_seconds, network.recording_seconds
    if training is None:
        return say("cell.time.traced", recording=seconds(recording))
    share = percent(recording / training) if training > 0 else say("undefined")
    return say("cell.time", recording=seconds(recording), training=seconds(training), share=share)


def _effective(network: NetworkSummary) -> str:
    return say("undefined") if network.effective_depth is None else str(network.effective_depth)


def _drift(network: NetworkSummary) -> str | None:
    if network.credit_drift is None:
        return None
    value = percent(network.credit_drift)
    # Above 5 % the credits depend on the density of the records.
    return value if network.credit_drift <= CONVERGED else say("cell.credit.warn", value=value)


def _exact(network: NetworkSummary) -> str:
    total = sum(use["count"] for use in network.operators)
    exact = sum(use["count"] for use in network.operators if use["kind"] == "exact")
    return f"{integer(exact)} / {integer(total)}"


def _inexact(network: NetworkSummary) -> str:
    found = [use for use in network.operators if use["kind"] != "exact"]
    items = [
        say(
            "cell.operator",
            operator=use["operator"],
            count=use["count"],
            kind=word("kind", use["kind"]),
        )
        for use in found
    ]
    return listing(items) or say("none")


ROWS: list[Row] = [
    ("row.parameters", lambda n: integer(n.parameters)),
    ("row.accuracy", lambda n: accuracy(n.accuracy)),
    ("row.loss", lambda n: number(n.loss)),
    ("row.effective", _effective),
    ("row.mean.first", lambda n: _interval(n, 0)),
    ("row.mean.last", lambda n: _interval(n, 1)),
    ("row.shortest", lambda n: str(n.shortest)),
    ("row.longest", lambda n: str(n.longest)),
    ("row.closure", lambda n: number(n.closure)),
    ("row.constant", lambda n: percent(n.constant_share)),
    ("row.frozen", lambda n: percent(n.frozen_share)),
    ("row.cancellation", lambda n: number(n.cancellation)),
    ("row.credit.closure", lambda n: None if n.credit_closure is None else number(n.credit_closure)),
    ("row.credit.drift", _drift),
    ("row.time", _time),
    ("row.exact", _exact),
    ("row.inexact", _inexact),
]


def networks(run: Run) -> Html:
    """The table of networks: a measure a row, a network a column; what no network has is left out."""
    names = [element("th", network.name, scope="col") for network in run.summary.networks]
    head = element("tr", element("th", say("networks.measure"), scope="col"), *names)
    lines = []
    for key, cell in ROWS:
        cells = [cell(network) for network in run.summary.networks]
        if any(value is not None for value in cells):
            shown = [element("td", say("undefined") if value is None else value) for value in cells]
            lines.append(element("tr", element("th", say(key), scope="row"), *shown))
    table = element("table", element("thead", head), element("tbody", join(lines)))
    box = element("div", table, class_="networks", tabindex="0", role="region", aria_labelledby="title-networks")
    return element("section", element("h2", say("networks.title"), id_="title-networks"), box)


def meaning(run: Run, *, several: bool) -> Html:
    """What the numbers mean, and what they do not, with the run's own numbers where it has them."""
    items = [
        say("cancellation.item", value=number(network.cancellation), network=network.name)
        for network in run.summary.networks
    ]
    fills = {"cancellation": listing(items)}

    def column(title: str, prefix: str) -> Html:
        # "This is one run with one seed" is said of one run.
        keys = [key for key in sentences() if key.startswith(prefix) and not (several and key == "doesnot.seed")]
        if not run.summary.reestimated:
            keys = ["asfound" if key == "does.eval" else key for key in keys]
        entries = [element("li", say(key, **fills)) for key in keys]
        return element("div", element("h3", say(title)), element("ul", *entries))

    columns = [column("meaning.does", "does."), column("meaning.doesnot", "doesnot.")]
    return element("section", element("h2", say("meaning.title")), element("div", *columns, class_="meaning"))


def methods(runs: Sequence[Run]) -> Html:
    """Where the numbers come from, run by run."""
    several = len(runs) > 1
    parts = [element("h2", say("methods.title"))]
    for run in runs:
        parts += [element("h3", run.summary.name)] if several else []
        parts.append(_methods(run))
    return join(parts)


def _methods(run: Run) -> Html:
    """Unit, seed, threads, versions, data with attribution and hash."""
    about, data, steps = run.summary, run.summary.data, sorted(set(run.steps["step"]))
    threads = "methods.threads.one" if about.threads == 1 else "methods.threads.many"
    constants = f"methods.constants.{about.constants}"
    span = {"count": len(steps), "first": integer(steps[0]), "last": integer(steps[-1])}
    sizes = {"train": integer(data.train), "probe": integer(data.probe), "classes": data.classes}
    made = {"created": about.created, "seed": about.seed, "threads": say(threads, threads=about.threads)}
    how = "methods.created.traced" if about.seed is None else "methods.created.text"
    versions = {"termwise": about.termwise, "torch": about.torch, "python": about.python}
    entries = [
        ("methods.unit", _unit(about)),
        ("methods.constants", say(constants) if constants in sentences() else about.constants),
        ("methods.intervals", say("methods.intervals.text")),
        ("methods.records", say("methods.records.text", **span)),
        ("methods.created", say(how, **made)),
        *([("methods.skipped", _saved(" ".join(about.skipped)))] if about.skipped else []),
        ("methods.versions", say("methods.versions.text", **versions)),
        ("methods.data", say("methods.data.text", title=data.title, **sizes)),
        ("methods.attribution", _saved(data.attribution)),
        ("methods.hash", data.sha256),
    ]
    pairs = [Html(element("dt", say(key)) + element("dd", text)) for key, text in entries]
    return element("dl", join(pairs))


def _saved(words: str) -> Html:
    return element("span", words, lang=saved_in())


def _unit(about: RunSummary) -> str:
    key = f"methods.unit.{about.unit}"
    if about.unit == "modules" and not about.modules:  # written before their names were kept
        return say("unit.modules")
    return say(key, names=listing(about.modules)) if key in sentences() else say("methods.unit.other", unit=about.unit)


def licences(title: str, texts: Iterable[str]) -> Html:
    """The licences of the vendored scripts, which travel with them."""
    inner = element("summary", title), element("pre", "\n\n".join(texts), lang="en", tabindex="0")
    return element("footer", element("details", *inner), class_="licences")
