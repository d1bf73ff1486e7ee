"""Nothing that a held-out question is about occurs in training text: read from the text, not from its generator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import combinations, islice, pairwise

import pytest

from smidgen.data.storyworld import KINDS, Question, Split, generate, questions
from smidgen.data.storyworld.patterns import LARGEST, SMALLEST, in_words
from smidgen.data.storyworld.splits import SPLITS, split_of_items, split_of_numbers
from smidgen.data.storyworld.world import world_of

HELD_OUT: tuple[Split, ...] = ("val", "test")
NUMBERS = {in_words(number): number for number in range(SMALLEST, LARGEST + 1)}


@cache
def training_text() -> dict[str, list[str]]:
    """Forty thousand training documents of two seeds, by kind."""
    texts: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for seed in (0, 1):
        for document in islice(generate(seed), 20_000):
            texts[document.kind].append(document.text)
    return texts


def entities(split: Split) -> set[str]:
    """Names, things, places and foods of a split, in lower case."""
    world = world_of(split)
    phrases = (*(person.name for person in world.names), *(place.name for place in world.places))
    return {phrase.lower() for phrase in (*phrases, *world.things, *world.foods)}


def phrases_in(text: str) -> set[str]:
    """Every two neighbouring words in lower case, the second also without a plural s."""
    pairs = [f"{first} {second}" for first, second in pairwise(re.findall(r"[a-z]+|[^a-z\s]", text.lower()))]
    return {*pairs, *(pair.removesuffix("s") for pair in pairs)}


def operand_pairs(kind: str, text: str) -> Iterator[tuple[int, int]]:
    """The numbers that a text calculates with or compares."""
    if kind == "arithmetic":
        yield from ((int(left), int(right)) for left, right in re.findall(r"<<(\d+)[-+*/](\d+)=", text))
    elif kind == "comparisons":
        yield from combinations(map(int, re.findall(r"\d+", text.split("\n")[0])), 2)
    elif kind == "functions" and (constant := re.search(r"def \w+_(\d+)\(", text)):
        (call,) = re.findall(r">>> \w+(\(.*\))", text)
        yield from combinations(map(int, (constant[1], *re.findall(r"\d+", call))), 2)


def patterns_in(text: str) -> Iterator[list[str]]:
    """The items of each line of a patterns document."""
    for line in text.split("\n"):
        yield [item for item in line.removeprefix("Pattern: ").split() if item != "then"]


def kind_of_items(items: list[str]) -> str:
    return "digits" if items[0].isdigit() else "letters" if len(items[0]) == 1 else "words"


def test_the_splits_share_no_entity_and_each_has_enough() -> None:
    of_split = {split: entities(split) for split in SPLITS}
    for first, second in combinations(SPLITS, 2):
        assert of_split[first].isdisjoint(of_split[second])
    for split in HELD_OUT:
        world = world_of(split)
        assert min(len(world.names), len(world.things)) > 100
        assert min(len(world.places), len(world.foods)) > 10


def test_parts_of_held_out_entities_are_words_of_training() -> None:
    """So that what is new is the combination: a held-out question needs no word that training never showed."""
    words = {
        word for texts in training_text().values() for text in texts for word in re.findall(r"[a-z]+", text.lower())
    }
    for split in HELD_OUT:
        assert {word for entity in entities(split) for word in entity.split()} <= words


def test_no_held_out_entity_occurs_in_training_text() -> None:
    forbidden = entities("val") | entities("test")
    seen: set[str] = set()
    for texts in training_text().values():
        for text in texts:
            seen |= phrases_in(text)
    assert len(seen & entities("train")) > 3_000, "the scan finds entities"
    assert not seen & forbidden


@pytest.mark.parametrize("kind", ["arithmetic", "comparisons", "functions"])
def test_no_held_out_operands_occur_in_training_text(kind: str) -> None:
    pairs = {pair for text in training_text()[kind] for pair in operand_pairs(kind, text)}
    assert len(pairs) > 500
    assert {split_of_numbers(*pair) for pair in pairs} == {"train"}


def test_no_held_out_pattern_occurs_in_training_text() -> None:
    lines = [items for text in training_text()["patterns"] for items in patterns_in(text)]
    progressions = [[NUMBERS[item] for item in items] for items in lines if items[0] in NUMBERS]
    assert len(progressions) > 1_000
    assert {split_of_numbers(*pair) for numbers in progressions for pair in pairwise(numbers)} == {"train"}
    rounds = [items for items in lines if items[0] not in NUMBERS]
    assert {split_of_items(kind_of_items(items), set(items)) for items in rounds} == {"train"}


def is_held_out(question: Question, split: Split) -> bool:
    """Whether what the answer depends on belongs to the split."""
    if question.kind == "patterns":
        (items,) = patterns_in(f"{question.prompt} {question.answer}")
        if items[0] in NUMBERS:
            return split_of_numbers(*(NUMBERS[item] for item in items[-2:])) == split
        return split_of_items(kind_of_items(items), set(items)) == split
    text = question.prompt + "\n" + question.answer
    pairs = list(operand_pairs(question.kind, text))
    phrases = phrases_in(text if question.messages is None else "\n".join(m["content"] for m in question.messages))
    return (
        all(split_of_numbers(*pair) == split for pair in pairs)
        and not phrases & entities("train")
        and bool(pairs or phrases & entities(split))
    )


@pytest.mark.parametrize("split", HELD_OUT)
@pytest.mark.parametrize("kind", KINDS)
def test_held_out_questions_are_made_of_their_split(kind: str, split: Split) -> None:
    assert all(is_held_out(question, split) for question in questions(kind, split, 200))
