"""Sequences packed of whole documents by best fit: only documents longer than a sequence are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from smidgen.data.batch import IGNORE, Batch, Int64Array, document_masks
from smidgen.data.best_fit import count_bins, pack
from smidgen.data.dataset import Split
from smidgen.data.permutation import hash64, permute
from smidgen.data.windows import check_ids, check_rising
from smidgen.runtime.errors import DataError

BLOCK_DOCUMENTS = 1 << 16
"""Documents that are packed together: enough to fill sequences almost wholly, few enough to plan in milliseconds."""


@dataclass(frozen=True, slots=True)
class _Block:
    """The packing of one block of documents: bins that one whole piece fills come first, then the packed ones."""

    whole_starts: Int64Array
    """Where the pieces of `seq_len` tokens of each document begin that has some."""
    whole_ends: Int64Array
    """Running number of such pieces, with this document's."""
    starts: Int64Array
    """Where in the stream each other piece begins, ordered by bin."""
    lengths: Int64Array
    """Its inputs; one more token is its last label."""
    first: Int64Array
    """Number of the first piece of each packed bin, and of all pieces."""
    order: Int64Array
    """The bins in the order of one epoch."""

    def pieces(self, bins: Int64Array, seq_len: int) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Row, start in the stream and length of each piece of these bins, in the order of rows."""
        num_whole = int(self.whole_ends[-1]) if len(self.whole_ends) else 0
        whole = bins < num_whole
        packed = bins[~whole] - num_whole
        counts = np.ones(len(bins), np.int64)
        counts[~whole] = self.first[packed + 1] - self.first[packed]
        rows = np.repeat(np.arange(len(bins)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        starts, lengths = np.empty(len(rows), np.int64), np.full(len(rows), seq_len, np.int64)
        is_whole = whole[rows]
        document = np.searchsorted(self.whole_ends, bins[whole], side="right")
        before = np.where(document > 0, self.whole_ends[document - 1], 0) if num_whole else 0
        starts[is_whole] = self.whole_starts[document] + (bins[whole] - before) * seq_len
        piece = self.first[bins[rows[~is_whole]] - num_whole] + within[~is_whole]
        starts[~is_whole], lengths[~is_whole] = self.starts[piece], self.lengths[piece]
        return rows, starts, lengths


class PackedDocuments:
    """An endless stream of training sequences that is a pure function of (split, seq_len, seed).

    Every token but each document's first is a label exactly once an epoch, in the context of all of its document that
    comes before it (of at most `seq_len` tokens: longer documents are cut into pieces of that length, and a rest). A
    document's last token is no input: nothing is predicted from it. Rows carry document numbers and positions, as
    those of `Windows` do; what no piece fills is padding: input 0, label -100, a document of its own.

    Documents are drawn into blocks of `block_documents` by a permutation computed from the seed; each block is packed
    on its own, by best-fit-decreasing; each epoch visits the blocks, and the sequences of a block, in an order of its
    own. So memory is bounded however many documents there are: a few numbers a block, and the packing of two blocks.

    Of conversations (a split with a mask) only the assistant's tokens are labels, and one that is longer than a
    sequence is cut off rather than continued in another, without its prompt: see `truncated`.

    Raises DataError where the documents' boundaries are not known, or nothing is to be predicted.
    """

    def __init__(self, split: Split, seq_len: int, *, seed: int = 0, block_documents: int = BLOCK_DOCUMENTS) -> None:
        if split.document_offsets is None:
            raise DataError(
                "data.packing = best_fit: these token files do not say where documents begin; use split, or "
                "'smidgen prepare' the text"
            )
        self.seq_len = seq_len
        self._split = split
        self._offsets = split.document_offsets
        self._seed = np.asarray([seed], np.uint64)
        self._block_documents = block_documents
        self._num_blocks = max(-(-(len(self._offsets) - 1) // block_documents), 1)
        self._bins = np.empty(self._num_blocks, np.int64)
        self.truncated = self.tokens_lost = self.answerless = 0
        """Conversations that were cut off, the tokens which that cost, and those of them left out as no answer
        remains."""
        used = 0
        for block in range(self._num_blocks):
            _, lengths = self._documents(block, count=True)
            self._bins[block] = (lengths // seq_len).sum() + count_bins(_rests(lengths, seq_len), seq_len)
            used += int(lengths.sum())
        self.per_epoch = int(self._bins.sum())
        if self.per_epoch == 0:
            if self.answerless:
                raise DataError(f"training.seq_len = {seq_len}: no answer begins within so many tokens; raise it")
            raise DataError(f"the {split.name} split has no document of two tokens: nothing to predict")
        self.padding = self.per_epoch * seq_len - used
        """Positions of an epoch that hold no token."""
        self._epoch: tuple[int, Int64Array, Int64Array] = (-1, self._bins, self._bins)
        self._blocks: dict[tuple[int, int], _Block] = {}

    def batch(self, start: int, count: int) -> Batch:
        """Sequences number `start` to `start + count - 1`."""
        return self.select(np.arange(start, start + count, dtype=np.int64))

    def select(self, numbers: Int64Array) -> Batch:
        """The sequences of these numbers (int64 [B]), a row each."""
        rows, starts, lengths = [], [], []
        for chosen, block, bins in self._bins_of(numbers):
            row, start, length = block.pieces(bins, self.seq_len)
            rows.append(chosen[row])
            starts.append(start)
            lengths.append(length)
        row = np.concatenate(rows)
        order = np.argsort(row, kind="stable")
        return self._assemble(len(numbers), row[order], np.concatenate(starts)[order], np.concatenate(lengths)[order])

    def _bins_of(self, numbers: Int64Array) -> Iterator[tuple[Int64Array, _Block, Int64Array]]:
        """Rows of the batch, the block they come from, and their bins in it."""
        epochs, indices = np.divmod(numbers, self.per_epoch)
        for epoch in np.unique(epochs).tolist():
            in_epoch = np.flatnonzero(epochs == epoch)
            order, ends = self._order_of_blocks(epoch)
            place = np.searchsorted(ends, indices[in_epoch], side="right")
            for number in np.unique(place).tolist():
                chosen = in_epoch[place == number]
                block = int(order[number])
                opened = self._open(epoch, block)
                yield chosen, opened, opened.order[indices[chosen] - (ends[number] - self._bins[block])]

    def _order_of_blocks(self, epoch: int) -> tuple[Int64Array, Int64Array]:
        """The blocks in the order of an epoch, and the running number of their sequences."""
        kept, order, ends = self._epoch
        if kept != epoch:
            order = _shuffled(self._num_blocks, self._key(epoch, 0))
            ends = np.cumsum(self._bins[order])
            self._epoch = (epoch, order, ends)
        return order, ends

    def _open(self, epoch: int, block: int) -> _Block:
        """The packing of a block; those of the last two are kept."""
        opened = self._blocks.get((epoch, block))
        if opened is None:
            opened = self._plan(block, _shuffled(int(self._bins[block]), self._key(epoch, 1 + block)))
            self._blocks = dict([*list(self._blocks.items())[-1:], ((epoch, block), opened)])
        return opened

    def _plan(self, block: int, order: Int64Array) -> _Block:
        starts, lengths = self._documents(block)
        whole = lengths // self.seq_len
        rests = lengths - whole * self.seq_len
        rest_starts = (starts + whole * self.seq_len)[rests > 0]
        bin_of = pack(rests[rests > 0], self.seq_len)
        by_bin = np.argsort(bin_of, kind="stable")
        first = np.concatenate([[0], np.cumsum(np.bincount(bin_of))]).astype(np.int64)
        return _Block(
            whole_starts=starts[whole > 0],
            whole_ends=np.cumsum(whole[whole > 0]),
            starts=rest_starts[by_bin],
            lengths=rests[rests > 0][by_bin],
            first=first,
            order=order,
        )

    def _documents(self, block: int, count: bool = False) -> tuple[Int64Array, Int64Array]:
        """Start and number of inputs of each document of a block; `count` notes what is cut off."""
        total = len(self._offsets) - 1
        begin = block * self._block_documents
        numbers = np.arange(begin, min(begin + self._block_documents, total), dtype=np.uint64)
        if len(numbers) == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        documents = permute(numbers, total, np.broadcast_to(self._seed, numbers.shape)).astype(np.int64)
        starts = self._offsets[documents]
        lengths = self._offsets[documents + 1] - starts - 1
        check_rising(self._split, bool((lengths >= 0).all()) and int(starts.min()) >= 0)
        return starts, lengths if self._split.mask is None else self._cut_off(starts, lengths, count)

    def _cut_off(self, starts: Int64Array, lengths: Int64Array, count: bool) -> Int64Array:
        """The lengths of conversations within one sequence: 0 for one of which no answer is left."""
        mask = self._split.mask
        assert mask is not None
        kept = np.minimum(lengths, self.seq_len)
        for number in np.flatnonzero(lengths > self.seq_len).tolist():
            first = int(starts[number]) + 1
            if not mask[first : first + self.seq_len].any():
                kept[number] = 0
        if count:
            self.truncated += int((lengths > self.seq_len).sum())
            self.answerless += int((kept == 0).sum())
            self.tokens_lost += int((lengths - kept).sum())
        return kept

    def _key(self, epoch: int, stream: int) -> np.uint64:
        """Key of one permutation: stream 0 orders an epoch's blocks, stream 1 + b the sequences of block b."""
        keys = hash64(np.asarray([epoch], np.uint64), self._seed)
        return np.uint64(hash64(np.asarray([stream], np.uint64), keys)[0])

    def _assemble(self, count: int, rows: Int64Array, starts: Int64Array, lengths: Int64Array) -> Batch:
        """The batch of these pieces, ordered by row; each piece fills the columns after the one before it."""
        tokens = self._split.tokens
        parts = [
            tokens[start : start + length + 1] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]
        ids = np.concatenate(parts)
        check_ids(self._split, ids)
        ends = np.cumsum(lengths + 1)
        is_input, is_label = np.ones(len(ids), np.bool_), np.ones(len(ids), np.bool_)
        is_input[ends - 1] = False
        is_label[ends - lengths - 1] = False
        used = np.bincount(rows, weights=lengths, minlength=count).astype(np.int64)
        filled = np.arange(self.seq_len) < used[:, None]
        input_ids = np.zeros(filled.shape, np.int64)
        labels = np.full(filled.shape, IGNORE, np.int64)
        input_ids[filled] = ids[is_input]
        labels[filled] = ids[is_label]
        mask = self._split.mask
        if mask is not None:
            parts = [
                mask[start + 1 : start + length + 1]
                for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
            ]
            labels[filled] = np.where(np.concatenate(parts), labels[filled], IGNORE)
        # A piece begins where the pieces before it end: in all rows together, less what the rows before its own hold.
        columns = np.cumsum(lengths) - lengths - (np.cumsum(used) - used)[rows]
        begins = (rows * self.seq_len + columns)[columns > 0]
        short = np.flatnonzero(used < self.seq_len)
        begins = np.concatenate([begins, short * self.seq_len + used[short]])
        document_ids, positions = document_masks(begins, filled.shape)
        return Batch(input_ids, labels, document_ids, positions)


def _rests(lengths: Int64Array, seq_len: int) -> Int64Array:
    """What documents leave after their pieces of `seq_len`."""
    rests = lengths % seq_len
    return rests[rests > 0]


def _shuffled(size: int, key: np.uint64) -> Int64Array:
    """A permutation of range(size)."""
    return permute(np.arange(size, dtype=np.uint64), size, np.full(size, key, np.uint64)).astype(np.int64)
