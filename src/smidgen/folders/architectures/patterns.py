"""Regular expressions of files that others wrote, matched in a time that no such file can make long.

Python's own engine tries one way after the other, and `(a|a)*b` has more of them than time allows. Here all ways are
gone at once: the set of places that a piece of the pattern may begin at becomes the set of those it may end at
(Thompson, 1968).
"""

from __future__ import annotations

import re
from collections.abc import Callable

Step = Callable[[str, frozenset[int]], frozenset[int]]
"""Places in a text after a piece of a pattern, from those before it."""

LONGEST = 4000
"""Characters of a pattern."""
MOST_REPEATS = 8
"""Repeated pieces of a pattern, and brackets open at once: each may double the time."""
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")
_REPEATS = {"*": (0, True), "+": (1, True), "?": (0, False)}


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a text begins with what `pattern` describes, as `re.match` would say.

    Raises ValueError for what is not understood: counted and lazy repetition, references, lookaround, and patterns that
    are too long, repeat too often or nest too deeply.
    """
    if len(pattern) > LONGEST:
        raise ValueError("is too long")
    parser = _Parser(pattern)
    step = parser.alternatives()
    if parser.at < len(pattern):
        raise ValueError("has a ')' without '('")
    return lambda text: bool(step(text, frozenset((0,))))


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0
        self.depth = self.repeats = 0

    def alternatives(self) -> Step:
        found = [self._sequence()]
        while self._next() == "|":
            self.at += 1
            found.append(self._sequence())
        return found[0] if len(found) == 1 else _any_of(found)

    def _sequence(self) -> Step:
        steps: list[Step] = []
        while self._next() not in ("", "|", ")"):
            step = self._piece()
            if self._next() in _REPEATS:
                least, is_endless = _REPEATS[self._next()]
                self.at += 1
                self.repeats += 1
                if self.repeats > MOST_REPEATS:
                    raise ValueError("repeats too often")
                step = _repeated(step, least, is_endless)
            if self._next() in ("*", "+", "?", "{"):
                raise ValueError(f"has a '{self._next()}' that is not read here")
            steps.append(step)

        def run(text: str, places: frozenset[int]) -> frozenset[int]:
            for step in steps:
                if not places:
                    break
                places = step(text, places)
            return places

        return run

    def _piece(self) -> Step:
        begun, character = self.at, self._next()
        self.at += 1
        match character:
            case "^":
                return lambda text, places: places & {0}
            case "$":
                return lambda text, places: places & {len(text)}
            case "(":
                if self.pattern.startswith("?:", self.at):
                    self.at += 2
                self.depth += 1
                if self.depth > MOST_REPEATS:
                    raise ValueError("is nested too deeply")
                inner = self.alternatives()
                self.depth -= 1
                if self._next() != ")":
                    raise ValueError("has a '(' without ')'")
                self.at += 1
                return inner
            case "[":
                found = _CLASS.match(self.pattern, begun)
                if found is None:
                    raise ValueError("has a '[' without ']'")
                self.at = found.end()
            case "\\":
                if self._next().isdigit() or self._next() in ("", "A", "b", "B", "Z"):
                    raise ValueError("has an escape that is not read here")
                self.at += 1
            case "*" | "+" | "?" | "{":
                raise ValueError(f"has a '{character}' that is not read here")
        return _one(self.pattern[begun : self.at])

    def _next(self) -> str:
        """The character to come, empty at the end."""
        return self.pattern[self.at : self.at + 1]


def _one(pattern: str) -> Step:
    """A single character: itself, `.`, an escape or a class."""
    if len(pattern) == 1 and pattern != ".":
        return lambda text, places: frozenset(i + 1 for i in places if text.startswith(pattern, i))
    try:
        is_it = re.compile(pattern).fullmatch
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return lambda text, places: frozenset(i + 1 for i in places if i < len(text) and is_it(text[i]))


def _any_of(steps: list[Step]) -> Step:
    return lambda text, places: frozenset().union(*(step(text, places) for step in steps))


def _repeated(step: Step, least: int, is_endless: bool) -> Step:
    def run(text: str, places: frozenset[int]) -> frozenset[int]:
        reached = places if least == 0 else frozenset()
        latest = places
        while latest := step(text, latest) - reached:
            reached |= latest
            if not is_endless:
                break
        return reached

    return run
