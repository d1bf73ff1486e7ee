"""Random numbers and permutations that are computed from a key and a counter, so that nothing has to be stored."""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_ROUND_CONSTANT = np.uint64(0xD1342543DE82EF95)
_FEISTEL_ROUNDS = 4
_SHUFFLED_AT_ONCE = 4096


class Shuffle:
    """Endless passes over range(size), each in an order of its own drawn from the seed, and none of it stored.

    `shuffle(numbers)` gives for position number n the item of pass n // size that comes n % size-th. Both are int64
    [N]. A stretch of positions is computed at once and kept, because a batch at a time would cost mostly the calls.
    """

    def __init__(self, size: int, seed: int) -> None:
        assert size > 0
        self._size = size
        self._seed = np.asarray([seed], np.uint64)
        self._kept: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __call__(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(numbers) == 0:
            return np.empty(0, np.int64)
        first = int(numbers[0]) // _SHUFFLED_AT_ONCE
        if (numbers // _SHUFFLED_AT_ONCE != first).any():
            return self._items(numbers)
        kept, items = self._kept
        if kept != first:
            start = first * _SHUFFLED_AT_ONCE
            items = self._items(np.arange(start, start + _SHUFFLED_AT_ONCE))
            self._kept = (first, items)
        return items[numbers - first * _SHUFFLED_AT_ONCE]

    def _items(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        passes, indices = np.divmod(numbers.astype(np.uint64), np.uint64(self._size))
        return permute(indices, self._size, hash64(passes, self._seed)).astype(np.int64)


def hash64(counters: UInt64Array, keys: UInt64Array) -> UInt64Array:
    """Uniform 64-bit numbers for counters under keys, both uint64 arrays that broadcast.

    The finaliser of SplitMix64 (Steele et al., 2014), applied to the key and again to key and counter.
    """
    return _mix(_mix(keys) + counters * _GOLDEN_GAMMA)


def derived_seed(seed: int, number: int) -> int:
    """The seed of the `number`-th of several streams that one seed decides."""
    return int(hash64(np.asarray([number], np.uint64), np.asarray([seed], np.uint64))[0])


def permute(indices: UInt64Array, size: int, keys: UInt64Array) -> UInt64Array:
    """The image of `indices` (uint64, each below `size`) under the permutation of range(size) that its key selects.

    A Feistel network over pairs (left, right) of a rectangle that just holds `size` cells; images that fall outside
    are permuted again until they land inside (cycle walking: Black & Rogaway, 2002), which keeps it a bijection.
    """
    width = isqrt(size - 1) + 1
    height = -(-size // width)
    images = _feistel(indices, width, height, keys)
    while (outside := images >= size).any():
        images[outside] = _feistel(images[outside], width, height, keys[outside])
    return images


def _feistel(indices: UInt64Array, width: int, height: int, keys: UInt64Array) -> UInt64Array:
    left: UInt64Array = indices // np.uint64(height)
    right: UInt64Array = indices % np.uint64(height)
    for _ in range(_FEISTEL_ROUNDS):
        keys = keys + _ROUND_CONSTANT
        left = (left + _mix(keys + right * _GOLDEN_GAMMA) % np.uint64(width)) % np.uint64(width)
        keys = keys + _ROUND_CONSTANT
        right = (right + _mix(keys + left * _GOLDEN_GAMMA) % np.uint64(height)) % np.uint64(height)
    return left * np.uint64(height) + right


def _mix(values: UInt64Array) -> UInt64Array:
    values = (values + _GOLDEN_GAMMA).astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
