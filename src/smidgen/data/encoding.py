"""Pieces of text to token ids, in batches that keep memory bounded and all cores busy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from smidgen.data.documents import Piece
from smidgen.runtime.protocols import Tokenizer

_BATCH_CHARACTERS = 1 << 21
_BATCH_PIECES = 4096


@dataclass(frozen=True, slots=True)
class EncodedPiece:
    """A piece with its ids; the end-of-text token is not among them."""

    piece: Piece
    ids: list[int]
    num_bytes: int
    """UTF-8 bytes of the text that was encoded."""


def encode_pieces(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> Iterator[EncodedPiece]:
    """The pieces in their order, encoded.

    Plain text never becomes a special token, whatever it spells; in conversations the markers of the template do.
    """
    for batch in _batches(pieces):
        texts = [encoded_text(tokenizer, piece) for piece in batch]
        ids: dict[int, list[int]] = {}
        for special in (False, True):
            rows = [row for row, piece in enumerate(batch) if (piece.messages is not None) == special]
            if rows:
                encoded = tokenizer.encode_batch([texts[row] for row in rows], special=special)
                ids.update(zip(rows, encoded, strict=True))
        for row, piece in enumerate(batch):
            yield EncodedPiece(piece, ids[row], len(texts[row].encode()))


def encoded_text(tokenizer: Tokenizer, piece: Piece) -> str:
    """What is encoded of a piece: without an end-of-text token, the separator that followed it in the source too."""
    return piece.text + piece.separator if tokenizer.eos_id is None else piece.text


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece.text)
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_PIECES:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
