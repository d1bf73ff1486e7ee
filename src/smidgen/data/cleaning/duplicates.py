"""The decision which documents and paragraphs repeat earlier ones; made in document order, in one process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.data.cleaning.keys import Keys

if TYPE_CHECKING:
    from smidgen.config.cleaning import DuplicatesConfig


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to drop of one document."""

    rule: str | None = None
    """The rule that drops the whole document; None keeps it."""
    paragraphs: tuple[int, ...] = ()
    """Numbers of paragraphs to remove (`remove_paragraphs`); never all of them."""


class DuplicateFilter:
    """Takes the keys of documents in their order and answers what to drop.

    The same keys in the same order give the same verdicts. What it remembers stands in `folder` and is removed by
    `close`; an interrupted run starts a new filter and gives it the keys again.
    """

    def __init__(self, config: DuplicatesConfig, folder: Path) -> None:
        self._config = config
        self._documents: set[bytes] = set()
        self._paragraphs: set[int] = set()

    def __call__(self, keys: Keys) -> Verdict:
        """Decide about the next document, and remember it unless it is dropped."""
        if keys.document:
            if keys.document in self._documents:
                return Verdict("duplicate_document")
            self._documents.add(keys.document)
        repeated = []
        for number, key in enumerate(keys.paragraphs.tolist()):
            if key and key in self._paragraphs:
                repeated.append(number)
            self._paragraphs.add(key)
        if repeated and len(repeated) == len(keys.paragraphs):
            return Verdict("duplicate_paragraphs")
        return Verdict(None, tuple(repeated))

    def close(self) -> None:
        """Remove what was written to the folder."""

    def __enter__(self) -> DuplicateFilter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
