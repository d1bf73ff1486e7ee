"""Models and tokenizers from what a user names: `smidgen.build`, `smidgen.load`, `smidgen.load_tokenizer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from smidgen.config import Config, ModelConfig, load_config
from smidgen.folders.adapter import base_of, is_adapter_folder
from smidgen.folders.memory import check_random_model
from smidgen.folders.model_folder import load_folder, read_model_config
from smidgen.folders.resolve import resolve
from smidgen.model import Decoder
from smidgen.runtime.errors import MissingTokenizerError, ModelFolderError
from smidgen.runtime.protocols import Tokenizer
from smidgen.tokenization import load_tokenizer as load_tokenizer_files


def build(
    source: str | Path | Config | ModelConfig,
    overrides: Mapping[str, Any] | Sequence[str] | None = None,
    seed: int = 0,
) -> Decoder:
    """A decoder with random weights drawn from `seed`: float32, eval mode, on the CPU.

    `source` is a preset's name, a YAML file, or a configuration; `overrides` are dotted paths with their values, for
    a preset or file: `build("elite-112m", {"model.num_layers": 4})`. Raises ConfigError for an impossible one,
    ModelFolderError for one that exceeds the free memory.
    """
    if isinstance(source, Config | ModelConfig):
        assert not overrides, "overrides belong to a preset or file; a configuration is already resolved"
        config = source.model if isinstance(source, Config) else source
    else:
        config = load_config(source, overrides or {}).model
    check_random_model(source if isinstance(source, str | Path) else "this configuration", config)
    return Decoder(config).initialize(seed).eval()


def load(model: str | Path, device: str | torch.device = "cpu") -> Decoder:
    """The model that MODEL names: float32, eval mode, on `device`. A preset gets random weights (seed 0).

    MODEL is a preset, a model folder, a checkpoint, a run folder (its best checkpoint, else its last), a Hugging Face
    folder of an architecture we know, or an adapter folder in PEFT's format, whose base is loaded with it.
    Raises ModelFolderError in one line otherwise.
    """
    source = resolve(model)
    if source.folder is None:
        assert source.preset is not None
        return build(source.preset).to(device)
    return load_folder(source.folder, device)


def model_config(model: str | Path) -> ModelConfig:
    """The configuration of the model that MODEL names, without loading its weights."""
    source = resolve(model)
    if source.folder is None:
        assert source.preset is not None
        return load_config(source.preset).model
    return read_model_config(source.folder)


def load_tokenizer(model: str | Path) -> Tokenizer:
    """The tokenizer of the model that MODEL names. Raises ModelFolderError for a preset, which has none."""
    source = resolve(model)
    if source.folder is None:
        raise ModelFolderError(
            f"{source.preset}: a preset has no tokenizer; name a trained model, or train one with 'smidgen tokenizer'"
        )
    folder = source.folder
    if is_adapter_folder(folder) and not (folder / "tokenizer_config.json").is_file():
        folder = base_of(folder)
    return load_tokenizer_files(folder)


def optional_tokenizer(model: str | Path) -> Tokenizer | None:
    """The same; None for a preset, and where there are no files of one. A damaged one is an error."""
    if resolve(model).folder is None:
        return None
    try:
        return load_tokenizer(model)
    except MissingTokenizerError:
        return None
