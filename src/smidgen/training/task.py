"""What a training is about: all that differs between pretraining and any tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from smidgen.model import Decoder
from smidgen.runtime.protocols import Tokenizer
from smidgen.training.data import TrainingData
from smidgen.training.objectives import Objective


class ModelStorage(Protocol):
    """How checkpoints hold the model."""

    def save(self, model: Decoder, folder: Path, tokenizer: Tokenizer | None) -> object:
        """Write the model as a folder that a MODEL argument may name."""

    def load(self, folder: Path) -> Decoder:
        """The model of such a folder, with the same parameters under the same names."""


class WholeModel:
    """A model folder that holds every weight."""

    def save(self, model: Decoder, folder: Path, tokenizer: Tokenizer | None) -> object:
        from smidgen.folders import save

        return save(model, folder, tokenizer)

    def load(self, folder: Path) -> Decoder:
        from smidgen.folders import load

        return load(folder)


@dataclass(frozen=True, slots=True)
class Task:
    """What a training is about: all that differs between pretraining and any tuning."""

    objective: Objective
    data: TrainingData
    starting_model: Callable[[], Decoder]
    """Makes the model that a new run begins with; a resumed run loads its own."""
    tokenizer: Tokenizer | None
    """Written into every checkpoint, so that it is a complete model folder."""
    storage: ModelStorage = WholeModel()  # noqa: RUF009 (it holds nothing)
    """Writes and reads the model of a checkpoint."""
    seed: int | None = None
    """Where a new run begins with random weights, their seed: ranks that divide the model need not make the whole."""
