"""Writes that survive a kill or a power failure: a file or folder is there whole, or it is not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replace the file `path` by `text` (UTF-8): readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # The file that was to be written, not the one beside it.
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_symlink(link: Path, target: str) -> None:
    """Make `link` point to `target` (relative to the link's folder) in one step; an equal link is left alone."""
    if link.is_symlink() and os.readlink(link) == target:
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync_folder(link.parent)


def publish_folder(staged: Path, target: Path) -> None:
    """Give a finished folder its name. All its files reach the disk first; a folder already named so is replaced."""
    _share_files(staged)
    sync_tree(staged)
    if target.exists():
        remove_folder(target)
    staged.rename(target)
    sync_folder(target.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder; it loses its name first, so that a kill in between leaves nothing that looks whole."""
    doomed = path.with_name(f".removed-{path.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    path.rename(doomed)
    shutil.rmtree(doomed)


def sync_tree(folder: Path) -> None:
    """fsync every file below `folder`, then every folder."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(parent) / name, os.O_RDONLY)
        sync_folder(Path(parent))


def sync_folder(folder: Path) -> None:
    """fsync a folder's own entries: names created, renamed or removed in it."""
    _sync(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))


def _share_files(folder: Path) -> None:
    """Let whoever may read `folder` read its files: safetensors writes for the owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
