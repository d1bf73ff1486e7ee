"""Pretraining that goes on from a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.config import Config, TokenizerConfig
from smidgen.data import Dataset, prepare
from smidgen.runtime.errors import ConfigError, DataError
from smidgen.training.base import load_training_config
from smidgen.training.pretraining import pretrain

TRAINING = {
    "training.device": "cpu",
    "training.precision": "fp32",
    "training.batch_size": 2,
    "training.max_steps": 4,
    "training.log_every": 1,
    "training.eval_every": 2,
    "training.checkpoint_every": 2,
    "training.eval_tokens": 96,
}


@pytest.fixture
def base(make_config: Callable[..., Config], tmp_path: Path) -> Path:
    """A model of random weights and the dataset whose tokenizer it has."""
    (tmp_path / "cats.txt").write_text("\n".join(f"Tom has {n} red cats and {n + 1} blue ones." for n in range(60)))
    prepare([tmp_path / "cats.txt"], tmp_path / "cats", TokenizerConfig(vocab_size=300), split_documents="line")
    tokenizer = Dataset.open(tmp_path / "cats").tokenizer()
    model = smidgen.build(make_config(**{"model.vocab_size": 320}), seed=5)
    return smidgen.save(model, tmp_path / "base", tokenizer)


def continued(base: Path, **fields: Any) -> Config:
    return load_training_config(base, {**TRAINING, "data.path": str(base.parent / "cats"), **fields})


def test_the_first_weights_are_the_bases(base: Path, tmp_path: Path) -> None:
    config = continued(base, **{"training.lr": 1e-30})
    assert config.tuning.base == str(base)
    summary = pretrain(config, tmp_path / "run")
    assert summary.steps == 4
    for name, weight in smidgen.load(base).state_dict().items():
        torch.testing.assert_close(smidgen.load(tmp_path / "run").state_dict()[name], weight, rtol=0, atol=1e-6)


def test_it_resumes_to_the_bit_without_the_base(base: Path, tmp_path: Path, stop_at: type[Any]) -> None:
    pretrain(continued(base), tmp_path / "whole")
    assert pretrain(continued(base), tmp_path / "parts", stop_at(2)).steps == 2
    base.rename(tmp_path / "elsewhere")
    assert pretrain(load_training_config(tmp_path / "parts"), tmp_path / "parts").steps_taken == 2
    one, other = (smidgen.load(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_base_decides_the_model(base: Path) -> None:
    with pytest.raises(ConfigError, match=r"model: tuning.base = .*base decides this section; leave it out"):
        continued(base, **{"model.num_layers": 7})


def test_data_of_another_tokenizer_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "dogs.txt").write_text("\n".join(f"{n} dogs bark at {n} doors" for n in range(60)))
    prepare([tmp_path / "dogs.txt"], tmp_path / "dogs", TokenizerConfig(vocab_size=290), split_documents="line")
    with pytest.raises(DataError, match="was prepared with another tokenizer"):
        pretrain(continued(base, **{"data.path": str(tmp_path / "dogs")}), tmp_path / "run")


def test_an_adapter_run_stops_and_goes_on_to_the_bit(
    base: Path, tmp_path: Path, stop_at: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {**TRAINING, "tuning.base": str(base), "data.path": str(tmp_path / "cats")}
    fields |= {"tuning.lora.rank": 2, "tuning.lora.dropout": 0.2, "training.lr": 0.02}
    config = load_training_config("elite-tiny", fields)
    with caplog.at_level("INFO"):
        pretrain(config, tmp_path / "whole")
    assert "tuning.lora trains 2048 of 30880 parameters (6.63 %)" in caplog.text
    pretrain(config, tmp_path / "parts", stop_at(3))
    again = load_training_config(tmp_path / "parts")
    pretrain(again, tmp_path / "parts")
    whole, parts = smidgen.load(tmp_path / "whole" / "last"), smidgen.load(tmp_path / "parts" / "last")
    assert (tmp_path / "parts" / "last" / "model" / "adapter_model.safetensors").is_file()
    frozen = smidgen.load(base).state_dict()
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
        own_name = name.replace(".base_layer", "")
        assert ".lora_" in name or torch.equal(weight, frozen[own_name])
    assert any(weight.abs().max() > 0 for name, weight in whole.state_dict().items() if "lora_B" in name)


def test_an_adapter_on_an_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    fields = {**TRAINING, "tuning.base": str(base), "data.path": str(tmp_path / "cats"), "tuning.lora.rank": 2}
    pretrain(load_training_config("elite-tiny", fields), tmp_path / "first")
    second = load_training_config("elite-tiny", {**fields, "tuning.base": str(tmp_path / "first")})
    with pytest.raises(ConfigError, match="is an adapter; merge it first with 'smidgen merge --lora"):
        pretrain(second, tmp_path / "second")
