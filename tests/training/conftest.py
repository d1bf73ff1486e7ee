"""A tiny decoder, a stream of synthetic sequences, and observers that stop a run where a test wants."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from smidgen.config import Config, load_config
from smidgen.data import Batch
from smidgen.model import Decoder
from smidgen.training.data import TrainingData
from smidgen.training.objectives import LanguageModeling, Objective
from smidgen.training.observer import Observer, Snapshot
from smidgen.training.task import Task

VOCAB = 61
LENGTH = 24


@dataclass
class Stream:
    """Sequences in which each token decides the next, with ragged labels; only the first token is random."""

    per_epoch: int = 20
    seed: int = 0

    def batch(self, start: int, count: int) -> Batch:
        rows = []
        for number in range(start, start + count):
            random = np.random.default_rng([self.seed, number % self.per_epoch, number // self.per_epoch])
            row = [int(random.integers(0, VOCAB))]
            while len(row) <= LENGTH:
                row.append((row[-1] * 5 + 3) % VOCAB)
            rows.append(row)
        tokens = np.array(rows, dtype=np.int64)
        labels = tokens[:, 1:].copy()
        for row, number in enumerate(range(start, start + count)):
            labels[row, : number % 7] = -100
        return Batch(np.ascontiguousarray(tokens[:, :-1]), labels, None, None)


class StopAt(Observer):
    """Sends this process a signal when a step is reached."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step = step
        self.number = number

    def stepped(self, snapshot: Snapshot) -> None:
        if snapshot.step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def make_config() -> Callable[..., Config]:
    def make(**overrides: Any) -> Config:
        """A configuration of a decoder with a few thousand parameters; overrides are fields of `training`."""
        fields = {
            "model.vocab_size": VOCAB,
            "model.hidden_size": 32,
            "model.num_layers": 2,
            "model.max_seq_len": LENGTH,
            "model.attention.num_heads": 4,
            "model.attention.head_dim": 8,
            "model.feed_forward.intermediate_size": 64,
            "training.device": "cpu",
            "training.precision": "fp32",
            "training.max_steps": 12,
            "training.batch_size": 4,
            "training.lr": 1e-2,
            "training.dropout": 0.0,
            "training.optimizer.weight_decay": 0.1,
            "training.schedule.warmup_steps": 2,
            "training.log_every": 1,
            "training.eval_every": 4,
            "training.checkpoint_every": 4,
        }
        named = {name.replace("__", "."): value for name, value in overrides.items()}
        fields |= {name if name.startswith(("model.", "data.")) else f"training.{name}": v for name, v in named.items()}
        return load_config("elite-tiny", fields)

    return make


@pytest.fixture
def make_task() -> Callable[..., Task]:
    def make(
        config: Config,
        objective: Objective | None = None,
        validation: bool = True,
        fingerprint: str = "data",
        model: Decoder | None = None,
        per_epoch: int = 20,
    ) -> Task:
        data = TrainingData(
            train=Stream(per_epoch=per_epoch),
            validation=Stream(per_epoch=6, seed=1) if validation else None,
            fingerprint=fingerprint,
            train_bytes_per_token=4.0,
            validation_bytes_per_token=4.0,
        )
        return Task(
            objective or LanguageModeling(),
            data,
            lambda: model or Decoder(config.model).initialize(config.training.seed),
            None,
        )

    return make


@pytest.fixture
def stop_at() -> type[StopAt]:
    return StopAt
