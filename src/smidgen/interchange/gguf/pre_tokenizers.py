"""Pre-tokenizers that llama.cpp knows by name, and how a tokenizer.json writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

_BY_PATTERN = {_LLAMA3: "llama-bpe", _QWEN2: "qwen2"}


def name_of(pre_tokenizer: Any) -> str | None:
    """`tokenizer.ggml.pre` of a tokenizer.json's pre-tokenizer; None for one that llama.cpp does not know."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, **rest} if rest.get("use_regex", True):
            return "gpt-2"
        case {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, inner]}:
            return "smollm" if name_of(inner) == "gpt-2" else None
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return _BY_PATTERN.get(pattern)
    return None


def description_of(name: str) -> Mapping[str, Any] | None:
    """The pre-tokenizer of a tokenizer.json that llama.cpp's `name` stands for; None for one we do not know."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if name == "gpt-2":
        return byte_level
    if name == "smollm":
        digits = {"type": "Digits", "individual_digits": True}
        return {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    pattern = next((pattern for pattern, known in _BY_PATTERN.items() if known == name), None)
    if pattern is None:
        return None
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**byte_level, "use_regex": False}]}
