"""What a tokenizer folder says beside the vocabulary: which tokens begin and end a text, and the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization.files import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    read_object,
    read_text,
)

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PADDING = "<|pad|>"

_NAMES = ("bos_token", "eos_token", "pad_token")
_WRITTEN_APART = {"chat_template", "model_max_length"}
"""Entries that are not carried over: the template has its own file, and the length is the model's matter."""


@dataclass(frozen=True)
class TokenizerSettings:
    """The content of tokenizer_config.json and chat_template.jinja that Smidgen acts on."""

    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    adds_bos: bool | None = None
    """`add_bos_token` of the config; None where it says nothing."""
    chat_template: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """The whole tokenizer_config.json that was read; what Smidgen does not act on is saved again as it was."""

    def files(self, tokenizer_class: str = "PreTrainedTokenizerFast") -> dict[str, str | bytes]:
        """Names and contents of the files that hold these settings."""
        config = {key: value for key, value in self.config.items() if key not in _WRITTEN_APART}
        config.setdefault("tokenizer_class", tokenizer_class)
        for name in _NAMES:
            token = getattr(self, name)
            if token is not None:
                config[name] = token
        if self.adds_bos is not None:
            config["add_bos_token"] = self.adds_bos
        # Cleaning up would change the text: it removes spaces before punctuation.
        config["clean_up_tokenization_spaces"] = False
        files: dict[str, str | bytes] = {TOKENIZER_CONFIG: json.dumps(config, ensure_ascii=False, indent=2) + "\n"}
        if self.chat_template is not None:
            files[CHAT_TEMPLATE] = self.chat_template
        return files


def read_settings(folder: Path) -> TokenizerSettings | None:
    """The settings in a folder; None when it has no tokenizer_config.json and no special_tokens_map.json."""
    path = folder / TOKENIZER_CONFIG
    config = read_object(path) if path.is_file() else None
    older = folder / SPECIAL_TOKENS_MAP
    tokens = read_object(older) if older.is_file() else {}
    if config is None and not tokens:
        return None
    entries = {**tokens, **(config or {})}
    return TokenizerSettings(
        **{name: _content(entries.get(name)) for name in _NAMES},
        adds_bos=entries["add_bos_token"] if isinstance(entries.get("add_bos_token"), bool) else None,
        chat_template=_chat_template(folder, entries),
        config=config or {},
    )


def _content(entry: Any) -> str | None:
    """The text of a token, written as a string or as an object with its properties."""
    if isinstance(entry, Mapping):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _chat_template(folder: Path, entries: Mapping[str, Any]) -> str | None:
    path = folder / CHAT_TEMPLATE
    if path.is_file():
        return read_text(path)
    template = entries.get("chat_template")
    if isinstance(template, list):
        # Several named templates; the one for plain chats is called default.
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, Mapping)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise TokenizerError(f"{folder / TOKENIZER_CONFIG}: chat_template is no text; expected Jinja2 source")
    return template
