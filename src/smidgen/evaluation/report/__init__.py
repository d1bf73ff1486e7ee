"""A page about an evaluation: scores with intervals, a plot, and the transcript of every answer."""

from smidgen.evaluation.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
