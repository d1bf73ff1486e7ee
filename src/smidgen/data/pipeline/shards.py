"""The token files of a split: appended to document by document, cut into shards of bounded size."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.data.manifest import ShardRecord, SplitName
from smidgen.data.pipeline.files import GrowingFile

_COPY_BYTES = 1 << 20


class SplitWriter:
    """Writes one split. Its state at any moment is a few numbers; the files can be cut back to it."""

    def __init__(
        self,
        folder: Path,
        work: Path,
        split: SplitName,
        dtype: np.dtype[Any],
        max_tokens: int,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """folder: of the token files. work: of the offsets until `finish`. max_tokens: a document that would make a
        shard longer begins a new one. state: what `state` gave; whatever was written since is cut off.
        """
        self._folder, self._work = folder, work
        self._split = split
        self._dtype = dtype
        self._max_tokens = max_tokens
        state = state or {"finished": [], "tokens": 0, "documents": 0, "bytes": 0, "open": False}
        self._finished = [ShardRecord(**record) for record in state["finished"]]
        self._tokens: int = state["tokens"]
        self._documents: int = state["documents"]
        self._bytes: int = state["bytes"]
        self._open: bool = state["open"]
        self._remove_later_shards()
        self._begin()

    def _remove_later_shards(self) -> None:
        number = len(self._finished) + 1
        while (later := self._folder / f"{self._split}-{number:05d}.bin").exists():
            later.unlink()
            self._offsets_path(number).unlink(missing_ok=True)
            number += 1

    def _begin(self) -> None:
        self._number = len(self._finished)
        self._stem = f"{self._split}-{self._number:05d}"
        self._file = GrowingFile(self._folder / f"{self._stem}.bin", self._tokens * self._dtype.itemsize)
        self._offsets = GrowingFile(self._offsets_path(self._number), 8 * self._documents)
        self._digest = hashlib.sha256()
        if self._tokens:
            with self._file.path.open("rb") as file:
                while block := file.read(_COPY_BYTES):
                    self._digest.update(block)
        self._last_end = self._read_last_end()

    def _read_last_end(self) -> int:
        if self._documents == 0:
            return 0
        return int(np.fromfile(self._offsets.path, "<i8", 1, offset=8 * (self._documents - 1))[0])

    def _offsets_path(self, number: int) -> Path:
        return self._work / f"{self._split}-{number:05d}.ends"

    @property
    def total_tokens(self) -> int:
        """Tokens in all shards."""
        return sum(record.tokens for record in self._finished) + self._tokens

    def append(
        self, tokens: NDArray[Any], stops: NDArray[np.int64], sizes: NDArray[np.int64], stays_open: bool
    ) -> None:
        """Documents: their ids one after another, their ends in `tokens`, and the UTF-8 bytes of each.

        stays_open: the last one goes on with the next call. A document without any id leaves no trace.
        """
        first = start = 0
        while first < len(stops):
            room = self._max_tokens - self._tokens
            fit = int(np.searchsorted(stops, start + room, "right"))
            if fit <= first:
                if self._tokens > 0 and not self._open:
                    self._close_shard()
                    continue
                # Longer than a shard, or begun in this one.
                fit = first + 1
            stop = int(stops[fit - 1])
            is_open = stays_open and fit == len(stops)
            self._write(tokens[start:stop], stops[first:fit] - start, int(sizes[first:fit].sum()), is_open)
            first, start = fit, stop

    def _write(self, tokens: NDArray[Any], ends: NDArray[np.int64], num_bytes: int, is_open: bool) -> None:
        block = np.ascontiguousarray(tokens, self._dtype).data.cast("B")
        self._file.append(block)
        self._digest.update(block)
        ends = ends + self._tokens
        closed = ends[:-1] if is_open else ends
        before = np.concatenate([[self._last_end], closed[:-1]]) if len(closed) else closed
        closed = closed[closed > before]
        if len(closed):
            self._offsets.append(closed.astype("<i8").data.cast("B"))
            self._last_end = int(closed[-1])
        self._tokens += len(tokens)
        self._documents += len(closed)
        self._bytes += num_bytes
        self._open = is_open

    def _record(self) -> ShardRecord:
        return ShardRecord(
            file=f"{self._stem}.bin",
            offsets=f"{self._stem}.offsets.npy",
            tokens=self._tokens,
            documents=self._documents,
            bytes=self._bytes,
            sha256=self._digest.hexdigest(),
        )

    def _close_shard(self) -> None:
        self._finished.append(self._record())
        self.sync()
        self._file.close()
        self._offsets.close()
        self._tokens = self._documents = self._bytes = 0
        self._begin()

    def sync(self) -> None:
        """Bring everything written to the disk."""
        self._file.sync()
        self._offsets.sync()

    def state(self) -> dict[str, Any]:
        """What a writer needs to go on from here; call `sync` first."""
        return {
            "finished": [asdict(record) for record in self._finished],
            "tokens": self._tokens,
            "documents": self._documents,
            "bytes": self._bytes,
            "open": self._open,
        }

    def close(self) -> None:
        """Close the files as they are."""
        self._file.close()
        self._offsets.close()

    def finish(self) -> tuple[ShardRecord, ...]:
        """Write the offsets of all shards, and describe the shards."""
        self.close()
        records = (*self._finished, self._record())
        for number, record in enumerate(records):
            self._write_offsets(number, record)
        return records

    def _write_offsets(self, number: int, record: ShardRecord) -> None:
        """A .npy file with 0 and the ends of the documents, copied without holding them."""
        with (self._folder / record.offsets).open("wb") as target, self._offsets_path(number).open("rb") as ends:
            header = {"descr": "<i8", "fortran_order": False, "shape": (record.documents + 1,)}
            np.lib.format.write_array_header_1_0(target, header)
            target.write(bytes(8))
            left = 8 * record.documents
            while left > 0 and (block := ends.read(min(_COPY_BYTES, left))):
                target.write(block)
                left -= len(block)
