"""The texts that the model wrote on its way."""

from __future__ import annotations

from collections.abc import Sequence

from smidgen.training.report.formats import escape
from smidgen.training.report.run_data import Record, RunData

_SHOWN = 2
_MOST_FOLDED = 50


def sample_section(runs: Sequence[RunData]) -> str:
    """The newest samples of each run, earlier ones folded."""
    parts = []
    for run in runs:
        if run.samples:
            name = f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
            parts.append(name + _samples(run.samples[::-1]))
    return f"<h2>Samples</h2>{''.join(parts)}" if parts else ""


def _samples(newest_first: list[Record]) -> str:
    shown = "".join(map(_sample, newest_first[:_SHOWN]))
    earlier = newest_first[_SHOWN : _SHOWN + _MOST_FOLDED]
    if not earlier:
        return shown
    folded = "".join(map(_sample, earlier))
    return f'{shown}<details><summary>Earlier samples</summary><div class="inside">{folded}</div></details>'


def _sample(record: Record) -> str:
    texts = "".join(f"<p><i>{escape(s['prompt'])}</i>{escape(s['text'])}</p>" for s in record["samples"])
    return f'<div class="card sample"><small>after step {record["step"]:,}</small>{texts}</div>'
