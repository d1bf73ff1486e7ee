"""Sequences that are windows of a token stream: concatenate all documents, split at fixed lengths."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smidgen.data.batch import IGNORE, Batch, Int64Array, document_masks
from smidgen.data.dataset import Split
from smidgen.data.permutation import Shuffle, hash64
from smidgen.runtime.errors import DataError

Sampling = Literal["shuffled", "random_windows"]


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

    Raises DataError when the split is too short to predict anything, and where what is read is damaged: ids above the
    vocabulary, offsets that do not rise.
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
        self._shuffle = Shuffle(self.per_epoch, seed)
        self._seed = np.asarray([seed], np.uint64)
        self._document_masks = document_masks

    def batch(self, start: int, count: int) -> Batch:
        """Sequences number `start` to `start + count - 1`."""
        return self.select(np.arange(start, start + count, dtype=np.int64))

    def select(self, numbers: Int64Array) -> Batch:
        """The sequences of these numbers (int64 [B]), a row each."""
        if self._sampling == "shuffled":
            starts = self._shuffle(numbers) * self.seq_len
        else:
            # One more token than the window, for its last label.
            possible = max(self._split.num_tokens - self.seq_len, 1)
            starts = (hash64(numbers.astype(np.uint64), self._seed) % np.uint64(possible)).astype(np.int64)
        return assemble(self._split, starts, self.seq_len, self._document_masks)


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


def assemble(split: Split, starts: Int64Array, seq_len: int, masked: bool) -> Batch:
    """The batch of the windows that begin at `starts` (int64 [B]), with document masks where `masked`."""
    tokens = split.tokens.windows(starts, seq_len + 1)
    check_ids(split, tokens)
    labels = tokens[:, 1:].astype(np.int64)
    for row in np.flatnonzero(starts + seq_len >= split.num_tokens):
        labels[row, split.num_tokens - 1 - starts[row] :] = IGNORE
    if split.mask is not None:
        labels[split.mask.windows(starts + 1, seq_len) == 0] = IGNORE
    input_ids = tokens[:, :-1].astype(np.int64)
    begins = _document_begins(split, tokens, starts) if masked else None
    if begins is None:
        return Batch(input_ids, labels, None, None)
    rows, columns = begins
    labels[rows, columns - 1] = IGNORE
    inside = columns < seq_len
    document_ids, positions = document_masks((rows * seq_len + columns)[inside], input_ids.shape)
    return Batch(input_ids, labels, document_ids, positions)


def check_ids(split: Split, tokens: NDArray[Any]) -> None:
    """Raise DataError, naming file and position, if ids that were just read lie outside the split's vocabulary."""
    if split.vocab_size is not None and tokens.size and int(tokens.max()) >= split.vocab_size:
        split.tokens.check_vocab(split.vocab_size)


def check_rising(split: Split, rising: bool) -> None:
    """Raise DataError unless offsets that were just read rise."""
    if not rising:
        raise DataError(
            f"the {split.name} split's document offsets do not rise: damaged; prepare or copy the data again"
        )


def _document_begins(split: Split, tokens: NDArray[Any], starts: Int64Array) -> tuple[Int64Array, Int64Array] | None:
    """Rows and columns at which a document begins, after the first column; None when boundaries are not known."""
    if split.document_offsets is not None:
        offsets = split.document_offsets
        first = np.searchsorted(offsets, starts, side="right")
        counts = np.searchsorted(offsets, starts + tokens.shape[1], side="left") - first
        check_rising(split, bool((counts >= 0).all()))
        rows = np.repeat(np.arange(len(starts)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = offsets[first[rows] + within] - starts[rows]
        inside = bool(((columns > 0) & (columns < tokens.shape[1])).all())
        check_rising(split, inside and bool((np.diff(rows * tokens.shape[1] + columns) > 0).all()))
        return rows, columns
    if split.eos_id is not None:
        rows, columns = np.nonzero(tokens[:, :-1] == split.eos_id)
        return rows, columns + 1
    return None
