"""Files that grow and can be cut back to what they were at a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path


class GrowingFile:
    """A file that is appended to. Writes are not buffered, so a full disk is told at once."""

    def __init__(self, path: Path, size: int = 0) -> None:
        """size: bytes to keep of what is there; the rest was written after the checkpoint that is gone back to."""
        self.path = path
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        if os.fstat(self._file.fileno()).st_size < size:
            self._file.close()
            raise ValueError(f"{path}: shorter than its checkpoint")
        self._file.truncate(size)
        self._file.seek(size)
        self.size = size

    def append(self, data: bytes | memoryview) -> None:
        """Write all of `data`; raises OSError when the disk is full."""
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):
            written += self._file.write(view[written:])
        self.size += len(view)

    def sync(self) -> None:
        """Bring what was written to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
