"""Instructions whose fulfilment can be checked: counts, words, letters, copies."""

from __future__ import annotations

from typing import Any

from smidgen.data.storyworld.dice import Dice
from smidgen.evaluation.suite.making.drafts import Draft
from smidgen.evaluation.suite.making.formats import THINGS

_ANIMALS = """dog cat horse bird fox bear lion mouse wolf rabbit cow sheep pig goat hen duck owl frog fish bee
snake tiger""".split()
_OPENINGS = """Today Yesterday Sometimes Often Once Here There Now Soon Outside Later Tomorrow Usually Suddenly Slowly
Quietly Maybe Never Always Indeed Together Tonight""".split()
_ENDINGS = """the river;the old mill;the garden;my house;the station;a green hill;the sea;the forest;the school;
a long road; the bridge;the castle;the market;the lake;the tower;the valley;the harbour;the farm;the kitchen;the beach;
the meadow;the town"""
_WITHOUT = (
    ("e", "dog cat fox lion bird pig goat owl fish duck cow hawk"),
    ("a", "dog fox lion bird pig owl fish duck cow wolf frog hen"),
)


def instruction_drafts() -> list[Draft]:
    """Constraints, and texts to copy or change."""
    return [
        _word_counts(),
        _beginnings(),
        _endings(),
        _without_letter(),
        _two_words(),
        _capitals(),
        _copies(),
        _reversed_words(),
        _reversed_letters(),
        _first_letters(),
    ]


def _framed(draft: Draft, task: str, reference: str, expect: dict[str, Any]) -> None:
    draft.add(f"Instruction: {task}\nAnswer:", task, reference, expect)


def _word_counts() -> Draft:
    draft = Draft("word_counts", "instructions", "Sentences with a number of words", "constraints")
    shapes = ("The {0} sleeps.", "The {0} sleeps well.", "The old {0} sleeps well.", "The old {0} sleeps well today.")
    names = ("three", "four", "five", "six")
    for index, animal in enumerate(_ANIMALS):
        count = 3 + index % 4
        _framed(
            draft,
            f"Write a sentence of exactly {names[index % 4]} words about a {animal}.",
            shapes[index % 4].format(animal),
            {"all": [{"kind": "word_count", "least": count, "most": count}, {"kind": "mentions", "words": [animal]}]},
        )
    return draft


def _beginnings() -> Draft:
    draft = Draft("first_words", "instructions", "Sentences that begin with a word", "constraints", max_new_tokens=32)
    for word, animal in zip(_OPENINGS, _ANIMALS, strict=True):
        _framed(
            draft,
            f"Write one sentence about a {animal} that begins with the word {word}.",
            f"{word} the {animal} sleeps in the sun.",
            {
                "all": [
                    {"kind": "starts", "word": word},
                    {"kind": "mentions", "words": [animal]},
                    {"kind": "word_count", "least": 4, "most": 40},
                ]
            },
        )
    return draft


def _endings() -> Draft:
    draft = Draft("last_words", "instructions", "Sentences that end with given words", "constraints", max_new_tokens=32)
    for ending, animal in zip(" ".join(_ENDINGS.split("\n")).split(";"), _ANIMALS, strict=True):
        ending = ending.strip()
        _framed(
            draft,
            f"Write one sentence about a {animal} that ends with the words {ending}.",
            f"One day a {animal} came to {ending}.",
            {
                "all": [
                    {"kind": "ends", "ending": ending},
                    {"kind": "mentions", "words": [animal]},
                    {"kind": "word_count", "least": 4, "most": 40},
                ]
            },
        )
    return draft


def _without_letter() -> Draft:
    draft = Draft("forbidden_letter", "instructions", "Sentences without a letter", "constraints", max_new_tokens=32)
    sentences = {"e": "My {0} is not big at all.", "a": "The {0} is not in the house."}
    for letter, animals in _WITHOUT:
        for animal in animals.split():
            _framed(
                draft,
                f"Write one sentence about a {animal} without the letter {letter}.",
                sentences[letter].format(animal),
                {
                    "all": [
                        {"kind": "avoids", "letter": letter},
                        {"kind": "mentions", "words": [animal]},
                        {"kind": "word_count", "least": 4, "most": 40},
                    ]
                },
            )
    return draft


def _two_words() -> Draft:
    draft = Draft("two_words", "instructions", "One sentence with two given words", "constraints", max_new_tokens=32)
    for index in range(22):
        first, second = Dice("suite", draft.name, index).sample(THINGS, 2)
        _framed(
            draft,
            f"Write one sentence with the words {first} and {second}.",
            f"I put the {first} beside the {second}.",
            {
                "all": [
                    {"kind": "mentions", "words": [first, second]},
                    {"kind": "sentences", "count": 1},
                    {"kind": "word_count", "least": 5, "most": 40},
                ]
            },
        )
    return draft


def _capitals() -> Draft:
    draft = Draft("letter_case", "instructions", "Words in capital or small letters", "exact")
    for index in range(22):
        words = " ".join(Dice("suite", draft.name, index).sample(THINGS, 3))
        upper = index % 2 == 0
        given, answer = (words, words.upper()) if upper else (words.upper(), words)
        kind, example = ("capital", "red hat: RED HAT") if upper else ("small", "RED HAT: red hat")
        draft.add(
            f"In {kind} letters, {example}\nIn {kind} letters, {given}:",
            f"Write these words in {kind} letters, nothing else: {given}",
            answer,
            {"accept": [answer], "case": True},
        )
    return draft


def _words(name: str, index: int, count: int) -> list[str]:
    return Dice("suite", name, index).sample([*THINGS, *_ANIMALS], count)


def _copies() -> Draft:
    draft = Draft("copying", "instructions", "Copying words", "exact")
    for index in range(22):
        words = " ".join(_words(draft.name, index, 3 + index % 4))
        draft.add(
            f"Text: old red hat\nCopy: old red hat\nText: {words}\nCopy:",
            f"Repeat these words exactly, nothing else: {words}",
            words,
            {"accept": [words]},
        )
    return draft


def _reversed_words() -> Draft:
    draft = Draft("reversed_words", "instructions", "Words in reverse order", "sequence")
    for index in range(22):
        words = _words(draft.name, index, 3)
        backwards = words[::-1]
        draft.add(
            f"Text: old red hat\nReversed: hat red old\nText: {' '.join(words)}\nReversed:",
            f"Write these words in reverse order, nothing else: {' '.join(words)}",
            " ".join(backwards),
            {"sequence": backwards},
        )
    return draft


def _reversed_letters() -> Draft:
    draft = Draft("reversed_letters", "instructions", "Words spelled backwards", "exact")
    words = [word for word in [*THINGS, *_ANIMALS] if len(word) <= 5 and word != word[::-1]]
    for word in words[:24]:
        draft.add(
            f"red backwards is der. hat backwards is tah. {word} backwards is",
            f"Write the word {word} backwards, nothing else.",
            word[::-1],
            {"accept": [word[::-1]]},
        )
    return draft


def _first_letters() -> Draft:
    draft = Draft("first_letters", "instructions", "First and last letters of words", "exact")
    for index, word in enumerate(THINGS):
        which, letter = ("first", word[0]) if index % 3 else ("last", word[-1])
        draft.add(
            f"The {which} letter of the word {word} is",
            f"What is the {which} letter of the word {word}? Answer with the letter only.",
            letter,
            {"accept": [letter]},
        )
    return draft
