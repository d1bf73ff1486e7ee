"""Signatures against the formula in plain integers, against exact similarities, and the choice of bands."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.cleaning.minhash import CANDIDATE_PROBABILITY, MinHash, band_keys, bands_and_rows
from smidgen.data.cleaning.words import comparable_words, hash_ngrams, hash_words, stable_hash

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mixed(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def plain_signature(words: list[str], permutations: int, ngram: int) -> list[int]:
    """The documented formula without numpy."""
    ngram = min(ngram, len(words))
    grams = set()
    for start in range(len(words) - ngram + 1):
        total = 0
        for word in words[start : start + ngram]:
            total = (total * GOLDEN + stable_hash(word)) & MASK
        grams.add(mixed(total) >> 32)
    a = [mixed((i * GOLDEN) & MASK) for i in range(1, permutations + 1)]
    b = [mixed((i * GOLDEN) & MASK) for i in range(permutations + 1, 2 * permutations + 1)]
    return [min(((a[i] * x + b[i]) & MASK) >> 32 for x in grams) for i in range(permutations)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("ab c d ef".split()), min_size=1, max_size=40), st.integers(1, 6))
def test_signatures_follow_the_formula(words: list[str], ngram: int) -> None:
    assert MinHash(16, ngram).signature(" ".join(words)).tolist() == plain_signature(words, 16, ngram)


def test_long_texts_are_hashed_in_blocks_without_loss() -> None:
    words = [f"w{i}" for i in range(1500)]
    assert MinHash(16, 3).signature(" ".join(words)).tolist() == plain_signature(words, 16, 3)


@pytest.mark.parametrize("changed", [0.01, 0.05, 0.2, 0.6])
def test_equal_values_estimate_the_jaccard_similarity(changed: float) -> None:
    chance = random.Random(1)
    words = [f"w{chance.randrange(5000)}" for _ in range(800)]
    other = [f"x{i}" if chance.random() < changed else word for i, word in enumerate(words)]
    grams = [set(hash_ngrams(hash_words(text), 5).tolist()) for text in (words, other)]
    exact = len(grams[0] & grams[1]) / len(grams[0] | grams[1])
    minhash = MinHash(1024, 5)
    equal = np.mean(minhash.signature(" ".join(words)) == minhash.signature(" ".join(other)))
    assert abs(equal - exact) <= 4 * max(np.sqrt(exact * (1 - exact) / 1024), 0.005)


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert comparable_words("The cat's HAT, über-alles!") == ["the", "cat", "s", "hat", "über", "alles"]
    assert comparable_words("我爱 Python语言") == ["我", "爱", "python", "语", "言"]
    minhash = MinHash(64, 5)
    same = minhash.signature("once UPON a time. There was") == minhash.signature("Once upon a time there was!")
    assert same.all()
    assert len(minhash.signature(" ... ")) == 0
    assert len(minhash.signature("two words")) == 64


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("permutations", [16, 128, 256])
def test_bands_find_pairs_at_the_threshold_with_the_most_rows(threshold: float, permutations: int) -> None:
    bands, rows = bands_and_rows(threshold, permutations)
    assert bands * rows <= permutations

    def probability(bands: int, rows: int) -> float:
        return 1 - (1 - threshold**rows) ** bands

    assert rows == 1 or probability(bands, rows) >= CANDIDATE_PROBABILITY
    assert all(probability(permutations // r, r) < CANDIDATE_PROBABILITY for r in range(rows + 1, permutations + 1))


def test_band_keys_depend_on_their_rows_and_place() -> None:
    signature = np.array([1, 2, 1, 2, 3, 4, 9], np.uint32)
    keys = band_keys(signature, 3, 2)
    assert len(set(keys.tolist())) == 3
    other = signature.copy()
    other[[0, 6]] = 7
    assert (band_keys(other, 3, 2) == keys).tolist() == [False, True, True]
