"""Run folders: one training run on disk, its lock, and its checkpoints.

    config.yaml  metrics.jsonl  lock
    checkpoints/step-00000500/{model/, state/, manifest.json}
    best, last → checkpoints/step-…        (relative symlinks)

A checkpoint is written under a hidden name, reaches the disk, gets its manifest, and is renamed last. The manifest
holds every file's size and SHA-256; a folder without a valid one does not exist.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.folders.atomic import publish_folder, remove_folder, replace_symlink
from smidgen.runtime.errors import ModelFolderError, TrainingError
from smidgen.runtime.files import sync_folder, write_text

logger = logging.getLogger(__name__)

_STEP_NAME = re.compile(r"step-(\d{8,})")
_OWN_NAMES = {"config.yaml", "metrics.jsonl", "lock", "checkpoints", "best", "last", "conversations", "teacher"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says of itself."""

    step: int
    """Optimiser steps taken."""
    validation_loss: float | None
    """Mean nats a token on the validation split; None where the checkpoint was not evaluated."""
    files: dict[str, dict[str, Any]]
    """Relative path of every file, with its `size` in bytes and its `sha256`."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Which checkpoints stay; the one of lowest validation loss and the newest always do."""

    last: int = 2
    """The newest ones."""
    best: int = 1
    """Those of lowest validation loss."""
    every: int | None = None
    """All whose step is a multiple of this; None keeps none for its number."""


class RunFolder:
    """The folder of one training run. Only a holder of its lock writes into it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.metrics_path = self.path / "metrics.jsonl"
        self.checkpoints_path = self.path / "checkpoints"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if need be and hold its lock; leftovers of killed processes are cleared.

        Raises TrainingError when another process holds the lock, or the folder holds something else than a run.
        """
        self._refuse_foreign_folder()
        self.checkpoints_path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                raise TrainingError(
                    f"{self.path}: {holder} is training in this run folder; wait for it or choose another --run"
                ) from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            for pattern in (".writing-*", ".removed-*"):
                for leftover in self.checkpoints_path.glob(pattern):
                    shutil.rmtree(leftover)
            yield

    def write_checkpoint(
        self, step: int, write: Callable[[Path], None], validation_loss: float | None, retention: Retention
    ) -> Path:
        """Make the checkpoint of `step`: `write(folder)` fills it; links and older checkpoints follow.

        If anything fails, earlier checkpoints stand untouched and nothing is left of this one.
        """
        staged = self.staged_path(step)
        try:
            staged.mkdir()
            write(staged)
            return self.publish_checkpoint(step, validation_loss, retention)
        finally:
            self.abandon_checkpoint(step)

    def checkpoint_path(self, step: int) -> Path:
        """The folder of the checkpoint of `step`, whether it exists or not."""
        return self.checkpoints_path / f"step-{step:08d}"

    def staged_path(self, step: int) -> Path:
        """Where a checkpoint is made before it has its name."""
        return self.checkpoints_path / f".writing-step-{step:08d}"

    def publish_checkpoint(self, step: int, validation_loss: float | None, retention: Retention) -> Path:
        """Give what stands complete at `staged_path` its manifest and its name; links and older checkpoints follow."""
        path = self.checkpoint_path(step)
        _write_manifest(self.staged_path(step), step, validation_loss)
        publish_folder(self.staged_path(step), path)
        self.refresh(retention)
        return path

    def abandon_checkpoint(self, step: int) -> None:
        """Clear what stands at `staged_path`, if anything does."""
        if self.staged_path(step).exists():
            shutil.rmtree(self.staged_path(step))

    def resume_point(self) -> Path | None:
        """The newest checkpoint whose every byte is intact. Newer damaged ones are set aside as `damaged-step-…`."""
        for path in reversed(_step_folders(self.path)):
            try:
                verify_checkpoint(path)
            except ModelFolderError as error:
                aside = path.with_name(f"damaged-{path.name}")
                if aside.exists():
                    shutil.rmtree(aside)
                path.rename(aside)
                sync_folder(self.checkpoints_path)
                logger.warning("%s; set aside as %s", error, aside.name)
            else:
                return path
        return None

    def refresh(self, retention: Retention) -> None:
        """Point `best` and `last` to where they belong, then remove the checkpoints no longer kept."""
        manifests = _manifests(self.path)
        if not manifests:
            return
        keep = {path for path, _ in manifests[-max(retention.last, 1) :]}
        replace_symlink(self.path / "last", f"checkpoints/{manifests[-1][0].name}")
        best = _best(manifests)
        if best:
            keep.update(best[: max(retention.best, 1)])
            replace_symlink(self.path / "best", f"checkpoints/{best[0].name}")
        if retention.every is not None:
            keep.update(path for path, manifest in manifests if manifest.step % retention.every == 0)
        for path in _step_folders(self.path):
            if path not in keep:
                remove_folder(path)

    def best_validation_loss(self) -> float | None:
        """Lowest validation loss of the checkpoints, in nats a token."""
        losses = [m.validation_loss for _, m in _manifests(self.path) if m.validation_loss is not None]
        return min(losses, default=None)

    def _refuse_foreign_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError(f"{self.path}: is a file; name a folder with --run")
        if self.path.is_dir() and not is_run_folder(self.path):
            foreign = sorted({entry.name for entry in self.path.iterdir()} - _OWN_NAMES)
            if foreign:
                raise TrainingError(f"{self.path}: holds '{foreign[0]}' but no run; choose another --run")


def is_run_folder(path: str | Path) -> bool:
    """Whether `path` looks like a run folder."""
    return (Path(path) / "config.yaml").is_file() and (Path(path) / "checkpoints").is_dir()


def verify_checkpoint(path: str | Path, part: str = "") -> Manifest:
    """Check a checkpoint's files (those below `part`, such as "model/") against its manifest, byte by byte.

    Raises ModelFolderError naming the first file that is missing or changed.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    for name, expected in manifest.files.items():
        if name.startswith(part):
            _check_size(path / name, expected["size"])
            if _sha256(path / name) != expected["sha256"]:
                raise ModelFolderError(f"{path / name}: damaged: its contents differ from the checkpoint's manifest")
    return manifest


def latest_checkpoint(run: str | Path) -> Path | None:
    """The newest checkpoint of a run whose model is intact; None if there is none."""
    return next((path for path in reversed(_step_folders(Path(run))) if _has_intact_model(path)), None)


def best_checkpoint(run: str | Path) -> Path | None:
    """The checkpoint of lowest validation loss; where none was evaluated or it is damaged, the newest intact one."""
    best = _best(_manifests(Path(run)))
    return best[0] if best and _has_intact_model(best[0]) else latest_checkpoint(run)


def _has_intact_model(path: Path) -> bool:
    try:
        verify_checkpoint(path, part="model/")
    except ModelFolderError as error:
        logger.warning("%s", error)
        return False
    return True


def _step_folders(run: Path) -> list[Path]:
    found = {path: _STEP_NAME.fullmatch(path.name) for path in (run / "checkpoints").glob("step-*")}
    return sorted((path for path, match in found.items() if match), key=lambda path: int(path.name[len("step-") :]))


def _manifests(run: Path) -> list[tuple[Path, Manifest]]:
    """Checkpoints with a readable manifest and files of the right sizes, oldest first."""
    valid = []
    for path in _step_folders(run):
        try:
            manifest = _read_manifest(path)
            for name, expected in manifest.files.items():
                _check_size(path / name, expected["size"])
        except ModelFolderError:
            continue
        valid.append((path, manifest))
    return valid


def _best(manifests: list[tuple[Path, Manifest]]) -> list[Path]:
    """The evaluated checkpoints, best first; of equals the earlier."""
    scored = [(m.validation_loss, path) for path, m in manifests if m.validation_loss is not None]
    return [path for _, path in sorted(scored, key=lambda pair: pair[0])]


def _write_manifest(folder: Path, step: int, validation_loss: float | None) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            files[name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    write_text(folder / "manifest.json", _manifest_text(step, validation_loss, files))


def _manifest_text(step: int, validation_loss: float | None, files: dict[str, dict[str, Any]]) -> str:
    content = {"step": step, "validation_loss": validation_loss, "files": files}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "digest": digest}, indent=1, sort_keys=True) + "\n"


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text)
        manifest = Manifest(tree["step"], tree["validation_loss"], tree["files"])
        # The text carries its own digest and one spelling only: any changed byte shows.
        intact = text == _manifest_text(manifest.step, manifest.validation_loss, manifest.files)
    except FileNotFoundError:
        raise ModelFolderError(f"{path}: missing: the checkpoint was never finished") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(f"{path}: damaged: {error}") from None
    if not intact:
        raise ModelFolderError(f"{path}: damaged: its contents differ from its digest")
    return manifest


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError:
        raise ModelFolderError(f"{path}: missing, though the checkpoint's manifest lists it") from None
    if size != expected:
        raise ModelFolderError(f"{path}: damaged: {size} bytes instead of the manifest's {expected}")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read: {error.strerror}") from None
