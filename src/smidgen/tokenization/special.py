"""Tokens that are found in a text by their spelling, before the engine sees the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping


class TokenFinder:
    """Splits a text at tokens: at each position the longest of them, leftmost first, as `tokenizers` does."""

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._ids = dict(tokens)
        longest_first = sorted(filter(None, tokens), key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None

    def split(self, text: str) -> Iterator[str | int]:
        """The text between tokens (never empty) and the tokens' ids, in order."""
        if self._pattern is None:
            if text:
                yield text
            return
        for number, part in enumerate(self._pattern.split(text)):
            if number % 2:
                yield self._ids[part]
            elif part:
                yield part
