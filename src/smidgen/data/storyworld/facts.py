"""Facts about people in random order, with questions about them."""

from __future__ import annotations

from smidgen.data.storyworld.dice import Dice
from smidgen.data.storyworld.exercise import Exercise, document_of_questions
from smidgen.data.storyworld.world import COUNTABLES, JOBS, Place, World

VERBS_OF_FOOD = (("likes", "like"), ("cooks", "cook"), ("sells", "sell"), ("brings", "bring"))
VERBS_OF_THINGS = (("has", "have"), ("collects", "collect"), ("paints", "paint"), ("needs", "need"), ("mends", "mend"))
VERBS_OF_PEOPLE = (("helps", "help"), ("teaches", "teach"), ("visits", "visit"), ("calls", "call"))


def facts(dice: Dice, world: World) -> Exercise:
    """Three or four facts, each asked for once; an answer repeats its fact. Nobody and no verb occurs in two."""
    told = []
    relations = dice.sample(RELATIONS, dice.between(3, 4))
    people = [person.name for person in world.people(dice, 2 * len(relations))]
    things, foods = iter(world.things_of(dice, 5)), iter(world.foods_of(dice, 4))
    for relation in relations:
        name = people.pop()
        if relation in VERBS_OF_FOOD:
            told.append((f"{name} {relation[0]} {next(foods)}.", f"What does {name} {relation[1]}?"))
        elif relation in VERBS_OF_THINGS:
            told.append((f"{name} {relation[0]} {next(things)}s.", f"What does {name} {relation[1]}?"))
        elif relation in VERBS_OF_PEOPLE:
            told.append((f"{name} {relation[0]} {people.pop()}.", f"Who does {name} {relation[1]}?"))
        elif relation == "lives":
            told.append((f"{name} lives {_address(dice.choice(world.places))}.", f"Where does {name} live?"))
        elif relation == "works":
            told.append((f"{name} works as {dice.choice(JOBS)}.", f"What does {name} work as?"))
        else:
            countable = dice.choice(COUNTABLES)
            told.append((f"{name} found {dice.between(2, 99)} {countable}.", f"How many {countable} did {name} find?"))
    lead = " ".join(statement for statement, _ in told)
    return document_of_questions(lead, [(question, statement) for statement, question in dice.shuffled(told)])


RELATIONS = (*VERBS_OF_FOOD, *VERBS_OF_THINGS, *VERBS_OF_PEOPLE, "lives", "works", "found")


def _address(place: Place) -> str:
    """A place as a name: in Mossy Barn."""
    return f"{place.preposition} {place.name.title()}"
