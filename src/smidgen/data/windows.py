"""Which windows of a token stream make up a batch, and the batch itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smidgen.data.dataset import Split
from smidgen.data.permutation import UInt64Array, hash64, permute
from smidgen.runtime.errors import DataError

IGNORE = -100
"""Label of a position that predicts nothing (PyTorch's `ignore_index`)."""

Sampling = Literal["shuffled", "random_windows"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of one forward pass, all arrays int64 [B, T]."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    """The token after each input; -100 where none is to be predicted."""
    document_ids: NDArray[np.int64] | None
    """Number of the document within its row, from 0; None without document masks."""
    positions: NDArray[np.int64] | None
    """Distance to the start of the document, or of the row if the document began before it; None without masks."""


class Windows:
    """An endless stream of training sequences that is a pure function of (split, seq_len, sampling, seed).

    Sequence number n never depends on batch size or on what was read before, so the cursor of a training run is
    the number of its next sequence.

    `shuffled` cuts the stream into windows at multiples of `seq_len` and gives each once an epoch, in an order drawn
    anew for each epoch: every token but the first is a label exactly once. The last window is padded with labels of
    -100 where the stream ends. `random_windows` starts each window anywhere, uniformly, with replacement.

    With `document_masks`, rows carry document numbers and positions that restart with each document, and the label
    at the last token of a document is -100: the first token of the next document does not follow from it. Where
    documents begin is known from the dataset's offsets, or in foreign files from their end-of-text token; if neither
    is known (characters, a raw stream) the stream is one document and the masks are None.

    Raises DataError when the split is too short to predict anything.
    """

    def __init__(
        self,
        split: Split,
        seq_len: int,
        *,
        sampling: Sampling = "shuffled",
        seed: int = 0,
        document_masks: bool = True,
    ) -> None:
        self.seq_len = seq_len
        self.per_epoch = count_windows(split, seq_len)
        self._split = split
        self._sampling = sampling
        self._seed = np.asarray([seed], np.uint64)
        self._document_masks = document_masks

    def batch(self, start: int, count: int) -> Batch:
        """Sequences number `start` to `start + count - 1`."""
        numbers = np.arange(start, start + count, dtype=np.uint64)
        if self._sampling == "shuffled":
            starts = self._shuffled(numbers) * np.uint64(self.seq_len)
        else:
            # One more token than the window, for its last label.
            possible = max(self._split.num_tokens - self.seq_len, 1)
            starts = hash64(numbers, self._seed) % np.uint64(possible)
        return assemble(self._split, starts.astype(np.int64), self.seq_len, self._document_masks)

    def _shuffled(self, numbers: UInt64Array) -> UInt64Array:
        epochs, indices = np.divmod(numbers, np.uint64(self.per_epoch))
        return permute(indices, self.per_epoch, hash64(epochs, self._seed))


class ValidationWindows:
    """A fixed set of windows in the order of the stream: `batch(start, count)` for start in [0, per_epoch)."""

    def __init__(self, split: Split, seq_len: int, max_tokens: int | None, document_masks: bool) -> None:
        self.seq_len = seq_len
        available = count_windows(split, seq_len)
        wanted = available if max_tokens is None else max(max_tokens // seq_len, 1)
        self.per_epoch = min(wanted, available)
        # Spread evenly, so that a part of the split stands for all of its sources.
        self._starts = np.arange(self.per_epoch, dtype=np.int64) * available // self.per_epoch * seq_len
        self._split = split
        self._document_masks = document_masks

    def batch(self, start: int, count: int) -> Batch:
        """Windows number `start` to `start + count - 1`; fewer at the end of the set."""
        return assemble(self._split, self._starts[start : start + count], self.seq_len, self._document_masks)


def validation_windows(
    split: Split, seq_len: int, max_tokens: int | None = None, *, document_masks: bool = True
) -> ValidationWindows:
    """The windows an evaluation reads: the same ones every time, in order, about `max_tokens` tokens (None: all)."""
    return ValidationWindows(split, seq_len, max_tokens, document_masks)


def count_windows(split: Split, seq_len: int) -> int:
    """Windows of `seq_len` tokens in which every token but the first of the split is a label once."""
    assert seq_len > 0
    if split.num_tokens < 2:
        raise DataError(f"the {split.name} split has {split.num_tokens} tokens: nothing to predict; prepare more text")
    return -(-(split.num_tokens - 1) // seq_len)


def assemble(split: Split, starts: NDArray[np.int64], seq_len: int, document_masks: bool) -> Batch:
    """The batch of the windows that begin at `starts` (int64 [B])."""
    tokens = split.tokens.windows(starts, seq_len + 1)
    # Copies: labels are written to below, and a single row's slices would share memory with the inputs.
    input_ids = tokens[:, :-1].copy()
    labels = tokens[:, 1:].copy()
    for row in np.flatnonzero(starts + seq_len >= split.num_tokens):
        labels[row, split.num_tokens - 1 - starts[row] :] = IGNORE
    begins = _document_begins(split, tokens, starts) if document_masks else None
    if begins is None:
        return Batch(input_ids, labels, None, None)
    labels[begins[:, 1:]] = IGNORE
    begins = begins[:, :-1]
    columns = np.arange(seq_len, dtype=np.int64)
    positions = columns - np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    return Batch(input_ids, labels, np.cumsum(begins, axis=1, dtype=np.int64), positions)


def _document_begins(split: Split, tokens: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """bool [B, T + 1]: a document begins here, after the first column; None when boundaries are not known."""
    begins = np.zeros(tokens.shape, np.bool_)
    if split.document_offsets is not None:
        offsets = split.document_offsets
        first = np.searchsorted(offsets, starts, side="right")
        last = np.searchsorted(offsets, starts + tokens.shape[1], side="left")
        counts = last - first
        rows = np.repeat(np.arange(len(starts)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        begins[rows, offsets[first[rows] + within] - starts[rows]] = True
    elif split.eos_id is not None:
        begins[:, 1:] = tokens[:, :-1] == split.eos_id
    else:
        return None
    return begins
