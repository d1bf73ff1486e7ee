"""Texts to train on: checked one by one as they stream by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization.base import check_text


def training_texts(texts: Iterable[str]) -> Iterator[str]:
    """The texts that are not empty. Raises TokenizerError for lone surrogates, and at the end if there was no text."""
    if isinstance(texts, str):
        raise TokenizerError("texts: expected many texts, found one string; put it in a list")
    empty = True
    for text in texts:
        check_text(text)
        if text:
            empty = False
            yield text
    if empty:
        raise TokenizerError(
            "the corpus is empty: there is no text to train a tokenizer on; name a source that has some"
        )


def training_chunks(texts: Iterable[str], max_characters: int) -> Iterator[str]:
    """The texts, longer ones than `max_characters` in pieces, cut behind a line feed where there is one.

    For trainers that gather many texts before they work on them.
    """
    for text in training_texts(texts):
        start = 0
        while start < len(text):
            end = start + max_characters
            if end < len(text):
                end = text.rfind("\n", start, end) + 1 or end
            yield text[start:end]
            start = end


def training_lines(texts: Iterable[str], max_characters: int) -> Iterator[str]:
    """The lines of the texts, without line ends and empty ones; longer ones than `max_characters` in pieces."""
    for text in training_texts(texts):
        for line in text.split("\n"):
            for start in range(0, len(line), max_characters):
                yield line[start : start + max_characters]


def thinned(lines: Iterable[str], max_characters: int) -> list[str]:
    """At most about `max_characters` of the lines, evenly spread: each k-th, k the smallest power of two that fits."""
    kept: list[str] = []
    size, step = 0, 1
    for number, line in enumerate(lines):
        if number % step:
            continue
        kept.append(line)
        size += len(line)
        while size > max_characters and len(kept) > 1:
            kept = kept[::2]
            size = sum(map(len, kept))
            step *= 2
    return kept
