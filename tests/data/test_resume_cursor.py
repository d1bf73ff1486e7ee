"""The cursor is a number of sequences: other batch sizes, ranks or restarts skip nothing and repeat nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from smidgen.data import IGNORE, MixedSequences, PackedDocuments, Prefetched, Split, Windows
from smidgen.data.batch import SelectableSequences
from smidgen.data.tokens import Tokens

SEQ_LEN = 16
# (ranks, sequences a rank reads at once, steps): what a run may go through when it is stopped and taken up again.
LEGS = [(1, 3, 4), (2, 2, 5), (4, 1, 3), (1, 7, 2), (3, 4, 2), (2, 5, 1)]


def stream(first_id: int, num_tokens: int, seed: int) -> Split:
    """Documents of ragged lengths in which each id is its own position, from `first_id`."""
    ids = np.arange(first_id, first_id + num_tokens, dtype=np.uint16)
    cuts = np.sort(np.random.default_rng(seed).choice(np.arange(1, num_tokens), num_tokens // 20, replace=False))
    offsets = np.concatenate([[0], cuts, [num_tokens]]).astype(np.int64)
    return Split("train", Tokens(np.array_split(ids, 3), [Path("a"), Path("b"), Path("c")]), offsets, None, None, None)


def windows() -> SelectableSequences:
    return Windows(stream(0, 1_501, 0), SEQ_LEN, seed=5)


def packed() -> SelectableSequences:
    return PackedDocuments(stream(0, 1_501, 0), SEQ_LEN, seed=5, block_documents=20)


def mixed() -> SelectableSequences:
    splits = [stream(0, 1_200, 1), stream(1_200, 500, 2), stream(1_700, 160, 3)]
    return MixedSequences([Windows(split, SEQ_LEN, seed=n) for n, split in enumerate(splits)], [75, 32, 10])


def read_by_legs(make: Callable[[], SelectableSequences], total: int, prefetch: bool) -> list[np.ndarray]:
    """The labels that all ranks read when every leg is a new process with another world and batch size."""
    rows, cursor, leg = [], 0, 0
    while cursor < total:
        ranks, count, steps = LEGS[leg % len(LEGS)]
        with ExitStack() as stack:
            sources = [make() for _ in range(ranks)]
            readers = [stack.enter_context(Prefetched(source)) if prefetch else source for source in sources]
            for _ in range(steps):
                for rank, reader in enumerate(readers):
                    rows.append(reader.batch(cursor + rank * count, count).labels)
                cursor += ranks * count
        leg += 1
    return list(np.concatenate(rows)[:total])


@pytest.mark.parametrize("prefetch", [False, True], ids=["direct", "prefetched"])
@pytest.mark.parametrize("make", [windows, packed, mixed])
def test_an_epoch_read_by_changing_batch_and_world_sizes_lists_every_token_once(
    make: Callable[[], SelectableSequences], prefetch: bool
) -> None:
    once = make()
    expected = once.batch(0, once.per_epoch).labels
    rows = np.stack(read_by_legs(make, once.per_epoch, prefetch))
    assert (rows == expected).all(), "the same sequences in the same order"
    if make is not mixed:
        tokens = rows[rows != IGNORE]
        assert len(set(tokens.tolist())) == len(tokens)
        source = stream(0, 1_501, 0)
        assert source.document_offsets is not None
        firsts = source.document_offsets[:-1]
        assert sorted(tokens.tolist()) == sorted(set(range(1_501)) - set(firsts.tolist()))


def test_a_mixture_whose_shares_are_the_sizes_lists_every_token_once_an_epoch() -> None:
    once = mixed()
    assert once.per_epoch == 75 + 32 + 10
    for epoch in range(3):
        rows = once.batch(epoch * once.per_epoch, once.per_epoch)
        tokens = rows.labels[rows.labels != IGNORE].tolist()
        assert len(tokens) == len(set(tokens))
        inputs = rows.input_ids[rows.labels != IGNORE].tolist()
        assert len(set(tokens) | set(inputs)) > 0.9 * 1_860


@pytest.mark.torture
@pytest.mark.parametrize("make", [windows, packed, mixed])
def test_random_stops_never_skip_or_repeat(make: Callable[[], SelectableSequences]) -> None:
    once = make()
    total = 3 * once.per_epoch
    expected = once.batch(0, total).labels
    dice = np.random.default_rng(0)
    for _ in range(30):
        cursor, rows = 0, []
        while cursor < total:
            source, ranks, count = make(), int(dice.integers(1, 9)), int(dice.integers(1, 9))
            for _ in range(int(dice.integers(1, 9))):
                rows += [source.batch(cursor + rank * count, count).labels for rank in range(ranks)]
                cursor += ranks * count
        assert (np.concatenate(rows)[:total] == expected).all()
