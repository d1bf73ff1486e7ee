"""Presets, YAML and overrides: what is taken, and what is refused in one line that names field and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from smidgen.config import AdamW, Config, ModelConfig, dump_config, field_paths, load_config, preset_names, validate
from smidgen.config.loading import parse_yaml
from smidgen.runtime.errors import ConfigError

LATENT = {"kind": "latent", "num_heads": 4, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4}


def refusal(source: Any, overrides: Any = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_a_round_trip_through_yaml(name: str) -> None:
    config = load_config(name)
    assert validate(Config, parse_yaml(dump_config(config), "dump")) == config


def test_overrides_come_as_tokens_or_as_a_mapping() -> None:
    tokens = load_config("elite-tiny", ["--training.lr", "3e-4", "--model.num-layers=2", "--training.compile", "true"])
    mapping = {"training.lr": 3e-4, "model.num_layers": 2, "training.compile": True}
    assert tokens == load_config("elite-tiny", mapping)
    assert (tokens.training.lr, tokens.model.num_layers, tokens.training.compile) == (3e-4, 2, True)


def test_a_file_builds_on_its_base_and_a_new_kind_replaces_the_section(tmp_path: Path) -> None:
    write(tmp_path, "mid.yaml", "base: elite-tiny\nmodel:\n  num_layers: 2\n")
    top = write(
        tmp_path,
        "top.yaml",
        "base: mid.yaml\nmodel:\n  attention: {kind: latent, num_heads: 4, kv_lora_rank: 8, qk_nope_head_dim: 8, "
        "qk_rope_head_dim: 4, v_head_dim: 8}\n",
    )
    config = load_config(top)
    assert config.model.num_layers == 2
    assert config.model.attention.kind == "latent"
    assert config.model.hidden_size == load_config("elite-tiny").model.hidden_size


def test_yaml_numbers_are_those_of_version_1_2() -> None:
    tree = parse_yaml("{a: 6e-4, b: 1e6, c: no, d: true, e: 1_000, f: null, g: .5}", "text")
    assert tree == {"a": 6e-4, "b": 1e6, "c": "no", "d": True, "e": 1000, "f": None, "g": 0.5}


def test_a_configuration_is_frozen() -> None:
    config = load_config("elite-tiny")
    with pytest.raises(ValidationError):
        config.training.lr = 1.0  # type: ignore[misc]


def test_head_dim_follows_from_width_and_heads() -> None:
    config = load_config("elite-tiny", {"model.attention.head_dim": None, "model.attention.num_heads": 8})
    assert config.model.attention.head_dim == 16  # type: ignore[union-attr]


def test_layer_pattern_repeats() -> None:
    model = load_config("gemma3-270m").model
    assert [i for i, kind in enumerate(model.layer_types) if kind == "full"] == [5, 11, 17]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ({"model.hiden_size": 4}, ["model.hiden_size", "did you mean 'model.hidden_size'?"]),
        ({"model.num_heads": 4}, ["did you mean 'model.attention.num_heads'?"]),
        ({"model.attention.num_heds": 4}, ["did you mean 'model.attention.num_heads'?"]),
        ({"trainig.lr": 4}, ["did you mean 'training'?"]),
        ({"model.attention.kind": "latnt"}, ["model.attention.kind = latnt", "'grouped_query', 'latent'"]),
        ({"training.lr": "fast"}, ["training.lr = fast", "number"]),
        ({"training.batch_size": 2.5}, ["training.batch_size = 2.5", "integer"]),
        ({"training.batch_size": 0}, ["training.batch_size = 0", "greater than 0"]),
        ({"training.compile": "yes"}, ["training.compile = yes", "boolean"]),
        ({"training.precision": "fp8"}, ["training.precision = fp8", "'bf16'"]),
        (
            {"model.attention.head_dim": None, "model.attention.num_heads": 7, "model.attention.num_kv_heads": 7},
            ["model.attention.num_heads = 7", "does not divide hidden_size 128", "head_dim"],
        ),
        ({"model.attention.num_kv_heads": 3}, ["num_kv_heads = 3", "does not divide num_heads 4", "[1, 2, 4]"]),
        ({"model.attention.num_heads": 2**53, "model.attention.num_kv_heads": 3}, ["num_kv_heads = 3", "[1, 2, 4"]),
        ({"model.attention.head_dim": 33}, ["head_dim = 33", "even"]),
        ({"training.schedule.eta_min": 1.0}, ["training.schedule.eta_min = 1.0", "above training.lr"]),
        ({"training.schedule.second_stage_lr": 1e-4}, ["second_stage_lr", "two_stage"]),
        ({"training.schedule.kind": "constant", "training.schedule.eta_min": 1e-5}, ["eta_min", "constant"]),
        (
            {
                "training.schedule.kind": "two_stage",
                "training.schedule.eta_min": 1e-4,
                "training.schedule.second_stage_lr": 1e-5,
            },
            ["second_stage_lr", "the rate would rise"],
        ),
        ({"training.epochs": 1.0}, ["training.epochs = 1.0", "max_steps"]),
        ({"training.seq_len": 512}, ["training.seq_len = 512", "model.max_seq_len 256"]),
        ({"training.optimizer.betas": [0.9, 1.0]}, ["training.optimizer.betas", "[0, 1)"]),
        ({"model.attention.sliding_window": 8}, ["sliding_window = 8", "layer_pattern"]),
        ({"model.layer_pattern": ["sliding"]}, ["layer_pattern", "need attention.sliding_window"]),
        ({"model.attention.sliding_rope_theta": 5.0}, ["sliding_rope_theta", "sliding_window"]),
        ({"model.attention": {**LATENT, "v_head_dim": 8, "sliding_window": 4}}, ["sliding_window = 4", "latent"]),
        ({"model.attention": {**LATENT, "v_head_dim": 8}, "model.layer_pattern": ["sliding"]}, ["no sliding layers"]),
        ({"model.attention": LATENT}, ["model.attention.v_head_dim", "required"]),
        ({"tokenizer.kind": "pretrained"}, ["tokenizer.path", "name its file or folder"]),
        ({"model.linear.kind": "ternary", "training.precision": "fp8_block"}, ["training.precision = fp8_block"]),
        (
            {"training.optimizer.momentum": 0.9},
            ["training.optimizer.momentum: belongs to training.optimizer.kind muon, and this is adamw; remove it"],
        ),
        ({"model.attention.kv_lora_rank": 8}, ["belongs to model.attention.kind latent, and this is grouped_query"]),
        ({"tuning.objective.beta": 0.2}, ["belongs to tuning.objective.kind dpo, and this is language_modeling"]),
    ],
)
def test_impossible_settings_are_refused(override: dict[str, Any], parts: list[str]) -> None:
    message = refusal("elite-tiny", override)
    for part in parts:
        assert part in message


def test_a_section_without_its_kind_is_of_the_kind_that_stands_without_the_section() -> None:
    model = load_config("elite-tiny").model.model_dump(mode="json")
    config = validate(Config, {"model": model, "training": {"optimizer": {"eps": 1e-3}}})
    assert config.training.optimizer == AdamW(eps=1e-3)
    with pytest.raises(ConfigError, match=r"model.attention.kind: this field is required"):
        validate(Config, {"model": {**model, "attention": {"num_heads": 2}}})


def test_fp16_is_refused_with_one_plus_w_norms() -> None:
    message = refusal("gemma3-tiny", {"training.precision": "fp16"})
    assert "training.precision = fp16" in message
    assert "use bf16 or fp32" in message


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert "did you mean 'elite-tiny'?" in refusal("elit-tiny")
    assert "not valid YAML" in refusal(write(tmp_path, "broken.yaml", "model: [1,\n"))
    assert "stands twice" in refusal(write(tmp_path, "twice.yaml", "base: elite-tiny\nbase: tilda-tiny\n"))
    assert "no mapping" in refusal(write(tmp_path, "list.yaml", "- 1\n"))
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    assert "base" in refusal(write(tmp_path, "b.yaml", "base: a.yaml\n"))
    assert "the value is missing" in refusal("elite-tiny", ["--training.lr"])
    assert "expected an override" in refusal("elite-tiny", ["training.lr", "1"])


def test_every_field_has_a_path_and_a_description() -> None:
    paths = dict(field_paths(Config))
    assert {"model.attention.kv_lora_rank", "model.attention.num_kv_heads", "training.schedule.kind"} <= set(paths)
    assert "model.attention" not in paths
    assert [path for path, field in paths.items() if not field.description and not path.endswith(".kind")] == []
    assert paths["training.lr"].description == "Highest learning rate."
    assert paths["model.attention.kind"].annotation == Literal["grouped_query", "latent"]


def test_padded_vocabulary() -> None:
    model = load_config("elite-tiny", {"model.vocab_size": 101, "model.vocab_padding_multiple": 64}).model
    assert isinstance(model, ModelConfig)
    assert model.padded_vocab_size == 128
