"""metrics.jsonl: one JSON object a line. Lines of kind `train`, `validation` and `resume`, each with its step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smidgen.folders.atomic import write_text


class MetricsFile:
    """Appends lines that other processes can read at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Add a line; floats keep every digit."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Bring all lines to the disk, before a checkpoint that follows them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file; one that a killed process left unfinished is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def drop_after(path: Path, step: int) -> None:
    """Remove what was written after `step`: a resumed run writes it again, and each step stands there once."""
    kept = [json.dumps(record) + "\n" for record in read_metrics(path) if record["step"] <= step]
    write_text(path, "".join(kept))
