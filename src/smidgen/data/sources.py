"""What a SOURCE argument means: files, folders, globs, and the built-in corpus; each a stream of documents."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from smidgen.data.documents import Piece, TextUnit, json_lines_documents, text_documents
from smidgen.data.holdout import Holdout
from smidgen.data.manifest import MANIFEST_NAME, SourceRecord, SplitName, digest_of
from smidgen.runtime.errors import DataError

logger = logging.getLogger(__name__)

STORYWORLD = "storyworld"
DEFAULT_STORYWORLD_DOCUMENTS = 20_000

_JSON_LINES = {".jsonl", ".ndjson", ".json"}
_IN_FOLDERS = {".txt", ".text", ".md", ".jsonl", ".ndjson"}
"""Endings that are read when a folder is named; a file or glob may name any other text file."""


class Source(Protocol):
    """A named stream of documents that can be read again from the start."""

    def record(self) -> SourceRecord:
        """Name, size and digest, for the manifest. Reads a file whole, once."""

    def pieces(self) -> Iterator[Piece]:
        """The documents in their order."""


@dataclass(frozen=True)
class FileSource:
    """A text or JSON Lines file; its ending tells which."""

    path: Path
    unit: TextUnit
    field: str

    def record(self) -> SourceRecord:
        try:
            with self.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}; check its permissions") from None
        return SourceRecord(str(self.path), self.path.stat().st_size, digest)

    def pieces(self) -> Iterator[Piece]:
        if self.path.suffix.lower() in _JSON_LINES:
            return json_lines_documents(self.path, self.field)
        return text_documents(self.path, self.unit)


@dataclass(frozen=True)
class StoryworldSource:
    """The built-in corpus. Its validation documents are made of members of the world that training never shows."""

    train_documents: int
    val_documents: int
    seed: int

    def record(self) -> SourceRecord:
        # The first documents stand for the generator's code: another version writes other text.
        sample = [piece.text for piece in islice(self.pieces(), 256)]
        digest = digest_of([STORYWORLD, self.train_documents, self.val_documents, self.seed, sample])
        return SourceRecord(STORYWORLD, None, digest)

    def pieces(self) -> Iterator[Piece]:
        from smidgen.data.storyworld import generate

        counts: dict[SplitName, int] = {"train": self.train_documents, "val": self.val_documents}
        for split, count in counts.items():
            for document in islice(generate(self.seed, split), count):
                yield Piece(document.text, separator="\n\n", messages=document.messages, split=split)


def open_sources(
    names: Sequence[str | Path],
    *,
    split_documents: TextUnit | None,
    field: str | None,
    documents: int | None,
    holdout: Holdout,
    seed: int,
) -> list[Source]:
    """The sources that SOURCE arguments name, files before the built-in corpus.

    Raises DataError for names that stand for nothing, and for options that no source would obey.
    """
    if not names:
        raise DataError(f"no source: name a file, a folder, a glob, or '{STORYWORLD}'")
    paths = find_files([name for name in names if str(name) != STORYWORLD])
    sources: list[Source] = [FileSource(path, split_documents or "file", field or "text") for path in paths]
    json_lines = [path.suffix.lower() in _JSON_LINES for path in paths]
    if field is not None and not any(json_lines):
        raise DataError(f"--field {field}: none of the sources is JSON Lines (.jsonl); leave it out")
    if split_documents is not None and all(json_lines):
        raise DataError(f"--split-documents {split_documents}: none of the sources is a text file; leave it out")
    if STORYWORLD in map(str, names):
        count = DEFAULT_STORYWORLD_DOCUMENTS if documents is None else documents
        if count < 1:
            raise DataError(f"--documents {count}: use at least 1")
        sources.append(StoryworldSource(count, holdout.count(count), seed))
    elif documents is not None:
        raise DataError(f"--documents {documents}: counts documents of the source '{STORYWORLD}'; leave it out")
    return sources


def find_files(names: Sequence[str | Path]) -> list[Path]:
    """The files that names of files, folders (recursively) and globs stand for, each once.

    Names keep their order; within a folder or glob, paths are sorted. Hidden files and dataset folders are left out.
    Raises DataError for a name that stands for nothing.
    """
    files: dict[str, Path] = {}
    for name in names:
        for path in _files_of(str(name)):
            files.setdefault(os.path.realpath(path), path)
    return list(files.values())


def _files_of(name: str) -> list[Path]:
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _walk(path)
    if not any(sign in name for sign in "*?["):
        raise DataError(f"{name}: no such file or folder (a built-in corpus is called '{STORYWORLD}')")
    matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
    files = [match for match in matches if match.is_file()]
    if not files:
        raise DataError(f"{name}: matches no file; check the pattern, and quote it so that the shell leaves it alone")
    return files


def _walk(folder: Path) -> list[Path]:
    files: list[Path] = []
    left_out: Counter[str] = Counter()
    for parent, folders, names in os.walk(folder):
        if MANIFEST_NAME in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in _IN_FOLDERS and not name.startswith("."):
                files.append(Path(parent) / name)
            else:
                left_out[Path(name).suffix.lower() or name] += 1
    if not files:
        raise DataError(
            f"{folder}: no file that ends in {', '.join(sorted(_IN_FOLDERS))}; "
            f"name others by a glob, such as '{folder}/**/*.py'"
        )
    if left_out:
        endings = ", ".join(f"{ending} ({count})" for ending, count in left_out.most_common(5))
        logger.warning("%s: left out %d files by their endings: %s", folder, left_out.total(), endings)
    return files
