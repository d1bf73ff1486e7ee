"""One document through the steps that a configuration asks for."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from smidgen.data.cleaning.keys import Keys
from smidgen.data.cleaning.paragraphs import split_paragraphs

if TYPE_CHECKING:
    from smidgen.config.cleaning import CleaningConfig


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of one document."""

    text: str | None
    """The cleaned text; None when a rule dropped the document."""
    rule: str | None = None
    """The rule that dropped it."""
    edits: Mapping[str, int] = field(default_factory=dict)
    """How often each edit changed something, by its name."""


class Cleaner:
    """Stateless and picklable: the same text gives the same result in every process."""

    def __init__(self, config: CleaningConfig) -> None:
        self._config = config

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that decides the result: configuration, evaluation sets, versions of libraries."""
        return hashlib.sha256(self._config.model_dump_json().encode()).hexdigest()

    @property
    def active(self) -> bool:
        """Any text may be changed or dropped; False lets the caller skip cleaning altogether."""
        return self._config != type(self._config)()

    def __call__(self, text: str) -> Cleaned:
        """Clean one document."""
        if self._config.normalization != "none":
            text = unicodedata.normalize(self._config.normalization, text)
        if not text.strip():
            return Cleaned(None, "empty")
        return Cleaned(text)

    def keys(self, text: str) -> Keys | None:
        """Keys of a cleaned text for `DuplicateFilter`; None when no duplicate rule is on."""
        rules = self._config.duplicates
        if not (rules.documents or rules.paragraphs or rules.near):
            return None
        paragraphs = np.array([_hash(part) for part in split_paragraphs(text)], dtype=np.uint64)
        return Keys(
            hashlib.blake2b(text.encode(), digest_size=16).digest() if rules.documents else b"",
            paragraphs if rules.paragraphs else paragraphs[:0],
            np.empty(0, np.uint32),
        )


def make_cleaner(config: CleaningConfig) -> Cleaner:
    """The cleaner that `config` describes; raises DataError for an evaluation file that cannot be read."""
    return Cleaner(config)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
