"""Pairs of answers as batches: two rows a pair, the chosen answer's and the rejected one's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smidgen.data.batch import IGNORE, Batch, Int64Array
from smidgen.data.dataset import Split
from smidgen.data.permutation import Shuffle
from smidgen.runtime.errors import DataError


class PairSequences:
    """An endless stream of pairs that is a pure function of (split, seq_len, seed).

    A sequence is a pair and makes two rows of `seq_len` tokens: chosen, rejected; labels are the answer's tokens, what
    is left of a row is padding (input 0, label -100). Without a seed pairs come in their order. Longer conversations
    are cut off at the end; pairs of which an answer is lost wholly are left out.
    """

    def __init__(
        self, split: Split, seq_len: int, *, seed: int | None = None, reference: NDArray[np.float32] | None = None
    ) -> None:
        """reference: the log-probability of each document's answer under the base, float32 [documents]."""
        assert split.mask is not None
        assert split.document_offsets is not None
        self.seq_len = seq_len
        self._split, self._mask, self._offsets = split, split.mask, np.asarray(split.document_offsets)
        self._reference = reference
        lengths = np.diff(self._offsets)
        usable = np.array([self._has_answer(number) for number in range(len(lengths))], np.bool_)
        self._pairs = np.flatnonzero(usable[0::2] & usable[1::2])
        self.truncated = int((lengths > seq_len + 1).sum())
        """Answers that are cut off."""
        self.answerless = len(lengths) // 2 - len(self._pairs)
        """Pairs left out."""
        self.per_epoch = len(self._pairs)
        if self.per_epoch == 0:
            raise DataError(
                f"training.seq_len = {seq_len}: no pair of the {split.name} split has both answers; raise it"
            )
        self._shuffle = None if seed is None else Shuffle(self.per_epoch, seed)

    def batch(self, start: int, count: int) -> Batch:
        """Pairs number `start` to `start + count - 1`, two rows each."""
        numbers = np.arange(start, start + count, dtype=np.int64)
        return self.select(numbers)

    def select(self, numbers: Int64Array) -> Batch:
        """The pairs of these numbers (int64 [B]): 2 B rows."""
        order = numbers if self._shuffle is None else self._shuffle(numbers)
        pairs = self._pairs[order]
        return self.rows(np.stack([2 * pairs, 2 * pairs + 1], 1).reshape(-1))

    def rows(self, documents: Int64Array) -> Batch:
        """Documents of these numbers, a row each."""
        shape = (len(documents), self.seq_len)
        input_ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
        for row, document in enumerate(documents.tolist()):
            start, stop = int(self._offsets[document]), int(self._offsets[document + 1])
            stop = min(stop, start + self.seq_len + 1)
            ids = self._split.tokens[start:stop].astype(np.int64)
            input_ids[row, : len(ids) - 1] = ids[:-1]
            labels[row, : len(ids) - 1] = np.where(self._mask[start + 1 : stop], ids[1:], IGNORE)
        reference = None if self._reference is None else self._reference[documents]
        return Batch(input_ids, labels, None, None, reference)

    def _has_answer(self, document: int) -> bool:
        start = int(self._offsets[document])
        stop = min(int(self._offsets[document + 1]), start + self.seq_len + 1)
        return bool(self._mask[start + 1 : stop].any())


def longest(split: Split) -> int:
    """Inputs of the longest document."""
    assert split.document_offsets is not None
    return max(int(np.diff(np.asarray(split.document_offsets)).max(initial=2)) - 1, 1)
