"""Parquet: chunks are row groups, which workers read by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.data.documents import BadRecord, text_record
from smidgen.data.sources.base import Chunk, DiskFile, Item, Reading
from smidgen.data.sources.parsing import in_pieces
from smidgen.runtime.errors import DataError, MissingDependencyError

_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class ParquetFile(DiskFile):
    """A Parquet file, of which one column holds the text. `start` and `stop` of its chunks count row groups."""

    field: str
    divisible: bool = False

    def chunks(self) -> Iterator[Chunk]:
        try:
            with opened_parquet(self.path) as file:
                groups = file.num_row_groups
                names = file.schema_arrow.names
                kind = str(file.schema_arrow.field(self.field).type) if self.field in names else None
        except unreadable_parquet() as error:
            message = f"no whole Parquet file ({' '.join(str(error).split())[:120]}); copy or write it again"
            yield Chunk(0, items=(BadRecord("archive", message),), size=self.size)
            return
        if kind is None:
            shown = ", ".join(map(repr, names))[:200]
            raise DataError(f"{self.path}: no column '{self.field}' (its columns: {shown}); name one with --field")
        if kind not in {"string", "large_string", "string_view", "null"} and "dictionary" not in kind:
            raise DataError(f"{self.path}: column '{self.field}' is of type {kind}, no text; name another with --field")
        for group in range(groups):
            yield Chunk(0, group, group + 1, size=self.size // groups)

    def read(self, chunk: Chunk) -> Reading:
        if chunk.items is not None:
            return Reading(iter(chunk.items))
        return Reading(self._rows(chunk))

    def _rows(self, chunk: Chunk) -> Iterator[Item]:
        row = 0
        try:
            with opened_parquet(self.path) as file:
                row = sum(file.metadata.row_group(group).num_rows for group in range(chunk.start))
                groups = range(chunk.start, chunk.stop)
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=[self.field], use_threads=False):
                    for value in batch.column(0).to_pylist():
                        row += 1
                        yield from in_pieces(text_record(value, row, "row"))
        except unreadable_parquet() as error:
            message = f"damaged ({' '.join(str(error).split())[:120]}); what came before in its row group was read"
            yield BadRecord("archive", message, row + 1, "row")


def opened_parquet(path: Path) -> Any:
    """pyarrow's reader of a file; raises MissingDependencyError without it."""
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise MissingDependencyError("pyarrow", "data", "reading Parquet") from None
    return parquet.ParquetFile(path)


def unreadable_parquet() -> tuple[type[Exception], ...]:
    """The errors of a file that is no whole Parquet file."""
    try:
        import pyarrow
    except ModuleNotFoundError:
        return (OSError,)
    return (pyarrow.ArrowException, OSError)
