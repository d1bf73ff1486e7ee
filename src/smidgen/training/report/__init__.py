"""A run, or several side by side, as one self-contained HTML page."""

from smidgen.training.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
