"""Uncompressed text and JSON Lines: chunks are byte ranges, which workers read by themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from smidgen.data.documents import TextUnit
from smidgen.data.sources.base import (
    CHUNK_BYTES,
    Chunk,
    DiskFile,
    Item,
    Reading,
    cannot_be_read,
)
from smidgen.data.sources.parsing import UTF16, UTF16_MARKS, json_lines, paragraph, text_lines, whole_text, without_mark
from smidgen.data.sources.ranges import cut_near, lines_from, paragraphs_from


@dataclass(frozen=True, slots=True)
class TextFile(DiskFile):
    """A text or JSON Lines file, read up to the size it had when the work began."""

    unit: TextUnit | None
    """What a document is; None for JSON Lines, which hold one a line."""
    field: str
    divisible: bool = True

    def chunks(self) -> Iterator[Chunk]:
        try:
            with self.path.open("rb") as file:
                if file.read(2) in UTF16_MARKS:
                    yield Chunk(0, 0, self.size, items=(UTF16,), size=self.size)
                    return
        except OSError as error:
            raise cannot_be_read(self.path, error) from None
        for start in range(0, self.size, CHUNK_BYTES):
            stop = min(start + CHUNK_BYTES, self.size)
            yield Chunk(0, start, stop, size=stop - start)

    def read(self, chunk: Chunk) -> Reading:
        if chunk.items is not None:
            return Reading(iter(chunk.items), digest=None)
        reading = Reading(iter(()))
        try:
            self._fill(reading, chunk)
        except OSError as error:
            raise cannot_be_read(self.path, error) from None
        return reading

    def _fill(self, reading: Reading, chunk: Chunk) -> None:
        with self.path.open("rb") as file:
            if self.unit in {None, "line"}:
                lines, block = lines_from(file, chunk.start, chunk.stop, self.size)
            else:
                file.seek(chunk.start)
                block = file.read(chunk.stop - chunk.start)
            reading.digest = hashlib.sha256(block).digest()
            if self.unit == "blank":
                reading.items = self._paragraphs(chunk, reading)
                return
            if self.unit == "file":
                begin, end = (cut_near(file, position, self.size) for position in (chunk.start, chunk.stop))
                file.seek(begin)
                lines = file.read(end - begin)
        if chunk.start == 0:
            lines = without_mark(lines)
        if self.unit is None:
            reading.items = json_lines(lines, self.field, reading)
        elif self.unit == "line":
            reading.items = text_lines(lines, reading)
        else:
            reading.items = whole_text(lines, chunk.start == 0, chunk.stop == self.size, reading)

    def _paragraphs(self, chunk: Chunk, reading: Reading) -> Iterator[Item]:
        with self.path.open("rb") as file:
            for number, lines, blank in paragraphs_from(file, chunk.start, chunk.stop, self.size):
                if chunk.start == 0 and number == 0:
                    lines[0] = without_mark(lines[0])
                yield from paragraph(lines, blank, number)
            # Lines that start in the range: one behind each line end from just before it to just before its end.
            file.seek(max(chunk.start - 1, 0))
            ends = file.read(chunk.stop - 1 - max(chunk.start - 1, 0))
        reading.lines = ends.count(b"\n") + (chunk.start == 0)

    def lines_before(self, chunk: Chunk) -> int:
        """Number of lines that start before the chunk's first one, read from the file: for an error message."""
        count = 0
        with self.path.open("rb") as file:
            left = cut_near(file, chunk.start, self.size) if self.unit == "file" else chunk.start
            file.seek(0)
            while left > 0 and (block := file.read(min(CHUNK_BYTES, left))):
                count += block.count(b"\n")
                left -= len(block)
            if chunk.start > 0 and not block.endswith(b"\n"):
                count += 1
        return count
