"""The report: one offline HTML page made of a run directory's summary and tables and nothing else."""

from termwise.report.page import write_page

__all__ = ["write_page"]
