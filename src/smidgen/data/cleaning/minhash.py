"""MinHash signatures and their bands.

The share of equal values in two signatures estimates the Jaccard similarity of two sets of word n-grams (Broder 1997).
Documents are candidates when all rows of a band agree, which happens with probability 1 - (1 - s**rows)**bands at
similarity s (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, 3.4).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smidgen.data.cleaning.words import comparable_words, hash_ngrams, hash_words, mix

CANDIDATE_PROBABILITY = 0.99
"""Least probability with which two documents at the threshold become candidates; candidates are verified."""

_BLOCK = 512
"""n-grams hashed at once: with 128 permutations half a MiB, which stays in a core's cache."""


class MinHash:
    """Signatures of `permutations` values over n-grams of words.

    Value i is the minimum over n-grams of (a_i * x + b_i mod 2**64) >> 32, with x the upper 32 bits of the n-gram's
    hash: multiply-shift hashing, which is strongly universal (Dietzfelbinger 1996). a and b are fixed for ever.
    """

    def __init__(self, permutations: int, ngram: int) -> None:
        self.permutations = permutations
        self.ngram = ngram
        constants = mix(np.arange(1, 2 * permutations + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        self._a = constants[:permutations, None]
        self._b = constants[permutations:, None]

    def signature(self, text: str) -> NDArray[np.uint32]:
        """uint32, shape [permutations]; empty for a text without words. Texts shorter than an n-gram count as one."""
        words = hash_words(comparable_words(text))
        if len(words) == 0:
            return np.empty(0, np.uint32)
        grams = hash_ngrams(words, min(self.ngram, len(words))) >> np.uint64(32)
        least = np.full(self.permutations, np.iinfo(np.uint64).max, np.uint64)
        for start in range(0, len(grams), _BLOCK):
            values = self._a * grams[None, start : start + _BLOCK]
            values += self._b
            np.minimum(least, values.min(axis=1), out=least)
        return (least >> np.uint64(32)).astype(np.uint32)


def bands_and_rows(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows): the most rows whose bands still find a pair at the threshold with CANDIDATE_PROBABILITY."""
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= CANDIDATE_PROBABILITY:
            return bands, rows
    return permutations, 1


def band_keys(signature: NDArray[np.uint32], bands: int, rows: int) -> NDArray[np.uint64]:
    """A hash a band of its number and its rows, shape [bands]: a sum of the rows times constants mod 2**64, mixed."""
    values = signature[: bands * rows].reshape(bands, rows).astype(np.uint64)
    constants = mix(np.arange(1, bands + rows + 1, dtype=np.uint64))
    return mix((values * constants[bands:]).sum(axis=1) + constants[:bands])
