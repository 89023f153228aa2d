"""The report: one offline HTML page made of what a run, or an experiment, has saved and nothing else."""

from termwise.report.page import write_page

__all__ = ["write_page"]
