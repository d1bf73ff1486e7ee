"""Who has the most, which number is the largest, who is the tallest: always among three."""

from __future__ import annotations

from smidgen.data.storyworld.dice import Dice
from smidgen.data.storyworld.exercise import Exercise, document_of_questions
from smidgen.data.storyworld.world import COUNTABLES, World, enumeration

ADJECTIVES = (("taller", "tallest"), ("older", "oldest"), ("faster", "fastest"), ("stronger", "strongest"))


def comparisons(dice: Dice, world: World) -> Exercise:
    """One comparison among three and the two questions about its extremes, in random order."""
    return dice.choice((_counts, _numbers, _order))(dice, world)


def _three_numbers(dice: Dice) -> tuple[int, ...]:
    return tuple(dice.sample(range(1, 100), 3))


def _counts(dice: Dice, world: World) -> Exercise:
    people = world.people(dice, 3)
    numbers = world.operands(dice, _three_numbers)
    countable = dice.choice(COUNTABLES)
    ranked = sorted(zip(numbers, [person.name for person in people], strict=True))
    told = enumeration([f"{person.name} has {number}" for person, number in zip(people, numbers, strict=True)])
    questions = [(f"Who has the most {countable}?", ranked[-1][1]), (f"Who has the fewest {countable}?", ranked[0][1])]
    return document_of_questions(f"They count their {countable}: {told}.", dice.shuffled(questions))


def _numbers(dice: Dice, world: World) -> Exercise:
    numbers = world.operands(dice, _three_numbers)
    questions = [
        ("Which number is the largest?", str(max(numbers))),
        ("Which number is the smallest?", str(min(numbers))),
    ]
    return document_of_questions(
        f"Look at {enumeration([str(number) for number in numbers])}.", dice.shuffled(questions)
    )


def _order(dice: Dice, world: World) -> Exercise:
    top, middle, bottom = (person.name for person in world.people(dice, 3))
    more, most = dice.choice(ADJECTIVES)
    told = dice.shuffled([f"{top} is {more} than {middle}.", f"{middle} is {more} than {bottom}."])
    questions = [
        (f"Who is the {most} of the three?", top),
        (f"Who is {more} than {bottom} but not the {most}?", middle),
    ]
    return document_of_questions(" ".join(told), dice.shuffled(questions))
