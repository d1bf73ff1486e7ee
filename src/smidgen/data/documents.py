"""Documents inside one file: a text file as a whole, by line or by blank line, and JSON Lines with a named field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from smidgen.runtime.errors import DataError

TextUnit = Literal["file", "line", "blank"]
"""What one document of a text file is: the whole file, a line, or what stands between blank lines."""

MAX_PIECE_CHARACTERS = 1 << 22
"""A whole file longer than this is passed on in pieces, so that memory stays bounded."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A document, or a part of one too long to hold at once."""

    text: str
    separator: str = ""
    """What stood between this document and the next. It is kept only for tokenizers without an end-of-text token."""
    begins: bool = True
    """The first piece of its document."""
    ends: bool = True
    """The last piece of its document."""
    messages: tuple[Mapping[str, str], ...] | None = None
    """The conversation that `text` renders, when it is one; `text` then spells special tokens."""
    split: Literal["train", "val"] | None = None
    """The split a generator drew this document for; None leaves it to `prepare`."""


def text_documents(path: Path, unit: TextUnit) -> Iterator[Piece]:
    """Documents of a UTF-8 text file (a byte-order mark is dropped, CRLF is read as LF), empty ones left out.

    Raises DataError naming file and line where the bytes are no UTF-8.
    """
    readers: dict[TextUnit, Callable[[TextIO], Iterator[Piece]]] = {
        "file": _whole_file,
        "line": _lines,
        "blank": _paragraphs,
    }
    yield from _decoded(path, readers[unit])


def json_lines_documents(path: Path, field: str) -> Iterator[Piece]:
    """The string in `field` of each line's JSON object; blank lines and empty strings are left out.

    Raises DataError naming file and line for broken JSON, a missing field, or a value that is no string.
    """

    def read(file: TextIO) -> Iterator[Piece]:
        for number, line in enumerate(file, 1):
            if stripped := line.strip():
                text = _field_of(stripped, field, f"{path}, line {number}")
                if text.strip():
                    yield Piece(text, separator="\n")

    yield from _decoded(path, read)


def _decoded(path: Path, read: Callable[[TextIO], Iterator[Piece]]) -> Iterator[Piece]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from read(file)
    except UnicodeDecodeError:
        raise DataError(_describe_bad_bytes(path)) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the name and its permissions") from None


def _whole_file(file: TextIO) -> Iterator[Piece]:
    """One document, cut where a line ends and the next starts with a letter or sign.

    Byte-level BPE gives the same ids on both sides of such a cut as for the whole text.
    """
    lines: list[str] = []
    size = 0
    begins = True
    for line in iter(lambda: file.readline(MAX_PIECE_CHARACTERS), ""):
        clean_cut = bool(lines) and lines[-1].endswith("\n") and bool(lines[-1].strip()) and not line[:1].isspace()
        if size >= MAX_PIECE_CHARACTERS and (clean_cut or size >= 2 * MAX_PIECE_CHARACTERS):
            yield Piece("".join(lines), begins=begins, ends=False)
            lines, size, begins = [], 0, False
        lines.append(line)
        size += len(line)
    text = "".join(lines)
    if text.strip() or not begins:
        yield Piece(text, begins=begins)


def _lines(file: TextIO) -> Iterator[Piece]:
    for line in file:
        if line.strip():
            text = line.removesuffix("\n")
            yield Piece(text, separator=line[len(text) :])


def _paragraphs(file: TextIO) -> Iterator[Piece]:
    document: list[str] = []
    blank: list[str] = []
    for line in file:
        if not line.strip():
            if document:
                blank.append(line)
            continue
        if blank:
            yield _paragraph(document, blank)
            document, blank = [], []
        document.append(line)
    if document:
        yield _paragraph(document, blank)


def _paragraph(document: list[str], blank: list[str]) -> Piece:
    whole = "".join(document)
    text = whole.removesuffix("\n")
    return Piece(text, separator=whole[len(text) :] + "".join(blank))


def _field_of(line: str, field: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg.removesuffix(' at')}, column {error.colno}"
        else:
            reason = "too deep or too long a number"
        raise DataError(
            f"{where}: no valid JSON ({reason}): {_shown(line)}; a line of JSON Lines is one whole object: "
            "repair or remove it"
        ) from None
    if not isinstance(record, dict):
        raise DataError(
            f'{where}: {_shown(line)} is no JSON object; write one object a line, such as {{"{field}": "..."}}'
        )
    if field not in record:
        names = ", ".join(map(repr, record)) or "none"
        raise DataError(f"{where}: no field '{field}' (its fields: {names}); name one with --field")
    value = record[field]
    if not isinstance(value, str):
        raise DataError(
            f"{where}: field '{field}' = {_shown(json.dumps(value))} is no string; name another with --field"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: field '{field}' holds a lone surrogate (\\u{ord(value[error.start]):04x}), which is no text; "
            "repair or remove the line"
        ) from None
    return value


def _describe_bad_bytes(path: Path) -> str:
    """Where the file stops being UTF-8; reads it again, line by line, which only happens on the way out."""
    with path.open("rb") as file:
        start = file.read(4)
        if start[:2] in {b"\xff\xfe", b"\xfe\xff"}:
            return f"{path}: is UTF-16, not UTF-8; convert it with 'iconv -f UTF-16 -t UTF-8'"
        if start[:2] == b"\x1f\x8b" or start == b"\x28\xb5\x2f\xfd":
            return f"{path}: is compressed; unpack it first"
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte, column = line[error.start], error.start + 1
                return (
                    f"{path}, line {number}: byte 0x{byte:02x} (the line's {column}.) is no UTF-8; "
                    "convert the file, e.g. with 'iconv -f LATIN1 -t UTF-8'"
                )
    raise AssertionError("the decoder refused what every line's decoding accepts")


def _shown(value: str) -> str:
    value = value.strip()
    return value if len(value) <= 60 else value[:57] + "..."
