"""A run on several ranks in which one of them meets a NaN, then is asked to stop: `fault_worker.py RUN RESULT`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from smidgen.config import load_config
from smidgen.data import Batch as ArrayBatch
from smidgen.model import Decoder
from smidgen.runtime.protocols import Tokenizer
from smidgen.training import LanguageModeling, Loss, Observer, Task, TrainingData, train
from smidgen.training.objectives import Batch

LOOK_AT, NAN_AT, STOP_AT, LENGTH, VOCAB = 2, 3, 6, 16, 61


class Stream:
    per_epoch = 100

    def batch(self, start: int, count: int) -> ArrayBatch:
        rows = [np.random.default_rng(start + row).integers(0, VOCAB, LENGTH + 1) for row in range(count)]
        tokens = np.array(rows, dtype=np.int64)
        return ArrayBatch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), None, None)


class Faulty(LanguageModeling):
    """On the last rank, the loss of one step is no number, and in a later one a signal arrives."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1

    def loss(self, model: Decoder, batch: Batch) -> Loss:
        total, weight, figures = super().loss(model, batch)
        if not torch.is_grad_enabled() or not self.is_last:
            return total, weight, figures
        self.calls += 1
        if self.calls == STOP_AT:
            os.kill(os.getpid(), signal.SIGTERM)
        return (total * float("nan") if self.calls == NAN_AT else total), weight, figures


class Onlooker(Observer):
    """Looks at the model once, as a sampler of text does; a divided one must arrive whole."""

    def __init__(self) -> None:
        self.logits = torch.empty(0)

    def wants_model(self, step: int) -> bool:
        return step == LOOK_AT

    @torch.no_grad()
    def shown_model(self, step: int, model: Decoder, tokenizer: Tokenizer | None) -> None:
        self.logits = model(torch.arange(LENGTH)[None])


def main(run: str, result: str, shard: str) -> None:
    torch.set_num_threads(1)
    fields = {
        "model.vocab_size": VOCAB,
        "model.hidden_size": 32,
        "model.num_layers": 2,
        "model.max_seq_len": LENGTH,
        "model.attention.head_dim": 8,
        "model.feed_forward.intermediate_size": 64,
        "training.device": "cpu",
        "training.precision": "fp32",
        "training.max_steps": 50,
        "training.batch_size": 4,
        "training.log_every": 1,
        "training.ema_decay": 0.9,
        "training.parallel.shard": int(shard),
    }
    config = load_config("elite-tiny", fields)
    data = TrainingData(Stream(), None, "data", None, None)
    onlooker = Onlooker()
    summary = train(config, Task(Faulty(), data, lambda: Decoder(config.model).initialize(0), None), run, onlooker)
    assert onlooker.logits.numel() == (LENGTH * VOCAB if os.environ["RANK"] == "0" else 0)
    assert summary.checkpoint is not None
    answer = {"steps": summary.steps, "signal": summary.stopped_by, "checkpoint": summary.checkpoint.name}
    Path(f"{result}-{os.environ['RANK']}").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
