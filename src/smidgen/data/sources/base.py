"""What every source offers: chunks of work that any process can turn into documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from smidgen.data.documents import BadRecord, Piece
from smidgen.runtime.errors import DataError

CHUNK_BYTES = 1 << 21
"""Bytes of a source that make one unit of work. Part of what decides the result's bytes, so it never depends on the
machine: small enough for many cores and little memory, large enough for a unit's overhead not to count."""

Item = Piece | BadRecord


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a source: a place in it, or what was read there."""

    source: int
    """Number of the source in the job."""
    start: int = 0
    """First byte (of a divisible file) or row group (Parquet); of `lines`, how many lines come before them."""
    stop: int = 0
    """End of that range; 0 for streams."""
    lines: bytes | None = None
    """Whole lines that the main process took from a stream."""
    items: tuple[Item, ...] | None = None
    """Documents that the main process took from a stream."""
    size: int = 0
    """Bytes of the source that it stands for, as progress counts them."""


class Source(Protocol):
    """A stream of documents that can be read again, in the same order. Picklable: workers get a copy."""

    @property
    def name(self) -> str:
        """As users know it: the path, or what they typed."""

    @property
    def argument(self) -> str:
        """The SOURCE argument that it belongs to; limits and weights go by that."""

    @property
    def size(self) -> int | None:
        """Bytes; None when nobody knows."""

    @property
    def divisible(self) -> bool:
        """Chunks are places that workers read by themselves, and their digests make up the source's."""

    def state(self) -> str:
        """Changes when the source does, without reading all of it: size and time of a file."""

    def digest(self) -> str:
        """sha256 of the content, read whole: of the chain of its chunks' digests for a file, see `Digest`."""

    def chunks(self) -> Iterator[Chunk]:
        """The source's chunks in order, `source` 0 in all of them. Called in the main process."""

    def read(self, chunk: Chunk) -> Reading:
        """What the chunk holds. Called in any process."""


@dataclass(slots=True)
class Reading:
    """The documents of a chunk; the counts are complete once they have been read."""

    items: Iterator[Item]
    lines: int = 0
    """Lines of the file that the chunk holds; positions of its bad records count from its first line."""
    digest: bytes | None = None
    """sha256 of the chunk's bytes, of a divisible source."""


class Digest:
    """sha256 of a file by blocks of CHUNK_BYTES, chained, so that processes share the work and a count can go on."""

    def __init__(self, state: str = "") -> None:
        self.state = state

    def add(self, block: bytes) -> None:
        """Take in the sha256 of the next block."""
        self.state = hashlib.sha256(bytes.fromhex(self.state) + block).hexdigest()


def digest_of_file(path: Path) -> str:
    """The `Digest` of a file's bytes, read in this process; raises DataError when it cannot be read."""
    digest = Digest()
    try:
        with path.open("rb") as file:
            while block := file.read(CHUNK_BYTES):
                digest.add(hashlib.sha256(block).digest())
    except OSError as error:
        raise cannot_be_read(path, error) from None
    return digest.state


def state_of_file(path: Path) -> str:
    """Size and time of the last change; raises DataError when the file cannot be found."""
    try:
        status = path.stat()
    except OSError as error:
        raise cannot_be_read(path, error) from None
    return f"{status.st_size}:{status.st_mtime_ns}"


def cannot_be_read(path: Path, error: OSError) -> DataError:
    """The error for a file that the system refuses to give."""
    return DataError(f"{path}: cannot be read: {error.strerror}; check the name and its permissions")


@dataclass(frozen=True, slots=True)
class DiskFile:
    """What sources that are one file have in common."""

    path: Path
    argument: str
    size: int

    @property
    def name(self) -> str:
        return "-" if self.argument == "-" else str(self.path)

    def state(self) -> str:
        """See `Source.state`."""
        return state_of_file(self.path)

    def digest(self) -> str:
        """See `Source.digest`."""
        return digest_of_file(self.path)
