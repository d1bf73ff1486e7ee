"""Best-fit packing: no document is cut without need, every token is a label once, any cursor gives the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data import IGNORE, Split
from smidgen.data.packing import PackedDocuments
from smidgen.data.tokens import Tokens
from smidgen.runtime.errors import DataError


def documents(lengths: list[int], shards: int = 1) -> Split:
    """A stream in which each id is its own position."""
    parts = [part.astype(np.uint16) for part in np.array_split(np.arange(sum(lengths)), shards)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Split("train", Tokens(parts, [Path(f"{n}.bin") for n in range(shards)]), offsets, None, None, None)


lengths_of_documents = st.lists(st.integers(1, 50), min_size=1, max_size=60).filter(lambda lengths: max(lengths) > 1)
seeds = st.integers(0, 2**63)


@settings(deadline=None, max_examples=100)
@given(lengths_of_documents, st.integers(1, 20), seeds, st.integers(1, 70), st.integers(0, 3), st.integers(1, 3))
def test_every_token_but_a_documents_first_is_a_label_once_an_epoch(
    lengths: list[int], seq_len: int, seed: int, block: int, epoch: int, shards: int
) -> None:
    split = documents(lengths, min(shards, sum(lengths)))
    packed = PackedDocuments(split, seq_len, seed=seed, block_documents=block)
    batch = packed.batch(epoch * packed.per_epoch, packed.per_epoch)
    real = batch.labels != IGNORE
    firsts = set(np.cumsum([0, *lengths]).tolist())
    assert sorted(batch.labels[real].tolist()) == sorted(set(range(sum(lengths))) - firsts)
    assert (batch.input_ids[real] == batch.labels[real] - 1).all()
    assert int((~real).sum()) == packed.padding
    assert (batch.input_ids[~real] == 0).all()


@settings(deadline=None, max_examples=100)
@given(lengths_of_documents, st.integers(1, 20), seeds)
def test_rows_hold_whole_documents_and_say_where_they_begin(lengths: list[int], seq_len: int, seed: int) -> None:
    split = documents(lengths)
    packed = PackedDocuments(split, seq_len, seed=seed)
    batch = packed.batch(0, packed.per_epoch)
    assert batch.document_ids is not None
    assert batch.positions is not None
    starts = np.cumsum([0, *lengths])
    pieces = 0
    for row in range(packed.per_epoch):
        numbers = batch.document_ids[row]
        assert (np.diff(numbers) >= 0).all()
        for number in range(numbers[-1] + 1):
            columns = np.flatnonzero(numbers == number)
            assert batch.positions[row, columns].tolist() == list(range(len(columns)))
            if batch.labels[row, columns[0]] == IGNORE:
                assert columns[-1] == seq_len - 1, "padding stands last"
                continue
            first, last = batch.input_ids[row, columns[0]], batch.labels[row, columns[-1]]
            document = np.searchsorted(starts, first, side="right") - 1
            assert last < starts[document + 1], "a piece lies within its document"
            assert (first - starts[document]) % seq_len == 0, "only documents longer than a sequence are cut"
            pieces += 1
    assert pieces == sum(-(-(length - 1) // seq_len) for length in lengths)


@settings(deadline=None, max_examples=60)
@given(lengths_of_documents, seeds, st.integers(1, 9), st.integers(0, 300), st.integers(1, 11))
def test_a_batch_is_a_function_of_its_sequence_numbers(
    lengths: list[int], seed: int, block: int, start: int, cut: int
) -> None:
    split = documents(lengths)
    whole = PackedDocuments(split, 16, seed=seed, block_documents=block).batch(start, 12)
    resumed = PackedDocuments(split, 16, seed=seed, block_documents=block)
    parts = [resumed.batch(start + cut, 12 - cut), resumed.batch(start, cut)][::-1]
    for field in ("input_ids", "labels", "document_ids", "positions"):
        joined = np.concatenate([getattr(part, field) for part in parts])
        assert (joined == getattr(whole, field)).all()
        assert joined.dtype == np.int64


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    split = documents([9] * 400)

    def order(seed: int, epoch: int) -> list[int]:
        packed = PackedDocuments(split, 16, seed=seed, block_documents=100)
        return packed.batch(epoch * packed.per_epoch, packed.per_epoch).input_ids.flatten().tolist()

    assert sorted(order(0, 0)) == sorted(order(0, 1))
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert order(0, 0) != sorted(order(0, 0))


def test_blocks_hold_documents_from_everywhere() -> None:
    packed = PackedDocuments(documents([9] * 1_000), 16, block_documents=100)
    first_block = packed.batch(0, 50).labels
    assert np.ptp(first_block[first_block != IGNORE]) > 0.9 * 9_000


def test_files_without_document_boundaries_are_refused() -> None:
    split = Split("train", Tokens([np.arange(50, dtype=np.uint16)], [Path("a.bin")]), None, None, 1, None)
    with pytest.raises(DataError, match="best_fit: these token files do not say where documents begin; use split"):
        PackedDocuments(split, 8)


@pytest.mark.parametrize("lengths", [[], [1, 1, 1]])
def test_a_split_with_nothing_to_predict_is_refused(lengths: list[int]) -> None:
    with pytest.raises(DataError, match="nothing to predict"):
        PackedDocuments(documents(lengths), 4)


def test_offsets_that_do_not_rise_are_refused() -> None:
    split = documents([9, 9, 9])
    assert split.document_offsets is not None
    split.document_offsets[1] = 20
    with pytest.raises(DataError, match="offsets do not rise"):
        PackedDocuments(split, 8)
