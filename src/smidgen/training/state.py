"""The part of a checkpoint beside the model: everything that makes the next step the same as without a stop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from smidgen.folders.parts import make_file, write_parts
from smidgen.model import Decoder
from smidgen.runtime.errors import ModelFolderError
from smidgen.training.guards import LossStatistics
from smidgen.training.optimizers import load_optimizer_tensors, optimizer_tensors
from smidgen.training.parallel import Parts, Ranks, own_parts, read_parts
from smidgen.training.randomness import GENERATORS, capture_randomness, restore_randomness

_OPTIMIZER, _RANDOM, _PRECISION = "optimizer.safetensors", "random.safetensors", "precision.safetensors"
_AVERAGING = "averaging.safetensors"
_TRAINER = "trainer.json"


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
    losses: LossStatistics = field(default_factory=LossStatistics)
    trackers: dict[str, str] = field(default_factory=dict)
    """What the trackers need to go on: the identity of the run at each service."""


@dataclass(frozen=True, slots=True)
class CapturedState:
    """A copy of everything in `state/`: it changes no more while training goes on."""

    optimizer: Parts
    precision: dict[str, Tensor]
    """What the precision remembers from step to step (FP8's amax histories)."""
    averaging: Parts
    """The training weights, where the model of the checkpoint is their average."""
    random: dict[str, Tensor]
    trainer: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Of the files that all ranks write together."""
        small = sum(t.nbytes for part in (self.precision, self.random) for t in part.values())
        return self.optimizer.nbytes + self.averaging.nbytes + small


def capture_state(
    state: TrainerState,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    precision: Mapping[str, Tensor],
    averaging: Mapping[str, Tensor],
    device: torch.device,
    ranks: Ranks,
) -> CapturedState:
    """Copy what this rank is to write of the state of a run to memory of its own. Every rank must call it."""
    generators = ranks.gather(capture_randomness(device))
    return CapturedState(
        optimizer=own_parts(optimizer_tensors(optimizer, model), ranks),
        precision=_copies(precision),
        averaging=own_parts(averaging, ranks),
        random={
            _of_rank(name, rank): tensor
            for rank, (tensors, _) in enumerate(generators)
            for name, tensor in _copies(tensors).items()
        },
        trainer={**asdict(state), "scaler": scaler.state_dict(), "random": [values for _, values in generators]},
    )


def make_state(folder: Path, captured: CapturedState) -> None:
    """Make the `state/` folder of a checkpoint, of safetensors and JSON: all but what `write_state` fills in."""
    folder.mkdir()
    save_file(captured.random, folder / _RANDOM)
    if captured.precision:
        save_file(captured.precision, folder / _PRECISION)
    for name, parts in _divisible(captured):
        make_file(folder / name, parts.whole)
    (folder / _TRAINER).write_text(json.dumps(captured.trainer, indent=1), encoding="utf-8")


def write_state(folder: Path, captured: CapturedState) -> None:
    """Write this rank's part of the `state/` folder that the main rank made."""
    for name, parts in _divisible(captured):
        write_parts(folder / name, parts.own)


def read_trainer_state(checkpoint: Path) -> TrainerState:
    """How far the run had come at a checkpoint."""
    tree = _read_tree(checkpoint)
    window, losses = Window(**tree.pop("window")), LossStatistics(**tree.pop("losses"))
    del tree["scaler"], tree["random"]
    return TrainerState(**tree, window=window, losses=losses)


def read_precision(checkpoint: Path) -> dict[str, Tensor]:
    """What the precision remembered at a checkpoint; empty where it remembers nothing."""
    path = checkpoint / "state" / _PRECISION
    return load_file(path) if path.exists() else {}


def read_averaging(checkpoint: Path, model: Decoder) -> dict[str, Tensor]:
    """The training weights of a checkpoint whose model is their average, divided as `model`'s; empty if it is not."""
    path = checkpoint / "state" / _AVERAGING
    return read_parts(path, dict(model.named_parameters()).get) if path.exists() else {}


def restore_state(
    checkpoint: Path,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
    ranks: Ranks,
) -> None:
    """Put the optimiser, the scaler and the random generators back to where they were at `checkpoint`.

    A rank that the checkpoint does not know keeps the generators that it was started with.
    """
    tree = _read_tree(checkpoint)
    parameters = dict(model.named_parameters())
    stored = read_parts(checkpoint / "state" / _OPTIMIZER, lambda name: parameters.get(name.rpartition(".")[0]))
    load_optimizer_tensors(optimizer, model, stored)
    # A run that changes to fp16 begins with a fresh scaler; one that leaves it has no use for the old one.
    if scaler.is_enabled() and tree["scaler"]:
        scaler.load_state_dict(tree["scaler"])
    if ranks.rank < len(tree["random"]):
        tensors = load_file(checkpoint / "state" / _RANDOM)
        own = {
            name: tensors[_of_rank(name, ranks.rank)] for name in GENERATORS if _of_rank(name, ranks.rank) in tensors
        }
        restore_randomness(device, own, tree["random"][ranks.rank])


def _divisible(captured: CapturedState) -> Iterator[tuple[str, Parts]]:
    """The files that hold parts of every rank."""
    yield _OPTIMIZER, captured.optimizer
    if captured.averaging.whole:
        yield _AVERAGING, captured.averaging


def _of_rank(name: str, rank: int) -> str:
    return f"{rank}.{name}"


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _read_tree(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "state" / _TRAINER
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path}: cannot be read: {error}") from None
