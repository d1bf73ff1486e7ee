from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.interleaving import MAX_PERIOD, Interleaving, whole_parts

weights_of_sources = st.lists(st.integers(1, 60), min_size=1, max_size=9)


@settings(deadline=None, max_examples=200)
@given(weights_of_sources)
def test_shares_are_exact_to_one_turn_at_any_prefix(weights: list[int]) -> None:
    total = sum(weights)
    sources, _ = Interleaving(weights)(np.arange(2 * total + 5))
    for source, weight in enumerate(weights):
        counts = np.cumsum(sources == source)
        ideal = np.arange(1, len(sources) + 1) * weight / total
        assert np.abs(counts - ideal).max() < 1


@settings(deadline=None, max_examples=100)
@given(weights_of_sources, st.integers(0, 500), st.integers(1, 300))
def test_turns_are_numbered_without_gaps_from_any_start(weights: list[int], start: int, count: int) -> None:
    whole_sources, whole_turns = Interleaving(weights)(np.arange(start + count))
    sources, turns = Interleaving(weights)(np.arange(start, start + count))
    assert (sources == whole_sources[start:]).all()
    assert (turns == whole_turns[start:]).all()
    for source in range(len(weights)):
        own = whole_turns[whole_sources == source]
        assert (own == np.arange(len(own))).all()


@pytest.mark.parametrize(
    ("weights", "parts"),
    [([0.7, 0.3], (7, 3)), ([1, 2, 3], (1, 2, 3)), ([50, 25, 25], (2, 1, 1)), ([0.1, 0.2], (1, 2)), ([5], (1,))],
)
def test_weights_keep_their_ratio(weights: list[float], parts: tuple[int, ...]) -> None:
    assert whole_parts(weights) == parts


def test_ratios_that_need_a_long_period_are_kept_to_their_nearest_parts() -> None:
    weights = [12_345_679, 9_876_541, 1e-9]
    parts = whole_parts(weights)
    assert min(parts) == 1
    assert sum(parts) in {MAX_PERIOD, MAX_PERIOD + 1}
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part / sum(parts) - weight / sum(weights)) < 2 / MAX_PERIOD
