"""A tokenizer.json that gives a SentencePiece model's ids, for programs that read nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smidgen.tokenization.byte_bpe_files import Document
from smidgen.tokenization.sentencepiece_model import ModelSpecification, Piece, PieceType

SPACE = "▁"

_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def to_document(
    pieces: Sequence[Piece],
    specification: ModelSpecification,
    added_tokens: Mapping[str, tuple[int, bool]],
    bos_token: str | None,
) -> Document | None:
    """The model as a tokenizer.json; None for models that the format cannot express exactly (unigram, normalising).

    added_tokens: tokens beyond the model's own, with their id and whether they are special. bos_token: put in front
    of every text by programs that add special tokens.
    """
    if not specification.is_bpe or specification.rewrites_text:
        return None
    vocabulary = {piece.text: number for number, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces):
        return None
    unknown = next((piece.text for piece in pieces if piece.type == PieceType.UNKNOWN), None)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(pieces, added_tokens),
        "normalizer": _NORMALIZER,
        "pre_tokenizer": _pre_tokenizer(specification.adds_dummy_prefix),
        "post_processor": None if bos_token is None else _bos_processor(bos_token, vocabulary[bos_token]),
        "decoder": _decoder(specification.adds_dummy_prefix),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": specification.byte_fallback,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": _merges(pieces, vocabulary),
        },
    }


def is_conversion(document: Document) -> bool:
    """Whether `to_document` wrote this tokenizer.json."""
    made = any(document.get("pre_tokenizer") == _pre_tokenizer(prefix) for prefix in (True, False))
    return made and document.get("normalizer") == _NORMALIZER


def _merges(pieces: Sequence[Piece], vocabulary: Mapping[str, int]) -> list[str]:
    """Every way to make a piece of two others, in SentencePiece's order: the piece with the highest score first.

    Among pieces of equal score it takes the leftmost in the text. Models have such pieces for runs of spaces (all of
    Llama-2's are equal): there the leftmost is the one with the longer left part, which has grown from the left.
    """
    found = []
    for piece in pieces:
        if piece.type != PieceType.NORMAL:
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-piece.score, -cut, f"{left} {right}"))
    return [merge for _, _, merge in sorted(found)]


def _pre_tokenizer(adds_dummy_prefix: bool) -> Document | None:
    if not adds_dummy_prefix:
        return None

    def metaspace(replacement: str, prepend_scheme: str) -> Document:
        return {"type": "Metaspace", "replacement": replacement, "prepend_scheme": prepend_scheme, "split": False}

    # SentencePiece puts a space before every text, one that begins with a space included; Metaspace does so only where
    # the text does not begin with its replacement. So a first step, after the normaliser has left no space, puts a
    # real space in front, and a second marks it. "first": text after a special token gets none.
    return {"type": "Sequence", "pretokenizers": [metaspace(" ", "first"), metaspace(SPACE, "never")]}


def _decoder(strips_space: bool) -> Document:
    steps: list[Document] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if strips_space:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _added_tokens(pieces: Sequence[Piece], added_tokens: Mapping[str, tuple[int, bool]]) -> list[dict[str, Any]]:
    properties = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = {PieceType.UNKNOWN: True, PieceType.CONTROL: True, PieceType.USER_DEFINED: False}
    own = [
        {"id": number, "content": piece.text, **properties, "special": special[PieceType(piece.type)]}
        for number, piece in enumerate(pieces)
        if piece.type in special
    ]
    more = [
        {"id": number, "content": token, **properties, "special": is_special}
        for token, (number, is_special) in sorted(added_tokens.items(), key=lambda entry: entry[1][0])
    ]
    return own + more


def _bos_processor(token: str, token_id: int) -> Document:
    bos = {"SpecialToken": {"id": token, "type_id": 0}}
    second_bos = {"SpecialToken": {"id": token, "type_id": 1}}
    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, second_bos, second],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }
