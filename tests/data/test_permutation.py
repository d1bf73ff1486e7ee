from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.permutation import Shuffle, hash64, permute


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 9_000), st.integers(0, 2**64 - 1))
def test_a_permutation_hits_every_item_once(size: int, key: int) -> None:
    keys = np.full(size, key, np.uint64)
    images = permute(np.arange(size, dtype=np.uint64), size, keys)
    assert sorted(images.tolist()) == list(range(size))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3_000), st.integers(0, 2**63), st.integers(0, 40_000), st.integers(0, 5_000))
def test_a_shuffle_is_a_function_of_the_number_however_it_is_asked(
    size: int, seed: int, start: int, count: int
) -> None:
    numbers = np.arange(start, start + count)
    passes, indices = np.divmod(numbers.astype(np.uint64), np.uint64(size))
    expected = permute(indices, size, hash64(passes, np.asarray([seed], np.uint64)))
    shuffle = Shuffle(size, seed)
    assert (shuffle(numbers) == expected).all()
    parts = [shuffle(part) for part in np.array_split(numbers, 7)]
    assert (np.concatenate(parts) == expected).all()
    assert (shuffle(numbers[::-1]) == expected[::-1]).all()
