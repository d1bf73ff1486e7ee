"""Where a run begins or goes on, and how far it is to go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from smidgen.config import Config, load_config
from smidgen.folders.run import RunFolder
from smidgen.runtime.errors import ConfigError, TrainingError
from smidgen.training.data import TrainingData
from smidgen.training.resume import Changes, changed_fields
from smidgen.training.state import TrainerState, read_trainer_state


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run stands when this process takes it up."""

    state: TrainerState
    checkpoint: Path | None
    """The checkpoint to go on from; None for a new run."""
    changes: Changes
    """Fields that the new configuration changes."""


def count_steps(config: Config, sequences_per_epoch: int) -> int:
    """Optimiser steps of the training; epochs are rounded up to whole steps. Raises ConfigError for none, or for fewer
    than those of the decay."""
    training = config.training
    if training.max_steps is not None:
        return training.max_steps
    if training.epochs is None:
        raise ConfigError("training.max_steps = null: nothing says when to stop; set it, or training.epochs")
    steps = math.ceil(
        training.epochs * sequences_per_epoch / (training.batch_size * training.gradient_accumulation_steps)
    )
    decay_steps = training.schedule.decay_steps
    if decay_steps is not None and decay_steps > steps:
        raise ConfigError(
            f"training.schedule.decay_steps = {decay_steps}: exceeds the {steps} steps of training.epochs"
            f" {training.epochs:g}; shorten it, or use training.schedule.decay_fraction"
        )
    return steps


def find_origin(config: Config, data: TrainingData, run: RunFolder) -> Origin:
    """The checkpoint that a run goes on from, after checking that data and configuration still fit it."""
    checkpoint = run.resume_point()
    if checkpoint is None:
        return Origin(TrainerState(data.fingerprint), None, {})
    changes = changed_fields(load_config(run.config_path), config)
    state = read_trainer_state(checkpoint)
    if state.data_fingerprint != data.fingerprint:
        raise TrainingError(
            f"{_named(config)}: not the data that {run.path} was trained on; name that or another --run"
        )
    return Origin(state, checkpoint, changes)


def _named(config: Config) -> str:
    data = config.data
    return f"data.path = {data.path}" if data.mixture is None else f"data.mixture = {dict(data.mixture)}"
