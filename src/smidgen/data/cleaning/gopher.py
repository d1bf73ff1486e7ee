"""Gopher's quality and repetition filters (Rae et al. 2021, "Scaling Language Models", appendix A1.1 and table A1).

Words are what stands between white space. Characters are those of words; white space counts in no fraction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

MIN_WORDS, MAX_WORDS = 50, 100_000
MIN_MEAN_WORD_LENGTH, MAX_MEAN_WORD_LENGTH = 3, 10
MAX_SYMBOLS_A_WORD = 0.1
"""Of hash signs, and of ellipses."""
MAX_BULLET_LINES = 0.9
MAX_ELLIPSIS_LINES = 0.3
MIN_ALPHABETIC_WORDS = 0.8
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
MIN_STOP_WORDS = 2

MAX_DUPLICATE_LINES = 0.30
MAX_DUPLICATE_PARAGRAPHS = 0.30
MAX_DUPLICATE_LINE_CHARACTERS = 0.20
MAX_DUPLICATE_PARAGRAPH_CHARACTERS = 0.20
MAX_TOP_NGRAM_CHARACTERS = {2: 0.20, 3: 0.18, 4: 0.16}
MAX_DUPLICATE_NGRAM_CHARACTERS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}

QUALITY_RULES = (
    "gopher_word_count",
    "gopher_word_length",
    "gopher_symbols",
    "gopher_bullets",
    "gopher_ellipses",
    "gopher_alphabetic",
    "gopher_stop_words",
)
REPETITION_RULES = (
    "gopher_duplicate_lines",
    "gopher_duplicate_paragraphs",
    "gopher_duplicate_line_characters",
    "gopher_duplicate_paragraph_characters",
    *(f"gopher_top_{n}_gram" for n in MAX_TOP_NGRAM_CHARACTERS),
    *(f"gopher_duplicate_{n}_grams" for n in MAX_DUPLICATE_NGRAM_CHARACTERS),
)

_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
_BULLETS = ("•", "‣", "◦", "●", "▪", "■", "*", "-")
_ELLIPSES = ("...", "…")
_PUNCTUATION = ".,;:!?\"'()[]{}*_“”‘’«»…-"


def quality_violations(text: str, words: Sequence[str]) -> Iterator[str]:
    """Names of the quality rules that a text breaks; `words` is `text.split()`."""
    count = len(words)
    if not MIN_WORDS <= count <= MAX_WORDS:
        yield "gopher_word_count"
    mean_length = sum(map(len, words)) / max(count, 1)
    if not MIN_MEAN_WORD_LENGTH <= mean_length <= MAX_MEAN_WORD_LENGTH:
        yield "gopher_word_length"
    ellipses = sum(text.count(mark) for mark in _ELLIPSES)
    if max(text.count("#"), ellipses) > MAX_SYMBOLS_A_WORD * count:
        yield "gopher_symbols"
    lines = _lines(text)
    if sum(line.startswith(_BULLETS) for line in lines) > MAX_BULLET_LINES * len(lines):
        yield "gopher_bullets"
    if sum(line.endswith(_ELLIPSES) for line in lines) > MAX_ELLIPSIS_LINES * len(lines):
        yield "gopher_ellipses"
    if sum(word.isalpha() or any(map(str.isalpha, word)) for word in words) < MIN_ALPHABETIC_WORDS * count:
        yield "gopher_alphabetic"
    if len({word.strip(_PUNCTUATION).lower() for word in words} & STOP_WORDS) < MIN_STOP_WORDS:
        yield "gopher_stop_words"


def repetition_violations(text: str, words: Sequence[str]) -> Iterator[str]:
    """Names of the repetition rules that a text breaks; `words` is `text.split()`.

    Of equal lines, paragraphs and n-grams all but the first are duplicates. The most frequent n-gram's share counts
    each of its occurrences, and only when there are two; of equally frequent ones the longest.
    """
    paragraphs = [part.strip() for part in _PARAGRAPH_BREAK.split(text) if part.strip()]
    for unit, parts, limit, character_limit in (
        ("line", _lines(text), MAX_DUPLICATE_LINES, MAX_DUPLICATE_LINE_CHARACTERS),
        ("paragraph", paragraphs, MAX_DUPLICATE_PARAGRAPHS, MAX_DUPLICATE_PARAGRAPH_CHARACTERS),
    ):
        duplicates = _duplicates(parts)
        if len(duplicates) > limit * len(parts):
            yield f"gopher_duplicate_{unit}s"
        if sum(map(len, duplicates)) > character_limit * sum(map(len, parts)):
            yield f"gopher_duplicate_{unit}_characters"
    yield from _ngram_violations(words)


def _ngram_violations(words: Sequence[str]) -> Iterator[str]:
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    total = int(lengths.sum())
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.int64)
    # codes[i] numbers the n-gram that begins at word i: equal exactly for equal n-grams, always below len(words).
    codes = ids
    for n in range(2, max(MAX_DUPLICATE_NGRAM_CHARACTERS) + 1):
        if len(codes) < 2:
            return
        pairs = codes[:-1] * len(numbers) + ids[n - 1 :]
        _, first, codes, counts = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        most = int(counts.max())
        if most == 1:
            return  # no longer n-gram can repeat either
        if n in MAX_TOP_NGRAM_CHARACTERS:
            characters = _ngram_lengths(lengths, n)[first[counts == most]].max() * most
            if characters > MAX_TOP_NGRAM_CHARACTERS[n] * total:
                yield f"gopher_top_{n}_gram"
        else:
            repeats = first[codes] != np.arange(len(codes))
            if lengths[_covered(repeats, n)].sum() > MAX_DUPLICATE_NGRAM_CHARACTERS[n] * total:
                yield f"gopher_duplicate_{n}_grams"


def _ngram_lengths(lengths: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Characters of the n-gram that begins at each word, shape [words - n + 1]."""
    ends = np.concatenate(([0], np.cumsum(lengths)))
    return ends[n:] - ends[:-n]


def _covered(starts: NDArray[np.bool_], n: int) -> NDArray[np.bool_]:
    """Words inside any n-gram that begins where `starts` is true, each once; shape [len(starts) + n - 1]."""
    change = np.zeros(len(starts) + n, dtype=np.int64)
    change[: len(starts)] += starts
    change[n:] -= starts
    return np.cumsum(change)[:-1] > 0


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _duplicates(parts: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
