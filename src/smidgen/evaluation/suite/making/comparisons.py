"""Which is larger, smaller, first."""

from __future__ import annotations

from smidgen.data.storyworld.dice import Dice
from smidgen.evaluation.suite.making.drafts import Draft

_SIZES = """mouse<elephant ant<horse bee<cow cat<lion chicken<ostrich fly<dog rabbit<bear sparrow<eagle frog<crocodile
pea<melon grape<pumpkin cherry<cabbage spoon<ladder needle<broom coin<wheel cup<bathtub key<door book<house bicycle<ship
pebble<mountain pond<ocean village<continent Moon<Earth Earth<Sun"""
_WORDS = """apple bird cloud desk east flame glass horn island jug kite lemon mirror nail ocean pearl queen river snail
tower umbrella violin wagon yard zebra""".split()
_ITEMS = 24


def comparison_drafts() -> list[Draft]:
    """Numbers, sizes, the alphabet, order."""
    return [
        _pairs_of_numbers(),
        _of_three("smallest_of_three", "The smallest of three numbers", "smallest"),
        _of_three("largest_of_three", "The largest of three numbers", "largest"),
        _sorting(),
        _sizes(),
        _alphabet(),
    ]


def _distinct(dice: Dice, count: int, used: set[int]) -> list[int]:
    """Numbers that no item of the category had before."""
    numbers: list[int] = []
    while len(numbers) < count:
        number = dice.between(2, 250)
        if number not in used:
            used.add(number)
            numbers.append(number)
    return numbers


def _pairs_of_numbers() -> Draft:
    draft = Draft("larger_number", "comparisons", "The larger of two numbers", "contains", max_new_tokens=12)
    used: set[int] = set()
    for index in range(_ITEMS):
        a, b = _distinct(Dice("suite", draft.name, index), 2, used)
        _add(draft, f"Which number is larger, {a} or {b}?", str(max(a, b)), [str(min(a, b))])
    return draft


def _of_three(name: str, title: str, which: str) -> Draft:
    draft = Draft(name, "comparisons", title, "contains", max_new_tokens=12)
    used: set[int] = set()
    for index in range(_ITEMS):
        numbers = _distinct(Dice("suite", name, index), 3, used)
        answer = min(numbers) if which == "smallest" else max(numbers)
        listed = f"{numbers[0]}, {numbers[1]} or {numbers[2]}"
        _add(draft, f"Which number is the {which}, {listed}?", str(answer), [str(n) for n in numbers if n != answer])
    return draft


def _sorting() -> Draft:
    draft = Draft("sorting", "comparisons", "Sorting four numbers", "sequence")
    for index in range(_ITEMS):
        dice = Dice("suite", draft.name, index)
        numbers = dice.sample(range(2, 99), 4)
        listed = ", ".join(map(str, numbers))
        ordered = [str(number) for number in sorted(numbers)]
        task = f"Sort these numbers from small to large: {listed}"
        draft.add(
            f"{task}.\nSorted:", f"{task}. Answer with the numbers only.", ", ".join(ordered), {"sequence": ordered}
        )
    return draft


def _sizes() -> Draft:
    draft = Draft("sizes", "comparisons", "Which thing is bigger or smaller", "contains")
    for index, pair in enumerate(_SIZES.split()):
        small, big = pair.split("<")
        word, answer, other = ("bigger", big, small) if index % 2 else ("smaller", small, big)
        first, second = (small, big) if index % 4 < 2 else (big, small)
        article = ["the", "the"] if small in {"Moon", "Earth"} else [_article(first), _article(second)]
        _add(draft, f"Which is {word}, {article[0]} {first} or {article[1]} {second}?", answer, [other])
    return draft


def _alphabet() -> Draft:
    draft = Draft("alphabetical", "comparisons", "Which word comes first in the alphabet", "contains")
    for index in range(_ITEMS):
        first, later = _WORDS[index], _WORDS[index + 1 + (3 * index) % (len(_WORDS) - 1 - index)]
        shown = (first, later) if index % 2 else (later, first)
        _add(draft, f"Which word comes first in the alphabet, {shown[0]} or {shown[1]}?", first, [later])
    return draft


def _add(draft: Draft, question: str, answer: str, rivals: list[str]) -> None:
    # An answer such as "47 is larger than 12" names both; the chat asks for one.
    draft.add(
        f"Question: {question}\nAnswer:",
        f"{question} Answer with one {'number' if answer.isdigit() else 'word'} only.",
        answer,
        {"accept": [answer], "reject": rivals},
    )


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
