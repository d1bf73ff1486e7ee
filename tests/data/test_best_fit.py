from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.best_fit import count_bins, pack


def naive_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """Room left in each bin, one item at a time."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms[rooms.index(min(fitting))] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 40).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=80))))
def test_packing_equals_best_fit_decreasing_one_item_at_a_time(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    bins = pack(np.array(lengths, np.int64), capacity)
    loads = np.bincount(bins, weights=lengths) if lengths else np.empty(0)
    assert sorted(capacity - loads) == naive_best_fit(lengths, capacity)
    assert count_bins(np.array(lengths, np.int64), capacity) == len(loads)


def test_many_documents_fill_bins_almost_wholly() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(5, 1, 20_000).astype(np.int64), 1, 1_024)
    assert lengths.sum() / (count_bins(lengths, 1_024) * 1_024) > 0.999
