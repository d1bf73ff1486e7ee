"""What an export is made of: the model that MODEL names without adapters, its tokenizer, and where its answers end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.folders import load, load_tokenizer
from smidgen.folders.end_tokens import end_tokens_of
from smidgen.folders.loading import optional_tokenizer
from smidgen.folders.model_folder import GENERATION_CONFIG
from smidgen.model import Decoder
from smidgen.runtime.errors import InterchangeError
from smidgen.runtime.fields import read_json
from smidgen.runtime.protocols import Tokenizer
from smidgen.tuning.merged_models import merge_adapter
from smidgen.tuning.merging import MergingError


@dataclass(frozen=True)
class Source:
    """A model ready to be written in another format."""

    model: Decoder
    tokenizer: Tokenizer | None
    end_ids: tuple[int, ...]
    """Tokens that end an answer, the tokenizer's own first."""


def open_source(model: str | Path, *, needs_tokenizer: bool = True) -> Source:
    """The model that MODEL names, an adapter put into the weights of its base.

    Raises InterchangeError for an adapter that is no part of one weight, as its base rounds; and a TokenizerError or
    ModelFolderError where there is no tokenizer and `needs_tokenizer`.
    """
    # A tokenizer is read sooner than weights are.
    tokenizer = load_tokenizer(model) if needs_tokenizer else optional_tokenizer(model)
    ends = () if tokenizer is None else end_tokens_of(model, tokenizer)
    return Source(load_merged(model), tokenizer, ends)


def load_merged(model: str | Path) -> Decoder:
    """The decoder, without adapters. Raises InterchangeError where they cannot be merged exactly."""
    decoder = load(model)
    if decoder.adapter is None:
        return decoder
    try:
        return merge_adapter(str(model))
    except MergingError:
        raise InterchangeError(
            f"{model}: is an adapter on a base that rounds its weights or activations, so that no one weight has both; "
            f"make a model of it that rounds the sum, 'smidgen merge --lora {model} --round --out DIR', and take that"
        ) from None


def write_ends(folder: Path, end_ids: Sequence[int], tokenizer: Tokenizer | None) -> None:
    """Put the tokens that end an answer into the folder's generation_config.json."""
    values: dict[str, Any] = {}
    if end_ids:
        values["eos_token_id"] = list(end_ids) if len(end_ids) > 1 else end_ids[0]
    if tokenizer is not None and tokenizer.bos_id is not None:
        values["bos_token_id"] = tokenizer.bos_id
    update_json(folder / GENERATION_CONFIG, values)


def update_json(path: Path, values: dict[str, Any]) -> None:
    """Set fields of a JSON file, which need not be there; None removes one."""
    merged = {**(read_json(path) if path.is_file() else {}), **values}
    content = {name: value for name, value in merged.items() if name not in values or value is not None}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
