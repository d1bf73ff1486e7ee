"""Which documents are held out for validation. Decided by content and seed, never by chance or order of work."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True, slots=True)
class Place:
    """What of a corpus comes before a part of it."""

    documents: int = 0
    characters: int = 0


@dataclass(frozen=True, slots=True)
class Routing:
    """The choice, ready to be applied to any part of the corpus by itself."""

    method: Literal["hash", "tail", "cut"]
    seed: int
    limit: int = 0
    """hash: documents with a smaller hash are held out. tail by number: documents from this number on (from 0)."""
    cut: int = 0
    """cut, and tail by characters: the first character of the validation split."""
    documents: int = 0
    """tail: documents in all."""
    by_number: bool = False
    """tail: by number of documents, not by characters."""

    def route(self, pieces: Iterable[Piece], place: Place | None = None) -> Iterator[Piece]:
        """The same pieces in the same order, each with its split; `cut` brings one document cut in two.

        place: where in the corpus the pieces stand. A piece that goes on with a document from before it keeps the
        split None, unless its place decides: it belongs where its document's beginning went.
        """
        place = place or Place()
        if self.method == "hash":
            return self._by_hash(pieces)
        return self._tail(pieces, place) if self.method == "tail" else self._cut(pieces, place.characters)

    def _by_hash(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        split: SplitName | None = None
        for piece in pieces:
            if piece.split is None:
                if piece.begins:
                    split = "val" if _hash_of(piece.text, self.seed) < self.limit else "train"
                piece = piece.routed(split)
            yield piece

    def _tail(self, pieces: Iterable[Piece], place: Place) -> Iterator[Piece]:
        number, characters = place.documents, place.characters
        split: SplitName | None = None
        for piece in pieces:
            if piece.split is None:
                if piece.begins:
                    if self.by_number:
                        held_out = number >= self.limit
                    else:
                        held_out = number > 0 and (characters >= self.cut or number == self.documents - 1)
                    split = "val" if held_out else "train"
                    number += 1
                characters += len(piece.text)
                piece = piece.routed(split)
            yield piece

    def _cut(self, pieces: Iterable[Piece], start: int) -> Iterator[Piece]:
        for piece in pieces:
            if piece.split is not None:
                yield piece
                continue
            text, cut = piece.text, self.cut
            if start < cut:
                last = start + len(text) >= cut
                yield replace(piece, text=text[: cut - start], separator="", ends=last, split="train")
            if start + len(text) > cut or (piece.ends and start >= cut):
                begins = start <= cut < start + len(text)
                yield replace(piece, text=text[max(cut - start, 0) :], begins=begins, split="val")
            start += len(text)


@dataclass(slots=True)
class Survey:
    """One pass over a corpus: its size, and what the choice of validation documents needs to know."""

    holdout: Holdout
    seed: int
    documents: int = 0
    """Documents whose split no generator decided."""
    all_documents: int = 0
    characters: int = 0
    """Characters of `documents`."""
    bytes: int = 0
    """UTF-8 bytes of everything."""
    smallest: list[int] = field(default_factory=list)
    """The smallest hashes, as many as shall be held out by number (at least one), negated for a bounded heap."""
    largest_hash: int = -1

    def add(self, piece: Piece) -> None:
        """Take in the next piece of the corpus."""
        self.bytes += len(piece.text.encode())
        self.all_documents += piece.begins
        if piece.split is not None:
            return
        self.characters += len(piece.text)
        if piece.begins:
            self.documents += 1
            self._remember(_hash_of(piece.text, self.seed))

    def merge(self, later: Survey) -> None:
        """Add what another survey saw of the documents that follow."""
        self.documents += later.documents
        self.all_documents += later.all_documents
        self.characters += later.characters
        self.bytes += later.bytes
        for key in later.smallest:
            self._remember(-key)
        self.largest_hash = max(self.largest_hash, later.largest_hash)

    def _remember(self, key: int) -> None:
        self.largest_hash = max(self.largest_hash, key)
        if len(self.smallest) < (self.holdout.documents or 1):
            heapq.heappush(self.smallest, -key)
        else:
            heapq.heappushpop(self.smallest, -key)

    def routing(self) -> Routing:
        """The choice for what was surveyed."""
        holdout = self.holdout
        if self.documents == 1:
            return Routing("cut", self.seed, cut=self._cut_position())
        if holdout.method == "hash":
            return Routing("hash", self.seed, limit=self._hash_limit())
        by_number = holdout.documents is not None
        limit = self.documents - holdout.documents if holdout.documents is not None else 0
        return Routing(
            "tail",
            self.seed,
            limit=limit,
            cut=self._cut_position(),
            documents=self.documents,
            by_number=by_number,
        )

    def route(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces of the whole corpus, each with its split."""
        return self.routing().route(pieces)

    def check(self) -> None:
        """Raise DataError when the corpus cannot be split."""
        wanted = self.holdout.documents
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
        if self.documents > 1 and self.holdout.method == "hash" and -self.smallest[0] == self.largest_hash:
            raise DataError(
                f"too many of the {self.documents} documents are the same text, and equal ones stay on one side; "
                "remove copies, or use --val-split tail"
            )

    def _hash_limit(self) -> int:
        """Documents with a smaller hash are held out."""
        if not self.smallest:
            return 0
        limit = -self.smallest[0] + 1
        if self.holdout.documents is None:
            # At least the smallest hash and never the largest: neither side is empty, however few there are.
            limit = min(max(limit, usual_limit(self.holdout)), self.largest_hash)
        return limit

    def _cut_position(self) -> int:
        """The first validation character, such that both sides have one."""
        return min(max(int(self.characters * (1 - self.holdout.fraction)), 1), max(self.characters - 1, 1))


def usual_limit(holdout: Holdout) -> int:
    """The limit of `Routing` for a share of the documents, as long as that leaves neither side empty."""
    return int(holdout.fraction * _HASH_RANGE)


def _hash_of(text: str, seed: int) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")
