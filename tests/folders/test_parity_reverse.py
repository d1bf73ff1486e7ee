"""Folders that transformers' own classes write load with equal logits, whatever their configuration."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
import transformers
from torch import nn

import smidgen
from smidgen.config import ModelConfig


def llama(draw: random.Random) -> transformers.PreTrainedConfig:
    heads = draw.choice([2, 4, 6])
    return transformers.LlamaConfig(
        **shape(draw, heads),
        num_key_value_heads=draw.choice([1, heads // 2, heads]),
        head_dim=draw.choice([None, 10, 32]),
        hidden_act=draw.choice(["silu", "relu2", "gelu_pytorch_tanh"]),
        rope_parameters={"rope_type": "default", "rope_theta": draw.choice([1e4, 5e5])},
    )


def gemma(draw: random.Random) -> transformers.PreTrainedConfig:
    layers = draw.randint(1, 4)
    heads = draw.choice([2, 4])
    return transformers.Gemma3TextConfig(
        **shape(draw, heads) | {"num_hidden_layers": layers},
        num_key_value_heads=draw.choice([1, heads]),
        head_dim=draw.choice([8, 24]),
        query_pre_attn_scalar=draw.choice([24, 100]),
        sliding_window=draw.choice([3, 16, 200]),
        layer_types=[draw.choice(["sliding_attention", "full_attention"]) for _ in range(layers)],
        pad_token_id=None,
    )


def deepseek(draw: random.Random) -> transformers.PreTrainedConfig:
    heads = draw.choice([1, 3, 4])
    yarn = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 8.0,
        "original_max_position_embeddings": 32,
        "mscale": 0.7,
        "mscale_all_dim": 0.7,
    }
    default = {"rope_type": "default", "rope_theta": 5e4}
    layers = draw.randint(1, 3)
    return transformers.DeepseekV3Config(
        **shape(draw, heads) | {"num_hidden_layers": layers, "rms_norm_eps": 1e-6},
        num_key_value_heads=heads,
        first_k_dense_replace=layers,
        q_lora_rank=draw.choice([None, 20]),
        kv_lora_rank=draw.choice([8, 24]),
        qk_nope_head_dim=draw.choice([8, 14]),
        qk_rope_head_dim=draw.choice([4, 10]),
        v_head_dim=draw.choice([6, 16]),
        rope_parameters=draw.choice([yarn, default]),
    )


def bitnet(draw: random.Random) -> transformers.PreTrainedConfig:
    heads = draw.choice([2, 4])
    return transformers.BitNetConfig(
        **shape(draw, heads),
        num_key_value_heads=draw.choice([1, heads]),
        hidden_act=draw.choice(["silu", "relu2"]),
        bos_token_id=None,
        eos_token_id=None,
    )


def shape(draw: random.Random, heads: int) -> dict[str, Any]:
    return {
        "vocab_size": draw.choice([97, 128]),
        "hidden_size": heads * draw.choice([12, 16]),
        "intermediate_size": draw.choice([50, 96]),
        "num_hidden_layers": draw.randint(1, 3),
        "num_attention_heads": heads,
        "max_position_embeddings": 256,
        "rms_norm_eps": draw.choice([1e-6, 1e-3]),
        "tie_word_embeddings": draw.choice([True, False]),
    }


def largest_difference(theirs: nn.Module, folder: Path, dtype: torch.dtype = torch.float32) -> float:
    """Largest difference of logits over batches with and without padding, relative to the largest logit."""
    ours, theirs = smidgen.load(folder).to(dtype), theirs.to(dtype)
    largest = 0.0
    with torch.no_grad():
        for ids, mask in parity.batches(ours.config.vocab_size, 60):
            expected = parity.peer_logits(theirs, ids, mask)[mask.bool()]
            difference = (ours(ids, mask)[mask.bool()] - expected).abs().max() / expected.abs().max()
            largest = max(largest, difference.item())
    return largest


@pytest.mark.parametrize("make", [llama, gemma, deepseek, bitnet])
@pytest.mark.parametrize("seed", range(6))
def test_random_configurations(
    make: Callable[[random.Random], transformers.PreTrainedConfig],
    seed: int,
    tmp_path: Path,
    randomize: Callable[..., nn.Module],
) -> None:
    theirs = randomize(transformers.AutoModelForCausalLM.from_config(make(random.Random(seed))), seed)
    theirs.save_pretrained(tmp_path)
    assert largest_difference(theirs, tmp_path) <= parity.FLOAT32_BAR


@pytest.mark.parametrize("seed", range(3))
def test_online_bitnet(seed: int, tmp_path: Path, randomize: Callable[..., nn.Module]) -> None:
    config = bitnet(random.Random(seed))
    config.quantization_config = transformers.BitNetQuantConfig(
        linear_class="autobitlinear", quantization_mode="online"
    ).to_dict()
    randomize(transformers.BitNetForCausalLM(config), seed).save_pretrained(tmp_path / "masters")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "masters")
    theirs.save_pretrained(tmp_path / "ternary")
    assert smidgen.load(tmp_path / "ternary").config.linear.kind == "ternary"
    assert largest_difference(theirs.eval(), tmp_path / "ternary", torch.float64) <= parity.FLOAT64_BAR


def test_shards_and_half_precision(tmp_path: Path, randomize: Callable[..., nn.Module]) -> None:
    halved = randomize(transformers.LlamaForCausalLM(llama(random.Random(0)))).to(torch.bfloat16)
    halved.save_pretrained(tmp_path, max_shard_size="20KB")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert all(parameter.dtype == torch.float32 for parameter in smidgen.load(tmp_path).parameters())
    assert largest_difference(theirs, tmp_path) <= parity.FLOAT32_BAR


def test_a_model_loaded_from_transformers_is_saved_as_the_same_model(
    tmp_path: Path, randomize: Callable[..., nn.Module]
) -> None:
    theirs = randomize(transformers.AutoModelForCausalLM.from_config(gemma(random.Random(1))))
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = smidgen.load(tmp_path / "theirs")
    assert isinstance(loaded.config, ModelConfig)
    smidgen.save(loaded, tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    for (name, one), (_, other) in zip(theirs.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name
