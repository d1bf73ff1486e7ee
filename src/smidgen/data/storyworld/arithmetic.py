"""Word problems in GSM8K's form: each calculation annotated as <<12+7=19>>, the result after ####."""

from __future__ import annotations

from smidgen.data.storyworld.dice import Dice
from smidgen.data.storyworld.exercise import Exercise
from smidgen.data.storyworld.world import COUNTABLES, Person, World, sentence


def arithmetic(dice: Dice, world: World) -> Exercise:
    """A problem of one or two steps about somebody's things."""
    person = world.people(dice, 1)[0]
    countable = dice.choice(COUNTABLES)
    story, steps = dice.choice((_gain, _loss, _groups, _share, _gain_and_loss, _groups_and_gain))(
        dice, world, person, countable
    )
    solution = [
        f"{sentence(lead)} {left}{sign}{right} = <<{left}{sign}{right}={result}>>{result} {countable}."
        for lead, left, sign, right, result in steps
    ]
    answer = "\n".join([*solution, f"#### {steps[-1][-1]}"])
    return Exercise(f"Question: {story}\nAnswer:", f" {answer}")


Step = tuple[str, int, str, int, int]
"""Words before the calculation, left operand, sign, right operand, result."""
Problem = tuple[str, list[Step]]


def _gain(dice: Dice, world: World, person: Person, countable: str) -> Problem:
    have, more = world.operands(dice, lambda dice: (dice.between(2, 60), dice.between(2, 39)))
    they, name = person.they, person.name
    found = dice.choice(("finds", "buys", "gets", "picks up"))
    story = (
        f"{name} has {have} {countable}. {sentence(they)} {found} {more} more. "
        f"How many {countable} does {they} have now?"
    )
    return story, [(f"{they} has", have, "+", more, have + more)]


def _loss(dice: Dice, world: World, person: Person, countable: str) -> Problem:
    have, fewer = world.operands(dice, lambda dice: _larger_first(dice.between(2, 99), dice.between(2, 50)))
    they, name = person.they, person.name
    lost = dice.choice(("loses", "sells", "gives away", "drops"))
    story = f"{name} has {have} {countable}. {sentence(they)} {lost} {fewer}. How many {countable} are left?"
    return story, [(f"{they} has", have, "-", fewer, have - fewer)]


def _groups(dice: Dice, world: World, person: Person, countable: str) -> Problem:
    boxes, each = world.operands(dice, lambda dice: (dice.between(2, 12), dice.between(2, 12)))
    box = dice.choice(("boxes", "bags", "baskets", "jars"))
    story = f"{person.name} has {boxes} {box}. Each holds {each} {countable}. How many {countable} are there?"
    return story, [("there are", boxes, "*", each, boxes * each)]


def _share(dice: Dice, world: World, person: Person, countable: str) -> Problem:
    def draw(dice: Dice) -> tuple[int, ...]:
        friends = dice.between(2, 12)
        return friends * dice.between(2, 12), friends

    total, friends = world.operands(dice, draw)
    story = (
        f"{person.name} shares {total} {countable} among {friends} friends. How many {countable} does each friend get?"
    )
    return story, [("each friend gets", total, "/", friends, total // friends)]


def _gain_and_loss(dice: Dice, world: World, person: Person, countable: str) -> Problem:
    while True:
        have, more = world.operands(dice, lambda dice: (dice.between(2, 60), dice.between(2, 39)))
        fewer = dice.between(2, have + more - 1)
        if world.owns_pairs((have + more, fewer)):
            break
    they, name = person.they, person.name
    story = (
        f"{name} has {have} {countable}. {sentence(they)} finds {more} more and then gives away {fewer}. "
        f"How many {countable} does {they} have now?"
    )
    first = (f"{they} first has", have, "+", more, have + more)
    return story, [first, (f"then {they} has", have + more, "-", fewer, have + more - fewer)]


def _groups_and_gain(dice: Dice, world: World, person: Person, countable: str) -> Problem:
    while True:
        boxes, each = world.operands(dice, lambda dice: (dice.between(2, 9), dice.between(2, 9)))
        more = dice.between(2, 20)
        if world.owns_pairs((boxes * each, more)):
            break
    they, name = person.they, person.name
    story = (
        f"{name} has {boxes} bags with {each} {countable} each and {more} more in {person.their} pocket. "
        f"How many {countable} does {they} have?"
    )
    first = ("in the bags there are", boxes, "*", each, boxes * each)
    return story, [first, (f"{they} has", boxes * each, "+", more, boxes * each + more)]


def _larger_first(first: int, second: int) -> tuple[int, ...]:
    return (first, second) if first > second else (second + 1, first)
