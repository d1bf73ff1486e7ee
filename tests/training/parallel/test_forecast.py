"""What a dry run foresees, for more ranks than there are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smidgen.cli.main import main
from smidgen.config import load_config
from smidgen.model import count_parameters
from smidgen.runtime.errors import ConfigError
from smidgen.training.parallel.forecast import Forecast, forecast

FIELDS = {
    "model.vocab_size": 64,
    "model.hidden_size": 32,
    "model.num_layers": 2,
    "model.max_seq_len": 16,
    "model.attention.head_dim": 8,
    "model.feed_forward.intermediate_size": 64,
    "training.precision": "fp32",
    "training.batch_size": 1024,
}
MODEL = load_config("elite-tiny", FIELDS).model


def foresee(world_size: int, **fields: Any) -> Forecast:
    named = {f"training.{name.replace('__', '.')}": value for name, value in fields.items()}
    return forecast(load_config("elite-tiny", {**FIELDS, **named}), world_size)


def test_one_rank_holds_all_and_exchanges_nothing() -> None:
    alone = foresee(1)
    assert alone.weights == alone.gradients == 4 * count_parameters(MODEL)
    assert alone.optimizer == pytest.approx(2 * alone.weights, rel=0.01)
    assert alone.traffic == {}


def test_replicas_sum_gradients_once_a_step() -> None:
    replicas = foresee(4, gradient_accumulation_steps=3)
    assert replicas.weights == foresee(1).weights
    assert replicas.traffic == {"gradients summed over data ranks": round(2 * 3 / 4 * replicas.weights)}


def test_a_thousand_ranks_need_no_hardware() -> None:
    many = foresee(1024, parallel__shard=8, parallel__tensor=2)
    assert many.degrees.data == 64
    # Norms are whole on every tensor rank; everything else is divided by 16.
    assert many.parameters == pytest.approx(count_parameters(MODEL) / 16, rel=0.05)
    assert many.memory < foresee(1024).memory
    assert len(many.traffic) == 5


def test_checkpointing_trades_traffic_for_memory() -> None:
    plain = foresee(2, parallel__tensor=2)
    full = foresee(2, parallel__tensor=2, activation_checkpointing="full")
    assert full.activations < plain.activations
    assert full.traffic["states over tensor ranks"] > plain.traffic["states over tensor ranks"]


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dry-run", "--world-size", "8", "--training.parallel.shard", "4"]
    assert main(["pretrain", "elite-tiny", *flags]) == 0
    assert "2 × 4 × 1" in capsys.readouterr().out
    assert main(["pretrain", "elite-tiny", *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["degrees"] == {"data": 2, "shard": 4, "tensor": 1}
    assert main(["pretrain", "elite-tiny", "--world-size", "8"]) == 1
    assert "--dry-run" in capsys.readouterr().err
    assert main(["pretrain", "elite-tiny", "--dry-run", "--world-size", "0"]) == 1
    assert capsys.readouterr().err == "smidgen: --world-size = 0: use 1 or more\n"


def test_what_the_training_refuses_the_dry_run_refuses() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size = 1024"):
        foresee(3)
    with pytest.raises(ConfigError, match=r"training\.batch_size = auto"):
        foresee(2, batch_size="auto")
