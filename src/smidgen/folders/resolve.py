"""What a MODEL argument means: a preset, a model folder, a checkpoint, or a run folder."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from smidgen.config import preset_names
from smidgen.folders.run import best_checkpoint, is_run_folder, verify_checkpoint
from smidgen.runtime.errors import ModelFolderError

ADAPTER_CONFIG = "adapter_config.json"
"""What an adapter folder in PEFT's format has in place of config.json."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from: one of the two is set."""

    preset: str | None = None
    """Name of a preset: random weights."""
    folder: Path | None = None
    """A model folder, with config.json and weights; or an adapter folder, which names the model folder it adds to."""


def resolve(model: str | Path) -> ModelSource:
    """What `model` names: a preset, or the model folder of a folder, checkpoint or run (its best, else its last).

    Raises ModelFolderError saying what is missing there, with the nearest name where nothing has this one.
    """
    if str(model) in preset_names():
        return ModelSource(preset=str(model))
    path = Path(model)
    if path.is_file():
        raise ModelFolderError(f"{path}: is a file; name the folder of the model")
    if not path.is_dir():
        raise ModelFolderError(f"{model}: neither a preset nor a folder; {_suggestion(model)}")
    if (path / ADAPTER_CONFIG).is_file() or (path / "config.json").is_file():
        return ModelSource(folder=path)
    if (path / "manifest.json").is_file():
        verify_checkpoint(path, part="model/")
        return ModelSource(folder=path / "model")
    if is_run_folder(path):
        checkpoint = best_checkpoint(path)
        if checkpoint is None:
            raise ModelFolderError(f"{path}: this run has no finished checkpoint yet; train until it writes one")
        return ModelSource(folder=checkpoint / "model")
    if (path / "dataset.json").is_file():
        raise ModelFolderError(f"{path}: is a dataset; name a model, or train one with 'smidgen pretrain'")
    raise ModelFolderError(f"{path}: holds no model: config.json is missing; name a model, checkpoint or run folder")


def _suggestion(model: str | Path) -> str:
    path = Path(model)
    parent = path.parent
    beside = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    near = difflib.get_close_matches(str(model), preset_names(), n=1)
    near = near or [str(parent / name) for name in difflib.get_close_matches(path.name, beside, n=1)]
    if near:
        return f"did you mean '{near[0]}'?"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)) and not parent.is_dir():
        return "Smidgen reads local folders: download the model first"
    return "'smidgen presets' lists the presets"
