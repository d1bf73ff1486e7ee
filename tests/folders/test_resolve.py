"""What a MODEL argument means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import smidgen
from smidgen.config import load_config
from smidgen.folders import model_config, resolve
from smidgen.folders.run import Retention, RunFolder
from smidgen.runtime.errors import ConfigError, ModelFolderError

TINY = {"model.num_layers": 1, "model.vocab_size": 32}


def write_run(path: Path, losses: dict[int, float | None]) -> None:
    """A run with a checkpoint a step, whose model is drawn from the step as seed."""
    run = RunFolder(path)
    with run.locked():
        run.config_path.write_text("base: elite-tiny\n")
        for step, loss in losses.items():
            model = smidgen.build("elite-tiny", TINY, seed=step)
            run.write_checkpoint(
                step, lambda folder, model=model: smidgen.save(model, folder / "model"), loss, Retention(5)
            )


def seed_of(model: Path) -> int:
    head = smidgen.load(model).head_weight
    return next(s for s in range(10) if torch.equal(head, smidgen.build("elite-tiny", TINY, seed=s).head_weight))


def test_presets_give_random_weights_in_eval_mode() -> None:
    assert resolve("elite-tiny").preset == "elite-tiny"
    model = smidgen.load("elite-tiny")
    assert model.config == load_config("elite-tiny").model
    assert not model.training
    assert torch.equal(model.head_weight, smidgen.build("elite-tiny", seed=0).head_weight)
    assert not torch.equal(model.head_weight, smidgen.build("elite-tiny", seed=1).head_weight)
    assert model_config("elite-tiny") == model.config


def test_a_preset_larger_than_memory_is_refused_with_the_sum() -> None:
    with pytest.raises(ModelFolderError, match=r"elite-tiny: [\d,]{14,} weights of 4 bytes take [\d.]+ GiB, and"):
        smidgen.build("elite-tiny", {"model.vocab_size": 10**10})


def test_build_takes_overrides_and_configurations(tmp_path: Path) -> None:
    config = load_config("tilda-tiny", {"model.num_layers": 2})
    (tmp_path / "mine.yaml").write_text("base: tilda-tiny\nmodel:\n  num_layers: 2\n")
    for model in (
        smidgen.build("tilda-tiny", {"model.num_layers": 2}),
        smidgen.build("tilda-tiny", ["--model.num_layers", "2"]),
        smidgen.build(tmp_path / "mine.yaml"),
        smidgen.build(config),
        smidgen.build(config.model),
    ):
        assert model.config == config.model
    with pytest.raises(ConfigError, match="num_layer"):
        smidgen.build("tilda-tiny", {"model.num_layer": 2})


def test_folders_checkpoints_and_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {1: 3.0, 2: 2.0, 3: 2.5})
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000003"
    assert seed_of(checkpoint / "model") == 3
    assert seed_of(checkpoint) == 3
    assert seed_of(tmp_path / "run") == 2
    assert seed_of(tmp_path / "run" / "last") == 3
    assert model_config(tmp_path / "run").num_layers == 1


def test_a_run_without_evaluation_gives_its_last_checkpoint(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {1: None, 2: None})
    assert seed_of(tmp_path / "run") == 2


def test_a_damaged_checkpoint_is_never_taken(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {1: 3.0, 2: 2.0})
    best = tmp_path / "run" / "checkpoints" / "step-00000002"
    weights = bytearray((best / "model" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (best / "model" / "model.safetensors").write_bytes(weights)
    assert seed_of(tmp_path / "run") == 1
    with pytest.raises(ModelFolderError, match="damaged"):
        smidgen.load(best)


def test_what_is_no_model_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo-run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "demo-run" / "config.yaml").write_text("base: elite-tiny\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.safetensors").write_text("")
    expected = {
        "elite-tinny": "did you mean 'elite-tiny'?",
        "demo-ran": "did you mean 'demo-run'?",
        "qzxw": "'smidgen presets' lists the presets",
        "HuggingFaceTB/SmolLM2-135M": "download the model first",
        "demo-run": "no finished checkpoint",
        "data": "is a dataset",
        "empty": "config.json is missing",
        "weights.safetensors": "is a file; name the folder",
    }
    for model, hint in expected.items():
        with pytest.raises(ModelFolderError) as error:
            smidgen.load(model)
        assert hint in str(error.value)
        assert model in str(error.value)


def test_a_preset_has_no_tokenizer() -> None:
    with pytest.raises(ModelFolderError, match="a preset has no tokenizer"):
        smidgen.load_tokenizer("elite-tiny")
