"""What a SentencePiece model file says that its own library does not tell: a reader of the protocol buffer's fields.

Field numbers are those of sentencepiece_model.proto. A protocol buffer is a run of fields, each a key (number and wire
type) and a value; that is all that is needed here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_MODEL_TYPE, _WHITESPACE_SUFFIX, _BYTE_FALLBACK, _UNKNOWN_SURFACE = 3, 24, 35, 44
_CHARACTER_MAP, _DUMMY_PREFIX, _REMOVE_WHITESPACE, _ESCAPE_WHITESPACE = 2, 3, 4, 5

_BPE = 2

WITHOUT_DUMMY_PREFIX = bytes([_NORMALIZER << 3 | _LENGTH_DELIMITED, 2, _DUMMY_PREFIX << 3 | _VARINT, 0])
"""Appended to a model, it sets `normalizer_spec.add_dummy_prefix` to false: of a field that comes twice the later value
counts, and messages that come twice are merged."""


class PieceType(IntEnum):
    """What a piece is for."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class ModelSpecification:
    """What a model file says beside its pieces, as far as it decides how to encode and decode."""

    is_bpe: bool
    byte_fallback: bool
    unknown_surface: str
    """What an unknown piece decodes to."""
    adds_dummy_prefix: bool
    """A space is put before every text, and taken away in decoding."""
    rewrites_text: bool
    """Characters are mapped to others, spaces removed, or spaces marked at the end of words."""


def read_specification(data: bytes) -> ModelSpecification:
    """The specification in a serialised model. Raises ValueError for anything else."""
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data, skipped=_PIECES):
        if isinstance(value, bytes) and number in (_TRAINER, _NORMALIZER):
            (trainer if number == _TRAINER else normalizer).update(_fields(value))
    surface = trainer.get(_UNKNOWN_SURFACE, " \N{DOUBLE QUESTION MARK} ".encode())
    return ModelSpecification(
        is_bpe=trainer.get(_MODEL_TYPE, 1) == _BPE,
        byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0)),
        unknown_surface=surface.decode("utf-8") if isinstance(surface, bytes) else "",
        adds_dummy_prefix=bool(normalizer.get(_DUMMY_PREFIX, 1)),
        rewrites_text=bool(
            normalizer.get(_CHARACTER_MAP)
            or normalizer.get(_REMOVE_WHITESPACE, 1)
            or not normalizer.get(_ESCAPE_WHITESPACE, 1)
            or trainer.get(_WHITESPACE_SUFFIX, 0)
        ),
    )


def read_pieces(data: bytes) -> list[Piece]:
    """The vocabulary of a serialised model, by id. Raises ValueError for anything else."""
    return [_piece(value) for number, value in _fields(data) if number == _PIECES and isinstance(value, bytes)]


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    text, score = fields.get(_PIECE_TEXT, b""), fields.get(_PIECE_SCORE, b"\0\0\0\0")
    kind = fields.get(_PIECE_TYPE, PieceType.NORMAL)
    if not (isinstance(text, bytes) and isinstance(score, bytes) and isinstance(kind, int)):
        raise ValueError("a piece is malformed")
    return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], kind)


def _fields(data: bytes, skipped: int | None = None) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of every field: an int for varints, the raw bytes for the rest.

    skipped: number of a field whose short values are passed over quickly; a model has one for every piece.
    """
    position = 0
    skipped_key = None if skipped is None else skipped << 3 | _LENGTH_DELIMITED
    while position < len(data):
        if data[position] == skipped_key and position + 1 < len(data) and data[position + 1] < 0x80:
            position += 2 + data[position + 1]
            continue
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire_type == _LENGTH_DELIMITED:
            length, position = _varint(data, position)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {wire_type}")
        if position + length > len(data):
            raise ValueError("it ends within a field")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, seven bits a byte, lowest first; and the position behind it."""
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError("it ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
