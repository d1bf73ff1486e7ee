"""Lists and tables in Markdown, written as the request says."""

from __future__ import annotations

from smidgen.data.storyworld.dice import Dice
from smidgen.data.storyworld.exercise import Exercise
from smidgen.data.storyworld.world import World, enumeration


def lists(dice: Dice, world: World) -> Exercise:
    """A request and the Markdown that fulfils it: a bulleted or numbered list, a checklist, or a table."""
    return dice.choice((_bulleted, _numbered, _checklist, _bold, _table))(dice, world)


def _items(dice: Dice, world: World) -> list[str]:
    draw = dice.choice((world.things_of, world.things_of, world.foods_of))
    return draw(dice, dice.between(2, 4))


def _bulleted(dice: Dice, world: World) -> Exercise:
    items = _items(dice, world)
    return Exercise(f"Write a list of {enumeration(items)}.", _block([f"- {item}" for item in items]))


def _numbered(dice: Dice, world: World) -> Exercise:
    items = _items(dice, world)
    lines = [f"{number}. {item}" for number, item in enumerate(items, 1)]
    return Exercise(f"Write a numbered list of {enumeration(items)}.", _block(lines))


def _checklist(dice: Dice, world: World) -> Exercise:
    items = _items(dice, world)
    return Exercise(f"Write a checklist of {enumeration(items)}.", _block([f"- [ ] {item}" for item in items]))


def _bold(dice: Dice, world: World) -> Exercise:
    items = _items(dice, world)
    return Exercise(f"Write a list of {enumeration(items)} in bold.", _block([f"- **{item}**" for item in items]))


def _table(dice: Dice, world: World) -> Exercise:
    people = [person.name for person in world.people(dice, dice.between(2, 3))]
    things = world.things_of(dice, len(people))
    told = enumeration([f"{name} has the {thing}" for name, thing in zip(people, things, strict=True)])
    lines = [f"| {name} | {thing} |" for name, thing in zip(people, things, strict=True)]
    return Exercise(f"Write a table: {told}.", _block(["| name | thing |", "| --- | --- |", *lines]))


def _block(lines: list[str]) -> str:
    return "\n\n" + "\n".join(lines)
