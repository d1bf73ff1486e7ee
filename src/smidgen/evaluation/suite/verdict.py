"""What a scorer says of an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from smidgen.evaluation.suite.items import Form


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as a scorer sees it."""

    text: str
    """Without the prompt and what ended it."""
    form: Form = "base"
    ended: bool = True
    """Whether the model ended it (an end token or a stop string) and not the limit of tokens."""
    run_code: bool = False
    """Whether code in it may be run, in a process of its own with limits."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Right or wrong, and why."""

    right: bool
    reason: str = ""
    """For a wrong answer, what is missing; empty for a right one."""


RIGHT = Verdict(True)

Scorer = Callable[[Reply, Mapping[str, Any]], Verdict]
"""Judges an answer by what the item expects."""


def wrong(reason: str) -> Verdict:
    """A wrong answer, and what is wrong about it."""
    return Verdict(False, reason)


def check(condition: bool, reason: str) -> Verdict:
    """Right where the condition holds."""
    return RIGHT if condition else wrong(reason)
