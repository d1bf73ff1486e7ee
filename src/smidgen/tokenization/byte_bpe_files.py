"""The files of byte-level BPE: what of a `tokenizer.json` tiktoken's engine can take over, and how one is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization.byte_alphabet import BYTE_CHARACTERS
from smidgen.tokenization.files import IDS_END, MERGES, VOCABULARY, read_object, read_text
from smidgen.tokenization.merge_order import check_merge_order

Document = dict[str, Any]


@dataclass(frozen=True)
class PreTokenizer:
    """How a text is cut into the pieces that merges stay within."""

    pattern: str
    """Regular expression of tiktoken's engine; its matches are the pieces."""
    doubtful: re.Pattern[str] | None = None
    """Characters that `tokenizers` may put in another class: texts that have one are left to it."""


_GPT2 = PreTokenizer(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
"""GPT-2's: contractions, words, numbers and signs, each with the space before it, and whitespace."""

_SINGLE_DIGITS = PreTokenizer(
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+",
    re.compile("[\U00010000-\U0001efff]"),
)
"""GPT-2's after every digit has been split off (SmolLM2): whitespace before a digit is at the end of its piece. What a
digit is, `tokenizers` takes from a newer version of Unicode than the one that its patterns, and tiktoken's, go by;
digits are still being added to the scripts beyond U+10000."""


class UnprovenEngine(Exception):
    """tiktoken's engine is not known to give the ids that a tokenizer.json defines; the message says why."""


@dataclass(frozen=True)
class ByteBPEParts:
    """A tokenizer.json whose ids tiktoken's engine gives too."""

    vocabulary: dict[str, int]
    """Ids of single bytes and of what merges make, written in byte characters."""
    merges: list[tuple[str, str]]
    special_tokens: dict[str, int]
    pre_tokenizer: PreTokenizer


def parse(document: Document) -> ByteBPEParts:
    """The parts of a tokenizer.json. Raises UnprovenEngine where anything in it is beyond what is proven equal."""
    try:
        return _parse(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnprovenEngine(f"it is malformed: {error!r}") from None


def _parse(document: Document) -> ByteBPEParts:
    model = document.get("model") or {}
    decoder = document.get("decoder") or {}
    if model.get("type", "BPE") != "BPE" or decoder.get("type") != "ByteLevel":
        raise UnprovenEngine("it is no byte-level BPE")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise UnprovenEngine(f"its model has {option}")
    if document.get("normalizer") is not None:
        raise UnprovenEngine("it normalises the text")
    pre_tokenizer = _pre_tokenizer(document.get("pre_tokenizer"))
    special_tokens = _special_tokens(document.get("added_tokens") or [])
    vocabulary = {token: number for token, number in model["vocab"].items() if token not in special_tokens}
    if not all(type(n) is int and 0 <= n < IDS_END for n in (*vocabulary.values(), *special_tokens.values())):
        raise UnprovenEngine(f"its ids are no whole numbers below {IDS_END}")
    if {token for token in vocabulary if len(token) == 1} != set(BYTE_CHARACTERS):
        raise UnprovenEngine("its vocabulary lacks single bytes, or has characters that are none")
    merges = [_pair(merge) for merge in model["merges"]]
    reason = check_merge_order(vocabulary, merges)
    if reason is not None:
        raise UnprovenEngine(reason)
    return ByteBPEParts(vocabulary, merges, special_tokens, pre_tokenizer)


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _pre_tokenizer(description: Any) -> PreTokenizer:
    match description:
        case {"type": "ByteLevel", "add_prefix_space": False, **rest} if rest.get("use_regex", True):
            return _GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, **rest},
            ],
        } if rest.get("use_regex", True):
            return _SINGLE_DIGITS
    raise UnprovenEngine("its pre-tokenizer is another")


def _special_tokens(added_tokens: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    for token in added_tokens:
        if not token["special"] or token["lstrip"] or token["rstrip"] or token["single_word"]:
            raise UnprovenEngine(f"its added token {token['content']!r} is found in ordinary text or takes spaces in")
    if len({token["normalized"] for token in added_tokens}) > 1:
        raise UnprovenEngine("its special tokens are found in two passes")
    return {token["content"]: token["id"] for token in added_tokens}


def first_added_token(document: Document) -> str | None:
    """The special token that a tokenizer.json puts in front of every text, if it does."""
    processor = document.get("post_processor") or {}
    for step in processor.get("processors", [processor]):
        match step:
            case {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": str(token)}}, *_]}:
                return token
    return None


def with_added_tokens(document: Document, tokens: Mapping[str, int]) -> Document:
    """A tokenizer.json with further special tokens, found in a text as those are that it has already."""
    added = list(document.get("added_tokens") or ())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}
    normalized = any(token["normalized"] for token in added)
    entries = [{"id": number, "content": token, **plain, "normalized": normalized} for token, number in tokens.items()]
    return {**document, "added_tokens": [*added, *entries]}


def document_of(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], special_tokens: Mapping[str, int]
) -> Document:
    """A tokenizer.json with GPT-2's pre-tokenizer. Special tokens come on top of the vocabulary."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    properties = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    entries = sorted({**vocabulary, **special_tokens}.items(), key=lambda entry: entry[1])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, **properties}
            for token, number in sorted(special_tokens.items(), key=lambda entry: entry[1])
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(entries),
            # Written as one string, a merge is read by older versions of `tokenizers` too.
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }


def read_vocabulary_and_merges(folder: Path) -> Document:
    """The tokenizer.json that GPT-2's `vocab.json` and `merges.txt` amount to.

    Entries of the vocabulary that are neither a byte nor made by a merge are special tokens.
    """
    path = folder / VOCABULARY
    entries = read_object(path)
    if not all(isinstance(number, int) and number >= 0 for number in entries.values()):
        raise TokenizerError(f"{path}: expected an object from tokens to ids")
    merges = []
    for number, line in enumerate(read_text(folder / MERGES).split("\n"), start=1):
        left, _, right = line.rstrip("\r").partition(" ")
        if line.startswith("#version") or not line.strip():
            continue
        if not right or " " in right:
            raise TokenizerError(f"{folder / MERGES}: line {number}: expected two tokens with a space between them")
        merges.append((left, right))
    made = {left + right for left, right in merges}
    special = {token: number for token, number in entries.items() if token not in made and len(token) > 1}
    return document_of({token: number for token, number in entries.items() if token not in special}, merges, special)
