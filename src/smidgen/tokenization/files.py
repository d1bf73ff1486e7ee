"""Reading and writing the files of a tokenizer folder; nothing is ever half written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smidgen.runtime.errors import TokenizerError
from smidgen.runtime.files import write_bytes

TOKENIZER_JSON = "tokenizer.json"
SENTENCEPIECE_MODEL = "tokenizer.model"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
CHAT_TEMPLATE = "chat_template.jinja"
VOCABULARY = "vocab.json"
MERGES = "merges.txt"
ADDED_TOKENS = "added_tokens.json"
IDS_END = 2**24
"""Ids lie below, in sixty times the largest vocabularies: `tokenizers` walks through all up to a file's largest."""

_ALL = {
    TOKENIZER_JSON,
    SENTENCEPIECE_MODEL,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP,
    CHAT_TEMPLATE,
    VOCABULARY,
    MERGES,
    ADDED_TOKENS,
}


def read_bytes(path: Path) -> bytes:
    """The file's content; TokenizerError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror}") from None


def read_text(path: Path) -> str:
    """The file's text (UTF-8), its line ends as they are; TokenizerError when it cannot be read."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: no UTF-8 at byte {error.start}: the file is damaged; copy it again") from None


def parse_object(text: str, path: Path) -> dict[str, Any]:
    """The JSON object that `text`, the content of `path`, holds; TokenizerError when it is none."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise TokenizerError(
            f"{path}: no JSON at line {error.lineno}: {error.msg}; the file is damaged, copy it again"
        ) from None
    except RecursionError:
        raise TokenizerError(f"{path}: nested deeper than any tokenizer's file; it is damaged, copy it again") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: holds a JSON {type(value).__name__} where an object is expected")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; TokenizerError when it cannot be read or is none."""
    return parse_object(read_text(path), path)


def write_files(folder: Path, contents: dict[str, str | bytes]) -> None:
    """Write a tokenizer's files, each whole or not at all, and remove those that another tokenizer left there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_bytes(folder / name, content.encode("utf-8") if isinstance(content, str) else content)
    for name in _ALL - contents.keys():
        (folder / name).unlink(missing_ok=True)
