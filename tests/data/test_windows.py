"""Windows: every token once an epoch, the same batch from any cursor, masks equal to a naive reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smidgen.data import IGNORE, Batch, Split, Windows, validation_windows
from smidgen.data.tokens import Tokens
from smidgen.runtime.errors import DataError

seeds = st.integers(0, 2**63)


def split_of(
    ids: NDArray[np.int64], offsets: list[int] | None = None, eos_id: int | None = None, shards: int = 1
) -> Split:
    parts = [part.astype(np.uint16) for part in np.array_split(ids, shards)]
    tokens = Tokens(parts, [Path(f"{number}.bin") for number in range(shards)])
    return Split("train", tokens, None if offsets is None else np.array(offsets, np.int64), None, eos_id, None)


def consecutive(count: int, shards: int = 1) -> Split:
    """A stream in which each id is its own position."""
    return split_of(np.arange(count), [0, count], shards=shards)


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 400), st.integers(1, 70), seeds, st.integers(0, 5), st.integers(1, 3))
def test_every_token_is_a_label_exactly_once_an_epoch(
    count: int, seq_len: int, seed: int, epoch: int, shards: int
) -> None:
    windows = Windows(consecutive(count, min(shards, count)), seq_len, seed=seed, document_masks=False)
    batch = windows.batch(epoch * windows.per_epoch, windows.per_epoch)
    real = batch.labels != IGNORE
    assert sorted(batch.labels[real].tolist()) == list(range(1, count))
    assert (batch.input_ids[real] == batch.labels[real] - 1).all()
    inputs = batch.input_ids[real]
    assert sorted(inputs.tolist()) == list(range(count - 1))


def test_each_epoch_has_its_own_order() -> None:
    windows = Windows(consecutive(1_001), 10, seed=3)
    first, second = (windows.batch(epoch * 100, 100).input_ids[:, 0].tolist() for epoch in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second
    assert first != sorted(first)
    other_seed = Windows(consecutive(1_001), 10, seed=4).batch(0, 100).input_ids[:, 0].tolist()
    assert other_seed != first


@pytest.mark.parametrize("count", [2, 3, 10])
def test_shuffled_puts_every_window_everywhere_equally_often(count: int) -> None:
    windows = Windows(consecutive(count + 1), 1, seed=0)
    epochs = 3_000
    order = windows.batch(0, epochs * count).input_ids.reshape(epochs, count)
    for window in range(count):
        seen = np.bincount(np.argmax(order == window, axis=1), minlength=count)
        # Six standard deviations of a binomial count.
        assert np.abs(seen - epochs / count).max() < 6 * np.sqrt(epochs / count * (1 - 1 / count))


@pytest.mark.parametrize("sampling", ["shuffled", "random_windows"])
@settings(deadline=None, max_examples=50)
@given(seed=seeds, start=st.integers(0, 10_000), cut=st.integers(1, 11))
def test_a_batch_is_a_function_of_its_sequence_numbers(sampling: str, seed: int, start: int, cut: int) -> None:
    split = split_of(np.arange(500) % 7, [0, 3, 4, 250, 500])
    whole = Windows(split, 16, sampling=sampling, seed=seed).batch(start, 12)  # type: ignore[arg-type]
    resumed = Windows(split, 16, sampling=sampling, seed=seed)  # type: ignore[arg-type]
    parts = [resumed.batch(start + cut, 12 - cut), resumed.batch(start, cut)][::-1]
    for field in ("input_ids", "labels", "document_ids", "positions"):
        assert (np.concatenate([getattr(part, field) for part in parts]) == getattr(whole, field)).all()


def test_random_windows_start_anywhere_and_are_always_full() -> None:
    windows = Windows(consecutive(60), 50, sampling="random_windows", seed=1, document_masks=False)
    batch = windows.batch(0, 2_000)
    assert set(batch.input_ids[:, 0].tolist()) == set(range(10))
    assert (batch.labels == batch.input_ids + 1).all()


def test_random_windows_of_a_stream_shorter_than_one() -> None:
    batch = Windows(consecutive(5), 8, sampling="random_windows", document_masks=False).batch(0, 2)
    assert batch.labels.tolist() == [[1, 2, 3, 4, IGNORE, IGNORE, IGNORE, IGNORE]] * 2


def naive_masks(ids: list[int], offsets: list[int], start: int, seq_len: int) -> tuple[list[int], list[int], list[int]]:
    """Labels, document numbers and positions of one window, one token at a time."""
    document_of = [sum(offset <= position for offset in offsets[1:]) for position in range(len(ids))]
    labels, documents, positions = [], [], []
    for position in range(start, min(start + seq_len, len(ids))):
        document = document_of[position]
        documents.append(document - document_of[start])
        positions.append(position - max(start, offsets[document]))
        follows = position + 1 < len(ids) and document_of[position + 1] == document
        labels.append(ids[position + 1] if follows else IGNORE)
    return labels, documents, positions


lengths_of_documents = st.lists(st.integers(1, 30), min_size=1, max_size=20).filter(lambda lengths: sum(lengths) > 1)


@settings(deadline=None, max_examples=100)
@given(lengths_of_documents, st.integers(1, 40), st.sampled_from(["offsets", "eos"]), st.integers(1, 3))
def test_masks_equal_a_naive_reference(lengths: list[int], seq_len: int, known_from: str, shards: int) -> None:
    offsets = [0, *np.cumsum(lengths).tolist()]
    ids = np.arange(offsets[-1]) % 90
    ids[np.array(offsets[1:]) - 1] = 99
    by_offsets = known_from == "offsets"
    split = split_of(ids, offsets if by_offsets else None, None if by_offsets else 99, min(shards, len(ids)))
    windows = validation_windows(split, seq_len)
    batch = windows.batch(0, windows.per_epoch)
    assert batch.document_ids is not None
    assert batch.positions is not None
    for row in range(windows.per_epoch):
        labels, documents, positions = naive_masks(ids.tolist(), offsets, row * seq_len, seq_len)
        real = len(labels)
        assert batch.labels[row].tolist() == labels + [IGNORE] * (seq_len - real)
        assert batch.document_ids[row, :real].tolist() == documents
        assert batch.positions[row, :real].tolist() == positions
        assert (batch.document_ids[row, real:] > documents[-1]).all(), "padding belongs to no document"


def test_masks_of_a_stream_without_known_boundaries_are_none() -> None:
    batch = Windows(split_of(np.arange(50)), 8).batch(0, 2)
    assert batch.document_ids is None
    assert batch.positions is None


def test_without_document_masks_the_next_document_is_predicted() -> None:
    split = split_of(np.arange(9), [0, 4, 9])
    batch = validation_windows(split, 8, document_masks=False).batch(0, 1)
    assert batch.labels.tolist() == [list(range(1, 9))]
    assert batch.document_ids is None


def test_batches_are_int64_and_of_one_shape() -> None:
    batch = Windows(consecutive(30), 7).batch(3, 5)
    for array in (batch.input_ids, batch.labels, batch.document_ids, batch.positions):
        assert array is not None
        assert array.dtype == np.int64
        assert array.shape == (5, 7)
        assert array.flags.c_contiguous


def test_validation_windows_are_fixed_in_order_and_spread_over_the_split() -> None:
    split = consecutive(1_001)
    windows = validation_windows(split, 10, max_tokens=200)
    assert windows.per_epoch == 20

    def starts(batch: Batch) -> list[int]:
        return batch.input_ids[:, 0].tolist()

    assert starts(windows.batch(0, 20)) == list(range(0, 1_000, 50))
    assert starts(windows.batch(18, 8)) == [900, 950], "the last batch is short"
    assert validation_windows(split, 10, max_tokens=None).per_epoch == 100
    assert validation_windows(split, 10, max_tokens=10**9).per_epoch == 100
    assert validation_windows(split, 10, max_tokens=1).per_epoch == 1


def test_ids_above_the_vocabulary_are_named_with_file_and_position() -> None:
    ids = np.arange(40) % 7
    ids[33] = 9
    split = dataclasses.replace(split_of(ids, [0, 40]), vocab_size=7)
    windows = validation_windows(split, 8)
    windows.batch(0, 4)
    with pytest.raises(DataError, match=r"0\.bin: token 9 at position 33 "):
        windows.batch(4, 1)


@pytest.mark.parametrize("offsets", [[0, 30, 9, 40], [0, 9, 9_999, 40], [0, 20, 40, 30]])
def test_offsets_that_do_not_rise_are_one_clear_line(offsets: list[int]) -> None:
    windows = validation_windows(split_of(np.arange(40) % 7, offsets), 16)
    with pytest.raises(DataError, match="the train split's document offsets do not rise"):
        windows.batch(0, windows.per_epoch)


@pytest.mark.parametrize("count", [0, 1])
def test_a_split_with_nothing_to_predict_is_refused(count: int) -> None:
    with pytest.raises(DataError, match="nothing to predict"):
        Windows(consecutive(count), 4)
