"""Sequences to go on with."""

from __future__ import annotations

from smidgen.data.storyworld.dice import Dice
from smidgen.evaluation.suite.making.drafts import Draft

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NUMBER_WORDS = """one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""".split()
_ITEMS = 24


def pattern_drafts() -> list[Draft]:
    """Numbers, letters and words in a pattern."""
    return [
        _numbers("number_steps", "Numbers in equal steps", 1, 9, 1, 20),
        _numbers("number_countdown", "Numbers falling in equal steps", -9, -1, 60, 99),
        _growing(),
        _letter_steps(),
        _letter_cycles(),
        _number_words(),
    ]


def _numbers(name: str, title: str, low: int, high: int, first: int, last: int) -> Draft:
    draft = Draft(name, "patterns", title, "number", max_new_tokens=12)
    seen: list[int] = []
    dice = Dice("suite", name)
    while len(draft.items) < _ITEMS:
        start, step = dice.between(first, last), dice.between(low, high)
        terms = [start + step * index for index in range(6)]
        _add_numbers(draft, terms, seen)
    return draft


def _growing() -> Draft:
    draft = Draft("number_multiples", "patterns", "Numbers that grow by a factor", "number", max_new_tokens=12)
    seen: list[int] = []
    for factor, firsts in ((2, (1, 2, 3, 5, 7, 9, 10, 11, 13, 15)), (3, (1, 2, 4, 5, 7, 8)), (10, (1, 2, 3, 7, 9))):
        for first in firsts:
            _add_numbers(draft, [first * factor**index for index in range(6)], seen)
    return draft


def _add_numbers(draft: Draft, terms: list[int], seen: list[int]) -> None:
    """An item unless its answer was asked for twice already."""
    *shown, answer = terms
    if seen.count(answer) == 2 or any(item["expect"]["terms"] == terms for item in draft.items):
        return
    seen.append(answer)
    listed = ", ".join(map(str, shown))
    draft.add(
        f"{listed},",
        f"Which number comes next: {listed}? Answer with the number only.",
        str(answer),
        {"value": answer, "terms": terms},
    )


def _letter_steps() -> Draft:
    draft = Draft("letter_steps", "patterns", "Letters in equal steps through the alphabet", "sequence")
    _add_steps(draft, list(_LETTERS), (1, 2, 3, 4), "letter")
    return draft


def _letter_cycles() -> Draft:
    draft = Draft("letter_cycles", "patterns", "Letters that repeat in turn", "sequence")
    for index in range(_ITEMS):
        dice = Dice("suite", draft.name, index)
        answer = _LETTERS[index]
        length = 2 + index % 2
        others = dice.sample([letter for letter in _LETTERS if letter != answer], length - 1)
        cycle = [answer, *others]
        shift = index % length
        shown = [cycle[(position - shift) % length] for position in range(2 * length + shift)]
        _add_words(draft, shown, answer, "letter")
    return draft


def _number_words() -> Draft:
    draft = Draft("number_words", "patterns", "Number words in equal steps", "sequence")
    _add_steps(draft, _NUMBER_WORDS, (1, 2, 3, -1, -2), "word")
    return draft


def _add_steps(draft: Draft, row: list[str], steps: tuple[int, ...], kind: str) -> None:
    """Items that walk through a row in steps, no answer more than twice."""
    dice = Dice("suite", draft.name)
    walks = [(start, step) for step in steps for start in range(len(row)) if 0 <= start + 4 * step < len(row)]
    answers: list[str] = []
    for start, step in dice.shuffled(walks):
        *shown, answer = (row[start + step * position] for position in range(5))
        if answers.count(answer) < 2 and len(draft.items) < _ITEMS:
            answers.append(answer)
            _add_words(draft, shown, answer, kind)


def _add_words(draft: Draft, shown: list[str], answer: str, kind: str) -> None:
    draft.add(
        f"Pattern: {' '.join(shown)}",
        f"Which {kind} comes next: {' '.join(shown)}? Answer with the {kind} only.",
        answer,
        {"sequence": [answer], "more": True},
    )
