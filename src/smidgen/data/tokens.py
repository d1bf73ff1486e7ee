"""Token ids on disk, read as one stream however many files hold them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.runtime.errors import DataError

_SCAN_TOKENS = 1 << 22


class Tokens:
    """The token ids of one split: memory-mapped files, one after another, of one unsigned dtype.

    Slices give numpy arrays; only what is sliced is read.
    """

    def __init__(self, shards: Sequence[NDArray[Any]], paths: Sequence[Path]) -> None:
        assert len(shards) == len(paths) > 0
        # A plain view: slicing np.memmap itself costs microseconds for its subclass.
        self._shards = [np.asarray(shard) for shard in shards]
        self._paths = list(paths)
        self._starts = [0]
        for shard in self._shards:
            self._starts.append(self._starts[-1] + len(shard))
        self.dtype = self._shards[0].dtype

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, key: int | slice) -> Any:
        """One id, or the ids of a slice with step 1 as an array of the split's dtype."""
        if not isinstance(key, slice):
            position = range(len(self))[key]
            shard = self._shard_of(position)
            return self._shards[shard][position - self._starts[shard]]
        start, stop, step = key.indices(len(self))
        assert step == 1, "a token stream is read forwards, without gaps"
        if start >= stop:
            return np.empty(0, self.dtype)
        first, last = self._shard_of(start), self._shard_of(stop - 1)
        parts = [
            self._shards[i][max(start - self._starts[i], 0) : stop - self._starts[i]] for i in range(first, last + 1)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[:], dtype=dtype, copy=copy)

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[Any]:
        """`length` ids from each start, [len(starts), length] in the files' dtype; zeros past the end of the stream."""
        # The files' narrow type: a quarter of the memory traffic of the int64 that batches are made of.
        windows = np.empty((len(starts), length), self.dtype)
        for row, start in enumerate(starts.tolist()):
            part = self[start : start + length]
            windows[row, : len(part)] = part
            windows[row, len(part) :] = 0
        return windows

    def check_vocab(self, vocab_size: int) -> None:
        """Read every id once; raises DataError with the first that is not below `vocab_size`."""
        for shard, path in zip(self._shards, self._paths, strict=True):
            for start in range(0, len(shard), _SCAN_TOKENS):
                block = shard[start : start + _SCAN_TOKENS]
                if int(block.max()) >= vocab_size:
                    position = int(np.argmax(block >= vocab_size))
                    raise DataError(
                        f"{path}: token {block[position]} at position {start + position} lies outside the model's "
                        f"vocabulary; set model.vocab_size above it, or prepare the data with the model's tokenizer"
                    )

    def _shard_of(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1
