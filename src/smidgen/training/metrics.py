"""metrics.jsonl: one JSON object a line. Lines of kind `train`, `validation` and `resume`, each with its step."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smidgen.runtime.errors import TrainingError
from smidgen.runtime.files import write_text

logger = logging.getLogger(__name__)

_MOST_WAITING = 1 << 20
"""Bytes of lines that wait in memory for a disk that refuses them."""


class JsonLines:
    """Appends lines of JSON that other processes can read at once.

    A disk that is full or gone stops nobody: lines wait in memory (up to a mebibyte, later ones are lost) and are
    written with the next line that can be. Raises TrainingError where the file cannot even be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise TrainingError(
                f"{path}: cannot be written: {error.strerror}; make the folder writable or choose another --run"
            ) from None
        self._refused = False
        # A line that a killed process left unfinished is closed, so that it spoils no other.
        size = os.fstat(self._file).st_size
        torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
        self._waiting = b"\n" if torn else b""

    def append(self, record: dict[str, Any]) -> None:
        """Add a line; floats keep every digit. Raises ValueError for what is no JSON number, such as NaN."""
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        if len(self._waiting) + len(line) <= _MOST_WAITING:
            self._waiting += line
        self._flush()

    def sync(self) -> None:
        """Bring all lines to the disk, before a checkpoint that follows them."""
        self._flush(to_disk=True)

    def close(self) -> None:
        self._flush()
        os.close(self._file)

    def _flush(self, to_disk: bool = False) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
            if to_disk:
                os.fsync(self._file)
        except OSError as error:
            if not self._refused:
                logger.warning("%s: %s; lines wait in memory", self.path, error.strerror)
            self._refused = True
        else:
            self._refused = False


class MetricsFile(JsonLines):
    """The metrics of a run."""

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Add a line; floats keep every digit."""
        self.append({"kind": kind, "step": step, **values})

    def return_to(self, step: int) -> None:
        """Forget the figures after `step`, which the run takes again; what happened there stays told."""
        self.close()
        try:
            drop_after(self.path, step, kinds=("train", "validation"))
        except OSError as error:
            logger.warning("%s: %s; it keeps the steps that are taken again", self.path, error.strerror)
        super().__init__(self.path)


class NoMetrics(MetricsFile):
    """The metrics of a rank that does not write them."""

    def __init__(self) -> None:
        pass

    def append(self, record: dict[str, Any]) -> None:
        pass

    def return_to(self, step: int) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file; what a killed process left unfinished is passed over."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            record = parse_line(line)
            if record is not None:
                yield record


def parse_line(line: bytes) -> dict[str, Any] | None:
    """A line as an object with a `kind` and a `step`; None for anything else."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    kind, step = record.get("kind"), record.get("step")
    return record if isinstance(kind, str) and type(step) is int else None


def drop_after(path: Path, step: int, kinds: tuple[str, ...] | None = None) -> None:
    """Remove what was written after `step`, of these kinds or of all: it is written again, so each step stands once."""
    kept = [
        json.dumps(record) + "\n"
        for record in read_metrics(path)
        if record["step"] <= step or (kinds is not None and record["kind"] not in kinds)
    ]
    write_text(path, "".join(kept))
