"""How tensors are named and laid out in GGUF, as pairs of one of our tensors and what llama.cpp makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smidgen.config import LatentAttention, ModelConfig

Split = Callable[[Tensor], tuple[Tensor, ...]]
Join = Callable[[Sequence[Tensor]], Tensor]


def _alone(tensor: Tensor) -> tuple[Tensor, ...]:
    return (tensor,)


def _only(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0]


@dataclass(frozen=True)
class Entry:
    """One of our tensors and its GGUF tensors, with the way there and back."""

    ours: str
    theirs: tuple[str, ...]
    split: Split = _alone
    join: Join = _only


def plain(ours: str, theirs: str) -> Entry:
    """The same tensor under another name."""
    return Entry(f"{ours}.weight", (f"{theirs}.weight",))


def rotary_rows(entry: Entry, num_heads: int) -> Entry:
    """A query or key projection: we pair row i of a head with row i + d/2, GGUF's llama pairs neighbours."""

    def interleave(weight: Tensor) -> tuple[Tensor, ...]:
        return (weight.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).reshape(weight.shape),)

    def halves(weights: Sequence[Tensor]) -> Tensor:
        (weight,) = weights
        return weight.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).reshape(weight.shape)

    return replace(entry, split=interleave, join=halves)


def plus_one(ours: str, theirs: str) -> Entry:
    """A norm whose weight is stored with the 1 that the model adds."""
    return Entry(f"{ours}.weight", (f"{theirs}.weight",), lambda w: (w + 1,), lambda ws: ws[0] - 1)


def latent_expansion(ours: str, prefix: str, attention: LatentAttention) -> Entry:
    """The projection out of the latent, [H·(nope+v), rank]: a head's key part transposed, [H, rank, nope], and its
    value part, [H, v, rank], apart."""
    nope, heads = attention.qk_nope_head_dim, attention.num_heads

    def split(weight: Tensor) -> tuple[Tensor, ...]:
        by_head = weight.unflatten(0, (heads, -1))
        return by_head[:, :nope].transpose(1, 2).contiguous(), by_head[:, nope:].contiguous()

    def join(weights: Sequence[Tensor]) -> Tensor:
        key, value = weights
        return torch.cat([key.transpose(1, 2), value], dim=1).flatten(0, 1)

    return Entry(f"{ours}.weight", (f"{prefix}.attn_k_b.weight", f"{prefix}.attn_v_b.weight"), split, join)


def embedding_and_head(model: ModelConfig, norm: Entry) -> list[Entry]:
    """The tensors outside the layers."""
    head = [] if model.tie_word_embeddings else [plain("lm_head", "output")]
    return [plain("model.embed_tokens", "token_embd"), norm, *head]


def grouped_query(ours: str, theirs: str) -> list[Entry]:
    """The projections of attention: query, key, value, output."""
    return [
        *(plain(f"{ours}.{name}_proj", f"{theirs}.attn_{name}") for name in "qkv"),
        plain(f"{ours}.o_proj", f"{theirs}.attn_output"),
    ]


def feed_forward(ours: str, theirs: str) -> list[Entry]:
    """The three projections of a gated feed-forward."""
    return [plain(f"{ours}.mlp.{name}_proj", f"{theirs}.ffn_{name}") for name in ("gate", "up", "down")]
