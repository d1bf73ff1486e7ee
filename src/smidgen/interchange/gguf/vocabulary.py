"""A tokenizer as llama.cpp's metadata, made from its files: byte-level BPE as `gpt2`, SentencePiece BPE as `llama`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from smidgen.interchange.gguf.pre_tokenizers import name_of
from smidgen.runtime.errors import InterchangeError
from smidgen.runtime.protocols import Tokenizer
from smidgen.tokenization.sentencepiece_model import PieceType, read_pieces, read_specification

_SPACE = "▁"
_OTHER_WAYS = "export with --no-tokenizer to write the weights alone, or use --format hf"


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF holds of a tokenizer."""

    model: str
    """`gpt2` merges by rank, `llama` by score."""
    pre: str
    """Name of the regular expression that cuts texts into pieces."""
    tokens: list[str]
    types: list[TokenType]
    scores: list[float] | None
    merges: list[str] | None
    adds_space: bool
    """A space is put before every text."""


def vocabulary_of(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """The vocabulary, filled up to `size` ids with unused ones. Raises InterchangeError for a tokenizer whose ids
    llama.cpp would not give."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save(folder)
        document_file, model_file = folder / "tokenizer.json", folder / "tokenizer.model"
        document = json.loads(document_file.read_text(encoding="utf-8")) if document_file.is_file() else None
        if model_file.is_file():
            found = _from_model(model_file.read_bytes(), document)
        else:
            assert document is not None
            found = _from_document(document)
    return _filled(found, size)


def _filled(vocabulary: Vocabulary, size: int) -> Vocabulary:
    missing = size - len(vocabulary.tokens)
    if missing < 0:
        raise InterchangeError(
            f"the tokenizer has {len(vocabulary.tokens)} ids, the model vocab_size {size}: they do not belong together"
        )
    taken = set(vocabulary.tokens)
    if len(taken) < len(vocabulary.tokens):
        raise InterchangeError(f"two ids of the tokenizer have the same text, which llama.cpp refuses; {_OTHER_WAYS}")
    fill = []
    for number in range(len(vocabulary.tokens), size):
        name = f"[PAD{number}]"
        while name in taken:
            name += "]"
        fill.append(name)
    vocabulary.tokens.extend(fill)
    vocabulary.types.extend([TokenType.UNUSED] * missing)
    if vocabulary.scores is not None:
        vocabulary.scores.extend([0.0] * missing)
    return vocabulary


def _from_model(data: bytes, document: Mapping[str, Any] | None) -> Vocabulary:
    specification, pieces = read_specification(data), read_pieces(data)
    if document is None:
        raise InterchangeError(
            f"this SentencePiece model normalises text or is no BPE, which llama.cpp does not do; {_OTHER_WAYS}"
        )
    if not specification.byte_fallback:
        raise InterchangeError(
            "this SentencePiece model has no byte fallback, without which llama.cpp stops at a character it does not "
            f"know; {_OTHER_WAYS}"
        )
    tokens, scores = [piece.text for piece in pieces], [piece.score for piece in pieces]
    types = [TokenType(PieceType(piece.type).value) for piece in pieces]
    for entry in document["added_tokens"]:
        if entry["id"] >= len(pieces):
            _extend(tokens, types, scores, entry["id"])
            tokens[entry["id"]] = entry["content"]
            types[entry["id"]] = TokenType.CONTROL if entry["special"] else TokenType.USER_DEFINED
    return Vocabulary("llama", "default", tokens, types, scores, None, specification.adds_dummy_prefix)


def _extend(tokens: list[str], types: list[TokenType], scores: list[float], last: int) -> None:
    for number in range(len(tokens), last + 1):
        tokens.append(f"[PAD{number}]")
        types.append(TokenType.UNUSED)
        scores.append(0.0)


def _from_document(document: Mapping[str, Any]) -> Vocabulary:
    model = document.get("model") or {}
    if model.get("type") != "BPE":
        raise InterchangeError(f"llama.cpp has no tokenizer like this one ({model.get('type')}); {_OTHER_WAYS}")
    merges = [merge.split(" ", 1) if isinstance(merge, str) else list(merge) for merge in model["merges"]]
    if not merges:
        raise InterchangeError(f"a vocabulary of single characters has no counterpart in llama.cpp; {_OTHER_WAYS}")
    for entry in document.get("added_tokens") or ():
        if entry["lstrip"] or entry["rstrip"] or entry["single_word"]:
            raise InterchangeError(
                f"the token {entry['content']!r} takes the spaces around it in, which llama.cpp does not do; "
                f"{_OTHER_WAYS}"
            )
    if (document.get("decoder") or {}).get("type") == "ByteLevel":
        return _byte_level(document, merges)
    if model.get("byte_fallback"):
        return _scored(document, merges)
    raise InterchangeError(f"this tokenizer is neither byte-level nor falls back to bytes; {_OTHER_WAYS}")


def _byte_level(document: Mapping[str, Any], merges: Sequence[Sequence[str]]) -> Vocabulary:
    pre = name_of(document.get("pre_tokenizer"))
    if pre is None or document.get("normalizer") is not None:
        raise InterchangeError(f"llama.cpp knows no pre-tokenizer that cuts texts like this one; {_OTHER_WAYS}")
    tokens, types = _tokens(document)
    return Vocabulary("gpt2", pre, tokens, types, None, [" ".join(merge) for merge in merges], adds_space=False)


def _tokens(document: Mapping[str, Any]) -> tuple[list[str], list[TokenType]]:
    entries = {number: (token, TokenType.NORMAL) for token, number in document["model"]["vocab"].items()}
    for entry in document.get("added_tokens") or ():
        kind = TokenType.CONTROL if entry["special"] else TokenType.USER_DEFINED
        entries[entry["id"]] = (entry["content"], kind)
    ordered = [entries.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(max(entries) + 1)]
    return [token for token, _ in ordered], [kind for _, kind in ordered]


def _scored(document: Mapping[str, Any], merges: Sequence[Sequence[str]]) -> Vocabulary:
    """A converted SentencePiece model: scores that give the order of its merges."""
    adds_space = _adds_space(document)
    vocabulary = document["model"]["vocab"]
    scores = _scores(merges, vocabulary)
    if adds_space is None or scores is None:
        raise InterchangeError(
            f"this tokenizer.json is no SentencePiece model in another form, as llama.cpp needs it; {_OTHER_WAYS}"
        )
    tokens, types = _tokens(document)
    unknown = document["model"].get("unk_token")
    for number, token in enumerate(tokens):
        if token == unknown:
            types[number] = TokenType.UNKNOWN
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[number] = TokenType.BYTE
    return Vocabulary("llama", "default", tokens, types, [scores.get(token, 0.0) for token in tokens], None, adds_space)


def _adds_space(document: Mapping[str, Any]) -> bool | None:
    """Whether a space is put before every text; None for a form that is not known."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prefixed = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _SPACE}, replace]}
    apart = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    match document.get("normalizer"), document.get("pre_tokenizer"):
        case normalizer, None if normalizer == prefixed:
            return True
        case normalizer, before if normalizer == replace and before in (None, apart):
            return False
    return None


def _scores(merges: Sequence[Sequence[str]], vocabulary: Mapping[str, int]) -> dict[str, float] | None:
    """The score of every merged token; None where the order of merges is not one of tokens.

    A token must have all of its merges, and they must follow each other: then merging the pair of lowest rank is
    merging the token of highest score.
    """
    scores: dict[str, float] = {}
    counts: dict[str, int] = {}
    previous = None
    for left, right in merges:
        token = left + right
        if token != previous and token in scores:
            return None
        scores.setdefault(token, -float(len(scores) + 1))
        counts[token] = counts.get(token, 0) + 1
        previous = token
    for token, count in counts.items():
        cuts = range(1, len(token))
        if token not in vocabulary or count != sum(
            token[:cut] in vocabulary and token[cut:] in vocabulary for cut in cuts
        ):
            return None
    return scores
