"""What a training is about: all that differs between pretraining and any tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from smidgen.model import Decoder
from smidgen.runtime.protocols import Tokenizer
from smidgen.training.data import TrainingData
from smidgen.training.objectives import Objective


@dataclass(frozen=True, slots=True)
class Task:
    """What a training is about: all that differs between pretraining and any tuning."""

    objective: Objective
    data: TrainingData
    starting_model: Callable[[], Decoder]
    """Makes the model that a new run begins with; a resumed run loads its own."""
    tokenizer: Tokenizer | None
    """Written into every checkpoint, so that it is a complete model folder."""
