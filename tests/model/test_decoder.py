"""Invariants of the decoder: however tokens arrive (chunks, single, padded, packed), their logits are the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.config import load_config
from smidgen.model import Decoder
from smidgen.model.fp8 import use_fp8
from smidgen.runtime.errors import ContextLengthError

Make = Callable[..., Decoder]
VOCAB = 101
LENGTH = 40
HYBRID = {"model.layer_pattern": ["sliding", "full"], "model.attention.sliding_window": 16}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "elite": ("elite-tiny", {}),
    "one-kv-head": ("elite-tiny", {"model.attention.num_kv_heads": 1, "model.attention.head_dim": 48}),
    "gemma3": ("gemma3-tiny", HYBRID),
    "gemma3-window-7": ("gemma3-tiny", {**HYBRID, "model.attention.sliding_window": 7}),
    "rscalm": ("rscalm-tiny", {}),
    "tilda-absorb": ("tilda-tiny", {}),
    "tilda-naive": ("tilda-tiny", {"model.attention.cache": "naive"}),
    "tilda-no-q-lora": ("tilda-tiny", {"model.attention.q_lora_rank": 0}),
    "tilda-yarn": ("tilda-tiny", {"model.attention.yarn.original_max_seq_len": 32}),
    "tilda-fp8": ("tilda-tiny", {"model.linear.kind": "fp8_block"}),
    "tinylm": ("tinylm-tiny", {}),
    "tinylm-naive": ("tinylm-tiny", {"model.attention.cache": "naive"}),
    "tinylm-relu2": ("tinylm-tiny", {"model.feed_forward.activation": "relu2"}),
    "tinylm-gqa": ("tinylm-gqa-tiny", {}),
    "layer-norm-ungated": (
        "elite-tiny",
        {"model.norm.kind": "layer_norm", "model.feed_forward.gated": False, "model.feed_forward.activation": "relu2"},
    ),
    "padded-vocabulary": ("elite-tiny", {"model.vocab_padding_multiple": 64, "model.tie_word_embeddings": False}),
}


@pytest.fixture(params=VARIANTS, scope="module")
def decoder(request: pytest.FixtureRequest, randomized_decoder: Make) -> Decoder:
    # float64: 8-bit rounding turns a difference of 1e-7 into one of 1e-2.
    preset, overrides = VARIANTS[request.param]
    return randomized_decoder(preset, {"model.vocab_size": VOCAB, "model.num_layers": 2, **overrides}).double()


def tokens(rows: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(5))


def assert_same(actual: Tensor, expected: Tensor) -> None:
    # Norms, RoPE and quantisation work in float32 even here.
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-6 * expected.abs().max()


@torch.no_grad()
def run_in_chunks(decoder: Decoder, input_ids: Tensor, ends: list[int], **arguments: Any) -> Tensor:
    cache = decoder.new_cache(input_ids.shape[0], 128)
    mask = arguments.get("attention_mask")
    outputs = []
    for start, end in zip([0, *ends], [*ends, input_ids.shape[1]], strict=True):
        part = None if mask is None else mask[:, start:end]
        outputs.append(decoder(input_ids[:, start:end], attention_mask=part, cache=cache))
    return torch.cat(outputs, dim=1)


@torch.no_grad()
def test_token_by_token_and_chunked_prefill_equal_one_forward(decoder: Decoder) -> None:
    input_ids = tokens()
    expected = decoder(input_ids)
    assert expected.shape == (3, LENGTH, VOCAB)
    assert_same(run_in_chunks(decoder, input_ids, list(range(1, LENGTH))), expected)
    assert_same(run_in_chunks(decoder, input_ids, [24, 25, 32]), expected)
    assert_same(run_in_chunks(decoder, input_ids, [3, 39]), expected)


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(decoder: Decoder) -> None:
    input_ids, lengths = tokens(), [LENGTH, 23, 6]
    expected = decoder(input_ids)
    for side in ("left", "right"):
        padded = torch.zeros_like(input_ids)
        mask = torch.zeros_like(input_ids)
        places = [slice(LENGTH - n, LENGTH) if side == "left" else slice(0, n) for n in lengths]
        for row, (n, place) in enumerate(zip(lengths, places, strict=True)):
            padded[row, place] = input_ids[row, :n]
            mask[row, place] = 1
        whole = decoder(padded, attention_mask=mask)
        chunked = run_in_chunks(decoder, padded, [18, 19, 34], attention_mask=mask)
        for row, (n, place) in enumerate(zip(lengths, places, strict=True)):
            assert_same(whole[row, place], expected[row, :n])
            assert_same(chunked[row, place], expected[row, :n])


@torch.no_grad()
def test_ragged_rows_decode_on_and_slots_are_reused(decoder: Decoder) -> None:
    input_ids = tokens()
    cache = decoder.new_cache(3, 128)
    mask = torch.zeros(3, 30, dtype=torch.long)
    for row, n in enumerate([30, 20, 1]):
        mask[row, :n] = 1
    decoder(input_ids[:, :30], attention_mask=mask, cache=cache)
    assert cache.lengths.tolist() == [30, 20, 1]
    cache.reset([1])
    for i in range(10):
        # Row 2 pauses every other token.
        step_mask = torch.tensor([[1], [1], [i % 2]])
        step_ids = torch.stack([input_ids[0, 30 + i], input_ids[2, i], input_ids[2, 1 + i // 2]])[:, None]
        logits = decoder(step_ids, attention_mask=step_mask, cache=cache)
    assert cache.lengths.tolist() == [40, 10, 6]
    assert_same(logits[0, -1], decoder(input_ids[:1, :40])[0, -1])
    assert_same(logits[1, -1], decoder(input_ids[2:, :10])[0, -1])
    assert_same(logits[2, -1], decoder(torch.cat([input_ids[2:, :1], input_ids[2:, 1:6]], dim=1))[0, -1])


def test_packed_documents_do_not_leak(decoder: Decoder) -> None:
    input_ids = tokens(rows=2)
    cuts = [0, 9, 10, 31, LENGTH]
    lengths = [b - a for a, b in itertools.pairwise(cuts)]
    document_ids = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths)).expand(2, -1)
    positions = torch.cat([torch.arange(n) for n in lengths]).expand(2, -1)
    with torch.no_grad():
        packed = decoder(input_ids, positions=positions, document_ids=document_ids)
        for start, stop in itertools.pairwise(cuts):
            assert_same(packed[:, start:stop], decoder(input_ids[:, start:stop]))
    # And exactly nothing flows back: the gradient of a document's logits at other documents' embeddings is zero.
    seen: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    with torch.enable_grad():
        handle = decoder.model.layers[0].input_layernorm.register_forward_hook(keep)
        packed = decoder(input_ids, positions=positions, document_ids=document_ids)
        handle.remove()
        (gradient,) = torch.autograd.grad(packed[:, 10:31].sum(), seen)
    assert gradient[:, 10:31].abs().sum() > 0
    assert gradient[:, :10].abs().sum() == 0
    assert gradient[:, 31:].abs().sum() == 0


def test_gradients_do_not_depend_on_windows_being_blocked(randomized_decoder: Make) -> None:
    """Blocked sliding attention against the same attention under one explicit mask."""
    blocked = randomized_decoder("gemma3-tiny", {"model.vocab_size": VOCAB, "model.attention.sliding_window": 16})
    masked = randomized_decoder("gemma3-tiny", {"model.vocab_size": VOCAB, "model.attention.sliding_window": 16})
    input_ids = tokens()
    full_cache_path = torch.ones_like(input_ids)
    blocked(input_ids).square().mean().backward()
    masked(input_ids, attention_mask=full_cache_path).square().mean().backward()
    for (name, p), q in zip(blocked.named_parameters(), masked.parameters(), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5, msg=name)


@torch.no_grad()
def test_the_ring_cache_stops_growing(randomized_decoder: Make) -> None:
    overrides = {"model.vocab_size": VOCAB, "model.max_seq_len": 4096}
    decoder = randomized_decoder("gemma3-tiny", overrides)
    small, large = decoder.new_cache(1, 512), decoder.new_cache(1, 4096)
    sliding = [i for i, kind in enumerate(decoder.config.layer_types) if kind == "sliding"]
    assert all(large.layers[i].keys.shape[2] == 32 + 1 for i in sliding)
    assert all(torch.equal(small.layers[i].keys, large.layers[i].keys) for i in sliding)
    grown = large.nbytes - small.nbytes
    assert grown == (4096 - 512) * 2 * 64 * 4  # the one full layer: keys and values of one head of 64, float32
    # And it stays right long after the window has wrapped.
    input_ids = tokens(rows=1, length=300)
    for start in range(0, 300, 60):
        logits = decoder(input_ids[:, start : start + 60], cache=small)
    assert_same(logits[:, -1], decoder(input_ids)[:, -1])


@torch.no_grad()
def test_a_full_cache_is_an_error_and_keeps_what_it_had(randomized_decoder: Make) -> None:
    decoder = randomized_decoder("elite-tiny", {"model.vocab_size": VOCAB})
    cache = decoder.new_cache(1, 8)
    decoder(tokens(1, 6), cache=cache)
    with pytest.raises(ContextLengthError, match="context of 8 tokens is full"):
        decoder(tokens(1, 3), cache=cache)
    assert cache.lengths.tolist() == [6]


def test_initialization_is_deterministic_and_has_the_stated_spread() -> None:
    model = load_config("tilda-tiny", {"model.vocab_size": VOCAB, "model.vocab_padding_multiple": 64}).model
    one, two = Decoder(model).initialize(3), Decoder(model).initialize(3)
    other = Decoder(model).initialize(4)
    for (name, p), q, r in zip(one.named_parameters(), two.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert p.dim() == 1 or not torch.equal(p, r), name
    down = one.model.layers[0].mlp.down_proj.weight
    up = one.model.layers[0].mlp.up_proj.weight
    assert up.std().item() == pytest.approx(0.02, rel=0.03)
    assert down.std().item() == pytest.approx(0.02 / (2 * 4) ** 0.5, rel=0.03)
    assert (one.model.norm.weight == 5.0).all()
    assert (one.model.layers[0].input_layernorm.weight == 1.0).all()
    assert (one.model.embed_tokens.weight[VOCAB:] == 0).all()
    assert (one.head_weight.shape[0], one.lm_head.weight.shape[0]) == (VOCAB, 128)


def test_gain_of_one_plus_w_norms_starts_at_one() -> None:
    decoder = Decoder(load_config("gemma3-tiny").model).initialize(0)
    assert (decoder.model.norm.weight == 0).all()


def test_dropout_acts_in_training_only(randomized_decoder: Make) -> None:
    decoder = randomized_decoder("elite-tiny", {"model.vocab_size": VOCAB})
    decoder.set_dropout(0.5)
    input_ids = tokens(1, 12)
    assert torch.equal(decoder(input_ids), decoder(input_ids))
    decoder.train()
    assert not torch.equal(decoder(input_ids), decoder(input_ids))
    decoder.set_dropout(0.0)
    assert torch.equal(decoder(input_ids), decoder(input_ids))


def test_bf16_compute_keeps_float32_masters(randomized_decoder: Make) -> None:
    decoder = randomized_decoder("gemma3-tiny", {"model.vocab_size": VOCAB})
    input_ids = tokens(2, 40)
    exact = decoder(input_ids)
    decoder.compute_dtype = torch.bfloat16
    rounded = decoder(input_ids)
    assert decoder.hidden(input_ids).dtype == torch.bfloat16
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05
    rounded.mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in decoder.parameters())


def test_block_fp8_can_be_switched_on_for_dense_projections_only(randomized_decoder: Make) -> None:
    input_ids, cpu = tokens(2, 20), torch.device("cpu")
    dense = randomized_decoder("tilda-tiny", {"model.vocab_size": VOCAB})
    exact = dense(input_ids)
    assert len(use_fp8(dense, "fp8_block", cpu).converted) == 4 * 8
    stored = randomized_decoder("tilda-tiny", {"model.vocab_size": VOCAB, "model.linear.kind": "fp8_block"})
    assert torch.equal(dense(input_ids), stored(input_ids))
    assert 0.005 < (dense(input_ids) - exact).norm() / exact.norm() < 0.5
    assert not use_fp8(dense, "fp8_block", cpu).converted
    ternary = randomized_decoder("tinylm-tiny", {"model.vocab_size": VOCAB})
    assert not use_fp8(ternary, "fp8_block", cpu).converted


def test_ternary_projections_use_three_values_and_8_bits_can_be_left_off(randomized_decoder: Make) -> None:
    overrides = {"model.vocab_size": VOCAB, "model.linear.activation_bits": None}
    decoder = randomized_decoder("tinylm-gqa-tiny", overrides)
    weight = decoder.layers[0].mlp.up_proj.effective_weight(torch.float32)
    assert len(weight.unique()) == 3
    exact = decoder(tokens())
    quantized = randomized_decoder("tinylm-gqa-tiny", {"model.vocab_size": VOCAB})
    assert not torch.allclose(exact, quantized(tokens()))


@pytest.mark.parametrize("preset", ["elite-tiny", "tinylm-tiny", "gemma3-tiny", "tilda-tiny"])
def test_every_parameter_gets_a_gradient(preset: str, randomized_decoder: Make) -> None:
    decoder = randomized_decoder(preset, {"model.vocab_size": VOCAB})
    decoder(tokens()).square().mean().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("preset", ["elite-tiny", "gemma3-tiny", "tilda-tiny"])
def test_short_training_in_bf16_attends_like_float32(preset: str, randomized_decoder: Make) -> None:
    """The path by plain products: packed documents, grouped queries, windows, values narrower than keys."""
    overrides = {"model.vocab_size": VOCAB, "model.num_layers": 2}
    if preset == "gemma3-tiny":
        overrides |= HYBRID
    input_ids = tokens(2)
    document_ids = (torch.arange(LENGTH) // 13).expand(2, -1)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        decoder = randomized_decoder(preset, overrides).train()
        decoder.compute_dtype = dtype
        decoder(input_ids, document_ids=document_ids).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None]))
    exact, rounded = gradients
    assert 0 < (exact - rounded).norm() / exact.norm() < 0.1
