"""Distillation as a training: exact resume, what it refuses, and texts that a teacher writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.runtime.errors import ConfigError
from smidgen.training.base import load_training_config
from smidgen.training.objectives import Batch
from smidgen.training.observer import Observer, Snapshot
from smidgen.training.pretraining import pretrain
from smidgen.tuning.distillation import DistillationObjective, Mixture, distill


class StopAt(Observer):
    """Interrupts the training after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, snapshot: Snapshot) -> None:
        if snapshot.step == self.step:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)


def teaching(base: Path, fields: dict[str, Any]) -> dict[str, Any]:
    fields = {**fields, "tuning.objective.kind": "distillation", "tuning.objective.teacher": str(base)}
    return fields | {"model.num_layers": 1, "model.hidden_size": 32, "model.attention.head_dim": 8}


def test_a_student_stops_and_goes_on_to_the_bit(base: Path, fields: dict[str, Any], tmp_path: Path) -> None:
    config = load_training_config("elite-tiny", teaching(base, fields))
    distill(config, tmp_path / "whole")
    distill(config, tmp_path / "parts", StopAt(3))
    distill(load_training_config(tmp_path / "parts"), tmp_path / "parts")
    whole, parts = smidgen.load(tmp_path / "whole" / "last"), smidgen.load(tmp_path / "parts" / "last")
    for ours, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["divergence"] >= 0 for line in lines if line["kind"] == "train")
    with pytest.raises(ConfigError, match="is the business of 'smidgen distill'"):
        pretrain(config, tmp_path / "other")


def test_the_loss_is_that_of_whole_logits(base: Path) -> None:
    teacher, student = smidgen.load(base), smidgen.load(base)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(0.9)
    ids = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids[:, :-1], ids[:, 1:])
    total, weight, _ = DistillationObjective(teacher, Mixture("forward_kl", 1.0, 0.0)).loss(student.train(), batch)
    p, q = student(batch.input_ids).log_softmax(-1), teacher(batch.input_ids).log_softmax(-1)
    expected = torch.nn.functional.kl_div(p, q, reduction="sum", log_target=True)
    torch.testing.assert_close(total, expected, atol=1e-4, rtol=1e-4)
    assert int(weight) == 16
    # An evaluation measures what any training's does.
    evaluated, _, _ = DistillationObjective(teacher, Mixture()).loss(student.eval(), batch)
    plain = torch.nn.functional.cross_entropy(p.flatten(0, 1), batch.labels.flatten(), reduction="sum")
    torch.testing.assert_close(evaluated, plain)


def test_a_teacher_of_another_tokenizer_is_refused(base: Path, fields: dict[str, Any], tmp_path: Path) -> None:
    from smidgen.tokenization import train_tokenizer

    other = train_tokenizer("byte_bpe", ["quite another text"] * 9, 270)
    smidgen.save(smidgen.load(base), tmp_path / "stranger", other)
    config = load_training_config("elite-tiny", teaching(tmp_path / "stranger", fields))
    with pytest.raises(ConfigError, match="has another tokenizer than"):
        distill(config, tmp_path / "run")
