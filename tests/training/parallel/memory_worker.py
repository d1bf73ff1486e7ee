"""A sharded run of a model of 20 million parameters: how much memory saving takes of each rank, and starting again.

`memory_worker.py RUN RESULT STEPS`, once a rank.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # what sharding would load while memory is measured

from smidgen.config import load_config
from smidgen.data import Batch as ArrayBatch
from smidgen.model import Decoder, count_parameters
from smidgen.training import LanguageModeling, Task, TrainingData, train
from smidgen.training.trainer import Trainer

VOCAB, LENGTH = 8192, 8
FIELDS: dict[str, Any] = {
    "model.vocab_size": VOCAB,
    "model.hidden_size": 512,
    "model.num_layers": 6,
    "model.max_seq_len": LENGTH,
    "model.attention.head_dim": 64,
    "model.attention.num_heads": 8,
    "model.attention.num_kv_heads": 4,
    "model.feed_forward.intermediate_size": 1280,
    "training.device": "cpu",
    "training.precision": "fp32",
    "training.batch_size": 2,
    "training.dropout": 0.0,
    "training.log_every": 1,
    "training.ema_decay": 0.9,
    "training.parallel.shard": 2,
}


class Stream:
    per_epoch = 100

    def batch(self, start: int, count: int) -> ArrayBatch:
        rows = [np.random.default_rng(start + row).integers(0, VOCAB, LENGTH + 1) for row in range(count)]
        tokens = np.array(rows, dtype=np.int64)
        return ArrayBatch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), None, None)


class Gauge:
    """The growth of this process's own memory while a function runs, by samples."""

    def __init__(self) -> None:
        self.before = self.highest = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def start(self) -> None:
        self.before = self.highest = resident()
        self._thread.start()

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self.highest - self.before

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.highest = max(self.highest, resident())


def resident() -> int:
    """Bytes of this process's memory that are no pages of files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


def main(run: str, result: str, steps: str) -> None:
    torch.set_num_threads(1)
    config = load_config("elite-tiny", {**FIELDS, "training.max_steps": int(steps)})
    data = TrainingData(Stream(), None, "data", None, None)
    saving, starting = Gauge(), Gauge()
    save, start = Trainer._save, Trainer.__init__

    def gauged_save(trainer: Trainer, validation_loss: float | None) -> None:
        saving.start()
        save(trainer, validation_loss)

    def gauged_start(trainer: Trainer, *arguments: Any) -> None:
        starting.start()
        start(trainer, *arguments)
        figures["starting"] = starting.stop()

    figures: dict[str, int] = {"weights": 4 * count_parameters(config.model)}
    Trainer._save, Trainer.__init__ = gauged_save, gauged_start  # type: ignore[method-assign]
    task = Task(LanguageModeling(), data, lambda: Decoder(config.model).initialize(0), None, seed=0)
    train(config, task, run)
    figures["saving"] = saving.stop()
    Path(f"{result}-{os.environ['RANK']}").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
