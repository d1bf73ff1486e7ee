"""Random draws that are the same on every platform and in every Python version."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Draws decided by a key, such as ("documents", seed, split, number).

    Only `random.Random.random()` is used: it is the one method whose sequence Python promises to keep; `choice`,
    `shuffle` and `sample` have changed between versions.
    """

    def __init__(self, *key: str | int) -> None:
        digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
        self._random = random.Random(int.from_bytes(digest, "little")).random

    def fraction(self) -> float:
        """A number in [0, 1)."""
        return self._random()

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        return int(self._random() * bound)

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + int(self._random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random() < probability

    def choice(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[int(self._random() * len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` items at different positions, in random order."""
        assert count <= len(items), f"{count} of {len(items)} items"
        positions: list[int] = []
        while len(positions) < count:
            position = int(self._random() * len(items))
            if position not in positions:
                positions.append(position)
        return [items[position] for position in positions]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order (Fisher and Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = int(self._random() * (last + 1))
            order[last], order[other] = order[other], order[last]
        return order
