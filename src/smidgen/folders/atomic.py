"""Folders and links that survive a kill or a power failure: there whole, or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smidgen.runtime.files import sync_folder, sync_tree


def replace_symlink(link: Path, target: str) -> None:
    """Make `link` point to `target` (relative to the link's folder) in one step; an equal link is left alone."""
    if link.is_symlink() and os.readlink(link) == target:
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync_folder(link.parent)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` to put files into: it takes that name when the block ends, as `publish_folder`
    does it; after an exception nothing is left of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".writing-{target.name}-{os.getpid()}")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        staged.mkdir()
        yield staged
        publish_folder(staged, target)
    except OSError as error:
        # What was to be written, not what stands beside it until then.
        if error.filename is not None:
            error.filename = str(error.filename).replace(str(staged), str(target))
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def publish_folder(staged: Path, target: Path) -> None:
    """Give a finished folder its name. All its files reach the disk first; a folder already named so is replaced, and
    deleted once the new one stands there."""
    _share_files(staged)
    sync_tree(staged)
    replaced = _set_aside(target) if target.exists() else None
    staged.rename(target)
    sync_folder(target.parent)
    if replaced is not None:
        shutil.rmtree(replaced)


def remove_folder(path: Path) -> None:
    """Delete a folder; it loses its name first, so that a kill in between leaves nothing that looks whole."""
    shutil.rmtree(_set_aside(path))


def _set_aside(path: Path) -> Path:
    doomed = path.with_name(f".removed-{path.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    path.rename(doomed)
    return doomed


def _share_files(folder: Path) -> None:
    """Let whoever may read `folder` read its files: safetensors writes for the owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
