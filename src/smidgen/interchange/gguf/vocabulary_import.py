"""A tokenizer from a GGUF file's metadata."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smidgen.interchange.gguf.pre_tokenizers import description_of
from smidgen.interchange.gguf.reader import GgufFile
from smidgen.interchange.gguf.vocabulary import TokenType
from smidgen.runtime.errors import InterchangeError
from smidgen.runtime.protocols import Tokenizer
from smidgen.tokenization import load_tokenizer
from smidgen.tokenization.byte_bpe_files import document_of

_SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN)
_NAMED = ("bos", "eos", "padding")
"""Roles whose tokens tokenizer_config.json names."""


def tokenizer_of(file: GgufFile) -> Tokenizer | None:
    """The tokenizer; None where the file has none. Raises InterchangeError for a kind that Smidgen does not know."""
    kind = file.values.get("tokenizer.ggml.model", "no_vocab")
    if kind in ("no_vocab", "none"):
        return None
    if kind not in ("gpt2", "llama"):
        raise InterchangeError(f"{file.path}: tokenizer.ggml.model = {kind!r}: Smidgen reads gpt2 and llama")
    tokens = file.texts("tokenizer.ggml.tokens")
    if not tokens:
        raise InterchangeError(f"{file.path}: tokenizer.ggml.tokens is missing; convert the model again")
    types = file.numbers("tokenizer.ggml.token_type") or [TokenType.NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise InterchangeError(
            f"{file.path}: tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens"
        )
    if not set(types) <= {kind.value for kind in TokenType}:
        raise InterchangeError(
            f"{file.path}: tokenizer.ggml.token_type: types 1 to 6 are known; convert the model again"
        )
    named = {role: None if (number := _id_of(file, role, tokens)) is None else tokens[number] for role in _NAMED}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": named["bos"],
        "eos_token": named["eos"],
        "pad_token": named["padding"],
        "add_bos_token": bool(file.values.get("tokenizer.ggml.add_bos_token", kind == "llama")),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = {key: value for key, value in config.items() if value is not None}
        (folder / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")
        template = file.values.get("tokenizer.chat_template")
        if isinstance(template, str):
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        if kind == "gpt2":
            document = _byte_level(file, tokens, types)
            (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
        else:
            (folder / "tokenizer.model").write_bytes(_sentencepiece(file, tokens, types))
        return load_tokenizer(folder)


def _id_of(file: GgufFile, role: str, tokens: Sequence[str]) -> int | None:
    """The id that the file names for a role (`bos`, `unknown`, …)."""
    number = file.values.get(f"tokenizer.ggml.{role}_token_id")
    if number is not None and (not isinstance(number, int) or not 0 <= number < len(tokens)):
        raise InterchangeError(f"{file.path}: tokenizer.ggml.{role}_token_id = {number}: no id of {len(tokens)} tokens")
    return number


def _byte_level(file: GgufFile, tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    name = file.values.get("tokenizer.ggml.pre", "default")
    pre_tokenizer = description_of(name) if isinstance(name, str) else None
    if pre_tokenizer is None:
        raise InterchangeError(
            f"{file.path}: tokenizer.ggml.pre = {name!r}: Smidgen knows gpt-2, smollm, llama-bpe, qwen2"
        )
    merges = []
    for merge in file.texts("tokenizer.ggml.merges") or ():
        left, _, right = merge.partition(" ")
        merges.append((left, right))
    vocabulary, special, defined = {}, {}, []
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in _SPECIAL:
            special[token] = number
        elif kind == TokenType.USER_DEFINED:
            defined.append({"id": number, "content": token})
        elif kind != TokenType.UNUSED:
            vocabulary[token] = number
    known = vocabulary.keys() | special.keys()
    for left, right in merges:
        if left not in known or right not in known or left + right not in known:
            raise InterchangeError(f"{file.path}: merge {left!r} {right!r} is of tokens that the vocabulary lacks")
    document = document_of(vocabulary, merges, special)
    document["pre_tokenizer"] = pre_tokenizer
    properties = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    document["added_tokens"] += [{**entry, **properties} for entry in defined]
    document["added_tokens"].sort(key=lambda entry: entry["id"])
    return document


def _sentencepiece(file: GgufFile, tokens: Sequence[str], types: Sequence[int]) -> bytes:
    """The `tokenizer.model` of these pieces. Field numbers are those of sentencepiece_model.proto."""
    scores = file.numbers("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise InterchangeError(f"{file.path}: tokenizer.ggml.scores: one for each of {len(tokens)} tokens is needed")
    last = max((number for number, kind in enumerate(types) if kind != TokenType.UNUSED), default=-1)
    pieces = [
        _message(1, _message(1, token.encode()) + b"\x15" + struct.pack("<f", score) + _integer(3, kind))
        for token, score, kind in zip(tokens[: last + 1], scores, types, strict=False)
    ]
    ids = [_id_of(file, role, tokens) for role in ("unknown", *_NAMED)]
    if ids[0] is None:
        ids[0] = next((number for number, kind in enumerate(types) if kind == TokenType.UNKNOWN), None)
    roles = b""
    for field, number in enumerate(ids):
        # A role that no token has is -1, ten bytes as a protocol buffer writes it.
        roles += _integer(40 + field, (1 << 64) - 1 if number is None else number)
        if number is not None:
            roles += _message(45 + field, tokens[number].encode())
    trainer = _integer(3, 2) + _integer(4, len(pieces)) + _integer(35, 1) + roles
    adds_space = bool(file.values.get("tokenizer.ggml.add_space_prefix", True))
    normalizer = _message(1, b"identity") + _integer(3, adds_space) + _integer(4, 0) + _integer(5, 1)
    return b"".join(pieces) + _message(2, trainer) + _message(3, normalizer)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(int(value))


def _message(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data
