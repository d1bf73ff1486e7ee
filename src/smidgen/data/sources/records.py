"""Sources as records: the whole objects or rows of files and Hugging Face datasets, not one field's text of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smidgen.data.documents import BadRecord, RecordUnit, excerpt
from smidgen.data.sources.base import cannot_be_read
from smidgen.data.sources.delimited import is_escaped, not_utf8, read_rows
from smidgen.data.sources.generated import HubSource
from smidgen.data.sources.json_values import values_of
from smidgen.data.sources.naming import find_files, format_of_file
from smidgen.data.sources.parquet import opened_parquet, unreadable_parquet
from smidgen.data.sources.parsing import broken_json, decoded, without_mark
from smidgen.data.sources.streams import opened_stream
from smidgen.runtime.errors import DataError

Record = dict[str, Any] | BadRecord


def read_records(name: str) -> Iterator[tuple[str, int, RecordUnit, Record]]:
    """The records of what a SOURCE argument names, each with its file, its number from 1 and what is counted.

    name: a file of JSON Lines, JSON, CSV, TSV or Parquet, plain or compressed; a folder of such files or a quoted glob;
    or `hf:owner/name[:config[:split]]`. Raises DataError for a name that stands for nothing or a file of text.
    """
    if name.startswith("hf:"):
        for number, row in enumerate(HubSource(name, "").rows(), 1):
            yield name, number, "row", dict(row)
        return
    for path in find_files([name]):
        for number, unit, record in _of_file(path):
            yield str(path), number, unit, record


def _of_file(path: Path) -> Iterator[tuple[int, RecordUnit, Record]]:
    file_format, compression = format_of_file(path)
    if file_format == "text":
        raise DataError(f"{path}: is text; conversations come as JSON Lines, JSON, CSV or Parquet")
    if file_format == "parquet":
        yield from _of_parquet(path)
        return
    faults: list[BadRecord] = []
    try:
        with opened_stream(path, compression, faults) as stream:
            if file_format == "json":
                for number, value in enumerate(values_of(stream), 1):
                    yield number, "value", _object(value, number, "value")
            elif file_format == "jsonl":
                yield from _of_lines(stream)
            else:
                yield from _of_rows(stream, "," if file_format == "csv" else "\t")
    except OSError as error:
        raise cannot_be_read(path, error) from None
    for fault in faults:
        yield 0, "line", fault


def _of_lines(stream: io.RawIOBase) -> Iterator[tuple[int, RecordUnit, Record]]:
    for number, raw in enumerate(io.BufferedReader(stream, 1 << 17), 1):
        line = decoded(without_mark(raw) if number == 1 else raw, number)
        if isinstance(line, BadRecord):
            yield number, "line", line
        elif line.strip():
            try:
                yield number, "line", _object(json.loads(line), number, "line")
            except (ValueError, RecursionError) as error:
                yield number, "line", broken_json(error, line, number)


def _of_rows(stream: io.RawIOBase, delimiter: str) -> Iterator[tuple[int, RecordUnit, Record]]:
    rows = read_rows(stream, delimiter)
    first, header = next(rows, (1, []))
    if isinstance(header, BadRecord):
        yield first, "row", header
        return
    for number, row in rows:
        if isinstance(row, BadRecord):
            yield number, "row", row
            continue
        record = {name: value for name, value in zip(header, row, strict=False) if value}
        escaped = next((name for name, value in record.items() if is_escaped(value)), None)
        yield number, "row", record if escaped is None else not_utf8(escaped, number)


def _of_parquet(path: Path) -> Iterator[tuple[int, RecordUnit, Record]]:
    number = 0
    try:
        with opened_parquet(path) as file:
            for batch in file.iter_batches(1024, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, "row", row
    except unreadable_parquet() as error:
        yield (
            number + 1,
            "row",
            BadRecord("archive", f"damaged ({' '.join(str(error).split())[:120]})", number + 1, "row"),
        )


def _object(value: object, number: int, unit: RecordUnit) -> Record:
    if isinstance(value, BadRecord | dict):
        return value
    return BadRecord("no object", f"{excerpt(json.dumps(value))} is no JSON object", number, unit)
