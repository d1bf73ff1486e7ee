"""Small Python functions with a docstring, true examples and a body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from smidgen.data.storyworld.dice import Dice
from smidgen.data.storyworld.exercise import Exercise
from smidgen.data.storyworld.world import World

ARGUMENTS = "number value count size length price height weight distance score".split()


@dataclass(frozen=True, slots=True)
class Template:
    """A family of functions of one argument and one constant."""

    name: str
    description: str
    body: str
    evaluate: Callable[[int, int], object]
    """What the function gives for an argument and the constant."""


NUMERIC = (
    Template("add_{c}", "{a} plus {c}", "{a} + {c}", lambda a, c: a + c),
    Template("take_{c}", "{a} minus {c}", "{a} - {c}", lambda a, c: a - c),
    Template("times_{c}", "{a} times {c}", "{a} * {c}", lambda a, c: a * c),
    Template("at_least_{c}", "the larger of {a} and {c}", "max({a}, {c})", max),
    Template("at_most_{c}", "the smaller of {a} and {c}", "min({a}, {c})", min),
    Template("is_above_{c}", "whether {a} is above {c}", "{a} > {c}", lambda a, c: a > c),
    Template("is_below_{c}", "whether {a} is below {c}", "{a} < {c}", lambda a, c: a < c),
    Template("rest_by_{c}", "the rest of {a} divided by {c}", "{a} % {c}", lambda a, c: a % c),
)


def functions(dice: Dice, world: World) -> Exercise:
    """A function whose body the docstring determines; the question is the body."""
    return dice.choice((_numeric, _numeric, _joining, _choosing))(dice, world)


def _numeric(dice: Dice, world: World) -> Exercise:
    template = dice.choice(NUMERIC)
    argument = dice.choice(ARGUMENTS)
    constant, first = world.operands(dice, lambda dice: (dice.between(2, 40), dice.between(2, 40)))
    names = {"a": argument, "c": constant}
    call = template.name.format_map(names)
    return _function(
        f"{call}({argument})",
        f"Return {template.description.format_map(names)}.",
        f"{call}({first})",
        template.evaluate(first, constant),
        f"return {template.body.format_map(names)}",
    )


def _joining(dice: Dice, world: World) -> Exercise:
    """A word put before or after a text."""
    thing, name = dice.choice(world.things), world.people(dice, 1)[0].name
    argument = dice.choice(("name", "text", "word"))
    if dice.chance(0.5):
        return _function(
            f"put_before({argument})",
            f"Put {thing} before {argument}.",
            f'put_before("{name}")',
            f"{thing} {name}",
            f'return "{thing} " + {argument}',
        )
    return _function(
        f"put_after({argument})",
        f"Put {thing} after {argument}.",
        f'put_after("{name}")',
        f"{name} {thing}",
        f'return {argument} + " {thing}"',
    )


def _choosing(dice: Dice, world: World) -> Exercise:
    """Numbers of a list on one side of a limit."""
    limit, low, high = world.operands(dice, lambda dice: tuple(dice.sample(range(2, 60), 3)))
    numbers = [low, high]
    above = dice.chance(0.5)
    side, sign = ("above", ">") if above else ("below", "<")
    kept = [number for number in numbers if (number > limit) == above]
    return _function(
        f"keep_{side}_{limit}(numbers)",
        f"Keep the numbers {side} {limit}.",
        f"keep_{side}_{limit}({numbers})",
        kept,
        f"return [number for number in numbers if number {sign} {limit}]",
    )


def _function(signature: str, description: str, call: str, result: object, body: str) -> Exercise:
    head = f'def {signature}:\n    """{description}\n\n    >>> {call}\n    {result!r}\n    """'
    return Exercise(head, f"\n    {body}")
