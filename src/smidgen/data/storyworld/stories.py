"""Short stories for children whose last sentence recalls something told before."""

from __future__ import annotations

from smidgen.data.storyworld.dice import Dice
from smidgen.data.storyworld.exercise import Exercise
from smidgen.data.storyworld.world import World, sentence, with_article

OPENINGS = ("One morning", "One day", "On a rainy day", "On a bright day", "One evening", "Early in spring")


def stories(dice: Dice, world: World) -> Exercise:
    """One of a few plots with people, things and places of the world."""
    return dice.choice((_lost, _hidden, _gift, _swap, _visit))(dice, world)


def _lost(dice: Dice, world: World) -> Exercise:
    """Somebody lost a thing, a friend helps to find it."""
    friend, owner = world.people(dice, 2)
    thing, other = world.things_of(dice, 2)
    here, there = world.places_of(dice, 2)
    prompt = (
        f"{dice.choice(OPENINGS)} {friend.name} met {owner.name} {here}. {owner.name} was sad. "
        f'"I lost my {thing}," {owner.they} said. "I will help you," said {friend.name}. '
        f"They looked {here}, but they only found {with_article(other)}. Then they looked {there}. "
        f"There it was! {owner.name} was happy again and hugged {friend.name}. That is how {friend.name} found the"
    )
    return Exercise(prompt, f" {thing}", ".")


def _hidden(dice: Dice, world: World) -> Exercise:
    """Two things are hidden in two places; one is asked for."""
    hider, seeker = world.people(dice, 2)
    things, places = world.things_of(dice, 2), world.places_of(dice, 2)
    wanted = dice.below(2)
    prompt = (
        f"{dice.choice(OPENINGS)} {hider.name} and {seeker.name} played a game. {hider.name} hid the {things[0]} "
        f"{places[0]} and the {things[1]} {places[1]}. {seeker.name} looked for a long time. "
        f'"Where is the {things[wanted]}?" {seeker.they} asked. {hider.name} laughed. "The {things[wanted]} is'
    )
    return Exercise(prompt, f" {places[wanted]}", f'," said {hider.name}. And they went there together.')


def _gift(dice: Dice, world: World) -> Exercise:
    """Each of two friends gives something away."""
    first, second, child = world.people(dice, 3)
    things = world.things_of(dice, 2)
    giver = dice.below(2)
    prompt = (
        f"{dice.choice(OPENINGS)} it was the birthday of {child.name}. {first.name} gave {child.them} "
        f"{with_article(things[0])}, and {second.name} gave {child.them} {with_article(things[1])}. "
        f"They ate cake and sang songs until the stars came out. At night {child.name} put the {things[giver]} "
        f"beside {child.their} bed and thought of"
    )
    return Exercise(prompt, f" {(first, second)[giver].name}", ". It was a lovely day.")


def _swap(dice: Dice, world: World) -> Exercise:
    """Two friends swap their things."""
    first, second = world.people(dice, 2)
    things = world.things_of(dice, 2)
    place = dice.choice(world.places)
    prompt = (
        f"{first.name} had {with_article(things[0])} and {second.name} had {with_article(things[1])}. "
        f'{dice.choice(OPENINGS)} they met {place}. "Shall we swap?" asked {first.name}. '
        f'"Yes," said {second.name}, and so they did. {sentence(first.name)} went home with the'
    )
    return Exercise(prompt, f" {things[1]}", f", and {second.name} went home with the {things[0]}.")


def _visit(dice: Dice, world: World) -> Exercise:
    """Somebody walks to a friend with something to eat."""
    guest, host = world.people(dice, 2)
    home, way = world.places_of(dice, 2)
    food, other = world.foods_of(dice, 2)
    prompt = (
        f"{host.name} lived {home}. {dice.choice(OPENINGS)} {guest.name} wanted to visit {host.them}. "
        f"{sentence(guest.they)} packed some {food} and some {other} and set out. {sentence(str(way))} "
        f"{guest.they} ate the {other}. At last {guest.they} came to {host.name}. "
        f'"I brought you some'
    )
    return Exercise(
        prompt, f" {food}", f'," said {guest.name}. "Thank you!" said {host.name}. They sat {home} and ate.'
    )
