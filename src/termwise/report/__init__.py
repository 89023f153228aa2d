"""The report: one offline HTML page made of what runs, or experiments, have saved and nothing else."""

from termwise.report.page import write_comparison, write_page

__all__ = ["write_comparison", "write_page"]
