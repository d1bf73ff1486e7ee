"""Optimisers, averages and checkpointing within the loop: resumed runs, and which weights a checkpoint holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from smidgen.config import Config
from smidgen.folders import load
from smidgen.training.evaluate import evaluate
from smidgen.training.loop import train
from smidgen.training.task import Task

MakeConfig = Callable[..., Config]
MakeTask = Callable[..., Task]

SCHEDULE_FREE = {
    "optimizer": {"kind": "schedule_free_adamw"},
    "schedule": {"kind": "constant", "warmup_steps": 3},
}
CASES = {
    "lion": {"optimizer": {"kind": "lion"}, "lr": 1e-3},
    "schedule_free": SCHEDULE_FREE,
    "average": {"ema_decay": 0.8, "schedule": {"kind": "wsd", "decay_steps": 4}},
    "muon_checkpointed": {
        "ema_decay": 0.9,
        "optimizer": {"kind": "muon"},
        "activation_checkpointing": "selective",
        "dropout": 0.3,
    },
}


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    files = sorted(checkpoint.rglob("*.safetensors"))
    assert len(files) >= 3
    return {f"{file.name}:{name}": tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("fields", CASES.values(), ids=list(CASES))
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    make_config: MakeConfig, make_task: MakeTask, stop_at: type[Any], tmp_path: Path, fields: dict[str, Any]
) -> None:
    config = make_config(**fields)
    task = make_task(config)
    train(config, task, tmp_path / "whole")
    assert train(config, task, tmp_path / "parts", stop_at(6)).steps == 6
    assert train(config, task, tmp_path / "parts").steps == 12
    whole, parts = (tensors(tmp_path / name / "last") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("fields", [SCHEDULE_FREE, {"ema_decay": 0.8}], ids=["schedule_free", "average"])
def test_the_saved_model_is_the_average_that_was_evaluated(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path, fields: dict[str, Any]
) -> None:
    config = make_config(**fields)
    task = make_task(config)
    train(config, task, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in reversed(lines) if line["kind"] == "validation")
    model = load(tmp_path / "run" / "last" / "model")
    assert task.data.validation is not None
    measured = evaluate(model, task.objective, task.data.validation, 4, torch.device("cpu"))
    assert measured is not None
    assert measured.loss == pytest.approx(logged["loss"], rel=1e-5)


def test_a_run_that_stops_averaging_goes_on_from_its_training_weights(
    make_config: MakeConfig, make_task: MakeTask, stop_at: type[Any], tmp_path: Path
) -> None:
    averaged, plain = make_config(ema_decay=0.9), make_config()
    train(plain, make_task(plain), tmp_path / "plain")
    train(averaged, make_task(averaged), tmp_path / "run", stop_at(6))
    train(plain, make_task(plain), tmp_path / "run")
    whole, parts = (load_file(tmp_path / name / "last/model/model.safetensors") for name in ("plain", "run"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
