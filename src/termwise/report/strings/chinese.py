"""Every sentence of the page, by key, in Chinese."""

from termwise.report.strings.english import ENGLISH

CHINESE: dict[str, str] = dict(ENGLISH)
