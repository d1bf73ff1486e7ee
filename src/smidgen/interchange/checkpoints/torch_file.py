"""Opening a `.pt` file: tensors and plain values only, every size checked against the file."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smidgen.runtime.errors import InterchangeError

_WEIGHTS = ("model", "model_state_dict", "state_dict")
_SETTINGS = ("model_args", "config", "model_config", "args", "hyper_parameters")
_WRAPPERS = ("_orig_mod.", "module.")
"""What torch.compile and data parallelism put in front of every name."""
_MAX_PICKLE = 1 << 26


@dataclass(frozen=True)
class TorchCheckpoint:
    """The model part of a checkpoint."""

    path: Path
    weights: dict[str, Tensor]
    settings: Mapping[str, Any]
    """The model's configuration where the file has one; empty otherwise."""


def open_checkpoint(path: Path) -> TorchCheckpoint:
    """The weights and configuration in a `.pt` file. Raises InterchangeError in one line for anything else."""
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0]
        raise InterchangeError(
            f"{path}: holds more than tensors and plain values, which Smidgen does not unpickle ({reason[:120]}); save "
            "the model's state_dict and a dict of its settings"
        ) from None
    except Exception as error:
        raise InterchangeError(f"{path}: is damaged: {' '.join(str(error).split())[:160]}; copy it again") from None
    if not isinstance(content, Mapping):
        raise InterchangeError(f"{path}: holds a {type(content).__name__}; a dict with the model's weights is needed")
    weights = next((content[name] for name in _WEIGHTS if isinstance(content.get(name), Mapping)), content)
    settings: Mapping[str, Any] = next(
        (content[name] for name in _SETTINGS if isinstance(content.get(name), Mapping)), {}
    )
    return TorchCheckpoint(path, _tensors(path, weights), settings)


def _check_archive(path: Path) -> None:
    """A `.pt` file is a zip archive of uncompressed entries: what it says to hold must lie in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except OSError as error:
        raise InterchangeError(f"{path}: cannot be read: {error.strerror}") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InterchangeError(
            f"{path}: is no checkpoint that torch.save of PyTorch 1.6 or later wrote ({error}); save it again"
        ) from None
    size = path.stat().st_size
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
    if not pickles or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise InterchangeError(f"{path}: is a zip archive, but no checkpoint that torch.save wrote")
    if sum(entry.file_size for entry in entries) > size or pickles[0].file_size > _MAX_PICKLE:
        raise InterchangeError(f"{path}: declares more than it holds; copy it again")


def _tensors(path: Path, weights: Mapping[Any, Any]) -> dict[str, Tensor]:
    found = {}
    for name, value in weights.items():
        # TransformerEngine keeps the state of its FP8 scales beside the weights.
        if not isinstance(name, str) or name.endswith("_extra_state") or not isinstance(value, Tensor):
            continue
        while name.startswith(_WRAPPERS):
            name = name.removeprefix("_orig_mod.").removeprefix("module.")
        if value.layout != torch.strided or value.device.type != "cpu":
            raise InterchangeError(f"{path}: tensor {name!r} is sparse or has no values; save the model's own weights")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InterchangeError(f"{path}: tensor {name!r} is larger than its storage; copy the file again")
        found[name] = value
    if not found:
        raise InterchangeError(f"{path}: holds no weights; name a checkpoint with a model's state_dict")
    return found
