"""The tokens that end an answer: the tokenizer's own, and those of a folder's generation_config.json."""

from __future__ import annotations

from pathlib import Path

from smidgen.folders.architectures.fields import read_json
from smidgen.runtime.protocols import Tokenizer


def end_tokens(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids, the tokenizer's end token first (chat models name several in generation_config.json)."""
    ids = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    path = folder / "generation_config.json"
    if path.is_file():
        named = read_json(path).get("eos_token_id")
        ids += [named] if isinstance(named, int) else [i for i in named or [] if isinstance(i, int)]
    return tuple(dict.fromkeys(ids))
