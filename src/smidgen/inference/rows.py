"""Which request has which row of the cache, and what the rows hold.

Running requests have the first rows, without a gap, so that what runs is one stretch of the cache. When a request ends,
the last one takes its row. The rows behind keep what they held: a prompt that begins as one of them does, or as a
running one, goes on from there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch

from smidgen.inference.lookup import PromptLookup
from smidgen.inference.sampling import Choice
from smidgen.model import Cache
from smidgen.runtime.sampling import SamplingParams


@dataclass(eq=False)
class Request:
    """One prompt on its way to its answer."""

    number: int
    context: list[int]
    """The tokens that the model sees: the prompt and the answer so far; under `slide` without what has left."""
    params: SamplingParams
    end_ids: frozenset[int]
    is_plain: bool
    """Whether the next token is the likeliest, and nothing else is asked."""
    num_generated: int = 0
    is_finished: bool = False
    slot: int = -1
    """Of the sampler."""
    lookup: PromptLookup | None = None
    ready: deque[Choice] = field(default_factory=deque)
    """Tokens that are in the context and not yet reported."""


class Rows:
    """The rows of a cache."""

    def __init__(self, cache: Cache, reuse_prefixes: bool) -> None:
        self.cache = cache
        self.running: list[Request] = []
        """Row by row."""
        self.lengths = [0] * cache.batch_size
        """Tokens that each row of the cache holds; `cache.lengths` follows when `sync` is called."""
        self._reuse_prefixes = reuse_prefixes
        self._held: list[list[int]] = [[] for _ in range(cache.batch_size)]
        """Of rows that nobody runs in, their tokens."""
        self._left = [0] * cache.batch_size
        """When the row's last request ended."""
        self._clock = 0

    @property
    def has_room(self) -> bool:
        return len(self.running) < self.cache.batch_size

    def sync(self) -> None:
        """Let the cache know the rows' lengths."""
        self.cache.lengths.copy_(torch.tensor(self.lengths))

    def admit(self, request: Request) -> int:
        """Give the next row to a request; returns how many of its first tokens the row holds already."""
        row = len(self.running)
        source, length = self._best_source(request.context) if self._reuse_prefixes else (row, 0)
        self.sync()
        if source < row:
            self.cache.copy_row(source, row, length)
        elif source != row:
            self._swap(source, row)
        elif not length:
            oldest = min(range(row, self.cache.batch_size), key=self._left.__getitem__)
            if oldest != row and self._reuse_prefixes:
                self._swap(oldest, row)
        self.lengths[row] = length
        self.running.append(request)
        return length

    def restart(self, row: int) -> None:
        """Forget what the row of a running request holds."""
        self.lengths[row] = 0

    def release_finished(self) -> list[Request]:
        """Take the rows of finished requests, and close the gaps; returns those requests."""
        released = []
        for row in range(len(self.running) - 1, -1, -1):
            request = self.running[row]
            if not request.is_finished:
                continue
            released.append(request)
            self._clock += 1
            last = len(self.running) - 1
            self._held[row] = request.context[: self.lengths[row]]
            self._left[row] = self._clock
            if row != last:
                self.sync()
                self._swap(row, last)
                self.running[row] = self.running[last]
            self.running.pop()
        return released

    def tokens(self, row: int) -> list[int]:
        """What a row holds."""
        own = self.running[row].context if row < len(self.running) else self._held[row]
        return own[: self.lengths[row]]

    def _swap(self, first: int, second: int) -> None:
        self.cache.swap_rows(first, second)
        for numbers in (self.lengths, self._left):
            numbers[first], numbers[second] = numbers[second], numbers[first]
        self._held[first], self._held[second] = self._held[second], self._held[first]

    def _best_source(self, prompt: list[int]) -> tuple[int, int]:
        """The row that begins most like the prompt, and how much of it can be taken over; else the next row and 0."""
        best = (len(self.running), 0)
        for row in range(self.cache.batch_size):
            # The last token must be fed, whose output is wanted.
            limit = min(self.lengths[row], len(prompt) - 1)
            if limit <= best[1]:
                continue
            common = _common_prefix(self.tokens(row), prompt, limit)
            common = self.cache.reusable(self.lengths[row], common)
            if common > best[1]:
                best = (row, common)
        return best


def _common_prefix(first: list[int], second: list[int], limit: int) -> int:
    if first[:limit] == second[:limit]:
        return limit
    return next(index for index in range(limit) if first[index] != second[index])
