"""The page of experiments: every number beside what was expected of it, then each experiment with its figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from termwise.experiments import VERDICT
from termwise.report import claims, sections
from termwise.report.charts import Figure, Shown
from termwise.report.markup import Html, element, join, slug
from termwise.report.plots import Embedded, figures
from termwise.report.results import FOUND, Study
from termwise.report.strings import saved_in, say


@dataclasses.dataclass(frozen=True)
class ExperimentsPage:
    """What the page of some experiments is made of.

    Attributes:
        studies: the experiments, in the page's order.
        ids: of their sections.
        embedded: the tables that the page carries.
        drawn: the figures of each experiment.
        found: everything that was found, as a table to download.
    """

    studies: Sequence[Study]
    ids: list[str]
    embedded: Embedded
    drawn: list[list[Figure]]
    found: Shown

    @property
    def title(self) -> str:
        """The question, where there is one alone or one above all."""
        return str(self._leading[0].result.question) if len(self._leading) == 1 else say("experiments.title")

    @property
    def name(self) -> Html:
        """The title as a heading, which says in what language it is."""
        return element("span", self.title, lang=saved_in() if len(self._leading) == 1 else None)

    @property
    def eyebrow(self) -> str:
        """What page this is."""
        if len(self.studies) > 1:
            return say("experiments.eyebrow")
        count = len(self.studies[0].settings.seeds)
        seeds = say("experiments.seeds.one") if count == 1 else say("experiments.seeds.many", count=count)
        return say("experiments.eyebrow.one", name=self.studies[0].result.name, seeds=seeds)

    @property
    def verdict(self) -> str:
        """How many expectations hold, of the claims where there is a verdict on them."""
        return claims.verdict(self._leading)

    @property
    def _leading(self) -> Sequence[Study]:
        """What the page is about: the verdict on the claims, where there is one."""
        return [study for study in self.studies if study.result.name == VERDICT] or self.studies

    @property
    def figures(self) -> list[Figure]:
        """All of them."""
        return [figure for own in self.drawn for figure in own]

    def head(self) -> Html:
        """What is seen first: the claims."""
        several = len(self.studies) > 1
        title = element("h2", say("claims.title"), id_="title-claims")
        note = element("p", say("claims.read"), class_="note")
        button = sections.button("csv", say("control.csv.name"))
        tools = element("div", sections.downloads(button), class_="tools", data_table=0)
        parts = [claims.notices(self.studies)]
        if saved_in():
            parts.append(element("p", say("experiments.english"), class_="note saved"))
        if several:
            parts.append(claims.lines(self.studies, self.ids))
        if any(study.claims for study in self.studies):
            table = claims.table(self.studies, self.ids)
            parts.append(element("section", title, table, note, tools, class_="all-claims", data_figure="claims"))
        return join(parts)

    def main(self) -> Html:
        """A part for each experiment."""
        return join([self._study(*each) for each in zip(self.studies, self.ids, self.drawn, strict=True)])

    def _study(self, study: Study, id_: str, own: list[Figure]) -> Html:
        several = len(self.studies) > 1
        level = 3 if several else 2
        head = [element("h2", study.result.question, class_="question", lang=saved_in())] if several else []
        if several:
            head.append(element("p", claims.verdict([study]), class_="answer"))
        notes = [element("p", note, class_="note", lang=saved_in()) for note in study.result.notes]
        parts = [
            *head,
            *([element("div", *notes, class_="notes")] if notes else []),
            *(sections.figure(figure, level=level, lang=saved_in()) for figure in own),
            claims.beside(study, level),
            claims.others(study, level),
            claims.methods(study, level),
        ]
        return element("article", join(parts), id_=id_)


def experiments_page(studies: Sequence[Study]) -> ExperimentsPage:
    """The page of some experiments, at least one."""
    embedded = Embedded()
    found = [
        {"experiment": study.result.name, **{name: row[name] for name in FOUND}}
        for study in studies
        for row in study.found
    ]
    table, columns = embedded.add(found)
    ids = _unlike(f"experiment-{slug(study.result.name)}" for study in studies)
    drawn = [figures(study, embedded) for study in studies]
    names = iter(_unlike(["claims", *(figure.slug for own in drawn for figure in own)])[1:])
    drawn = [[dataclasses.replace(figure, slug=next(names)) for figure in own] for own in drawn]
    return ExperimentsPage(studies, ids, embedded, drawn, Shown(table, [*columns.values()]))


def _unlike(names: Iterable[str]) -> list[str]:
    """The same names; those that were there before get a number."""
    taken: list[str] = []
    for name in names:
        count = 2
        new = name
        while new in taken:
            new, count = f"{name}-{count}", count + 1
        taken.append(new)
    return taken
