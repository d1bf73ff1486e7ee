from __future__ import annotations

import json
from typing import Any

import pytest

from smidgen.cli.main import main


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["info", *arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_memory_follows_optimizer_average_and_checkpointing(capsys: pytest.CaptureFixture[str]) -> None:
    plain = figures(capsys, "elite-tiny")["training_bytes"]
    other = figures(
        capsys,
        "elite-tiny",
        "--training.optimizer.kind=lion",
        "--training.ema_decay=0.99",
        "--training.activation_checkpointing=full",
    )["training_bytes"]
    assert plain["optimizer"] == pytest.approx(2 * plain["gradients"], rel=1e-3)
    assert other["optimizer"] == other["average"] == plain["gradients"]
    assert other["activations"] < plain["activations"] / 2
    assert other["peak"] < plain["peak"]


def test_the_table_tells_where_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "elite-tiny"]) == 0
    out = capsys.readouterr().out
    assert "state of adamw" in out
    assert "at the peak of a step" in out
    assert len([line for line in out.splitlines() if line.count("  fits") == 2]) >= 9
    small = figures(capsys, "elite-tiny", "--training.batch_size=4096")
    assert {device["trains"] for device in small["devices"]} == {True, False}
    assert all(device["runs"] for device in small["devices"])


def test_a_model_folder_is_told_of_with_a_usual_training(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    from smidgen.config import load_config
    from smidgen.folders import save
    from smidgen.model import Decoder

    save(Decoder(load_config("elite-tiny", {"model.vocab_size": 64}).model).initialize(0), tmp_path / "model", None)
    result = figures(capsys, str(tmp_path / "model"))
    assert (result["seq_len"], result["tokens_per_step"], result["training_tokens"]) == (256, 256, None)


def test_batch_size_auto_shows_one_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    result = figures(capsys, "elite-tiny", "--training.batch_size=auto", "--training.tokens_per_step=4096")
    assert (result["training_bytes"]["batch_size"], result["tokens_per_step"]) == (1, 4096)


def test_a_quantised_model_runs_and_is_not_trained(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    import smidgen
    from smidgen.config import Quantization
    from smidgen.quantization import quantize

    model = quantize(smidgen.build("elite-tiny", {"model.vocab_size": 64}), Quantization(scheme="int8"))
    smidgen.save(model, tmp_path / "int8")
    result = figures(capsys, str(tmp_path / "int8"))
    assert result["training_bytes"] is None
    assert not any(device["trains"] for device in result["devices"])
    # The header of a safetensors file is all that comes on top.
    assert 0 < (tmp_path / "int8" / "model.safetensors").stat().st_size - result["weights_bytes"]["stored"] < 20_000
    assert main(["info", str(tmp_path / "int8")]) == 0
    out = capsys.readouterr().out
    assert "weights as they are stored" in out
    assert "training" not in out
