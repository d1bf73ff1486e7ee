"""Limits on the length of a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smidgen.config.cleaning import CleaningConfig

RULES = ("min_characters", "max_characters", "min_words", "max_words")


def violations(text: str, words: Sequence[str], config: CleaningConfig) -> Iterator[str]:
    """Names of the limits that a text breaks; `words` is `text.split()`."""
    for unit, size in (("characters", len(text)), ("words", len(words))):
        least, most = getattr(config, f"min_{unit}"), getattr(config, f"max_{unit}")
        if least is not None and size < least:
            yield f"min_{unit}"
        if most is not None and size > most:
            yield f"max_{unit}"
