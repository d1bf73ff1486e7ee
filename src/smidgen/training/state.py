"""The part of a checkpoint beside the model: everything that makes the next step the same as without a stop."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from smidgen.model import Decoder
from smidgen.runtime.errors import ModelFolderError
from smidgen.training.optimizers import load_optimizer_tensors, optimizer_tensors
from smidgen.training.randomness import capture_randomness, restore_randomness


@dataclass(slots=True)
class Window:
    """What happened since the last line of metrics.jsonl."""

    steps: list[dict[str, float]] = field(default_factory=list)
    """Of each step: summed loss, weight, gradient norm, and the objective's own sums."""
    tokens: int = 0
    seconds: float = 0.0
    """Time of the training steps alone, without evaluations and checkpoints."""


@dataclass(slots=True)
class TrainerState:
    """How far a run has come."""

    data_fingerprint: str
    step: int = 0
    """Optimiser steps taken."""
    cursor: int = 0
    """Sequences consumed: the number of the next one."""
    tokens: int = 0
    """Tokens fed to the model."""
    seconds: float = 0.0
    """Time that all processes of the run spent together."""
    window: Window = field(default_factory=Window)


def save_state(
    folder: Path,
    state: TrainerState,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> None:
    """Write the `state/` folder of a checkpoint: safetensors and JSON."""
    folder.mkdir()
    tensors, values = capture_randomness(device)
    save_file(optimizer_tensors(optimizer, model), folder / "optimizer.safetensors")
    save_file(tensors, folder / "random.safetensors")
    tree = {**asdict(state), "scaler": scaler.state_dict(), "random": values}
    (folder / "trainer.json").write_text(json.dumps(tree, indent=1), encoding="utf-8")


def read_trainer_state(checkpoint: Path) -> TrainerState:
    """How far the run had come at a checkpoint."""
    tree = _read_tree(checkpoint)
    window = Window(**tree.pop("window"))
    del tree["scaler"], tree["random"]
    return TrainerState(**tree, window=window)


def restore_state(
    checkpoint: Path,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> None:
    """Put the optimiser, the scaler and the random generators back to where they were at `checkpoint`."""
    tree = _read_tree(checkpoint)
    load_optimizer_tensors(optimizer, model, load_file(checkpoint / "state" / "optimizer.safetensors"))
    # A run that changes to fp16 begins with a fresh scaler; one that leaves it has no use for the old one.
    if scaler.is_enabled() and tree["scaler"]:
        scaler.load_state_dict(tree["scaler"])
    restore_randomness(device, load_file(checkpoint / "state" / "random.safetensors"), tree["random"])


def _read_tree(checkpoint: Path) -> dict:
    path = checkpoint / "state" / "trainer.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path}: cannot be read: {error}") from None
