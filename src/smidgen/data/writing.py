"""Token files being written, and folders that appear whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from smidgen.data.manifest import MANIFEST_NAME, ShardRecord, SplitName
from smidgen.runtime.errors import DataError

_OWN_FILES = re.compile(r"dataset\.json|tokenizer|(train|val)-\d{5}\.(bin|offsets\.npy)")


class ShardWriter:
    """Appends documents to one token file and writes its offsets at the end."""

    def __init__(self, folder: Path, split: SplitName, dtype: np.dtype[Any], eos_id: int | None) -> None:
        self._folder = folder
        self._stem = f"{split}-00000"
        self._dtype = dtype
        self._eos = [] if eos_id is None else [eos_id]
        self._file = (folder / f"{self._stem}.bin").open("wb")
        self._digest = hashlib.sha256()
        self._offsets = array("q", [0])
        self._tokens = 0
        self._bytes = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def tokens(self) -> int:
        return self._tokens

    def append(self, ids: Sequence[int], num_bytes: int, ends: bool) -> None:
        """The ids of a document or of a part of it; `ends` closes it with the end-of-text token, if there is one.

        A document without any id (its text vanished in the tokenizer) leaves no trace.
        """
        block = np.array([*ids, *self._eos] if ends and self._eos else ids, self._dtype).tobytes()
        self._file.write(block)
        self._digest.update(block)
        self._tokens += len(block) // self._dtype.itemsize
        self._bytes += num_bytes
        if ends and self._tokens > self._offsets[-1]:
            self._offsets.append(self._tokens)

    def finish(self) -> ShardRecord:
        """Close the token file, write the offsets, and describe both."""
        self._file.close()
        offsets = f"{self._stem}.offsets.npy"
        np.save(self._folder / offsets, np.frombuffer(self._offsets, np.int64), allow_pickle=False)
        return ShardRecord(
            file=f"{self._stem}.bin",
            offsets=offsets,
            tokens=self._tokens,
            documents=len(self._offsets) - 1,
            bytes=self._bytes,
            sha256=self._digest.hexdigest(),
        )


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of `target` when the block ends, and vanishes when it raises.

    It stands beside the target, is locked against a second writer, and is brought to the disk before the rename. What
    a killed process left there is removed first. Raises DataError while another process writes the same target.
    """
    target = Path(os.path.abspath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    replaced = target.with_name(f".{target.name}.replaced")
    partial.mkdir(exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        _lock(lock, partial, target)
        _recover(target, replaced)
        _empty(partial)
        try:
            yield partial
            _sync_tree(partial)
            if target.exists():
                target.rename(replaced)
            partial.rename(target)
            _sync_folder(target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            _recover(target, replaced)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        os.close(lock)


def check_replaceable(target: Path) -> bool:
    """Whether a dataset stands at `target`; raises DataError when something else does."""
    if target.exists() and not target.is_dir():
        raise DataError(f"--out {target}: is a file; choose another --out")
    entries = sorted(entry.name for entry in target.iterdir()) if target.exists() else []
    foreign = [name for name in entries if not _OWN_FILES.fullmatch(name)]
    if foreign:
        raise DataError(f"--out {target}: holds '{foreign[0]}', which prepare did not write; choose another --out")
    return MANIFEST_NAME in entries


def _lock(folder: int, partial: Path, target: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The other writer may have finished, and renamed the folder, between our opening and locking it.
        moved = not partial.exists() or os.fstat(folder).st_ino != partial.stat().st_ino
    except BlockingIOError:
        moved = True
    if moved:
        raise DataError(f"--out {target}: another process is writing it; wait for it, or choose another --out")


def _recover(target: Path, replaced: Path) -> None:
    """Put back the old folder if it was moved aside and the new one never came; else remove what is left of it."""
    if replaced.exists() and not target.exists():
        replaced.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(parent))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
