"""Which split an entity or a pair of operands belongs to: decided by a hash, so it can never differ between runs.

Every name, thing, place, food, set of pattern items and pair of numbers belongs to exactly one split, everywhere in
the corpus. A document of a split is made of that split's members only, so what the test questions ask about never
occurs in training text. The parts that members are composed of (syllables, adjectives, nouns, single numbers) occur in
all splits: a held-out thing is a new combination, not a new word.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Literal, get_args

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@cache
def split_of(kind: str, *parts: str | int) -> Split:
    """The split of the member of `kind` with these parts: eight of ten in train, one each in val and test."""
    digest = hashlib.blake2b("/".join(["storyworld", kind, *map(str, parts)]).encode(), digest_size=4).digest()
    bucket = int.from_bytes(digest, "little") % 10
    return "test" if bucket == 0 else "val" if bucket == 1 else "train"


def split_of_numbers(first: int, second: int) -> Split:
    """The split of a pair of operands, whatever their order and the operation between them."""
    return split_of("numbers", min(first, second), max(first, second))


def split_of_items(kind: str, items: set[str]) -> Split:
    """The split of a set of pattern items, whatever their order."""
    return split_of(kind, *sorted(items))
