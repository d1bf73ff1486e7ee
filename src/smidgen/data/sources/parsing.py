"""Bytes of text and JSON Lines to documents. A line that cannot be read is a bad record, never the end of the work."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator

from smidgen.data.documents import MAX_PIECE_CHARACTERS, BadRecord, Piece, RecordUnit, excerpt, text_record
from smidgen.data.sources.base import Item, Reading

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF16 = BadRecord("encoding", "is UTF-16, not UTF-8; convert it with 'iconv -f UTF-16 -t UTF-8'")


def json_lines(block: bytes, field: str, reading: Reading) -> Iterator[Item]:
    """The documents of whole lines of JSON Lines. Blank lines are nothing; other lines without a text are bad."""
    for line in block.split(b"\n"):
        reading.lines += 1
        if stripped := line.strip():
            item = _json_record(stripped, field, reading.lines)
            if isinstance(item, BadRecord) or len(item.text) <= MAX_PIECE_CHARACTERS:
                yield item
            else:
                yield from in_pieces(item)
    if not block or block.endswith(b"\n"):
        reading.lines -= 1


def text_lines(block: bytes, reading: Reading) -> Iterator[Item]:
    """Each line that is not blank as a document; line ends of any kind count."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = block.split(b"\n")
    last = lines.pop()
    for raw in lines:
        reading.lines += 1
        yield from _text_line(raw, reading.lines, "\n")
    if last:
        reading.lines += 1
        yield from _text_line(last, reading.lines, "")


def _text_line(raw: bytes, number: int, separator: str) -> Iterator[Item]:
    line = decoded(raw, number)
    if isinstance(line, BadRecord):
        yield line
    elif line and not line.isspace():
        yield from in_pieces(Piece(line, separator=separator))


def whole_text(block: bytes, begins: bool, ends: bool, reading: Reading) -> Iterator[Item]:
    """A part of a text that is one document as a whole; lines that are no UTF-8 are left out of it."""
    text = decoded(block, 1)
    reading.lines = block.count(b"\n")
    if isinstance(text, BadRecord):
        kept = []
        for number, raw in enumerate(block.split(b"\n"), 1):
            line = decoded(raw, number)
            if isinstance(line, BadRecord):
                yield line
            else:
                kept.append(line)
        text = "\n".join(kept)
    if begins and ends and not text.strip():
        return
    yield from in_pieces(Piece(text, begins=begins, ends=ends))


def paragraph(lines: list[bytes], blank: list[bytes], number: int) -> Iterator[Item]:
    """A document of text by blank lines: its lines, and the blank ones behind it, which separate it from the next."""
    whole = decoded(b"".join(lines), 0)
    if isinstance(whole, BadRecord):
        bad = (decoded(line, number + offset) for offset, line in enumerate(lines, 1))
        yield next(record for record in bad if isinstance(record, BadRecord))
        return
    text = whole.removesuffix("\n")
    separator = whole[len(text) :] + b"".join(blank).decode("utf-8", "replace").replace("\r\n", "\n")
    yield from in_pieces(Piece(text, separator=separator))


def decoded(data: bytes, position: int) -> str | BadRecord:
    """UTF-8 text with line feeds only; a bad record of that position for bytes that are none."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return BadRecord(
            "encoding",
            f"byte 0x{data[error.start]:02x} (the line's {error.start + 1}.) is no UTF-8; "
            "convert the file, e.g. with 'iconv -f LATIN1 -t UTF-8'",
            position,
        )
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def without_mark(block: bytes) -> bytes:
    """The beginning of a file without its byte-order mark."""
    return block.removeprefix(codecs.BOM_UTF8)


def in_pieces(item: Item) -> Iterator[Item]:
    """A document as it is, or one too long to encode at once in pieces, cut where lines end."""
    if isinstance(item, BadRecord) or len(item.text) <= MAX_PIECE_CHARACTERS or item.messages is not None:
        yield item
        return
    text, start = item.text, 0
    while start < len(text):
        stop = start + MAX_PIECE_CHARACTERS
        if stop < len(text):
            stop = _clean_cut(text, stop)
        last = stop >= len(text)
        yield Piece(
            text[start:stop],
            item.separator if last else "",
            begins=item.begins and start == 0,
            ends=item.ends and last,
            split=item.split,
        )
        start = stop


def _clean_cut(text: str, position: int) -> int:
    """A place near `position` between a line that is not blank and one that starts with no space."""
    stop = min(position + MAX_PIECE_CHARACTERS // 4, len(text))
    at = text.find("\n", position, stop)
    while at >= 0:
        if not text[at - 1].isspace() and at + 1 < len(text) and not text[at + 1].isspace():
            return at + 1
        at = text.find("\n", at + 1, stop)
    return position


def _json_record(line: bytes, field: str, number: int) -> Item:
    text = decoded(line, number)
    if isinstance(text, BadRecord):
        return text
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return broken_json(error, text, number)
    return field_of(record, field, number, "line")


def broken_json(error: ValueError | RecursionError, text: str, number: int) -> BadRecord:
    """The bad record of a line that is no JSON."""
    if isinstance(error, json.JSONDecodeError):
        reason = f"{error.msg.removesuffix(' at')}, column {error.colno}"
    else:
        reason = "too deep or too long a number"
    return BadRecord(
        "broken JSON",
        f"no valid JSON ({reason}): {excerpt(text)}; a line of JSON Lines is one whole object: repair or remove it",
        number,
    )


def field_of(record: object, field: str, number: int, unit: RecordUnit) -> Item:
    """The document in a field of a JSON object."""
    if not isinstance(record, dict):
        shown = excerpt(json.dumps(record))
        return BadRecord(
            "no object", f'{shown} is no JSON object; write objects such as {{"{field}": "..."}}', number, unit
        )
    if field not in record:
        names = ", ".join(map(repr, record)) or "none"
        return BadRecord(
            "missing field",
            f"no field '{field}' (its fields: {names[:200]}); name one with --field",
            number,
            unit,
        )
    return text_record(record[field], number, unit)
