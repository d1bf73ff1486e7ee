"""Pieces of text to token ids, in batches that keep memory bounded and all cores busy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from smidgen.data.documents import Piece
from smidgen.runtime.chat_template import render_chat
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

    Documents begin with the beginning token where the tokenizer asks for one (Llama-2's), as prompts will. Plain text
    never becomes a special token, whatever it spells; in conversations the markers of the chat template do.
    """
    adds_bos = tokenizer.adds_bos
    for batch in _batches(pieces):
        texts = [_encoded_text(tokenizer, piece) for piece in batch]
        ids: dict[int, list[int]] = {}
        groups: dict[tuple[bool, bool], list[int]] = {}
        for row, piece in enumerate(batch):
            is_chat = piece.messages is not None
            groups.setdefault((adds_bos and piece.begins and not is_chat, is_chat), []).append(row)
        for (bos, special), rows in groups.items():
            encoded = tokenizer.encode_batch([texts[row] for row in rows], bos=bos, special=special)
            ids.update(zip(rows, encoded, strict=True))
        for row, piece in enumerate(batch):
            yield EncodedPiece(piece, ids[row], len(texts[row].encode()))


def _encoded_text(tokenizer: Tokenizer, piece: Piece) -> str:
    """What is encoded of a piece.

    A conversation is rendered by the tokenizer's template, if it has one. Without an end-of-text token, what separated
    the document from the next one in its source belongs to it.
    """
    text = piece.text
    if piece.messages is not None and tokenizer.chat_template is not None:
        spelling = {token: name for name, token in tokenizer.special_tokens.items()}
        bos, eos = (
            spelling.get(token, "") if token is not None else "" for token in (tokenizer.bos_id, tokenizer.eos_id)
        )
        text = render_chat(tokenizer.chat_template, piece.messages, bos_token=bos, eos_token=eos)
    return text + piece.separator if tokenizer.eos_id is None else text


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
