"""Model folders: a Hugging Face model in every respect, with our model section beside it in `smidgen.yaml`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from smidgen.config import ModelConfig, dump_config, load_model_config
from smidgen.folders.adapter import base_of, is_adapter_folder, load_adapter, save_adapter
from smidgen.folders.architectures import REMOTE_FILES, Fields, architecture_of, read_config, read_json, write_config
from smidgen.folders.architectures.base import Tree
from smidgen.folders.architectures.quantization import scales_divide
from smidgen.folders.atomic import new_folder
from smidgen.folders.weights import WEIGHTS, read_weights, write_weights
from smidgen.model import Decoder
from smidgen.model.quantized import QuantizedLinear
from smidgen.runtime.errors import ModelFolderError
from smidgen.runtime.protocols import Tokenizer

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
SECTION = "smidgen.yaml"
QUANTIZATION_REPORT = "quantization.json"
"""What `smidgen quantize` measured of a model beside the one that it was made from."""
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_REPLACED = {CONFIG, SECTION, QUANTIZATION_REPORT, "model.safetensors.index.json", *REMOTE_FILES}
"""What an old model leaves behind when a new one is saved over it; weights are recognised by their suffix."""


def save(
    model: Decoder,
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    finish: Callable[[Path], object] | None = None,
) -> Path:
    """Write `model` as a model folder that Smidgen and `AutoModelForCausalLM.from_pretrained` load; returns its path.

    Weights are float32; a quantised model keeps what it stores, and the rest is bfloat16. The folder appears whole or
    not at all. Saving over a model folder replaces the model; its other files stay, the tokenizer's too where
    `tokenizer` is None. Raises ModelFolderError when the folder holds something else, or when the tokenizer has ids
    that the model lacks.
    A model with adapters becomes an adapter folder in PEFT's format (see folders/adapter.py). `finish` is called with
    the folder before it appears, to put more into it (`carry_settings`).
    """
    target = Path(folder).resolve()
    if model.adapter is None:
        check_target(target)
    if tokenizer is not None and tokenizer.vocab_size > model.config.vocab_size:
        raise ModelFolderError(
            f"{target}: the tokenizer has {tokenizer.vocab_size} ids, the model vocab_size {model.config.vocab_size}; "
            "save it with the tokenizer it was trained with"
        )
    if model.adapter is not None:
        save_adapter(model, target, tokenizer, finish)
        return Path(folder)
    with new_folder(target) as staged:
        _carry_over(target, staged)
        if tokenizer is not None:
            tokenizer.save(staged)
            (staged / GENERATION_CONFIG).unlink(missing_ok=True)
        _write_model(model, staged, _token_ids(target, tokenizer))
        if finish is not None:
            finish(staged)
    return Path(folder)


def carry_settings(source: Path | None) -> Callable[[Path], None]:
    """For `save`: what neither model nor tokenizer write comes from `source`, such as the tokens that end an answer."""

    def copy(folder: Path) -> None:
        for name in (GENERATION_CONFIG, CHAT_TEMPLATE):
            if source is not None and (source / name).is_file():
                shutil.copyfile(source / name, folder / name)

    return copy


def load_folder(folder: Path, device: str | torch.device = "cpu") -> Decoder:
    """The model in a model folder or Hugging Face folder, or in an adapter folder with its base: float32, eval mode.

    Raises ModelFolderError when a file is missing or damaged, or the model is of a kind we do not implement.
    """
    if is_adapter_folder(folder):
        base = base_of(folder)
        return load_adapter(load_folder(base, device), folder, base)
    decoder = read_weights(read_model_config(folder), folder)
    if scales_divide(Fields(read_json(folder / CONFIG), str(folder / CONFIG))):
        for module in decoder.modules():
            if isinstance(module, QuantizedLinear):
                module.take("weight_scale", module.get_buffer("weight_scale").float().reciprocal())
    return decoder.to(device).eval()


def read_model_config(folder: Path) -> ModelConfig:
    """The configuration of a model folder, without its weights.

    `smidgen.yaml` is complete where config.json is not (initialisation, cache mode, padding), so it is preferred; but
    the two must describe the same model, or transformers and Smidgen would answer differently.
    """
    if is_adapter_folder(folder):
        return read_model_config(base_of(folder))
    fields = Fields(read_json(folder / CONFIG), str(folder / CONFIG))
    config = read_config(fields)
    if not (folder / SECTION).is_file():
        return config
    section = load_model_config(folder / SECTION)
    theirs, ours = write_config(section), write_config(config)
    for name in theirs:
        if name != "initializer_range" and ours.get(name) != theirs[name]:
            raise ModelFolderError(
                f"{fields.where}: {name} = {json.dumps(ours.get(name))}: {SECTION} says {json.dumps(theirs[name])}; "
                f"make them agree, or delete {SECTION}"
            )
    return section


def check_target(folder: str | Path) -> None:
    """Raise ModelFolderError where no model folder can be written: over a file, or over files that are no model."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ModelFolderError(f"{folder}: is a file; name a folder to save the model in")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise ModelFolderError(f"{folder}: holds other files and no model; choose another folder")


def _carry_over(folder: Path, staged: Path) -> None:
    """Copy what is not the old model's own."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name in _REPLACED or entry.suffix == ".safetensors":
            continue
        if entry.is_dir():
            shutil.copytree(entry, staged / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, staged / entry.name)


def _write_model(model: Decoder, folder: Path, token_ids: Tree) -> None:
    config = model.config
    architecture = architecture_of(config)
    fields = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "dtype": "float32" if config.quantization is None else "bfloat16",
        **token_ids,
        **write_config(config),
    }
    _write_json(folder / CONFIG, fields)
    if not (folder / GENERATION_CONFIG).is_file():
        # Without a padding token transformers pads with the end token, and says so in every call.
        pad = token_ids["eos_token_id"] if token_ids["pad_token_id"] is None else token_ids["pad_token_id"]
        generation = {**token_ids, "pad_token_id": pad}
        _write_json(
            folder / GENERATION_CONFIG, {name: value for name, value in generation.items() if value is not None}
        )
    (folder / SECTION).write_text(dump_config(config), encoding="utf-8")
    write_weights(model, folder / WEIGHTS)
    if "auto_map" in fields:
        for name in REMOTE_FILES:
            source = resources.files("smidgen.folders") / "remote" / name
            (folder / name).write_bytes(source.read_bytes())


def _token_ids(folder: Path, tokenizer: Tokenizer | None) -> Tree:
    """Ids of the special tokens; null where there is none, for transformers' classes have defaults of their own."""
    if tokenizer is not None:
        return dict(zip(_TOKEN_IDS, (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id), strict=True))
    earlier = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return {name: earlier.get(name) for name in _TOKEN_IDS}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
