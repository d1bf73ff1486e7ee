"""Best-fit-decreasing bin packing of integer lengths: into few bins of one capacity, without cutting anything.

The packing of Ding et al., "Fewer Truncations Improve Language Modeling" (2024). They place one document at a time
with a segment tree; here all documents of one length are placed at once, in all bins with equal room left, which
gives the same packing in steps that number the distinct lengths rather than the documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Placement:
    """`items` of one length go into `bins` bins that have `room` left: `each` into each, the last may take fewer."""

    length: int
    room: int
    bins: int
    items: int

    @property
    def each(self) -> int:
        return self.room // self.length


def count_bins(lengths: Int64Array, capacity: int) -> int:
    """Bins that best-fit-decreasing needs for `lengths` (int64 [N], each in 1 … capacity)."""
    return sum(placement.bins for placement in _placements(lengths, capacity) if placement.room == capacity)


def pack(lengths: Int64Array, capacity: int) -> Int64Array:
    """The bin of each item, int64 [N], bins numbered from 0 in the order they are opened.

    Longest items go first, equal ones in their order, each into the bin with the least room that holds it, or a new
    one. Deterministic.
    """
    bin_of = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    # Bins by the room they have left, as stacks of arrays.
    with_room: dict[int, list[Int64Array]] = {}
    placed = opened = 0
    for placement in _placements(lengths, capacity):
        if placement.room == capacity:
            bins = np.arange(opened, opened + placement.bins)
            opened += placement.bins
        else:
            bins = _take(with_room[placement.room], placement.bins)
        bin_of[order[placed : placed + placement.items]] = np.repeat(bins, placement.each)[: placement.items]
        placed += placement.items
        filled, rest = divmod(placement.items, placement.each)
        for part, items in ((bins[:filled], placement.each), (bins[filled:], rest)):
            if len(part):
                with_room.setdefault(placement.room - items * placement.length, []).append(part)
    return bin_of


def _placements(lengths: Int64Array, capacity: int) -> Iterator[Placement]:
    """The steps of best-fit-decreasing, by counts alone."""
    counts = np.bincount(lengths, minlength=capacity + 1)
    assert len(counts) == capacity + 1
    assert counts[0] == 0
    # How many bins have this room left; bit r of `occupied` says that some have, so that the least fit is found fast.
    bins_with_room = [0] * (capacity + 1)
    occupied = 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            fitting = occupied >> length
            room = length + (fitting & -fitting).bit_length() - 1 if fitting else capacity
            each = room // length
            needed = -(-left // each)
            bins = needed if room == capacity else min(bins_with_room[room], needed)
            items = min(left, bins * each)
            yield Placement(length, room, bins, items)
            if room != capacity:
                bins_with_room[room] -= bins
                if not bins_with_room[room]:
                    occupied ^= 1 << room
            filled, rest = divmod(items, each)
            for number, taken in ((filled, each), (1 if rest else 0, rest)):
                if number and (remaining := room - taken * length):
                    bins_with_room[remaining] += number
                    occupied |= 1 << remaining
            left -= items


def _take(stack: list[Int64Array], count: int) -> Int64Array:
    """`count` bins from the top of a stack."""
    taken = []
    while count:
        top = stack.pop()
        if len(top) > count:
            stack.append(top[count:])
            top = top[:count]
        taken.append(top)
        count -= len(top)
    return taken[0] if len(taken) == 1 else np.concatenate(taken)
