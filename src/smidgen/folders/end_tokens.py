"""The tokens that end an answer: the tokenizer's own, and those of a folder's generation_config.json."""

from __future__ import annotations

import json
from pathlib import Path

from smidgen.runtime.fields import read_json
from smidgen.runtime.generation import end_of_turn_ids
from smidgen.runtime.protocols import Tokenizer


def end_tokens(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids, the tokenizer's end token first (chat models name several in generation_config.json)."""
    ids = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    path = folder / "generation_config.json"
    if path.is_file():
        named = read_json(path).get("eos_token_id")
        ids += [named] if isinstance(named, int) else [i for i in named or [] if isinstance(i, int)]
    return tuple(dict.fromkeys(ids))


def name_end_tokens(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the tokens that end an answer of a chat model into its generation_config.json: the end of a turn as the
    chat template writes it, and the end of text. Every engine, and transformers, then stops there."""
    path = folder / "generation_config.json"
    settings = read_json(path) if path.is_file() else {}
    ids = dict.fromkeys((*end_tokens(folder, tokenizer), *end_of_turn_ids(tokenizer)))
    settings["eos_token_id"] = list(ids)
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
