"""Following a file of lines that another writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smidgen.training.metrics import parse_line


class Tail:
    """The lines of a file, each once, as they come; a file that was replaced is read from its start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode = -1
        self._position = 0

    def records(self) -> Iterator[dict[str, Any]]:
        """Finished lines not yet read. A line counts as read when the next one is asked for, not before."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._position:
                self._inode, self._position = status.st_ino, 0
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                record = parse_line(line)
                if record is not None:
                    yield record
                self._position += len(line)
