"""Scorers of solutions in GSM8K's form: `<<48/2=24>>` beside each calculation, `#### 24` at the end.

Form and answer are judged apart: a small model learns the form long before it can calculate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from smidgen.evaluation.suite.text_scorers import fraction_of, numbers_of
from smidgen.evaluation.suite.verdict import RIGHT, Reply, Verdict, check, wrong

_ANNOTATION = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
_RESULT = re.compile(r"^####[ \t]*[$]?([-−]?[\d,]*\.?\d+)[ \t]*$", re.MULTILINE)


def gsm8k_form(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """One result line `#### number` at the end, and well-formed annotations before it.

    Whether the calculations are right does not matter here. With `question`, each calculation must use a number of the
    question or the result of an earlier calculation: a solution that is always the same solves nothing.
    """
    text = reply.text.strip()
    results = _RESULT.findall(text)
    if len(results) != 1 or not text.splitlines()[-1].startswith("####"):
        return wrong("does not end with one line #### number")
    annotations = _ANNOTATION.findall(text)
    if not annotations or text.count("<<") != len(annotations) or text.count(">>") != len(annotations):
        return wrong("has no well-formed <<calculation=result>>")
    known = set(numbers_of(expect.get("question", "")))
    for expression, result in annotations:
        if not _operands(expression) or not numbers_of(result):
            return wrong(f"<<{expression}={result}>> is no calculation")
        if "question" in expect and not known & set(_operands(expression)):
            return wrong(f"<<{expression}={result}>> uses no number of the question")
        known |= set(numbers_of(result))
    return RIGHT


def gsm8k_answer(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """The number behind the last `####` is `value`, as GSM8K's own evaluation has it."""
    results = _RESULT.findall(reply.text)
    if not results:
        return wrong("gives no #### number")
    given, value = fraction_of(results[-1]), fraction_of(str(expect["value"]))
    return check(given is not None and given == value, f"gives {results[-1]}, not {expect['value']}")


def result_of(solution: str) -> str | None:
    """The number behind the last `####`; None without one."""
    results = _RESULT.findall(solution)
    return results[-1] if results else None


def _operands(expression: str) -> list[Fraction]:
    """The numbers of an expression; a minus between two of them is no sign."""
    found = map(fraction_of, re.findall(r"\d[\d,]*(?:\.\d+)?|\.\d+", expression))
    return [value for value in found if value is not None]
