"""Lists and tables in Markdown, written as the request says."""

from __future__ import annotations

from collections.abc import Callable

from smidgen.data.storyworld.dice import Dice
from smidgen.data.storyworld.exercise import Exercise
from smidgen.data.storyworld.world import World, enumeration


def lists(dice: Dice, world: World) -> Exercise:
    """A request and the Markdown that fulfils it: a list in one style and then in others, or a table."""
    return _table(dice, world) if dice.chance(0.2) else _list(dice, world)


def _list(dice: Dice, world: World) -> Exercise:
    """Two or three items as a bulleted, numbered or bold list or a checklist, then in two of the other styles."""
    draw = dice.choice((world.things_of, world.things_of, world.foods_of))
    items = draw(dice, dice.between(2, 3))
    (name, style), *others = dice.sample(tuple(_STYLES.items()), 3)
    rest = "".join(f"\n\nNow write {name}.{_block(style(items))}" for name, style in others)
    return Exercise(f"Write {name} of {enumeration(items)}.", _block(style(items)), rest)


_STYLES: dict[str, Callable[[list[str]], list[str]]] = {
    "a list": lambda items: [f"- {item}" for item in items],
    "a numbered list": lambda items: [f"{number}. {item}" for number, item in enumerate(items, 1)],
    "a checklist": lambda items: [f"- [ ] {item}" for item in items],
    "a bold list": lambda items: [f"- **{item}**" for item in items],
}


def _table(dice: Dice, world: World) -> Exercise:
    people = [person.name for person in world.people(dice, dice.between(2, 3))]
    things = world.things_of(dice, len(people))
    told = enumeration([f"{name} has the {thing}" for name, thing in zip(people, things, strict=True)])
    lines = [f"| {name} | {thing} |" for name, thing in zip(people, things, strict=True)]
    return Exercise(f"Write a table: {told}.", _block(["| name | thing |", "| --- | --- |", *lines]))


def _block(lines: list[str]) -> str:
    return "\n\n" + "\n".join(lines)
