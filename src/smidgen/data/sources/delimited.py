"""CSV and TSV: rows with a header line, of which one column holds the text."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator

from smidgen.data.documents import BadRecord, text_record
from smidgen.data.sources.base import Item
from smidgen.data.sources.parsing import in_pieces
from smidgen.runtime.errors import DataError

_LONGEST_FIELD = (1 << 31) - 1


def delimited_rows(stream: io.RawIOBase, field: str, delimiter: str, name: str) -> Iterator[Item]:
    """The documents in a column; rows that are too short, empty or no UTF-8 are bad records.

    Raises DataError when the header has no such column.
    """
    rows = read_rows(stream, delimiter)
    _, header = next(rows, (1, None))
    if not isinstance(header, list):
        yield from () if header is None else (header,)
        return
    if field not in header:
        names = ", ".join(map(repr, header))[:200]
        raise DataError(f"{name}: no column '{field}' (its columns: {names}); name one with --field")
    column = header.index(field)
    for number, row in rows:
        if isinstance(row, BadRecord):
            yield row
        elif column >= len(row):
            message = f"{len(row)} columns where the header has {len(header)}; repair or remove it"
            yield BadRecord("missing field", message, number, "row")
        elif is_escaped(row[column]):
            yield not_utf8(field, number)
        else:
            yield from in_pieces(text_record(row[column], number, "row"))


def read_rows(stream: io.RawIOBase, delimiter: str) -> Iterator[tuple[int, list[str] | BadRecord]]:
    """The rows of a file that are not blank, the header first, each with its number from 1.

    Bytes that are no UTF-8 become surrogates (`is_escaped`), so that the rest of the file is read and only their row is
    bad; in the place of a row that cannot be read stands a bad record.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    text = io.TextIOWrapper(io.BufferedReader(stream, 1 << 17), "utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text, delimiter=delimiter)
    for number in itertools.count(1):
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield number, BadRecord("broken CSV", f"no valid row ({error}); repair or remove it", number, "row")
            continue
        if row is None:
            return
        if row:
            yield number, row


def not_utf8(field: str, number: int) -> BadRecord:
    """The bad record of a row whose column `field` `is_escaped`."""
    message = f"column '{field}' is no UTF-8; convert the file, e.g. with 'iconv -f LATIN1 -t UTF-8'"
    return BadRecord("encoding", message, number, "row")


def is_escaped(value: str) -> bool:
    """Whether `read_rows` met bytes here that are no UTF-8."""
    if value.isascii():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False
