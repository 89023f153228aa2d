"""The literature: the paper whose claims are tested, what the method rests on, and how to cite any of it.

>>> print(cite(["termwise", "sun2022"], "bibtex"))

All facts stand once, in `works.toml`; `formats` writes them for reference managers, and `pages` for the documentation.
"""

from termwise.literature.formats import Format, cite
from termwise.literature.works import Part, Work, find, parts

__all__ = ["Format", "Part", "Work", "cite", "find", "parts"]
