"""The tokens that end an answer: the tokenizer's own, and those of a folder's generation_config.json."""

from __future__ import annotations

import json
from pathlib import Path

from smidgen.folders.resolve import resolve
from smidgen.runtime.fields import Fields, read_json
from smidgen.runtime.generation import end_of_turn_ids
from smidgen.runtime.protocols import Tokenizer


def end_tokens(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids, the tokenizer's end token first (chat models name several in generation_config.json).

    Raises ModelFolderError where the file names what is no id.
    """
    ids = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    path = folder / "generation_config.json"
    if path.is_file():
        fields = Fields(read_json(path), str(path))
        named = fields.value_of("eos_token_id")
        more = named if isinstance(named, list) else [] if named is None else [named]
        if not all(type(token) is int and token >= 0 for token in more):
            fields.refuse("eos_token_id", "an id or a list of ids is needed here")
        ids += more
    return tuple(dict.fromkeys(ids))


def end_tokens_of(model: str | Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """`end_tokens` of what MODEL names; none for a preset, whose weights have learned none."""
    folder = resolve(model).folder
    return () if folder is None else end_tokens(folder, tokenizer)


def name_end_tokens(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the tokens that end an answer of a chat model into its generation_config.json: the end of a turn as the
    chat template writes it, and the end of text. Every engine, and transformers, then stops there."""
    path = folder / "generation_config.json"
    settings = read_json(path) if path.is_file() else {}
    ids = dict.fromkeys((*end_tokens(folder, tokenizer), *end_of_turn_ids(tokenizer)))
    settings["eos_token_id"] = list(ids)
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
