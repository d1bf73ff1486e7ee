"""The decision which documents and paragraphs repeat earlier ones; made in document order, in one process."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smidgen.data.cleaning.keys import Keys
from smidgen.data.cleaning.minhash import band_keys, bands_and_rows
from smidgen.runtime.errors import DataError

if TYPE_CHECKING:
    from smidgen.config.cleaning import DuplicatesConfig

RULES = ("duplicate_document", "near_duplicate", "duplicate_paragraphs")

MAX_CANDIDATES = 1024
"""Earlier documents that one is compared with, the oldest first: bounds the time where thousands share a template."""

_CACHE_KIB = 64 * 1024
_KEYS_A_QUERY = 500

_TABLES = """
CREATE TABLE documents (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE paragraphs (key INTEGER PRIMARY KEY);
CREATE TABLE bands (key INTEGER, document INTEGER, PRIMARY KEY (key, document)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to drop of one document."""

    rule: str | None = None
    """The rule that drops the whole document; None keeps it."""
    paragraphs: tuple[int, ...] = ()
    """Numbers of paragraphs to remove (`remove_paragraphs`); never all of them."""


class DuplicateFilter:
    """Takes the keys of documents in their order and answers what to drop.

    A document is dropped when its text equals that of an earlier kept one, or when its signature agrees with that of an
    earlier kept one in at least `near_threshold` of the values. Dropped documents are forgotten, so every dropped one
    has a kept one like it, and no chain of small changes swallows a whole corpus.

    The same keys in the same order give the same verdicts. What it remembers stands in `folder` (an SQLite index and
    the kept signatures), not in memory, and is removed by `close`; an interrupted run starts a new filter and gives it
    the keys again. Raises DataError when the disk is full.
    """

    def __init__(self, config: DuplicatesConfig, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = (folder / "duplicates.sqlite", folder / "signatures.bin")
        self._remove_files()
        self._bands, self._rows = bands_and_rows(config.near_threshold, config.permutations)
        # A whole number of equal values, so that no rounding of the share decides.
        self._least_equal = math.ceil(config.near_threshold * config.permutations - 1e-9)
        self._kept = 0
        self._signatures = os.open(self._paths[1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._index = sqlite3.connect(self._paths[0], isolation_level=None)
        # The index is scratch: nothing reads it after a crash, so neither a journal nor syncing is needed.
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self._index.execute(f"PRAGMA {setting}")
        self._index.executescript(_TABLES)
        self._index.execute("BEGIN")

    def __call__(self, keys: Keys) -> Verdict:
        """Decide about the next document, and remember it unless it is dropped."""
        try:
            return self._decide(keys)
        except (sqlite3.OperationalError, OSError) as error:
            raise DataError(f"{self._paths[0]}: cannot be written ({error}); make room on that disk") from None

    def _decide(self, keys: Keys) -> Verdict:
        if keys.document and self._index.execute("SELECT 1 FROM documents WHERE key = ?", (keys.document,)).fetchone():
            return Verdict("duplicate_document")
        bands: list[int] = []
        if len(keys.signature):
            bands = _signed(band_keys(keys.signature, self._bands, self._rows))
            if self._is_near(keys.signature, bands):
                return Verdict("near_duplicate")
        repeated = self._repeated_paragraphs(keys.paragraphs)
        if repeated and len(repeated) == len(keys.paragraphs):
            return Verdict("duplicate_paragraphs")
        self._remember(keys, bands)
        return Verdict(None, repeated)

    def _is_near(self, signature: NDArray[np.uint32], bands: Sequence[int]) -> bool:
        query = (
            f"SELECT DISTINCT document FROM bands WHERE key IN ({_marks(bands)}) "
            f"ORDER BY document LIMIT {MAX_CANDIDATES}"
        )
        candidates = self._index.execute(query, bands).fetchall()
        if not candidates:
            return False
        size = signature.nbytes
        stored = b"".join(os.pread(self._signatures, size, number * size) for (number,) in candidates)
        equal = np.frombuffer(stored, np.uint32).reshape(len(candidates), -1) == signature
        return bool((equal.sum(axis=1) >= self._least_equal).any())

    def _repeated_paragraphs(self, paragraphs: NDArray[np.uint64]) -> tuple[int, ...]:
        keys = _signed(paragraphs)
        seen: set[int] = set()
        for start in range(0, len(keys), _KEYS_A_QUERY):
            some = keys[start : start + _KEYS_A_QUERY]
            query = f"SELECT key FROM paragraphs WHERE key IN ({_marks(some)})"
            seen.update(key for (key,) in self._index.execute(query, some))
        repeated = []
        for number, key in enumerate(keys):
            if key and key in seen:
                repeated.append(number)
            seen.add(key)
        return tuple(repeated)

    def _remember(self, keys: Keys, bands: Sequence[int]) -> None:
        if keys.document:
            self._index.execute("INSERT INTO documents VALUES (?)", (keys.document,))
        if len(keys.paragraphs):
            rows = ((key,) for key in _signed(keys.paragraphs) if key)
            self._index.executemany("INSERT OR IGNORE INTO paragraphs VALUES (?)", rows)
        if bands:
            size = keys.signature.nbytes
            written = os.pwrite(self._signatures, keys.signature.tobytes(), self._kept * size)
            if written != size:
                raise OSError("No space left on device")
            self._index.executemany("INSERT INTO bands VALUES (?, ?)", ((band, self._kept) for band in bands))
            self._kept += 1

    def close(self) -> None:
        """Forget everything and remove it from the folder."""
        self._index.close()
        os.close(self._signatures)
        self._remove_files()

    def _remove_files(self) -> None:
        for path in self._paths:
            path.unlink(missing_ok=True)

    def __enter__(self) -> DuplicateFilter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _signed(keys: NDArray[np.uint64]) -> list[int]:
    """SQLite's integers have a sign."""
    return keys.view(np.int64).tolist()


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
