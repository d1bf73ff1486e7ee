"""Sources that can only be read from their beginning: compressed files, JSON values, CSV, and what is generated.

The main process reads them and hands chunks to workers: whole lines where that is enough, else documents.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from smidgen.data.documents import BadRecord, TextUnit
from smidgen.data.sources.base import (
    CHUNK_BYTES,
    Chunk,
    DiskFile,
    Item,
    Reading,
    cannot_be_read,
)
from smidgen.data.sources.delimited import delimited_rows
from smidgen.data.sources.json_values import json_values
from smidgen.data.sources.parsing import UTF16, UTF16_MARKS, json_lines, paragraph, text_lines, whole_text, without_mark
from smidgen.data.sources.ranges import cut_near, is_blank
from smidgen.runtime.errors import MissingDependencyError

if TYPE_CHECKING:
    import zstandard

Compression = Literal["gzip", "zstd"]
StreamFormat = Literal["text", "jsonl", "json", "csv", "tsv"]

_CHUNK_ITEMS = 4096


@dataclass(frozen=True, slots=True)
class StreamFile(DiskFile):
    """A file whose documents can only be found by reading it from its beginning."""

    format: StreamFormat
    compression: Compression | None
    unit: TextUnit
    field: str
    divisible: bool = False

    def chunks(self) -> Iterator[Chunk]:
        done = 0
        for chunk, position in self._chunks():
            yield Chunk(0, lines=chunk.lines, items=chunk.items, size=max(position - done, 0), start=chunk.start)
            done = max(position, done)

    def _chunks(self) -> Iterator[tuple[Chunk, int]]:
        try:
            with self.path.open("rb") as raw, _unpacked(raw, self.compression) as file:
                faults: list[BadRecord] = []
                stream = _Stream(file, faults)
                if self.format == "jsonl" or (self.format == "text" and self.unit == "line"):
                    chunks = _line_chunks(stream)
                else:
                    chunks = (Chunk(0, items=tuple(items)) for items in _item_blocks(self._items(stream)))
                for chunk in chunks:
                    yield chunk, raw.tell()
                for fault in faults:
                    yield Chunk(0, items=(fault,)), self.size
        except OSError as error:
            raise cannot_be_read(self.path, error) from None

    def _items(self, stream: _Stream) -> Iterator[Item]:
        if self.format == "json":
            return json_values(stream, self.field)
        if self.format in {"csv", "tsv"}:
            return delimited_rows(stream, self.field, "," if self.format == "csv" else "\t", self.name)
        return _paragraphs(stream) if self.unit == "blank" else _whole(stream)

    def lines_before(self, chunk: Chunk) -> int:
        """Number of lines before the first that positions in the chunk count from."""
        return chunk.start

    def read(self, chunk: Chunk) -> Reading:
        if chunk.items is not None:
            return Reading(iter(chunk.items))
        assert chunk.lines is not None
        reading = Reading(iter(()))
        if self.format == "jsonl":
            reading.items = json_lines(chunk.lines, self.field, reading)
        else:
            reading.items = text_lines(chunk.lines, reading)
        return reading


@contextmanager
def opened_stream(path: Path, compression: Compression | None, faults: list[BadRecord]) -> Iterator[io.RawIOBase]:
    """The bytes of a file, unpacked. A damaged archive ends where the damage begins, and `faults` then says so."""
    with path.open("rb") as raw, _unpacked(raw, compression) as file:
        yield _Stream(file, faults)


class _Stream(io.RawIOBase):
    """A file object that ends where the archive is damaged, and remembers that."""

    def __init__(self, file: BinaryIO, faults: list[BadRecord]) -> None:
        self._file = file
        self._faults = faults
        self._errors: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile, *_zstd_errors())

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._faults:
            return 0
        try:
            data = self._file.read1(len(buffer)) if hasattr(self._file, "read1") else self._file.read(len(buffer))
        except self._errors as error:
            self._faults.append(
                BadRecord("archive", f"the archive is cut short or damaged ({error}); what came before it was read")
            )
            return 0
        buffer[: len(data)] = data
        return len(data)


def _zstd_errors() -> tuple[type[Exception], ...]:
    try:
        import zstandard
    except ModuleNotFoundError:
        return ()
    return (zstandard.ZstdError,)


@contextmanager
def _unpacked(raw: BinaryIO, compression: Compression | None) -> Iterator[BinaryIO]:
    if compression == "gzip":
        with gzip.GzipFile(fileobj=raw) as file:
            yield file  # type: ignore[misc]
    elif compression == "zstd":
        yield _zstandard_reader(raw)
    else:
        yield raw


def _zstandard_reader(raw: BinaryIO) -> BinaryIO:
    """The bytes of a zstd file of any number of frames; raises MissingDependencyError without the package."""
    try:
        import zstandard
    except ModuleNotFoundError:
        raise MissingDependencyError("zstandard", "data", "reading zstd") from None
    return _ZstandardReader(raw, zstandard.ZstdDecompressor())  # type: ignore[return-value]


class _ZstandardReader:
    """Reads frame after frame; zstandard's own stream reader ends silently where a frame is cut short."""

    def __init__(self, raw: BinaryIO, decompressor: zstandard.ZstdDecompressor) -> None:
        self._raw = raw
        self._decompressor = decompressor
        self._frame: Any = None
        self._data = b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none at the end; raises EOFError inside a frame."""
        left = b""
        while not self._data:
            packed = left or self._raw.read(1 << 16)
            if not packed:
                if self._frame is not None:
                    raise EOFError("it ends inside a frame")
                return b""
            self._frame = self._frame or self._decompressor.decompressobj()
            self._data = self._frame.decompress(packed)
            left = b""
            if self._frame.eof:
                left, self._frame = self._frame.unused_data, None
                if self._data and left:
                    self._raw.seek(-len(left), 1)
        data, self._data = self._data[:size], self._data[size:]
        return data


def _line_blocks(stream: _Stream) -> Iterator[bytes]:
    """Whole lines, about CHUNK_BYTES at a time."""
    file = io.BufferedReader(stream, 1 << 17)
    first = True
    while block := file.read(CHUNK_BYTES):
        if not block.endswith(b"\n"):
            block += file.readline()
        yield without_mark(block) if first else block
        first = False


def _line_chunks(stream: _Stream) -> Iterator[Chunk]:
    number = 0
    for block in _line_blocks(stream):
        yield Chunk(0, lines=block, start=number)
        number += block.count(b"\n")


def _item_blocks(items: Iterable[Item]) -> Iterator[list[Item]]:
    block: list[Item] = []
    size = 0
    for item in items:
        block.append(item)
        size += 0 if isinstance(item, BadRecord) else len(item.text)
        if size >= CHUNK_BYTES or len(block) >= _CHUNK_ITEMS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _paragraphs(stream: _Stream) -> Iterator[Item]:
    lines: list[bytes] = []
    blank: list[bytes] = []
    first = 0
    for number, line in enumerate(io.BufferedReader(stream, 1 << 17)):
        line = without_mark(line) if number == 0 else line
        if is_blank(line):
            if lines:
                blank.append(line)
            continue
        if blank:
            yield from paragraph(lines, blank, first)
            lines, blank = [], []
        if not lines:
            first = number
        lines.append(line)
    if lines:
        yield from paragraph(lines, blank, first)


def _whole(stream: _Stream) -> Iterator[Item]:
    """One document, in pieces that end where lines do."""
    file = io.BufferedReader(stream, 1 << 17)
    begins = True
    lines = 0
    held = without_mark(file.read(CHUNK_BYTES))
    if held[:2] in UTF16_MARKS:
        yield UTF16
        return
    while True:
        more = file.read(CHUNK_BYTES)
        held += more
        cut = cut_near(io.BytesIO(held), CHUNK_BYTES, len(held)) if more else len(held)
        reading = Reading(iter(()))
        for item in whole_text(held[:cut], begins, not more, reading):
            if isinstance(item, BadRecord) and item.position is not None:
                item = BadRecord(item.kind, item.message, item.position + lines)
            yield item
        lines += reading.lines
        held, begins = held[cut:], False
        if not more:
            return
