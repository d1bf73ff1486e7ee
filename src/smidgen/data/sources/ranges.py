"""Byte ranges of text files: which lines, paragraphs or parts of the text belong to a range, whoever reads the others.

Every line (paragraph, part) belongs to exactly one range, and a range is found without reading the ones before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from smidgen.data.sources.base import CHUNK_BYTES

_SPACE = rb"\s\x1c-\x1f"
_WIDE_SPACES = rb"\xc2[\xa0\x85]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80"
_CLEAN_CUT = re.compile(
    rb"(?<![" + _SPACE + rb"])(?<!\xc2[\xa0\x85])(?<!\xe1\x9a\x80)(?<!\xe2\x80[\x80-\x8a\xa8\xa9\xaf])(?<!\xe2\x81\x9f)"
    rb"(?<!\xe3\x80\x80)\r?\n(?=[^" + _SPACE + rb"])(?!" + _WIDE_SPACES + rb")"
)
"""A line end between a line that is not blank and one that starts with a letter or sign: byte-level BPE gives the same
ids on both sides of such a cut as for the whole text."""


def lines_from(file: BinaryIO, start: int, stop: int, size: int) -> tuple[bytes, bytes]:
    """The lines that start in [start, stop) of a file's first `size` bytes, and the bytes [start, stop) themselves."""
    block = _read(file, start, min(stop, size) - start)
    first = 0
    if start > 0 and _read(file, start - 1, 1) != b"\n":
        first = block.find(b"\n") + 1
        if first == 0:
            return b"", block
    if first == len(block):
        return b"", block
    if block.endswith(b"\n") or stop >= size:
        return block[first:], block
    file.seek(stop)
    return block[first:] + b"".join(_rest_of_line(file, size)), block


def cut_near(file: BinaryIO, position: int, size: int) -> int:
    """Where a text is cut that would be cut at `position`: the next clean cut within CHUNK_BYTES, else the next line.

    Without either, between two characters.
    """
    if position <= 0 or position >= size:
        return min(max(position, 0), size)
    # A few bytes before the place are needed to judge a cut at the place itself.
    base = max(position - 4, 0)
    limit = min(CHUNK_BYTES, size - position) + position - base
    window = b""
    file.seek(base)
    step = 1 << 14
    while len(window) < limit:
        part = file.read(min(step, limit - len(window)))
        if not part:
            break
        window += part
        for found in _CLEAN_CUT.finditer(window):
            # What follows a cut at the window's end is not known yet.
            if base + found.end() >= position and found.end() + 3 <= len(window):
                return base + found.end()
        step *= 4
    offset = position - base
    line_end = window.find(b"\n", offset)
    if line_end >= 0:
        return base + line_end + 1
    while offset < len(window) and window[offset] & 0xC0 == 0x80:
        offset += 1
    return base + offset


def paragraphs_from(file: BinaryIO, start: int, stop: int, size: int) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
    """Paragraphs of [start, stop): those whose last blank line before them starts there.

    The file's first paragraph belongs to its first range. Gives the number of lines before the paragraph (from the
    first line that starts in the range), its lines, and the blank lines behind it.
    """
    position = start
    file.seek(start)
    if start > 0 and _read(file, start - 1, 1) != b"\n":
        position += sum(map(len, _rest_of_line(file, min(size, stop))))
        if position >= stop:
            return
    owned = start == 0
    document: list[bytes] = []
    blank: list[bytes] = []
    number = first = 0
    while position < size:
        line = file.readline(size - position)
        if not line:
            break
        if is_blank(line):
            if document:
                blank.append(line)
            owned = start <= position < stop
        else:
            if blank:
                yield first, document, blank
                document, blank = [], []
            if not document and not owned:
                if position >= stop:
                    return
            else:
                if not document:
                    first = number
                document.append(line)
        position += len(line)
        number += 1
    if document:
        yield first, document, blank


def is_blank(line: bytes) -> bool:
    """Whether a line holds white space only, as Unicode defines it."""
    stripped = line.strip()
    return not stripped or (stripped[0] >= 0x80 and stripped.decode("utf-8", "replace").isspace())


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _rest_of_line(file: BinaryIO, size: int) -> Iterator[bytes]:
    """What is left of the line at the file's position, in parts, never beyond `size`."""
    while True:
        part = file.readline(min(CHUNK_BYTES, max(size - file.tell(), 0)))
        if part:
            yield part
        if not part or part.endswith(b"\n"):
            return
