"""What the experiments found beside what was expected, in words and as a table; how they were made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from termwise.errors import UsageError
from termwise.experiments import VERDICT, find
from termwise.report.layers import heading
from termwise.report.markup import Html, element, join
from termwise.report.results import VERDICTS, Row, Study
from termwise.report.strings import clauses, integer, listing, number, saved_in, say, signed
from termwise.verdict.decision import SEEDS


def verdict(studies: Sequence[Study]) -> str:
    """How many expectations hold, fail and are undecided, as a sentence."""
    counts = Counter(row["verdict"] for study in studies for row in study.claims)
    total = counts.total()
    if total == 0:
        return say("claims.none")
    if total == 1:
        return say(f"claims.single.{next(iter(counts))}")
    on_trial = all(study.result.name == VERDICT for study in studies)
    what = say("claims.what.claims" if on_trial else "claims.what.expectations")
    if len(counts) == 1:
        return say(f"claims.{'both' if total == 2 else 'all'}.{next(iter(counts))}", total=total, what=what)
    kinds = ((kind, counts[kind]) for kind in VERDICTS if counts[kind])
    parts = [say(f"claims.{kind}.{'one' if n == 1 else 'many'}", count=n) for kind, n in kinds]
    return say("claims.some", total=total, parts=clauses(parts), what=what)


def lines(studies: Sequence[Study], ids: Sequence[str]) -> Html:
    """A line for each experiment: its question, and its verdict."""
    items = []
    for study, id_ in zip(studies, ids, strict=True):
        question = element("a", study.result.question, href=f"#{id_}", lang=saved_in())
        items.append(element("li", question, element("span", verdict([study]), *_quick(study)), class_="study"))
    return element("ul", *items, class_="studies")


def notices(studies: Sequence[Study]) -> Html:
    """What must be known before any number is read."""
    quick = [study.result.name for study in studies if study.settings.quick]
    few = [study for study in studies if len(study.settings.seeds) < SEEDS and study.claims]
    said = []
    if quick:
        said.append(say("claims.notice.quick", names=listing(quick)))
    elif few:
        said.append(say("claims.notice.few", seeds=SEEDS))
    return join([element("p", words, class_="notice") for words in said])


def table(studies: Sequence[Study], ids: Sequence[str]) -> Html:
    """Every quantity of which something was expected."""
    bodies = []
    for study, id_ in zip(studies, ids, strict=True):
        rows = [_claim(study, row) for row in study.claims]
        if len(studies) > 1 and rows:
            name = element("th", element("a", study.result.name, href=f"#{id_}"), colspan=4, scope="rowgroup")
            rows.insert(0, element("tr", name, class_="group", role="row"))
        bodies.append(element("tbody", join(rows), role="rowgroup"))
    columns = ("claims.quantity", "claims.found", "claims.expected", "claims.verdict")
    head = element("tr", *(element("th", say(key), scope="col", role="columnheader") for key in columns), role="row")
    inner = element("thead", head, role="rowgroup"), join(bodies)
    return element("table", *inner, class_="claims", role="table", aria_labelledby="title-claims")


def _claim(study: Study, row: Row) -> Html:
    # Not the cell is English: the style sheet writes its label into it.
    expected = element("span", row["expected"], lang=saved_in()) if saved_in() else row["expected"]
    return element(
        "tr",
        element("th", row["quantity"], scope="row", role="rowheader", lang=saved_in()),
        element("td", found(row), role="cell", class_="found"),
        element("td", expected, role="cell", data_label=say("claims.expected")),
        element("td", _verdict(row["verdict"]), *_quick(study), role="cell"),
        role="row",
    )


def _quick(study: Study) -> list[Html]:
    return [Html(" " + element("small", say("claims.quick"), class_="quick"))] if study.settings.quick else []


_SIGNS = {"holds": "M2 6.5 5 9.5 10 3", "fails": "M2.5 2.5 9.5 9.5M9.5 2.5 2.5 9.5", "undecided": "M2 6H10"}


def _verdict(kind: str) -> Html:
    """A word; the sign and the colour beside it say the same."""
    sign = element("svg", element("path", d=_SIGNS[kind]), viewBox="0 0 12 12", aria_hidden="true")
    return element("span", sign, say(f"verdict.{kind}"), class_=f"is-{kind}")


def found(row: Row) -> Html:
    """A mean over seeds, with as many digits as its interval has a use for, and the interval."""
    value, low, high = row["found"], row["low"], row["high"]
    there = [each for each in (low, high) if each is not None and math.isfinite(each)]
    half = (high - low) / 2 if len(there) == 2 else 0.0
    if not half:
        return element("span", signed(number(value, 4)) if value is None or math.isfinite(value) else say("infinite"))
    if abs(value) < 1e-3 and half < 1e-3:
        value, low, high = (number(each, 3) for each in (value, low, high))
    else:
        # As many decimals as the interval has a use for, and two digits of the value at the least.
        power = math.floor(math.log10(half))
        own = 1 - math.floor(math.log10(abs(value))) if value else 0
        places = min(6, max(0, own, -power + (half < 3 * 10.0**power)))
        value, low, high = (f"{each:,.{places}f}" for each in (value, low, high))
    interval = element("small", say("claims.interval", low=signed(low), high=signed(high)))
    return element("span", signed(value), " ", interval)


def others(study: Study, level: int) -> Html:
    """The quantities of which nothing was expected."""
    rows = [row for row in study.found if not row["expected"]]
    if not rows:
        return Html("")
    columns = (element("th", say(key), scope="col") for key in ("claims.quantity", "claims.found"))
    lines = [
        element(
            "tr",
            element("th", row["quantity"], scope="row", lang=saved_in()),
            element("td", found(row), class_="found"),
        )
        for row in rows
    ]
    inner = element("thead", element("tr", *columns)), element("tbody", join(lines))
    title = element(f"h{level}", say("claims.others"))
    return element("section", title, element("table", *inner, class_="claims others"), class_="lesser")


def beside(study: Study, level: int) -> Html:
    """The table that is to be seen first, of what stands side by side."""
    name = study.result.beside
    if name is None or not study.tables[name]:
        return Html("")
    rows = study.tables[name]
    columns = list(rows[0])
    texts = {column: _texts([row[column] for row in rows]) for column in columns}
    kinds = {column: None if any(isinstance(row[column], str) for row in rows) else "n" for column in columns}
    head = element("tr", *(element("th", heading(c, columns), scope="col", class_=kinds[c]) for c in columns))
    body = [element("tr", *(element("td", texts[c][i], class_=kinds[c]) for c in columns)) for i in range(len(rows))]
    inner = element("thead", head), element("tbody", join(body))
    title = element(f"h{level}", say("claims.beside"))
    label = say("claims.beside.of", name=study.result.name)
    box = element(
        "div", element("table", *inner, lang=saved_in()), class_="scroll", tabindex="0", role="region", aria_label=label
    )
    return element("section", title, box, class_="lesser")


def _texts(values: Sequence[Any]) -> list[str]:
    """A column's cells, with the same number of decimals."""
    numbers = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    least = min((abs(value) for value in numbers if value), default=1.0)
    most = max(map(abs, numbers), default=0.0)
    places = min(4, max(1, 2 - math.floor(math.log10(most)))) if most else 1

    def text(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, float) and math.isfinite(value):
            plain = 10**-places <= least and most < 1e6
            return signed(f"{value:,.{places}f}" if plain else number(value, 4))
        return signed(integer(value)) if isinstance(value, int) else str(value)

    return [text(value) for value in values]


# How it was made.


def methods(study: Study, level: int) -> Html:
    """Protocol, seeds and versions, and what gives the result again."""
    settings = study.settings
    protocol = {name.replace("_", " "): value for name, value in settings.protocol.items()}
    entries: list[tuple[str, object]] = [
        (say("methods.protocol"), _setting(protocol)),
        (say("methods.seeds"), _seeds(settings.seeds)),
        (say("methods.intervals"), say("methods.intervals.seeds", seeds=SEEDS)),
        (say("methods.versions"), _setting(settings.versions)),
        (say("methods.command"), element("code", command(study))),
        (say("methods.file"), say("methods.file.text", name=study.path.name)),
    ]
    pairs = [Html(element("dt", name) + element("dd", text)) for name, text in entries]
    title = element(f"h{level}", say("methods.experiment"))
    return element("section", title, element("dl", join(pairs)), class_="lesser methods")


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return say("methods.seeds.range", first=seeds[0], last=seeds[-1])
    return say("comma").join(map(str, seeds))


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (say("methods.setting", name=name, value=_setting(each)) for name, each in value.items())
        return say("semicolon").join(pairs)
    if isinstance(value, (list, tuple)):
        return say("comma").join(map(_setting, value)) or say("none")
    if isinstance(value, bool):
        return say("yes") if value else say("no")
    if isinstance(value, int):
        return integer(value)
    return f"{value:.6g}" if isinstance(value, float) else say("none") if value is None else str(value)


def command(study: Study) -> str:
    """The command that gives the result, or the call where no command does."""
    name, settings = study.result.name, study.settings
    if name == VERDICT:
        return f"termwise reproduce --{settings.protocol['scale']} --data {settings.protocol['data']}"
    if settings.seeds == list(range(len(settings.seeds))):
        if settings.quick:
            return f"termwise experiment {name} --seeds {len(settings.seeds)} --quick"
        if settings.protocol == _whole(name):
            return f"termwise experiment {name} --seeds {len(settings.seeds)}"
    protocol = ", ".join(f"{key}={value!r}" for key, value in settings.protocol.items())
    return f"e = find({name!r}); run(e, {settings.seeds}, e.protocol({protocol}))"


def _whole(name: str) -> Any:
    """The protocol that an experiment has by default, as it is saved."""
    try:
        return msgspec.json.decode(msgspec.json.encode(find(name).protocol()))
    except UsageError:
        return None
