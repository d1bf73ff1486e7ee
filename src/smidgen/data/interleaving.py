"""Turns taken in fixed shares: which source the n-th sequence of a mixture comes from, computed for any n."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from smidgen.data.batch import Int64Array

MAX_PERIOD = 1 << 16
"""Longest period. Weights whose exact ratio needs a longer one are kept to this many parts."""


class Interleaving:
    """Sources take turns so that among any first n turns each has its share of n, to less than one turn.

    A periodic schedule of proportionate fairness (Baruah et al., 1996): with share w, a source's j-th turn (from 0)
    must lie in slots floor(j / w) … ceil((j + 1) / w) - 1, and giving each slot to the open window that closes first
    meets all of these.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.parts = whole_parts(weights)
        """Turns of each source in one period."""
        self._turns = _schedule(self.parts)
        self._ranks = np.empty_like(self._turns)
        for source, parts in enumerate(self.parts):
            self._ranks[self._turns == source] = np.arange(parts)

    def __call__(self, numbers: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The source that turn number n belongs to, and how many turns that source had before; all int64 [N]."""
        periods, slots = np.divmod(numbers, len(self._turns))
        sources = self._turns[slots]
        return sources, periods * np.asarray(self.parts, np.int64)[sources] + self._ranks[slots]


def whole_parts(weights: Sequence[float]) -> tuple[int, ...]:
    """The weights, all above 0, as whole numbers in the same ratio, or in the nearest with a sum of MAX_PERIOD."""
    # By their decimals: 0.7 is 7/10, not the binary number nearest to it.
    exact = [Fraction(str(weight)) for weight in weights]
    assert exact
    assert min(exact) > 0
    total = sum(exact)
    shares = [weight / total for weight in exact]
    period = math.lcm(*(share.denominator for share in shares))
    if period <= MAX_PERIOD:
        return tuple(int(share * period) for share in shares)
    parts = [max(int(share * MAX_PERIOD), 1) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: parts[i] - shares[i] * MAX_PERIOD)
    for i in by_remainder[: max(MAX_PERIOD - sum(parts), 0)]:
        parts[i] += 1
    return tuple(parts)


def _schedule(parts: Sequence[int]) -> Int64Array:
    """The source of each slot of one period, int64 [sum(parts)]."""
    period = sum(parts)
    turns = np.empty(period, np.int64)
    # Windows not yet open, by the slot that opens them; and open ones, by the slot before which they close.
    coming = [(0, source, 0) for source in range(len(parts))]
    heapq.heapify(coming)
    open_windows: list[tuple[int, int, int]] = []
    for slot in range(period):
        while coming and coming[0][0] <= slot:
            _, source, turn = heapq.heappop(coming)
            closes = -(-(turn + 1) * period // parts[source])
            heapq.heappush(open_windows, (closes, source, turn))
            if turn + 1 < parts[source]:
                heapq.heappush(coming, ((turn + 1) * period // parts[source], source, turn + 1))
        closes, source, _ = heapq.heappop(open_windows)
        assert slot < closes, "shares that add up to one always fit"
        turns[slot] = source
    return turns
