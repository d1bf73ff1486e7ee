"""Chats of two turns: the user tells something, then asks about it."""

from __future__ import annotations

from smidgen.data.storyworld.dice import Dice
from smidgen.data.storyworld.exercise import Exercise
from smidgen.data.storyworld.facts import VERBS_OF_FOOD
from smidgen.data.storyworld.world import World, enumeration, with_article


def chats(dice: Dice, world: World) -> Exercise:
    """One of a few conversations; the last reply is the answer."""
    return dice.choice((_introduction, _places, _picnic, _list))(dice, world)


def _introduction(dice: Dice, world: World) -> Exercise:
    name = world.people(dice, 1)[0].name
    thing = dice.choice(world.things)
    greeting = dice.choice(("Hello!", "Hi!", "Good morning!"))
    return _chat(
        f"{greeting} I am {name} and I have {with_article(thing)}.",
        f"Hello, {name}! {with_article(thing).capitalize()} is a fine thing to have.",
        *dice.choice(
            (("What is my name?", f"Your name is {name}."), ("What do I have?", f"You have {with_article(thing)}."))
        ),
    )


def _places(dice: Dice, world: World) -> Exercise:
    things, places = world.things_of(dice, 2), world.places_of(dice, 2)
    wanted = dice.below(2)
    return _chat(
        f"I put the {things[0]} {places[0]} and the {things[1]} {places[1]}.",
        "I will remember that.",
        f"Where is the {things[wanted]}?",
        f"The {things[wanted]} is {places[wanted]}.",
    )


def _picnic(dice: Dice, world: World) -> Exercise:
    people, foods = world.people(dice, 2), world.foods_of(dice, 2)
    verbs = dice.sample(VERBS_OF_FOOD, 2)
    wanted = dice.below(2)
    told = [f"{person.name} {verb} {food}" for person, (verb, _), food in zip(people, verbs, foods, strict=True)]
    return _chat(
        f"{told[0]} and {told[1]}.",
        "Thank you for telling me.",
        f"What does {people[wanted].name} {verbs[wanted][1]}?",
        f"{told[wanted]}.",
    )


def _list(dice: Dice, world: World) -> Exercise:
    *items, added = world.things_of(dice, dice.between(3, 4))
    return _chat(
        f"Write a list of {enumeration(items)}.",
        "\n".join(f"- {item}" for item in items),
        f"Add the {added}.",
        "\n".join(f"- {item}" for item in [*items, added]),
    )


def _chat(first: str, reply: str, second: str, answer: str) -> Exercise:
    turns = zip(("user", "assistant", "user"), (first, reply, second), strict=True)
    return Exercise(second, answer, messages=tuple({"role": role, "content": content} for role, content in turns))
