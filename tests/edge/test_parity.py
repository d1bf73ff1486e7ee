"""Logits of the native engine against the PyTorch decoder, for every architecture and instruction set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import smidgen.edge
from smidgen.runtime import SamplingParams

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("elite-tiny", {}),
    ("rscalm-tiny", {"model.num_layers": 2}),
    ("gemma3-tiny", {}),
    ("tilda-tiny", {}),
    ("tilda-tiny", {"model.attention.q_lora_rank": 0, "model.num_layers": 2}),
    # Rounded activations turn a difference of 1e-7 into another code: equality is tested without them.
    ("tinylm-tiny", {"model.linear.activation_bits": None}),
    ("tinylm-gqa-tiny", {"model.linear.activation_bits": None}),
]
PARTS: list[tuple[str, dict[str, Any]]] = [
    ("elite-tiny", {"model.feed_forward.activation": "relu2", "model.feed_forward.gated": False}),
    ("elite-tiny", {"model.norm.kind": "layer_norm", "model.attention.qk_norm": True}),
    ("elite-tiny", {"model.tie_word_embeddings": False, "model.vocab_padding_multiple": 64}),
    # A pattern that starts with windows, an odd shape, a scale of its own.
    (
        "gemma3-tiny",
        {
            "model.layer_pattern": ["sliding", "full"],
            "model.num_layers": 3,
            "model.hidden_size": 72,
            "model.feed_forward.intermediate_size": 90,
            "model.attention.query_pre_attn_scalar": 50.0,
        },
    ),
    # YaRN acts: the context is longer than the original one.
    ("tilda-tiny", {"model.attention.yarn.original_max_seq_len": 64, "model.attention.yarn.factor": 4.0}),
]


def ids_of(count: int, vocab_size: int = 300) -> list[int]:
    return torch.randint(0, vocab_size, (count,), generator=torch.Generator().manual_seed(3)).tolist()


def reference(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids]))[0].numpy()


def exact(folder: Any, **options: Any) -> smidgen.edge.EdgeEngine:
    return smidgen.edge.load(folder, **{"weights": "float32", "cache": "float32", "threads": 2, **options})


@pytest.mark.parametrize(("preset", "overrides"), FAMILIES, ids=lambda v: v if isinstance(v, str) else None)
def test_families(saved_model: Callable[..., Any], isa: str, preset: str, overrides: dict[str, Any]) -> None:
    model, folder = saved_model(preset, overrides)
    ids = ids_of(90)
    expected = reference(model, ids)
    result = exact(folder, instruction_set=isa).forward(ids)
    np.testing.assert_allclose(result, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("preset", "overrides"), PARTS, ids=lambda v: v if isinstance(v, str) else None)
def test_parts(saved_model: Callable[..., Any], preset: str, overrides: dict[str, Any]) -> None:
    model, folder = saved_model(preset, overrides)
    ids = ids_of(90)
    expected = reference(model, ids)
    result = exact(folder).forward(ids)
    np.testing.assert_allclose(result, expected, atol=2e-5 * np.abs(expected).max())


def test_bf16_weights_are_those_of_the_rounded_model(saved_model: Callable[..., Any], isa: str) -> None:
    import copy

    model, folder = saved_model("elite-tiny")
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in rounded.parameters():
            if parameter.dim() == 2:
                parameter.copy_(parameter.bfloat16().float())
    ids = ids_of(40)
    expected = reference(rounded, ids)
    result = smidgen.edge.load(folder, weights="bf16", cache="float32", instruction_set=isa).forward(ids)
    # With AVX512-BF16 the inputs of blocks of tokens are rounded to 8 bits of mantissa too, with AVX-512 to codes.
    tolerance = {"avx512bf16": 1e-2, "avx512": 1e-3}.get(isa, 2e-5)
    np.testing.assert_allclose(result, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("preset", ["elite-tiny", "gemma3-tiny", "tilda-tiny"])
@pytest.mark.parametrize(("cache", "tolerance"), [("float16", 2e-3), ("bfloat16", 1e-2), ("int8", 3e-2)])
def test_smaller_caches_are_close(saved_model: Callable[..., Any], preset: str, cache: Any, tolerance: float) -> None:
    model, folder = saved_model(preset)
    ids = ids_of(90)
    expected = reference(model, ids)
    engine = exact(folder, cache=cache)
    assert np.abs(engine.forward(ids) - expected).max() < tolerance * np.abs(expected).max()
    assert engine.cache_bytes < exact(folder).cache_bytes


@pytest.mark.parametrize("preset", ["elite-tiny", "gemma3-tiny", "tilda-tiny"])
@pytest.mark.parametrize("cache", ["float32", "float16", "bfloat16", "int8"])
def test_a_prompt_is_read_as_its_tokens_one_by_one(
    saved_model: Callable[..., Any], preset: str, cache: Any, isa: str
) -> None:
    """Blocks of queries and single ones read the same cache, windows and ragged ends included."""
    _, folder = saved_model(preset)
    ids = ids_of(77)
    blocks, singles = (exact(folder, cache=cache, instruction_set=isa) for _ in range(2))
    singles._chunk = 1
    expected = singles.forward(ids)
    np.testing.assert_allclose(
        blocks.forward(ids), expected, atol=(2e-5 if cache == "float32" else 2e-3) * np.abs(expected).max()
    )


def test_an_int8_latent_cache_loses_little_under_8_bit_activations(saved_model: Callable[..., Any]) -> None:
    """The rounded latent is what the cache holds anyway: only the rotated key is rounded again."""
    _, folder = saved_model("tinylm-tiny", {"model.num_layers": 1})
    ids = ids_of(60)
    exact_cache, small_cache = exact(folder).forward(ids), exact(folder, cache="int8").forward(ids)
    assert np.square(exact_cache - small_cache).mean() < 1e-3 * np.square(exact_cache).mean()


@pytest.mark.parametrize(("preset", "overrides"), FAMILIES[:1] + FAMILIES[2:4] + FAMILIES[5:6])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_token_by_token_equals_at_once(
    saved_model: Callable[..., Any], preset: str, overrides: dict[str, Any], threads: int
) -> None:
    """Greedy continuation of 100 tokens, past the ring of sliding layers: each token is what `forward` predicts."""
    _, folder = saved_model(preset, overrides)
    engine = exact(folder, threads=threads)
    prompt = ids_of(7)
    request = engine.submit(prompt, SamplingParams(temperature=0, max_new_tokens=200, ignore_eos=True))
    tokens: list[int] = []
    while events := engine.step():
        tokens += [event.token for event in events if event.request == request and event.token is not None]
    logits = engine.forward(prompt + tokens)
    predicted = logits[len(prompt) - 1 : -1]
    chosen = predicted[np.arange(len(tokens)), tokens]
    np.testing.assert_allclose(chosen, predicted.max(-1), atol=1e-4 * np.abs(predicted).max())
