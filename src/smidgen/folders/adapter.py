"""Adapter folders in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`, which name their base."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from smidgen.config import Lora, validate
from smidgen.folders.atomic import new_folder
from smidgen.folders.resolve import ADAPTER_CONFIG, resolve
from smidgen.folders.weights import TensorFile, write_tensors
from smidgen.model import Decoder
from smidgen.model.lora import Adapter, adapter_tensors, adapters, attach, is_projection
from smidgen.runtime.errors import ConfigError, ModelFolderError
from smidgen.runtime.fields import Fields, read_json
from smidgen.runtime.protocols import Tokenizer

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_DIGEST = "base_sha256"
_BESIDE = ("generation_config.json", "chat_template.jinja")
"""Files that say how a model is used: an adapter folder has its base's."""

_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "use_dora": (False,),
    "use_qalora": (False,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "corda_config": (None,),
    "alora_invocation_tokens": (None,),
}
"""Fields of PEFT that make an adapter more than `scale · B A`, with the values under which it is just that."""


def is_adapter_folder(folder: Path) -> bool:
    """Whether `folder` holds an adapter that PEFT or Smidgen wrote."""
    return (folder / ADAPTER_CONFIG).is_file()


def base_of(folder: Path) -> Path:
    """The model folder that an adapter folder was trained on. Raises ModelFolderError where it cannot be found."""
    where = folder / ADAPTER_CONFIG
    named = read_json(where).get("base_model_name_or_path")
    remedy = "write the path of the model that the adapter was trained on"
    if not isinstance(named, str) or not named:
        raise ModelFolderError(f"{where}: base_model_name_or_path = {json.dumps(named)}: {remedy}")
    for path in (Path(named), folder / named):
        if path.is_dir():
            base = resolve(path).folder
            assert base is not None
            if is_adapter_folder(base):
                raise ModelFolderError(
                    f"{where}: base_model_name_or_path = {named}: is an adapter itself; "
                    "merge that first with 'smidgen merge --lora'"
                )
            return base
    raise ModelFolderError(f"{where}: base_model_name_or_path = {named}: no such folder; {remedy}")


def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) over the weight files of a model folder, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def save_adapter(
    model: Decoder,
    folder: Path,
    tokenizer: Tokenizer | None,
    finish: Callable[[Path], object] | None = None,
) -> None:
    """Write the adapters of `model` as a folder that `peft.PeftModel.from_pretrained` loads onto the base.

    Weights are float32. The folder appears whole or not at all; `finish` is called with it before. Raises
    ModelFolderError where it holds something else.
    """
    assert model.adapter is not None
    target = folder.resolve()
    if target.exists() and not target.is_dir():
        raise ModelFolderError(f"{target}: is a file; name a folder to save the adapter in")
    if target.is_dir() and any(target.iterdir()) and not is_adapter_folder(target):
        raise ModelFolderError(f"{target}: holds other files and no adapter; choose another folder")
    adapter = model.adapter
    with new_folder(target) as staged:
        if tokenizer is not None:
            tokenizer.save(staged)
        for name in _BESIDE:
            if adapter.base is not None and (adapter.base / name).is_file() and not (staged / name).exists():
                shutil.copy2(adapter.base / name, staged / name)
        fields = _fields(adapter, [name for name, _ in adapters(model)], _projections(model))
        (staged / ADAPTER_CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        tensors = {
            _PREFIX + name: weight.detach().float().contiguous().cpu()
            for name, weight in adapter_tensors(model).items()
        }
        metadata = {"format": "pt"}
        if adapter.base_digest is not None:
            metadata[_DIGEST] = adapter.base_digest
        write_tensors(tensors, staged / ADAPTER_WEIGHTS, metadata)
        if finish is not None:
            finish(staged)


@torch.no_grad()
def load_adapter(model: Decoder, folder: Path, base: Path | None = None) -> Decoder:
    """Put the adapters of a folder on `model`, its base, in place: frozen but for them, in the mode that it is in.

    `base` is the folder that `model` was loaded from; where the adapter knows the digest of its base, that must fit.
    Raises ModelFolderError for kinds of adapters that Smidgen does not implement, and for damaged files.
    """
    fields = Fields(read_json(folder / ADAPTER_CONFIG), str(folder / ADAPTER_CONFIG))
    settings = _settings(fields)
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise ModelFolderError(f"{path}: missing: the adapter's weights; copy the folder again")
    with ExitStack() as stack:
        file = TensorFile(path, stack)
        known = (file.handle.metadata() or {}).get(_DIGEST)
        if base is not None and known is not None and weights_digest(base) != known:
            raise ModelFolderError(
                f"{folder}: was trained on other weights than those of {base} now; put the base model back"
            )
        tensors = {_short(name, path): file.read(name) for name in file.names}
    names = {name.rpartition(".lora_")[0] for name in tensors}
    projections = _projections(model)
    strange = sorted(names - set(projections))
    if strange:
        raise ModelFolderError(
            f"{path}: adapter of '{strange[0]}': Smidgen puts adapters on projections of attention and feed-forward "
            "only, and the base has no such one; merge it with PEFT and take the merged model"
        )
    attach(model, [name for name in projections if name in names], Adapter(settings, base, known))
    for name, weight in adapter_tensors(model).items():
        if name not in tensors:
            raise ModelFolderError(f"{path}: tensor '{_PREFIX}{name}' is missing; copy the folder again")
        if tensors[name].shape != weight.shape:
            raise ModelFolderError(
                f"{path}: tensor '{_PREFIX}{name}' has shape {list(tensors[name].shape)}, "
                f"base and rank ask for {list(weight.shape)}; it belongs to another base"
            )
        weight.copy_(tensors[name])
    return model


def name_base(model: Decoder, base: Path) -> Decoder:
    """Record that the frozen weights of `model` are those of the folder `base`."""
    assert model.adapter is not None
    path = base.resolve()
    model.adapter = replace(model.adapter, base=path, base_digest=weights_digest(path))
    return model


def _settings(fields: Fields) -> Lora:
    fields.must_be("peft_type", ("LORA",), "Smidgen implements LoRA; use an adapter of that kind")
    remedy = "Smidgen implements plain LoRA; merge the adapter with PEFT and take the merged model"
    for name, values in _PLAIN.items():
        if name in fields:
            fields.must_be(name, values, remedy)
    targets = fields.values.get("target_modules")
    tree = {
        "rank": fields.values.get("r"),
        "alpha": fields.values.get("lora_alpha"),
        "dropout": fields.values.get("lora_dropout", 0.0),
        "rslora": fields.values.get("use_rslora", False),
        "targets": sorted(targets) if isinstance(targets, list) and targets else ["all"],
    }
    for name in ("alpha", "dropout"):
        if isinstance(tree[name], int):
            tree[name] = float(tree[name])
    try:
        return validate(Lora, tree)
    except ConfigError as error:
        raise ModelFolderError(f"{fields.where}: {error}") from None


def _fields(adapter: Adapter, names: list[str], projections: list[str]) -> dict[str, Any]:
    """The fields of adapter_config.json."""
    settings = adapter.settings
    suffixes = sorted({name.rpartition(".")[2] for name in names})
    reached = [name for name in projections if name.rpartition(".")[2] in suffixes]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None if adapter.base is None else str(adapter.base),
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "target_modules": suffixes if reached == names else names,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _projections(model: Decoder) -> list[str]:
    """Names of all projections, with or without an adapter, in the model's order."""
    wrapped = {name for name, _ in adapters(model)}
    return [
        name
        for name, module in model.named_modules()
        if name in wrapped or (is_projection(module) and name.removesuffix(".base_layer") not in wrapped)
    ]


def _short(name: str, path: Path) -> str:
    short = name.removeprefix(_PREFIX)
    if short == name or not short.endswith((".lora_A.weight", ".lora_B.weight")):
        raise ModelFolderError(
            f"{path}: tensor '{name}': not plain LoRA on projections; merge the adapter with PEFT and take the result"
        )
    return short
