"""The pages docs/literature.md and docs/literature.zh.md, made of the same facts.

python -m termwise.literature.pages docs        writes both
"""

from __future__ import annotations

import sys
from pathlib import Path

from termwise.literature.formats import reference
from termwise.literature.works import Language, Part, Work, parts

NAMES: dict[Language, str] = {"en": "literature.md", "zh": "literature.zh.md"}

_HEAD: dict[Language, str] = {
    "en": """# The literature

*[中文](literature.zh.md)*

The paper whose claims Termwise was made to test, what the method rests on, the works nearest to it, and those around
the paper. At the end of each is the key by which it is cited, and below it a sentence of ours:

```
termwise cite                                     # Termwise and the paper
termwise cite veit2016 dong2021 --format bibtex   # or --format ris, for a reference manager
termwise cite --all                               # everything on this page
```
""",
    "zh": """# 文献

*[English](literature.md)*

本页列出 Termwise 所检验的论文、方法的依据、最接近的工作，以及与该论文相关的文献。\
每条文献末尾是引用时使用的键，下一行的说明由本项目撰写：

```
termwise cite                                     # Termwise 与所检验的论文
termwise cite veit2016 dong2021 --format bibtex   # 或 --format ris，供文献管理软件导入
termwise cite --all                               # 本页全部文献
```
""",
}


def page(language: Language) -> str:
    """The whole page, in Markdown."""
    return "\n".join((_HEAD[language], *(_section(part, language) for part in parts())))


def write(directory: Path) -> None:
    """Write the page of each language into a directory."""
    for language, name in NAMES.items():
        (directory / name).write_text(page(language), encoding="utf-8")


def _section(part: Part, language: Language) -> str:
    entries = "".join(_entry(work, language) for work in part.work)
    said = [part.text.get(language), entries, *(work.summary.get(language) for work in part.work)]
    return "\n\n".join((f"## {part.heading[language]}", *(each.strip() for each in said if each))) + "\n"


def _entry(work: Work, language: Language) -> str:
    links = [
        f"[{label} {number}]({address}{number})"
        for label, number, address in (
            ("doi", work.doi, "https://doi.org/"),
            ("arXiv", work.arxiv, "https://arxiv.org/abs/"),
            ("PMID", work.pmid, "https://pubmed.ncbi.nlm.nih.gov/"),
        )
        if number
    ]
    return f"- {reference(work, links, '*')} `{work.key}`\\\n  {work.relation[language]}\n"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
