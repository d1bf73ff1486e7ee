"""Which documents are held out for validation. Decided by content and seed, never by chance or order of work."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from smidgen.data.documents import Piece
from smidgen.data.manifest import SplitName
from smidgen.runtime.errors import DataError

_HASH_RANGE = 1 << 64


@dataclass(frozen=True, slots=True)
class Holdout:
    """How validation documents are chosen.

    `hash`: by a hash of seed and text, so that equal documents never stand on both sides, and a document keeps its
    side when the corpus grows. `tail`: the end of the corpus, from the first document that starts at or after
    (1 - fraction) of its characters. A corpus of one document is cut there, whatever the method (nanoGPT's split).
    """

    fraction: float = 0.1
    """Share of the documents (hash) or characters (tail)."""
    documents: int | None = None
    """That many documents instead; with `hash`, copies of a chosen one come along."""
    method: Literal["hash", "tail"] = "hash"

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise DataError(f"--val-fraction {self.fraction:g}: use a number between 0 and 1, such as 0.1")
        if self.documents is not None and self.documents < 1:
            raise DataError(f"--val-documents {self.documents}: use at least 1")

    def count(self, train_documents: int) -> int:
        """Validation documents that a generator adds to so many for training."""
        return self.documents or max(1, round(train_documents * self.fraction))


class Survey:
    """One pass over a corpus: its size, and what the choice of validation documents needs to know."""

    def __init__(self, holdout: Holdout, seed: int) -> None:
        self._holdout = holdout
        self._seed = seed
        self._smallest: list[int] = []
        self._largest_hash = -1
        self.documents = 0
        """Documents whose split no generator decided."""
        self.all_documents = 0
        self.characters = 0
        """Characters of `documents`."""
        self.bytes = 0
        """UTF-8 bytes of everything."""

    def add(self, piece: Piece) -> None:
        """Take in the next piece of the corpus."""
        self.bytes += len(piece.text.encode())
        self.all_documents += piece.begins
        if piece.split is not None:
            return
        self.characters += len(piece.text)
        if piece.begins:
            self.documents += 1
            self._remember(_hash_of(piece.text, self._seed))

    def _remember(self, key: int) -> None:
        """Keep the largest hash and the `documents` smallest ones (at least one, negated for a bounded heap)."""
        self._largest_hash = max(self._largest_hash, key)
        if len(self._smallest) < (self._holdout.documents or 1):
            heapq.heappush(self._smallest, -key)
        else:
            heapq.heappushpop(self._smallest, -key)

    def route(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The same pieces in the same order, each with its split; a single document comes cut in two."""
        if self.documents == 1:
            yield from self._cut(pieces)
        elif self._holdout.method == "tail":
            yield from self._route_tail(pieces)
        else:
            yield from self._route_hash(pieces)

    def check(self) -> None:
        """Raise DataError when the corpus cannot be split."""
        wanted = self._holdout.documents
        if self.documents == 0:
            return
        if self.documents == 1 and wanted is not None:
            raise DataError(
                f"--val-documents {wanted}: the sources hold one document, which is cut by --val-fraction; "
                "leave --val-documents out, or split the text with --split-documents"
            )
        if wanted is not None and wanted >= self.documents > 1:
            raise DataError(f"--val-documents {wanted}: the sources hold only {self.documents}; use fewer")
        if self.documents == 1 and self.characters < 2:
            raise DataError("the sources hold a single character: nothing to split; add text")
        if self.documents > 1 and self._holdout.method == "hash" and -self._smallest[0] == self._largest_hash:
            raise DataError(
                f"too many of the {self.documents} documents are the same text, and equal ones stay on one side; "
                "remove copies, or use --val-split tail"
            )

    def _route_hash(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        limit = self._hash_limit()
        split: SplitName = "train"
        for piece in pieces:
            if piece.split is None and piece.begins:
                split = "val" if _hash_of(piece.text, self._seed) < limit else "train"
            yield piece if piece.split is not None else replace(piece, split=split)

    def _hash_limit(self) -> int:
        """Documents with a smaller hash are held out."""
        if not self._smallest:
            return 0
        limit = -self._smallest[0] + 1
        if self._holdout.documents is None:
            # At least the smallest hash and never the largest: neither side is empty, however few there are.
            limit = min(max(limit, int(self._holdout.fraction * _HASH_RANGE)), self._largest_hash)
        return limit

    def _route_tail(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        cut = self._cut_position()
        wanted = self._holdout.documents
        number = characters = 0
        split: SplitName = "train"
        for piece in pieces:
            if piece.split is None:
                if piece.begins:
                    number += 1
                    if wanted is not None:
                        held_out = number > self.documents - wanted
                    else:
                        held_out = number > 1 and (characters >= cut or number == self.documents)
                    split = "val" if held_out else "train"
                characters += len(piece.text)
                piece = replace(piece, split=split)
            yield piece

    def _cut(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        cut = self._cut_position()
        start = 0
        for piece in pieces:
            if piece.split is not None:
                yield piece
                continue
            text = piece.text
            if start < cut:
                last = start + len(text) >= cut
                yield replace(piece, text=text[: cut - start], separator="", ends=last, split="train")
            if start + len(text) > cut:
                begins = start <= cut
                yield replace(piece, text=text[max(cut - start, 0) :], begins=begins, split="val")
            start += len(text)

    def _cut_position(self) -> int:
        """The first validation character, such that both sides have one."""
        return min(max(int(self.characters * (1 - self._holdout.fraction)), 1), max(self.characters - 1, 1))


def _hash_of(text: str, seed: int) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")
