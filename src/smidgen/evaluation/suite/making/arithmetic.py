"""Arithmetic by operation and size, problems in words, and solutions in GSM8K's form."""

from __future__ import annotations

import re
from collections.abc import Callable

from smidgen.data.storyworld.dice import Dice
from smidgen.evaluation.suite.making.drafts import Draft

_ITEMS = 24
_NAMES = "Mia Tom Lena Ben Nora Max Ida Paul Ella Jan Zoe Luke".split()
_THINGS = "apples shells stamps marbles books coins nuts cards pens stones plums beads".split()

Problem = tuple[str, int]


def _added(low: int, high: int) -> Callable[[Dice], Problem]:
    return lambda dice: _written("+", dice.between(low, high), dice.between(low, high))


def _subtracted(low: int, high: int) -> Callable[[Dice], Problem]:
    def draw(dice: Dice) -> Problem:
        a, b = sorted((dice.between(low, high), dice.between(low, high)), reverse=True)
        return _written("-", a, b)

    return draw


def _multiplied(first: tuple[int, int], second: tuple[int, int]) -> Callable[[Dice], Problem]:
    return lambda dice: _written("*", dice.between(*first), dice.between(*second))


def _divided(quotients: tuple[int, int]) -> Callable[[Dice], Problem]:
    def draw(dice: Dice) -> Problem:
        quotient, divisor = dice.between(*quotients), dice.between(2, 9)
        return f"{quotient * divisor} / {divisor}", quotient

    return draw


def _written(sign: str, a: int, b: int) -> Problem:
    return f"{a} {sign} {b}", {"+": a + b, "-": a - b, "*": a * b}[sign]


def _three(dice: Dice) -> Problem:
    a, b, c = (dice.between(1, 20) for _ in range(3))
    return f"{a} + {b} + {c}", a + b + c


def _mixed(dice: Dice) -> Problem:
    a, b, c = dice.between(1, 20), dice.between(2, 9), dice.between(2, 9)
    return f"{a} + {b} * {c}", a + b * c


_OPERATIONS: tuple[tuple[str, str, tuple[str, str], Callable[[Dice], Problem]], ...] = (
    ("add_1_digit", "Sums of numbers of one digit", ("2 + 1 = 3", "4 + 3 = 7"), _added(1, 9)),
    ("add_2_digits", "Sums of numbers of two digits", ("21 + 14 = 35", "40 + 38 = 78"), _added(10, 99)),
    ("add_3_digits", "Sums of numbers of three digits", ("210 + 145 = 355", "402 + 381 = 783"), _added(100, 999)),
    ("subtract_1_digit", "Differences of numbers up to 18", ("5 - 1 = 4", "9 - 3 = 6"), _subtracted(1, 18)),
    (
        "subtract_2_digits",
        "Differences of numbers of two digits",
        ("35 - 14 = 21", "78 - 40 = 38"),
        _subtracted(10, 99),
    ),
    (
        "subtract_3_digits",
        "Differences of numbers of three digits",
        ("355 - 145 = 210", "783 - 381 = 402"),
        _subtracted(100, 999),
    ),
    ("multiply_1_digit", "The multiplication table", ("2 * 3 = 6", "4 * 5 = 20"), _multiplied((2, 9), (2, 9))),
    ("multiply_2_digits", "Two digits times one", ("12 * 3 = 36", "40 * 5 = 200"), _multiplied((11, 99), (2, 9))),
    ("divide_1_digit", "Quotients of one digit", ("6 / 3 = 2", "20 / 5 = 4"), _divided((1, 9))),
    ("divide_2_digits", "Quotients of two digits", ("36 / 3 = 12", "200 / 5 = 40"), _divided((10, 30))),
    ("add_three_numbers", "Sums of three numbers", ("2 + 1 + 4 = 7", "4 + 3 + 10 = 17"), _three),
    ("operator_order", "Multiplication before addition", ("2 + 3 * 4 = 14", "5 + 2 * 2 = 9"), _mixed),
)


def arithmetic_drafts() -> list[Draft]:
    """Bare arithmetic, problems in words, GSM8K's form and answer."""
    return [*(_operation(*entry) for entry in _OPERATIONS), _word_problems(), *_gsm8k()]


def _operation(name: str, title: str, shown: tuple[str, str], draw: Callable[[Dice], Problem]) -> Draft:
    draft = Draft(name, "arithmetic", title, "number", max_new_tokens=12)
    results: list[int] = []
    dice, asked = Dice("suite", name), set(shown)
    while len(draft.items) < _ITEMS:
        problem, result = draw(dice)
        # No result often enough to be worth guessing.
        if problem in asked or f"{problem} = {result}" in asked or results.count(result) == 3:
            continue
        asked.add(problem)
        results.append(result)
        prompt = "\n".join((*shown, f"{problem} ="))
        draft.add(prompt, f"What is {problem}? Answer with a number.", str(result), {"value": result})
    return draft


def _word_problems() -> Draft:
    draft = Draft("word_problems", "arithmetic", "Problems in words, one step", "number", max_new_tokens=16)
    for index in range(_ITEMS):
        dice = Dice("suite", "word_problems", index)
        name, thing = _NAMES[index % 12], _THINGS[(5 * index + index // 12) % 12]
        a, b = dice.between(12, 40), dice.between(2, 11)
        told, result = (
            (f"{name} has {a} {thing} and finds {b} more.", a + b),
            (f"{name} has {a} {thing} and gives {b} of them away.", a - b),
            (f"{name} has {b} boxes with {a // 4} {thing} in each.", b * (a // 4)),
            (f"{name} shares {a // 3 * b} {thing} equally among {b} friends.", a // 3),
        )[index % 4]
        end = "does each friend get" if index % 4 == 3 else f"does {name} have now"
        question = f"{told} How many {thing} {end}?"
        draft.add(f"Question: {question}\nAnswer:", f"{question} Answer with a number.", str(result), {"value": result})
    return draft


def _gsm8k() -> list[Draft]:
    form = Draft("gsm8k_form", "gsm8k", "Solutions in GSM8K's form", "gsm8k_form", ("\n\n", "\nQuestion"), 120)
    answer = Draft("gsm8k_answer", "gsm8k", "Answers of GSM8K's kind", "gsm8k_answer", ("\n\n", "\nQuestion"), 120)
    used: set[str] = set()
    for index in range(_ITEMS):
        question, solution, result = _problem(index, Dice("suite", "gsm8k", index), (12, 40), (3, 9), (2, 11))
        _add_solution(answer, question, solution, {"value": result})
        # The form is asked for with numbers that no other question has: a solution must be one of its own question.
        attempt = 0
        while used & set(re.findall(r"\d+", question)) or attempt == 0:
            dice = Dice("suite", "gsm8k_form", index, attempt)
            question, solution, result = _problem(index, dice, (11, 199), (11, 99), (11, 99))
            attempt += 1
        used |= set(re.findall(r"\d+", question))
        _add_solution(form, question, solution, {"question": question})
    return [form, answer]


def _add_solution(draft: Draft, question: str, solution: str, expect: dict[str, object]) -> None:
    chat = f"{question}\nWrite each calculation as <<3+4=7>> and end with a line that gives the result: #### number."
    draft.add(f"Question: {question}\nAnswer:", chat, solution, expect)


def _problem(
    index: int, dice: Dice, first_range: tuple[int, int], second_range: tuple[int, int], third_range: tuple[int, int]
) -> tuple[str, str, int]:
    """A problem of two steps, its solution in GSM8K's form, and the result."""
    name, thing = _NAMES[(7 * index) % 12], _THINGS[(index + index // 12) % 12]
    a, b, c = dice.between(*first_range), dice.between(*second_range), dice.between(*third_range)
    if index % 4 == 0:
        first, last = b * c, b * c + a
        question = (
            f"{name} has {b} bags with {c} {thing} each and {a} more on the table. How many {thing} does {name} have?"
        )
        steps = [f"In the bags there are {b}*{c} = <<{b}*{c}={first}>>{first} {thing}."]
        steps += [f"With those on the table {name} has {first}+{a} = <<{first}+{a}={last}>>{last} {thing}."]
    elif index % 4 == 1:
        c = min(c, a + b - 1)
        first, last = a + b, a + b - c
        question = f"{name} has {a} {thing}, finds {b} more and then loses {c}. How many {thing} are left?"
        steps = [f"After finding some {name} has {a}+{b} = <<{a}+{b}={first}>>{first} {thing}."]
        steps += [f"After losing {c} there are {first}-{c} = <<{first}-{c}={last}>>{last} {thing} left."]
    elif index % 4 == 2:
        first, last = b * c, a
        question = f"{name} buys {b} packets of {c} {thing} and needs {first + a} in all. How many {thing} are missing?"
        steps = [f"{name} buys {b}*{c} = <<{b}*{c}={first}>>{first} {thing}."]
        steps += [f"There are {first + a}-{first} = <<{first + a}-{first}={last}>>{last} {thing} missing."]
    else:
        first, last = a * b, a
        question = f"{name} puts {first} {thing} into {b} equal rows and adds {c} to one row. How many are in that row?"
        steps = [f"At first each row has {first}/{b} = <<{first}/{b}={a}>>{a} {thing}."]
        last = a + c
        steps += [f"That row then has {a}+{c} = <<{a}+{c}={last}>>{last} {thing}."]
    return question, "\n".join([*steps, f"#### {last}"]), last
