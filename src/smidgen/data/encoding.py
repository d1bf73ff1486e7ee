"""Pieces of text to token ids."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.data.documents import Piece
from smidgen.runtime.chat_template import boundary_texts, render_chat
from smidgen.runtime.protocols import Tokenizer


@dataclass(frozen=True, slots=True)
class EncodedPiece:
    """A piece with its ids; the end-of-text token is not among them."""

    piece: Piece
    ids: NDArray[Any]
    """Unsigned integers, shape [tokens]."""
    num_bytes: int
    """UTF-8 bytes of the text that was encoded."""


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> Iterator[EncodedPiece]:
    """The pieces in their order, encoded.

    Documents begin with the beginning token where the tokenizer asks for one (Llama-2's), as prompts will. Plain text
    never becomes a special token, whatever it spells; in conversations the markers of the chat template do. Without an
    end-of-text token, what separated a document from the next one in its source belongs to it.
    """
    keeps_separator, adds_bos = tokenizer.eos_id is None, tokenizer.adds_bos
    texts = []
    groups: dict[tuple[bool, bool], list[int]] = {(False, False): []}
    for row, piece in enumerate(pieces):
        is_chat = piece.messages is not None
        text = _rendered(tokenizer, piece) if is_chat else piece.text
        texts.append(text + piece.separator if keeps_separator else text)
        groups.setdefault((adds_bos and piece.begins and not is_chat, is_chat), []).append(row)
    ids: dict[int, NDArray[Any]] = {}
    for (bos, special), rows in groups.items():
        encoded = _encode(tokenizer, [texts[row] for row in rows], bos, special)
        ids.update(zip(rows, encoded, strict=True))
    for row, piece in enumerate(pieces):
        text = texts[row]
        yield EncodedPiece(piece, ids[row], len(text) if text.isascii() else len(text.encode()))


def _encode(tokenizer: Tokenizer, texts: Sequence[str], bos: bool, special: bool) -> Iterator[NDArray[Any]]:
    encode_array: Callable[[str], NDArray[Any]] | None = getattr(tokenizer, "encode_array", None)
    if encode_array is not None and not special:
        prefix = [tokenizer.bos_id] if bos else []
        for text in texts:
            ids = encode_array(text)
            yield np.concatenate([np.array(prefix, ids.dtype), ids]) if prefix else ids
        return
    if tokenizer.kind == "pretrained":
        # Its engine takes about as long for a call as for a short text.
        lists = iter(tokenizer.encode_batch(texts, bos=bos, special=special))
    else:
        lists = (tokenizer.encode(text, bos=bos, special=special) for text in texts)
    for numbers in lists:
        # By way of an array, which takes a list in half the time that numpy does.
        yield np.frombuffer(array("I", numbers), np.uint32)


def _rendered(tokenizer: Tokenizer, piece: Piece) -> str:
    """A conversation as the tokenizer's template writes it; without a template, as its source did."""
    if piece.messages is None or tokenizer.chat_template is None:
        return piece.text
    return render_chat(tokenizer.chat_template, piece.messages, False, *boundary_texts(tokenizer))
