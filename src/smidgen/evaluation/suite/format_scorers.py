"""Scorers of form: Markdown lists and tables, JSON, and constraints that an instruction set.

Each asks for the item's own content too: a list that is always the same answers no question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smidgen.evaluation.suite.text_scorers import first_line, holds, normal, words_of
from smidgen.evaluation.suite.verdict import RIGHT, Reply, Verdict, check, wrong

_MARKS = {"bullet": re.compile(r"[-*+] +(.*)"), "numbered": re.compile(r"(\d+)[.)] +(.*)")}


def markdown_list(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """A list of `kind` (bullet or numbered) with exactly the entries `items` in their order; with `bold`, bold ones.

    In the base form the prompt may have opened the first entry (`opened`). Chats may introduce the list by a line that
    ends in a colon.
    """
    text = reply.text.strip()
    if expect.get("opened") and reply.form == "base":
        text = f"{expect['opened']} {text}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if reply.form == "chat" and lines and lines[0].endswith(":"):
        lines = lines[1:]
    entries = []
    for number, line in enumerate(lines, 1):
        match = _MARKS[expect["kind"]].fullmatch(line)
        if match is None:
            return wrong(f"line {number} is no entry of a {expect['kind']} list")
        if expect["kind"] == "numbered" and match.group(1).lstrip("0") != str(number):
            return wrong(f"entry {number} has the number {match.group(1)}")
        entries.append(match.groups()[-1])
    if expect.get("bold") and not all(re.fullmatch(r"\*\*[^*]+\*\*|__[^_]+__", entry) for entry in entries):
        return wrong("has entries that are not bold")
    wanted = [normal(entry) for entry in expect["items"]]
    return check([normal(entry.strip("*_")) for entry in entries] == wanted, "has other entries than asked for")


def markdown_table(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """A Markdown table: `header`, a rule, then exactly `rows`. In the base form the prompt may hold the header."""
    text = reply.text.strip()
    if expect.get("opened") and reply.form == "base":
        text = f"{expect['opened']}\n{text}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = [_cells(line) for line in lines]
    if any(row is None for row in rows):
        return wrong("has lines that are no rows of a table")
    if len(rows) < 2 or not all(re.fullmatch(r":?-+:?", cell) for cell in rows[1] or ["no rule"]):
        return wrong("has no rule below its header")
    table = [[normal(cell) for cell in row or []] for row in (rows[0], *rows[2:])]
    wanted = [[normal(cell) for cell in row] for row in (expect["header"], *expect["rows"])]
    return check(table == wanted, "has other cells than asked for")


def _cells(line: str) -> list[str] | None:
    if len(line) < 2 or not (line.startswith("|") and line.endswith("|")):
        return None
    return [cell.strip() for cell in line[1:-1].split("|")]


def json_object(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """A JSON value equal to `value`, alone, or in a chat in a fence of its own."""
    text = reply.text.strip()
    if expect.get("opened") and reply.form == "base":
        text = expect["opened"] + text
    fence = re.fullmatch(r"```(?:json)?\n(.*)\n```", text, re.DOTALL)
    try:
        value = json.loads(fence.group(1) if fence else text)
    except (ValueError, RecursionError):
        return wrong("is no JSON")
    return check(value == expect["value"], "is JSON of other content than asked for")


def constraints(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """Every constraint of `all` holds: mappings of a `kind` (see `_CONSTRAINTS`) with its arguments."""
    text = reply.text.strip()
    if not text:
        return wrong("is empty")
    for constraint in expect["all"]:
        arguments = {name: value for name, value in constraint.items() if name != "kind"}
        verdict = _CONSTRAINTS[constraint["kind"]](text, **arguments)
        if not verdict.right:
            return verdict
    return RIGHT


def _word_count(text: str, least: int, most: int) -> Verdict:
    count = len(words_of(text))
    return check(least <= count <= most, f"has {count} words, not {least if least == most else f'{least} to {most}'}")


def _mentions(text: str, words: Sequence[str]) -> Verdict:
    missing = [word for word in words if not holds(text, word)]
    return check(not missing, f"does not mention {', '.join(missing)}")


def _avoids(text: str, letter: str) -> Verdict:
    return check(letter.lower() not in text.lower(), f"has the letter {letter}")


def _starts(text: str, word: str) -> Verdict:
    return check(words_of(text)[:1] == [word.lower()], f"does not begin with {word}")


def _ends(text: str, ending: str) -> Verdict:
    return check(normal(text).endswith(normal(ending)), f"does not end with {ending}")


def _case(text: str, case: str) -> Verdict:
    letters = "".join(character for character in text if character.isalpha())
    return check(letters == (letters.upper() if case == "upper" else letters.lower()), f"is not all in {case} case")


def _sentences(text: str, count: int) -> Verdict:
    found = [part for part in re.split(r"(?<=[.!?])\s+", first_line(text)) if words_of(part)]
    return check(len(found) == count, f"has {len(found)} sentences, not {count}")


_CONSTRAINTS: Mapping[str, Callable[..., Verdict]] = {
    "word_count": _word_count,
    "mentions": _mentions,
    "avoids": _avoids,
    "starts": _starts,
    "ends": _ends,
    "case": _case,
    "sentences": _sentences,
}
