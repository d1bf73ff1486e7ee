"""Number and letter patterns: progressions counted in words, and items that come round again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from string import ascii_lowercase

from smidgen.data.storyworld.dice import Dice
from smidgen.data.storyworld.exercise import Exercise
from smidgen.data.storyworld.splits import split_of_items, split_of_numbers
from smidgen.data.storyworld.world import THING_NOUNS, World

TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ONES = "one two three four five six seven eight nine".split()
SMALLEST, LARGEST = 20, 99
STEPS = (1, 2, 3, 4, 5, 10)
SHAPES = ("ab", "abc", "abcd", "aab", "abb", "aabb")
PATTERNS_A_DOCUMENT = 4


def patterns(dice: Dice, world: World) -> Exercise:
    """Four patterns of one sort, each with its next item.

    Held out by neighbours: two numbers that follow each other in a training progression never lie on both sides of
    the gap in a test question. Other patterns are held out by the set of their items.
    """
    pattern = dice.choice(PATTERNS)
    first, *others = [pattern(dice, world) for _ in range(PATTERNS_A_DOCUMENT)]
    rest = "".join(f"\nPattern: {' '.join(items)} then {following}" for *items, following in others)
    *items, following = first
    return Exercise(f"Pattern: {' '.join(items)} then", f" {following}", rest)


def in_words(number: int) -> str:
    """A number from 20 to 99 as English writes it: twenty, forty-two."""
    tens, ones = divmod(number, 10)
    return f"{TENS[tens - 2]}-{ONES[ones - 1]}" if ones else TENS[tens - 2]


def _progression(dice: Dice, world: World) -> list[str]:
    """Four to six numbers with one difference, upwards or downwards, in words."""
    while True:
        length = dice.between(4, 6)
        step = dice.choice(STEPS)
        start = dice.between(SMALLEST, LARGEST - (length - 1) * step)
        numbers = [start + index * step for index in range(length)]
        if dice.chance(0.3):
            numbers.reverse()
        if _owned(world, [split_of_numbers(*pair) for pair in pairwise(numbers)]):
            return [in_words(number) for number in numbers]


def _owned(world: World, neighbours: list[str]) -> bool:
    """In training every pair of neighbours must be its own; in a held-out split, the pair around the gap."""
    if world.split == "train":
        return all(owner == "train" for owner in neighbours)
    return neighbours[-1] == world.split


def _round(kind: str, alphabet: Sequence[str]) -> Callable[[Dice, World], list[str]]:
    def pattern(dice: Dice, world: World) -> list[str]:
        """Items in one of the shapes, a little more than twice; the next item is never the same as the last one."""
        shape = dice.choice(SHAPES)
        letters = sorted(set(shape))
        while True:
            items = dice.sample(alphabet, len(letters))
            if split_of_items(kind, set(items)) == world.split:
                length = 2 * len(shape) + dice.between(1, len(shape))
                while shape[length % len(shape)] == shape[(length - 1) % len(shape)]:
                    length += 1
                return [items[letters.index(shape[index % len(shape)])] for index in range(length + 1)]

    return pattern


PATTERNS = (
    _progression,
    _round("letters", ascii_lowercase),
    _round("words", THING_NOUNS),
    _round("digits", [str(number) for number in range(1, 100)]),
)
