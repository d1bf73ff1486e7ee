"""Drafts from the text itself: what followed the last tokens when they stood there before (prompt lookup decoding)."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST, SHORTEST = 3, 2
"""Tokens that must recur; of several lengths that do, the longest counts."""


class PromptLookup:
    """The n-grams of one growing text, and where each was last followed by something. A token costs the same always."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._followed: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """The text goes on with this token."""
        tokens = self._tokens
        for size in range(SHORTEST, LONGEST + 1):
            if len(tokens) >= size:
                self._followed[tuple(tokens[-size:])] = len(tokens)
        tokens.append(token)

    def draft(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next."""
        for size in range(LONGEST, SHORTEST - 1, -1):
            start = self._followed.get(tuple(self._tokens[-size:]))
            if start is not None:
                draft = self._tokens[start : start + limit]
                # What repeats itself up to its end is taken to go on so.
                while len(draft) < limit:
                    draft += draft[: limit - len(draft)]
                return draft
        return []
