"""What a SOURCE argument means: files, folders, globs, standard input, a Hugging Face dataset, the built-in corpus."""

from __future__ import annotations

import glob
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smidgen.data.documents import Piece, TextUnit
from smidgen.data.holdout import Holdout
from smidgen.data.manifest import MANIFEST_NAME
from smidgen.data.sources.base import Source, cannot_be_read
from smidgen.data.sources.files import TextFile
from smidgen.data.sources.generated import DEFAULT_STORYWORLD_DOCUMENTS, STORYWORLD, HubSource, StoryworldSource
from smidgen.data.sources.parquet import ParquetFile
from smidgen.data.sources.streams import Compression, StreamFile
from smidgen.runtime.errors import DataError, MissingDependencyError

logger = logging.getLogger(__name__)

FileFormat = Literal["text", "jsonl", "json", "csv", "tsv", "parquet"]

STANDARD_INPUT = "-"

_FORMATS: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_IN_FOLDERS = {".txt", ".text", ".md", *_FORMATS}
"""Endings that are read when a folder is named; a file or glob may name any other text file."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How sources are read."""

    split_documents: TextUnit | None = None
    """What a document of a text file is; the whole file if None."""
    field: str | None = None
    """Field or column that holds the text; `text` if None."""
    format: FileFormat | None = None
    """Format of all files; by their endings if None."""
    documents: int | None = None
    """Training documents to draw from storyworld."""


def open_sources(
    names: Sequence[str | Path], options: SourceOptions, *, holdout: Holdout, seed: int, spool: Path
) -> list[Source]:
    """The sources that SOURCE arguments name, in their order but for the built-in corpus, which comes last.

    spool: file that standard input is copied to, so that it can be read again.

    Raises DataError for names that stand for nothing, and for options that no source would obey.
    """
    if not names:
        raise DataError(f"no source: name a file, a folder, a glob, or '{STORYWORLD}'")
    found: dict[str, Source] = {}
    for name in map(str, names):
        if name == STORYWORLD:
            continue
        for source in _sources_of(name, options, spool):
            key = os.path.realpath(source.name) if isinstance(source, (TextFile, StreamFile, ParquetFile)) else name
            found.setdefault(key, source)
    sources = list(found.values())
    has_fields = [not _is_text(source) for source in sources]
    if options.field is not None and not any(has_fields):
        raise DataError(f"--field {options.field}: none of the sources is JSON Lines or a table; leave it out")
    if options.split_documents is not None and all(has_fields):
        raise DataError(
            f"--split-documents {options.split_documents}: none of the sources is a text file; leave it out"
        )
    if options.format is not None and all(isinstance(source, HubSource) for source in sources):
        raise DataError(f"--format {options.format}: none of the sources is a file; leave it out")
    if STORYWORLD in map(str, names):
        count = DEFAULT_STORYWORLD_DOCUMENTS if options.documents is None else options.documents
        if count < 1:
            raise DataError(f"--documents {count}: use at least 1")
        sources.append(StoryworldSource(count, holdout.count(count), seed))
    elif options.documents is not None:
        raise DataError(f"--documents {options.documents}: counts documents of the source '{STORYWORLD}'; leave it out")
    return sources


def _is_text(source: Source) -> bool:
    if isinstance(source, TextFile):
        return source.unit is not None
    return isinstance(source, StreamFile) and source.format == "text"


def _sources_of(name: str, options: SourceOptions, spool: Path) -> Iterator[Source]:
    if name.startswith("hf:"):
        yield HubSource(name, options.field or "text")
    elif name == STANDARD_INPUT:
        yield _file_source(_spooled(spool), name, options)
    else:
        for path in _files_of(name):
            yield _file_source(path, name, options)


def _spooled(spool: Path) -> Path:
    """Standard input, copied to a file."""
    if sys.stdin.isatty():
        raise DataError("-: standard input is a terminal; pipe text into the command, or name a file")
    spool.parent.mkdir(parents=True, exist_ok=True)
    with spool.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return spool


def _file_source(path: Path, argument: str, options: SourceOptions) -> Source:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise cannot_be_read(path, error) from None
    compression = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    file_format = options.format or _format_of(path, start if argument == STANDARD_INPUT and not compression else b"")
    unit, field = options.split_documents or "file", options.field or "text"
    if file_format == "parquet":
        if compression is not None:
            raise DataError(f"{path}: Parquet is compressed inside; unpack this file once")
        return ParquetFile(path, argument, size, field)
    if compression is None and file_format in {"text", "jsonl"}:
        return TextFile(path, argument, size, None if file_format == "jsonl" else unit, field)
    if compression == "zstd":
        _require_zstandard()
    return StreamFile(path, argument, size, file_format, compression, unit, field)


def format_of_file(path: Path) -> tuple[FileFormat, Compression | None]:
    """What a file holds, by its ending, and how it is compressed, by its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise cannot_be_read(path, error) from None
    compression = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if compression == "zstd":
        _require_zstandard()
    return _format_of(path, b"" if compression else start), compression


def _format_of(path: Path, start: bytes) -> FileFormat:
    """By the ending, behind which a compression's is left out; without a known one, by how standard input starts."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in _COMPRESSIONS:
        endings.pop()
    if endings and endings[-1] in _FORMATS:
        return _FORMATS[endings[-1]]
    if start.startswith(b"PAR1"):
        return "parquet"
    stripped = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return {b"{": "jsonl", b"[": "json"}.get(stripped[:1], "text")  # type: ignore[return-value]


def _require_zstandard() -> None:
    try:
        import zstandard  # noqa: F401
    except ModuleNotFoundError:
        raise MissingDependencyError("zstandard", "data", "reading zstd") from None


@dataclass(frozen=True)
class FileSource:
    """A file's documents one after another in this process; the first bad record is an error."""

    path: Path
    unit: TextUnit
    field: str

    def pieces(self) -> Iterator[Piece]:
        """The documents in their order; raises DataError naming file and line."""
        source = _file_source(self.path, str(self.path), SourceOptions(self.unit, self.field))
        for chunk in source.chunks():
            for item in source.read(chunk).items:
                if isinstance(item, Piece):
                    yield item
                elif item.kind != "empty":
                    position = item.position
                    if position is not None and isinstance(source, (TextFile, StreamFile)):
                        position += source.lines_before(chunk)
                    raise DataError(item.describe(source.name, position))


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
            stem = Path(name).stem if Path(name).suffix.lower() in _COMPRESSIONS else name
            if Path(stem).suffix.lower() in _IN_FOLDERS and not name.startswith("."):
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
