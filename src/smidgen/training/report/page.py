"""The page: its parts, in the order a reader wants them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import smidgen
from smidgen.runtime.files import write_text
from smidgen.training.report.charts import legend, run_charts
from smidgen.training.report.formats import escape
from smidgen.training.report.run_data import RunData
from smidgen.training.report.tables import (
    config_section,
    data_section,
    difference_section,
    environment_section,
    event_section,
    overview,
)
from smidgen.training.report.texts import sample_section


def write_report(runs: Sequence[str | Path], out: str | Path) -> None:
    """Write the page on one run, or on several laid over each other, to the file `out`.

    Raises TrainingError where a run has no metrics yet.
    """
    write_text(Path(out), render_report([RunData.read(Path(run)) for run in runs]))


def render_report(runs: Sequence[RunData]) -> str:
    """The page as HTML: it needs nothing from elsewhere, and its policy forbids it to ask for anything.

    Only the page's own script may run, known by its hash; what runs wrote is text, whatever it says.
    """
    runs = _with_names_apart(runs)
    style, script = _resource("page.css"), _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    title = ", ".join(run.name for run in runs)
    parts = [
        _header(runs),
        overview(runs),
        "<h2>Curves</h2>",
        legend(runs),
        f'<div class="charts">{run_charts(runs)}</div>',
        difference_section(runs),
        sample_section(runs),
        data_section(runs),
        config_section(runs),
        environment_section(runs),
        event_section(runs),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<footer>Made by smidgen {escape(smidgen.__version__)} on {_today()}.</footer>\n</main>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _header(runs: Sequence[RunData]) -> str:
    if len(runs) > 1:
        return f"<header><h1>{len(runs)} runs</h1></header>"
    (run,) = runs
    description = run.config.get("description", "")
    about = f"<p>{escape(description)}</p>" if description else ""
    return f'<header><h1>{escape(run.name)}</h1>{about}<p class="dim">{escape(_status(run))}</p></header>'


def _status(run: RunData) -> str:
    step, total = run.last_step, run.total_steps
    if total is None:
        return f"Step {step:,}."
    if step >= total:
        return f"Finished after {total:,} steps."
    end = run.events[-1]
    if end["kind"] == "end":
        cause = end.get("error") or end.get("signal")
        return f"Stopped after step {end['step']:,} of {total:,}{f': {cause}' if cause else ''}."
    return f"At step {step:,} of {total:,}."


def _with_names_apart(runs: Sequence[RunData]) -> list[RunData]:
    """Runs of one name in different folders are called by their paths."""
    names = [run.name for run in runs]
    return [replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs]


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
