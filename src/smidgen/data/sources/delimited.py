"""CSV and TSV: rows with a header line, of which one column holds the text."""

from __future__ import annotations

import csv
import io
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
    csv.field_size_limit(_LONGEST_FIELD)
    # Bytes that are no UTF-8 become surrogates, so that the rest of the file is read and only their row is bad.
    text = io.TextIOWrapper(io.BufferedReader(stream, 1 << 17), "utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text, delimiter=delimiter)
    header = next(rows, None)
    if header is None:
        return
    if field not in header:
        names = ", ".join(map(repr, header))[:200]
        raise DataError(f"{name}: no column '{field}' (its columns: {names}); name one with --field")
    column = header.index(field)
    number = 1
    while True:
        number += 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield BadRecord("broken CSV", f"no valid row ({error}); repair or remove it", number, "row")
            continue
        if row is None:
            return
        if not row:
            continue
        if column >= len(row):
            message = f"{len(row)} columns where the header has {len(header)}; repair or remove it"
            yield BadRecord("missing field", message, number, "row")
        elif _is_escaped(row[column]):
            message = f"column '{field}' is no UTF-8; convert the file, e.g. with 'iconv -f LATIN1 -t UTF-8'"
            yield BadRecord("encoding", message, number, "row")
        else:
            yield from in_pieces(text_record(row[column], number, "row"))


def _is_escaped(value: str) -> bool:
    if value.isascii():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False
