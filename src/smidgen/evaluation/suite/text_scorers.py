"""Scorers of short answers: words, numbers, sequences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from smidgen.evaluation.suite.verdict import RIGHT, Reply, Verdict, check, wrong

LONGEST = 30
"""Words that an answer to a short question may have: a text that names everything answers nothing."""

SOON = 4
"""Words at the beginning of a continuation in which the answer must stand."""

_NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?|(?<=[=$>#])[-−]?\d[\d,]*(?:\.\d+)?")
_WORD = re.compile(r"[\w'’-]+")


def first_line(text: str) -> str:
    """The first line with something on it."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def normal(text: str) -> str:
    """Lower case, single spaces, without quotes and punctuation around it."""
    return " ".join(text.lower().split()).strip(" \t\"'“”‘’`*.,;:!?")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def holds(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text as whole words, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)", text.lower()) is not None


def exact(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """The first line is one of `accept`, but for case and punctuation around it; with `case`, the case counts too."""
    line = first_line(reply.text)
    accept: Sequence[str] = expect["accept"]
    if expect.get("case"):
        return check(line.strip(" \"'.") in accept, f"is not {accept[0]}")
    return check(normal(line) in {normal(answer) for answer in accept}, f"is not {accept[0]}")


def contains(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """The answer names one of `accept` as whole words and nothing of `reject`.

    A continuation must say it within its first four words: what it goes on with is another matter. A chat's first line
    may be a sentence of up to thirty words, which must not name what other questions ask for (`rivals`).
    """
    line = first_line(reply.text)
    if reply.form == "base":
        line = " ".join(line.split()[:SOON])
    rivals = [*expect.get("reject", ()), *(expect.get("rivals", ()) if reply.form == "chat" else ())]
    return names(line, expect["accept"], rivals)


def names(line: str, accept: Sequence[str], reject: Sequence[str]) -> Verdict:
    """Whether a line of at most thirty words names one of `accept` and none of `reject`."""
    if not any(holds(line, answer) for answer in accept):
        return wrong(f"does not say {accept[0]}")
    for rival in reject:
        if holds(line, rival):
            return wrong(f"says {rival} too")
    return check(len(words_of(line)) <= LONGEST, f"is longer than {LONGEST} words")


def regex(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """The whole answer, spaces around it aside, matches `pattern`."""
    matched = re.fullmatch(expect["pattern"], reply.text.strip(), re.DOTALL)
    return check(matched is not None, f"is not of the form {expect.get('form', expect['pattern'])}")


def numbers_of(text: str) -> list[Fraction]:
    """Every number in a text: `1,234`, `-5`, `2.50`, `3/4`."""
    found = []
    for match in _NUMBER.finditer(text):
        value = fraction_of(match.group().replace(" ", ""))
        if value is not None:
            found.append(value)
    return found


def fraction_of(written: str) -> Fraction | None:
    """A number as it is written, `1,234` or `−5`; None for one of too many digits, or divided by zero."""
    try:
        return Fraction(written.replace(",", "").replace("−", "-"))
    except (ValueError, ZeroDivisionError):
        return None


def number(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """The number that the first line gives is `value`: of a continuation the first, of a chat's sentence the last.

    A continuation goes on from `7 + 8 =`, so its first number answers; a chat may say `7 + 8 = 15.`
    """
    line = first_line(reply.text)
    numbers = numbers_of(line)
    value = Fraction(str(expect["value"]))
    if not numbers:
        return wrong("gives no number")
    if len(words_of(line)) > LONGEST:
        return wrong(f"is longer than {LONGEST} words")
    given = numbers[0] if reply.form == "base" else numbers[-1]
    return RIGHT if given == value else wrong(f"gives {_shown(given)}, not {_shown(value)}")


def sequence(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """The first line is the words of `sequence` in their order, whatever separates them, after `echo` or not.

    With `more`, the pattern may go on: only its next `len(sequence)` words count.
    """
    given = [word for word in words_of(first_line(reply.text).replace("-", " ")) if word not in {"and", "then"}]
    wanted = [word.lower() for word in expect["sequence"]]
    echo = [word.lower() for word in expect.get("echo", ())]
    if echo and given[: len(echo)] == echo:
        given = given[len(echo) :]
    if expect.get("more"):
        given = given[: len(wanted)]
    return check(given == wanted, f"is not {' '.join(expect['sequence'])}")


def _shown(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):g}"
