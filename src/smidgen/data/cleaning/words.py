"""Words and their hashes, as near duplicates and decontamination compare them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Thai, Lao, Khmer, Myanmar, kana, Chinese characters, Hangul syllables: between their words stands no space (or not
# at every word), so each character counts as a word.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

_LONGEST_REMEMBERED = 32
"""Characters; longer words are rare and would only fill the memory."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2**64 divided by the golden ratio, odd."""


def comparable_words(text: str) -> list[str]:
    """Runs of letters and digits in lower case, punctuation left out; a character each in scripts without spaces."""
    return _WORD.findall(text.lower())


def stable_hash(text: str) -> int:
    """64 bits of BLAKE2b: equal in every process, on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


_remembered_hash = lru_cache(maxsize=1 << 16)(stable_hash)


def hash_words(words: Sequence[str]) -> NDArray[np.uint64]:
    """A hash a word, shape [len(words)]."""
    hashes = [_remembered_hash(word) if len(word) <= _LONGEST_REMEMBERED else stable_hash(word) for word in words]
    return np.array(hashes, dtype=np.uint64)


def hash_ngrams(words: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Hashes of all runs of `n` words, shape [len(words) - n + 1]; none if there are fewer words.

    The polynomial sum of words[i + k] * m**(n - 1 - k) mod 2**64, mixed.
    """
    count = len(words) - n + 1
    if count < 1:
        return np.empty(0, np.uint64)
    total = words[:count].copy()
    for k in range(1, n):
        total *= _MULTIPLIER
        total += words[k : k + count]
    return mix(total)


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): a bijection that spreads every bit over all."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
