"""Folders that appear whole or not at all, and whose making can be interrupted."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smidgen.data.manifest import MANIFEST_NAME
from smidgen.runtime.errors import DataError
from smidgen.runtime.files import sync_folder, sync_tree

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_OWN_FILES = re.compile(
    r"dataset\.json|tokenizer|(train|val)-\d{5}\.(bin|offsets\.npy|mask)|reference-\w+-(train|val)\.npy|part\.json|tokens\.bin|documents\.bin|units\.jsonl"
)


class Interrupted(DataError):
    """The work stopped, and can go on from where it was: the disk is full, or a process was lost."""


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk into one that says what to do, and keeps what is in `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL_DISK:
            raise
        raise Interrupted(
            f"the disk is full ({error.strerror}); free space and run the same command again, which goes on from where "
            f"it stopped, or delete {folder}"
        ) from None


@contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """The folder that will take the place of `target` (`publish`), with what an interrupted process left in it.

    It stands beside the target and is locked against a second writer. It vanishes with the block, unless the block was
    interrupted: by the user, a full disk, or a lost process. Raises DataError while another process writes the same
    target.
    """
    target = Path(os.path.abspath(target))
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {target}: {error.strerror}; choose another --out") from None
    lock = os.open(partial, os.O_RDONLY)
    keep = False
    try:
        _lock(lock, partial, target)
        try:
            _recover(target, target.with_name(f".{target.name}.replaced"))
            yield partial
        except (KeyboardInterrupt, Interrupted):
            keep = True
            raise
        finally:
            # Once published, the name is free for another writer's folder.
            if not keep and _is(partial, lock):
                shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(lock)


def publish(partial: Path, target: Path) -> None:
    """Bring the folder to the disk and put it in the place of `target`, at once."""
    target = Path(os.path.abspath(target))
    replaced = target.with_name(f".{target.name}.replaced")
    sync_tree(partial)
    try:
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
        sync_folder(target.parent)
    except BaseException:
        _recover(target, replaced)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def empty_folder(folder: Path, keep: str | None = None) -> None:
    """Remove everything in `folder` but the entry named `keep`."""
    for entry in folder.iterdir():
        if entry.name == keep:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


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
        moved = not _is(partial, folder)
    except BlockingIOError:
        moved = True
    if moved:
        raise DataError(f"--out {target}: another process is writing it; wait for it, or choose another --out")


def _is(path: Path, descriptor: int) -> bool:
    """Whether the open folder still has this name."""
    return path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino


def _recover(target: Path, replaced: Path) -> None:
    """Put back the old folder if it was moved aside and the new one never came; else remove what is left of it."""
    if replaced.exists() and not target.exists():
        replaced.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)
