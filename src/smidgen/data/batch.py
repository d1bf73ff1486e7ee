"""A batch of sequences, and what its rows say about documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]

IGNORE = -100
"""Label of a position that predicts nothing (PyTorch's `ignore_index`)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of one forward pass, all arrays int64 [B, T]."""

    input_ids: Int64Array
    labels: Int64Array
    """The token after each input; -100 where none is to be predicted."""
    document_ids: Int64Array | None
    """Number of the document within its row, from 0; None without document masks."""
    positions: Int64Array | None
    """Distance to the start of the document, or of the row if the document began before it; None without masks."""
    reference: NDArray[np.float32] | None = None
    """Of pairs, [B]: log-probability of each row's labels under the model that training began with."""


class Sequences(Protocol):
    """An endless stream of sequences, numbered from 0; a number always means the same sequence."""

    @property
    def per_epoch(self) -> int:
        """Sequences in one pass over the data."""

    def batch(self, start: int, count: int) -> Batch:
        """Sequences number start … start + count - 1."""


class SelectableSequences(Sequences, Protocol):
    """Sequences that can also be had in any order."""

    def select(self, numbers: Int64Array) -> Batch:
        """The sequences of these numbers (int64 [B]), a row each."""


def scatter(batches: Sequence[Batch], rows: Sequence[Int64Array]) -> Batch:
    """One batch in which row `rows[i][j]` is row j of `batches[i]`; together `rows` name every row once."""
    order = np.argsort(np.concatenate(rows))

    def gathered(field: str) -> Int64Array | None:
        parts = [getattr(batch, field) for batch in batches]
        assert all(part is None for part in parts) or not any(part is None for part in parts), "masks for all or none"
        return None if parts[0] is None else np.concatenate(parts)[order]

    return Batch(**{field.name: gathered(field.name) for field in fields(Batch)})  # type: ignore[arg-type]


def document_masks(begins: Int64Array, shape: tuple[int, int]) -> tuple[Int64Array, Int64Array]:
    """Document numbers and positions, both int64 of `shape` [B, T].

    `begins` holds the flat indices (row · T + column), in any order and each once, at which a document begins after
    the first column; each row begins one of its own.
    """
    rows, length = shape
    row_starts = np.arange(rows, dtype=np.int64) * length
    starts = np.sort(np.concatenate([row_starts, begins]))
    lengths = np.diff(starts, append=rows * length)
    within_row = np.arange(len(starts)) - np.searchsorted(starts, row_starts)[starts // length]
    document_ids = np.repeat(within_row, lengths).reshape(shape)
    positions = np.arange(rows * length, dtype=np.int64)
    positions -= np.repeat(starts, lengths)
    return document_ids, positions.reshape(shape)
