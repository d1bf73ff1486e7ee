from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.model import Decoder, cross_entropy

FAMILIES = ["elite-tiny", "gemma3-tiny", "tinylm-tiny", "tinylm-gqa-tiny", "tilda-tiny", "rscalm-tiny"]
SMALL = {"model.vocab_size": 65, "model.max_seq_len": 64}


def gradients(model: Decoder, mode: Any, dropout: float = 0.0) -> tuple[Tensor, list[Tensor]]:
    model.train()
    model.set_dropout(dropout)
    model.set_activation_checkpointing(mode)
    model.zero_grad()
    torch.manual_seed(5)
    ids = torch.randint(0, 65, (2, 64), generator=torch.Generator().manual_seed(1))
    loss, _ = cross_entropy(model.hidden(ids).flatten(0, 1), model.head_weight, ids.roll(-1, 1).flatten())
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("preset", FAMILIES)
def test_loss_and_gradients_are_those_without_it_to_the_bit(
    randomized_decoder: Any, preset: str, mode: str, dropout: float
) -> None:
    model = randomized_decoder(preset, SMALL)
    loss, plain = gradients(model, "none", dropout)
    again, checkpointed = gradients(model, mode, dropout)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_bf16_gradients_are_those_without_it(randomized_decoder: Any, mode: str) -> None:
    model = randomized_decoder("elite-tiny", SMALL)
    model.compute_dtype = torch.bfloat16
    _, plain = gradients(model, "none", 0.3)
    _, checkpointed = gradients(model, mode, 0.3)
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))


def kept_bytes(model: Decoder, mode: Any, length: int) -> int:
    """Bytes of the distinct storages that a forward pass keeps for its backward pass, weights aside."""
    model.train()
    model.set_activation_checkpointing(mode)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}
    keep = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
            keep.append(storage)  # an address must not be used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.hidden(torch.zeros(1, length, dtype=torch.long))
    return sum(storages.values())


def test_full_keeps_one_tensor_a_layer(randomized_decoder: Any) -> None:
    model = randomized_decoder("elite-tiny", SMALL)
    width, layers = model.config.hidden_size, model.config.num_layers
    inputs = 64 * width * 4 * layers
    assert inputs <= kept_bytes(model, "full", 64) < 2.5 * inputs
    assert kept_bytes(model, "none", 64) > 10 * inputs


def test_evaluation_and_generation_do_not_go_through_it(randomized_decoder: Any) -> None:
    model = randomized_decoder("elite-tiny", SMALL)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        plain = model(ids)
        model.set_activation_checkpointing("full")
        assert torch.equal(model(ids), plain)
        cache = model.new_cache(1)
        torch.testing.assert_close(model(ids, cache=cache), plain)


def test_a_sliding_layer_leaves_the_full_ones_without_a_mask(randomized_decoder: Any, monkeypatch: Any) -> None:
    """Positions that sliding layers write down must not turn a full layer's causal attention into a masked one."""
    masks = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def spy(*arguments: Any, **keywords: Any) -> Tensor:
        if keywords.get("attn_mask") is not None:
            masks.append(tuple(keywords["attn_mask"].shape[-2:]))
        return attention(*arguments, **keywords)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    overrides = {**SMALL, "model.max_seq_len": 512, "model.num_layers": 3, "model.layer_pattern": ["sliding", "full"]}
    with torch.no_grad():
        randomized_decoder("gemma3-tiny", overrides).hidden(torch.zeros(1, 512, dtype=torch.long))
    assert (512, 512) not in masks


def test_what_sliding_layers_keep_grows_linearly_with_the_length(randomized_decoder: Any) -> None:
    """Counted on real tensors, from 2,048 to 8,192 tokens."""
    overrides = {
        "model.vocab_size": 65,
        "model.hidden_size": 16,
        "model.num_layers": 1,
        "model.max_seq_len": 8192,
        "model.layer_pattern": ["sliding"],
        "model.attention": {
            "kind": "grouped_query",
            "num_heads": 1,
            "num_kv_heads": 1,
            "head_dim": 16,
            "sliding_window": 128,
        },
        "model.feed_forward.intermediate_size": 16,
    }
    model = randomized_decoder("gemma3-tiny", overrides)
    per_token = [kept_bytes(model, "none", length) / length for length in (2048, 4096, 8192)]
    assert max(per_token) < 1.1 * min(per_token)
