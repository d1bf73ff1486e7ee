"""config.json: which class takes which configuration, that nothing is lost on the way, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.config import ModelConfig, load_config, preset_names, validate
from smidgen.folders.architectures import Fields, architecture_of, read_config
from smidgen.runtime.errors import ModelFolderError

CLASSES = {
    "tilda": "DeepseekV3ForCausalLM",
    "tinylm": "SmidgenForCausalLM",
    "tinylm-gqa": "BitNetForCausalLM",
    "elite": "LlamaForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "rscalm": "LlamaForCausalLM",
    "quickstart": "SmidgenForCausalLM",
}


def written(config: ModelConfig) -> dict[str, Any]:
    architecture = architecture_of(config)
    return {"model_type": architecture.model_type, **architecture.write(config)}


def read(fields: dict[str, Any]) -> ModelConfig:
    return read_config(Fields(fields, "config.json"))


def preset_fields(preset: str, **changes: Any) -> dict[str, Any]:
    return written(load_config(preset).model) | changes


@pytest.mark.parametrize("preset", preset_names())
def test_presets_go_to_the_classes_of_the_families(preset: str) -> None:
    assert architecture_of(load_config(preset).model).class_name == CLASSES[preset.rsplit("-", 1)[0]]


@st.composite
def configurations(draw: st.DrawFn) -> ModelConfig:
    heads = draw(st.sampled_from([1, 2, 4, 6]))
    norm = draw(st.sampled_from(["rms_norm", "rms_norm_plus_one", "layer_norm"]))
    common = {
        "vocab_size": draw(st.integers(1, 500)),
        "hidden_size": draw(st.sampled_from([32, 48, 60])),
        "num_layers": draw(st.integers(1, 7)),
        "max_seq_len": draw(st.sampled_from([16, 5000])),
        "tie_word_embeddings": draw(st.booleans()),
        "scale_embeddings": draw(st.booleans()),
        "feed_forward": {
            "intermediate_size": draw(st.integers(1, 200)),
            "activation": draw(st.sampled_from(["silu", "gelu_tanh", "relu2"])),
            "gated": draw(st.booleans()),
        },
        "norm": {
            "kind": norm,
            "eps": draw(st.sampled_from([1e-6, 1e-5])),
            "placement": draw(st.sampled_from(["pre", "sandwich", "sub"])),
        },
        "linear": {"kind": draw(st.sampled_from(["dense", "ternary", "fp8_block"]))},
    }
    if draw(st.booleans()):
        latent = {"kind": "latent", "num_heads": heads, "q_lora_rank": draw(st.sampled_from([0, 8]))}
        latent |= {"kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}
        return validate(ModelConfig, {**common, "attention": latent})
    attention: dict[str, Any] = {
        "kind": "grouped_query",
        "num_heads": heads,
        "num_kv_heads": draw(st.sampled_from([d for d in range(1, heads + 1) if heads % d == 0])),
        "head_dim": draw(st.sampled_from([8, 16])),
        "qk_norm": draw(st.booleans()),
        "query_pre_attn_scalar": draw(st.sampled_from([None, 16.0, 12.5])),
        "rope_theta": draw(st.sampled_from([1e4, 5e5])),
    }
    pattern = draw(st.lists(st.sampled_from(["full", "sliding"]), min_size=1, max_size=4))
    if "sliding" in pattern:
        attention |= {"sliding_window": draw(st.integers(1, 40))}
        attention |= {"sliding_rope_theta": draw(st.sampled_from([None, 1e3]))}
    return validate(ModelConfig, {**common, "layer_pattern": pattern, "attention": attention})


@given(configurations())
@settings(max_examples=300, deadline=None)
def test_config_json_says_everything_that_decides_logits(config: ModelConfig) -> None:
    fields = written(config)
    again = read(fields)
    assert written(again) == fields
    assert (again.layer_types, again.feed_forward, again.linear) == (
        config.layer_types,
        config.feed_forward,
        config.linear,
    )
    assert again.norm == config.norm
    assert again.scale_embeddings == config.scale_embeddings


def test_a_window_that_no_layer_of_a_cut_pattern_uses_is_not_written() -> None:
    cut = {"model.num_layers": 1, "model.layer_pattern": ["full", "sliding"], "model.attention.sliding_window": 4}
    fields = written(load_config("gemma3-tiny", cut).model)
    assert written(read(fields)) == fields


@given(configurations())
@settings(max_examples=300, deadline=None)
def test_transformers_accepts_what_we_write_for_its_classes(config: ModelConfig) -> None:
    fields = written(config)
    if "auto_map" not in fields:
        loaded = transformers.CONFIG_MAPPING[fields["model_type"]].from_dict(fields)
        assert loaded.num_hidden_layers == config.num_layers


OLDER = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 4}
OLDER |= {"intermediate_size": 64, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16"}


def test_older_llama_folders() -> None:
    config = read(OLDER | {"model_type": "llama", "hidden_act": "silu", "rope_theta": 5e5, "rope_scaling": None})
    assert (config.attention.rope_theta, config.attention.head_dim, config.attention.num_kv_heads) == (5e5, 8, 4)
    assert not config.tie_word_embeddings


def test_older_gemma_folders() -> None:
    fields = {"model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 16}
    fields |= {"num_key_value_heads": 1, "rope_theta": 2e6, "rope_local_base_freq": 5e3, "sliding_window": 512}
    config = read(OLDER | fields | {"sliding_window_pattern": 6, "query_pre_attn_scalar": 16})
    assert config.layer_pattern == ("sliding",) * 5 + ("full",)
    assert (config.attention.rope_theta, config.attention.sliding_rope_theta) == (2e6, 5e3)
    assert config.tie_word_embeddings


def test_older_deepseek_folders() -> None:
    fields = {"model_type": "deepseek_v3", "hidden_act": "silu", "first_k_dense_replace": 12, "q_lora_rank": None}
    fields |= {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "rope_theta": 1e4}
    yarn = {"type": "yarn", "factor": 2, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 1.0}
    config = read(OLDER | fields | {"rope_scaling": yarn})
    assert (config.attention.yarn.original_max_seq_len, config.attention.yarn.factor) == (4096, 2.0)
    assert config.attention.q_lora_rank == 0


LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
MIXED_PRECISION = {"quant_method": "bitnet", "modules_to_not_convert": ["model.layers.0.mlp.up_proj"]}


@pytest.mark.parametrize(
    ("preset", "changes", "named"),
    [
        ("elite-tiny", {"model_type": "gpt2"}, ["model_type", '"gpt2"', "llama"]),
        ("elite-tiny", {"model_type": None}, ["model_type", "required"]),
        ("elite-tiny", {"attention_bias": True}, ["attention_bias", "true"]),
        ("elite-tiny", {"mlp_bias": True}, ["mlp_bias"]),
        ("elite-tiny", {"hidden_act": "gelu"}, ["hidden_act", '"gelu"', "silu"]),
        ("elite-tiny", {"rope_parameters": LLAMA3}, ["rope_parameters.rope_type", '"llama3"', "default"]),
        ("elite-tiny", {"rope_scaling": {"type": "linear", "factor": 2.0}}, ["rope_scaling.type", '"linear"']),
        ("elite-tiny", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ("elite-tiny", {"quantization_config": {"quant_method": "gptq"}}, ["quantization_config"]),
        ("elite-tiny", {"hidden_size": "128"}, ["hidden_size", '"128"', "whole number"]),
        ("elite-tiny", {"hidden_size": None}, ["hidden_size", "required"]),
        ("elite-tiny", {"rms_norm_eps": True}, ["rms_norm_eps", "number"]),
        ("elite-tiny", {"tie_word_embeddings": 1}, ["tie_word_embeddings", "true or false"]),
        ("elite-tiny", {"num_key_value_heads": 3}, ["num_kv_heads = 3"]),
        ("elite-tiny", {"rope_parameters": "default"}, ["rope_parameters", "mapping"]),
        ("gemma3-tiny", {"final_logit_softcapping": 30.0}, ["final_logit_softcapping", "30.0"]),
        ("gemma3-tiny", {"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping"]),
        ("gemma3-tiny", {"use_bidirectional_attention": True}, ["use_bidirectional_attention"]),
        ("gemma3-tiny", {"layer_types": ["full_attention"]}, ["layer_types", "num_hidden_layers 6"]),
        ("gemma3-tiny", {"layer_types": ["chunked_attention"] * 6}, ["layer_types", "sliding_attention"]),
        ("gemma3-tiny", {"rope_parameters": {"full_attention": LLAMA3}}, ["full_attention.rope_type", "default"]),
        ("tilda-tiny", {"first_k_dense_replace": 1}, ["first_k_dense_replace", "mixtures of experts"]),
        ("tilda-tiny", {"rope_interleave": False}, ["rope_interleave", "false"]),
        ("tilda-tiny", {"rms_norm_eps": 1e-5}, ["rms_norm_eps", "1e-05"]),
        ("tilda-tiny", {"num_key_value_heads": 2}, ["num_key_value_heads"]),
        ("tilda-tiny", {"rope_parameters": LLAMA3}, ["rope_type", "yarn"]),
        ("tilda-tiny", {"rope_parameters": YARN}, ["mscale"]),
        ("tilda-tiny", {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}}, ["mscale", "1.0"]),
        (
            "tilda-tiny",
            {"rope_parameters": YARN | {"original_max_position_embeddings": 256}},
            ["original_max_position_embeddings", "256"],
        ),
        ("tinylm-gqa-tiny", {"quantization_config": MIXED_PRECISION}, ["modules_to_not_convert", "lm_head"]),
        ("elite-tiny", {"quantization_config": {"quant_method": "fp8"}}, ["weight_block_size", "128"]),
        ("tinylm-tiny", {"norm": {"kind": "batch_norm"}}, ["norm.kind", "batch_norm"]),
        # Some lists have an entry a layer: none may be begun.
        ("gemma3-tiny", {"num_hidden_layers": 10**15, "layer_types": None}, ["num_hidden_layers", "from 0 to 4096"]),
        ("tinylm-tiny", {"num_layers": 10**15}, ["num_layers = 1000000000000000", "4096"]),
        ("elite-tiny", {"hidden_size": 10**15 + 1, "head_dim": None}, ["num_heads", "does not divide hidden_size"]),
    ],
)
def test_what_we_do_not_implement_is_refused_with_field_and_value(
    preset: str, changes: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ModelFolderError) as error:
        read(preset_fields(preset, **changes))
    message = str(error.value)
    assert message.startswith("config.json: ")
    assert "\n" not in message
    assert all(part in message for part in named), message
