"""Adapters under every objective, on frozen bases of floats, int8 and int4: a stopped training goes on to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.cli.main import main
from smidgen.config import Quantization
from smidgen.model.lora import adapter_tensors
from smidgen.quantization import quantize
from smidgen.training.base import load_training_config
from smidgen.training.pretraining import pretrain
from smidgen.tuning.distillation import distill
from smidgen.tuning.run import tune

from .test_distillation import StopAt
from .test_run import configured, folder  # noqa: F401  (a fixture)

LORA = {"tuning.lora.rank": 2, "tuning.lora.dropout": 0.1, "training.lr": 0.02}


def assert_resumes(train: Callable[..., Any], config: Any, tmp_path: Path, base: Path) -> None:
    """Whole and in two parts, the adapters are equal and no longer zero, and the rest is the base's."""
    train(config, tmp_path / "whole")
    assert train(config, tmp_path / "parts", StopAt(3)).steps == 3
    assert train(load_training_config(tmp_path / "parts"), tmp_path / "parts").steps_taken == 1
    whole, parts = (smidgen.load(tmp_path / name / "last") for name in ("whole", "parts"))
    frozen = smidgen.load(base).state_dict()
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
        assert ".lora_" in name or torch.equal(weight, frozen[name.replace(".base_layer", "")])
    assert all(weight.abs().max() > 0 for weight in adapter_tensors(whole).values())
    assert (tmp_path / "whole" / "last" / "model" / "adapter_config.json").is_file()
    assert main(["report", str(tmp_path / "parts")]) == 0


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_on_a_quantised_base(scheme: Any, base: Path, fields: dict[str, Any], tmp_path: Path) -> None:
    stored = tmp_path / scheme
    quantized = quantize(smidgen.load(base), Quantization(scheme=scheme))
    smidgen.save(quantized, stored, smidgen.load_tokenizer(base))
    config = load_training_config("elite-tiny", {**fields, **LORA, "tuning.base": str(stored)})
    assert_resumes(pretrain, config, tmp_path, stored)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_with_conversations_and_pairs(kind: str, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    # A template of plain text needs no new rows in a frozen embedding.
    config = configured(folder, kind, **LORA, **{"tuning.chat_template": "llama2"})
    assert_resumes(tune, config, tmp_path, folder / "base")


def test_as_a_student(base: Path, fields: dict[str, Any], tmp_path: Path) -> None:
    teaching = {"tuning.objective.kind": "distillation", "tuning.objective.teacher": str(base)}
    config = load_training_config("elite-tiny", {**fields, **LORA, **teaching, "tuning.base": str(base)})
    assert_resumes(distill, config, tmp_path, base)
