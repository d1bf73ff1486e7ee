"""What a MODEL argument means where there is no PyTorch: the folder with the weights."""

from __future__ import annotations

from pathlib import Path

from smidgen.runtime.errors import ModelFolderError

_INSIDE = ("", "model", "best/model", "last/model")


def stored_model(model: str | Path) -> Path:
    """The model folder of a folder, checkpoint or run (its best, else its last). Raises ModelFolderError."""
    path = Path(model)
    for folder in (path / inside for inside in _INSIDE):
        if (folder / "config.json").is_file():
            return folder
        if (folder / "adapter_config.json").is_file():
            raise ModelFolderError(
                f"{folder}: an adapter, which runs without PyTorch only as one model with its base: "
                f"smidgen merge --lora {model} --out DIR"
            )
    what = "no such folder" if not path.is_dir() else "no model folder, checkpoint or run: config.json is missing"
    raise ModelFolderError(f"{path}: {what}; name a model folder, checkpoint or run for the edge engine")
