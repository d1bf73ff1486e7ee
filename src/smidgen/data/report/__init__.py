"""The page about a dataset: what came in, what was dropped and why, and what the tokens look like."""

from smidgen.data.report.page import write_report

__all__ = ["write_report"]
