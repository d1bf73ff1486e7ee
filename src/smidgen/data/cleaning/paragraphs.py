"""Paragraphs: what stands between blank lines."""

from __future__ import annotations

import re
from collections.abc import Collection

_BLANK = re.compile(r"\n\s*\n")


def split_paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, numbered as in `Keys.paragraphs` and `Verdict.paragraphs`."""
    return _BLANK.split(text)


def remove_paragraphs(text: str, numbers: Collection[int]) -> str:
    """The text without the paragraphs of these numbers; what separated the others becomes one blank line."""
    if not numbers:
        return text
    return "\n\n".join(part for number, part in enumerate(split_paragraphs(text)) if number not in numbers)
