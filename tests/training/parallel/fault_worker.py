"""A run on several ranks in which one of them meets a NaN, then is asked to stop.

`fault_worker.py RUN RESULT SHARD TENSOR PRECISION FAULT`. FAULT once: one NaN in a loss, or in fp16 an infinity in
what one rank holds of one gradient. FAULT always: no loss of one rank is a number.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from smidgen.config import load_config
from smidgen.data import Batch as ArrayBatch
from smidgen.model import Decoder
from smidgen.runtime.errors import TrainingError
from smidgen.runtime.protocols import Tokenizer
from smidgen.training import LanguageModeling, Loss, Observer, Task, TrainingData, train
from smidgen.training.objectives import Batch
from smidgen.training.parallel.divided import Sharded
from smidgen.training.trainer import Trainer

LOOK_AT, NAN_AT, STOP_AT, LENGTH, VOCAB = 2, 3, 6, 16, 61


class Stream:
    per_epoch = 100

    def batch(self, start: int, count: int) -> ArrayBatch:
        rows = [np.random.default_rng(start + row).integers(0, VOCAB, LENGTH + 1) for row in range(count)]
        tokens = np.array(rows, dtype=np.int64)
        return ArrayBatch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), None, None)


class Faulty(LanguageModeling):
    """On the last rank, the loss of some steps is no number, and in a later one a signal arrives."""

    def __init__(self, nan_steps: Container[int], stop_at: int | None) -> None:
        self.calls, self.nan_steps, self.stop_at = 0, nan_steps, stop_at
        self.is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1

    def loss(self, model: Decoder, batch: Batch) -> Loss:
        total, weight, figures = super().loss(model, batch)
        if not torch.is_grad_enabled() or not self.is_last:
            return total, weight, figures
        self.calls += 1
        if self.calls == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return (total * float("nan") if self.calls in self.nan_steps else total), weight, figures


def break_gradient(at: int) -> None:
    """Let one element of a gradient that only the last rank holds overflow in step `at`."""
    calls = 0
    finish = Sharded.finish_gradients

    def broken(self: Sharded) -> None:
        nonlocal calls
        finish(self)
        calls += 1
        if calls == at and int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
            gradients = [p.grad for p in self._parameters() if isinstance(p.grad, DTensor)]
            gradient = next(g for g in gradients if g.placements[-1].is_shard())
            gradient.to_local().view(-1)[0] = float("inf")

    Sharded.finish_gradients = broken  # type: ignore[method-assign]


class Onlooker(Observer):
    """Looks at the model once, as a sampler of text does; a divided one must arrive whole."""

    def __init__(self) -> None:
        self.logits = torch.empty(0)

    def wants_model(self, step: int) -> bool:
        return step == LOOK_AT

    @torch.no_grad()
    def shown_model(self, step: int, model: Decoder, tokenizer: Tokenizer | None) -> None:
        self.logits = model(torch.arange(LENGTH)[None])


def main(run: str, result: str, shard: str, tensor: str, precision: str, fault: str) -> None:
    torch.set_num_threads(1)
    trainers: list[Trainer] = []
    init = Trainer.__init__

    def kept(trainer: Trainer, *arguments: Any) -> None:
        trainers.append(trainer)
        init(trainer, *arguments)

    Trainer.__init__ = kept  # type: ignore[method-assign]
    if precision == "fp16":
        break_gradient(NAN_AT)
    fields = {
        "model.vocab_size": VOCAB,
        "model.vocab_padding_multiple": 2,
        "model.hidden_size": 32,
        "model.num_layers": 2,
        "model.max_seq_len": LENGTH,
        "model.attention.head_dim": 8,
        "model.feed_forward.intermediate_size": 64,
        "training.device": "cpu",
        "training.precision": precision,
        "training.max_steps": 50,
        "training.batch_size": 4,
        "training.log_every": 1,
        "training.ema_decay": 0.9,
        "training.parallel.shard": int(shard),
        "training.parallel.tensor": int(tensor),
    }
    config = load_config("elite-tiny", fields)
    data = TrainingData(Stream(), None, "data", None, None)
    own_result = Path(f"{result}-{os.environ['RANK']}")
    if fault == "always":
        objective = Faulty(range(1, 100), None)
        try:
            train(config, Task(objective, data, lambda: Decoder(config.model).initialize(0), None), run)
        except TrainingError as error:
            own_result.write_text(str(error))
        return
    objective = Faulty((NAN_AT,) if precision != "fp16" else (), STOP_AT)
    onlooker = Onlooker()
    summary = train(config, Task(objective, data, lambda: Decoder(config.model).initialize(0), None), run, onlooker)
    assert onlooker.logits.numel() == (LENGTH * VOCAB if os.environ["RANK"] == "0" else 0)
    assert summary.checkpoint is not None
    scale = trainers[0].scaler.get_scale()
    answer = {
        "steps": summary.steps,
        "signal": summary.stopped_by,
        "checkpoint": summary.checkpoint.name,
        "scale": scale,
    }
    own_result.write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
