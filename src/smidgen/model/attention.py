"""The attention sublayers: grouped-query and multi-head latent attention.

Shapes: B batch, T tokens, D hidden size, H query heads, K key/value heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smidgen import config
from smidgen.config import LayerType
from smidgen.kernels.bf16 import emulates_bf16
from smidgen.model.attend import Visibility, attend
from smidgen.model.cache import AnyStep, LayerCache, LayerShape
from smidgen.model.norm import make_norm
from smidgen.model.quantized import linear_maker
from smidgen.model.rope import (
    Rotation,
    inverse_frequencies,
    rotate_halves,
    rotate_interleaved,
    yarn_frequencies,
    yarn_softmax_factor,
)

Fused = Callable[[Tensor], Sequence[Tensor]]
"""Several projections of one input in one product (see inference/fused.py)."""


@dataclass
class LayerInputs:
    """What the layers of one type share in a forward pass."""

    rotation: Rotation
    visibility: Visibility
    dropout: float
    step: AnyStep | None


class GroupedQueryAttention(nn.Module):
    """Query heads in groups that share keys and values; full, or over a sliding window."""

    interleaved = False
    """Whether RoPE turns neighbouring dimensions."""

    def __init__(self, model: config.ModelConfig, layer_type: LayerType, index: int) -> None:
        super().__init__()
        attention = model.attention
        assert isinstance(attention, config.GroupedQueryAttention)
        linear = linear_maker(model, f"model.layers.{index}.self_attn")
        width, self.head_dim = model.hidden_size, attention.head_dim
        query_size = attention.num_heads * self.head_dim
        key_size = attention.num_kv_heads * self.head_dim
        self.num_kv_heads = attention.num_kv_heads
        self.window = attention.sliding_window if layer_type == "sliding" else None
        self.softmax_scale = attention.softmax_scale
        self.q_proj = linear("q_proj", width, query_size)
        self.k_proj = linear("k_proj", width, key_size)
        self.v_proj = linear("v_proj", width, key_size)
        self.fused: Fused | None = None
        """In inference, instead of the three."""
        self.q_norm = make_norm(model.norm, self.head_dim) if attention.qk_norm else None
        self.k_norm = make_norm(model.norm, self.head_dim) if attention.qk_norm else None
        self.attn_sub_norm = make_norm(model.norm, query_size) if model.norm.placement == "sub" else None
        self.o_proj = linear("o_proj", query_size, width)

    def cache_shape(self) -> LayerShape:
        return LayerShape(self.num_kv_heads, self.head_dim, self.head_dim, self.window)

    def forward(self, x: Tensor, inputs: LayerInputs, cache: LayerCache | None) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        parts = self.fused(x) if self.fused is not None else [projection(x) for projection in projections]
        query = self._heads(parts[0], self.q_norm)
        key = self._heads(parts[1], self.k_norm)
        value: Tensor | None = self._heads(parts[2], None)
        query = rotate_halves(query, inputs.rotation)
        key = rotate_halves(key, inputs.rotation)
        if cache is not None:
            assert inputs.step is not None
            key, value = cache.append(key, value, inputs.step)
        assert value is not None
        mixed = attend(
            query,
            key,
            value,
            inputs.visibility,
            scale=self.softmax_scale,
            window=self.window,
            dropout=inputs.dropout,
        )
        mixed = mixed.transpose(1, 2).flatten(2)
        if self.attn_sub_norm is not None:
            mixed = self.attn_sub_norm(mixed)
        return self.o_proj(mixed)

    def _heads(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        heads = x.unflatten(-1, (-1, self.head_dim))
        return (heads if norm is None else norm(heads)).transpose(1, 2)

    @staticmethod
    def frequencies(model: config.ModelConfig, layer_type: LayerType) -> Tensor:
        """RoPE's inverse frequencies of a layer type, float32 [head_dim / 2]."""
        attention = model.attention
        assert isinstance(attention, config.GroupedQueryAttention)
        sliding_theta = attention.sliding_rope_theta
        theta = attention.rope_theta if layer_type == "full" or sliding_theta is None else sliding_theta
        return inverse_frequencies(attention.head_dim, theta)


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-V2, 2024).

    A head's query and key are `[nope | rope]`; only the rope part is rotated, and its key is shared by all heads.
    Keys' nope part and values come from the normed latent ĉ through `kv_b_proj`. In absorb mode the cache holds
    `[ĉ | k_rope]` and the queries are carried into the latent space: one key head that all queries share.
    """

    interleaved = True

    def __init__(self, model: config.ModelConfig, layer_type: LayerType, index: int) -> None:
        super().__init__()
        attention = model.attention
        assert isinstance(attention, config.LatentAttention)
        assert layer_type == "full"
        linear = linear_maker(model, f"model.layers.{index}.self_attn")
        width, heads = model.hidden_size, attention.num_heads
        self.num_heads = heads
        self.nope, self.rope, self.v = attention.qk_nope_head_dim, attention.qk_rope_head_dim, attention.v_head_dim
        self.rank = attention.kv_lora_rank
        self.absorb = attention.cache == "absorb"
        self.softmax_scale = (self.nope + self.rope) ** -0.5
        if uses_yarn(model):
            self.softmax_scale *= yarn_softmax_factor(attention.yarn)
        query_size = heads * attention.qk_head_dim
        if attention.q_lora_rank:
            self.q_a_proj = linear("q_a_proj", width, attention.q_lora_rank)
            self.q_a_layernorm = make_norm(model.norm, attention.q_lora_rank)
            self.q_b_proj = linear("q_b_proj", attention.q_lora_rank, query_size)
            self.q_proj = None
        else:
            self.q_proj = linear("q_proj", width, query_size)
        self.kv_a_proj_with_mqa = linear("kv_a_proj_with_mqa", width, self.rank + self.rope)
        self.fused: Fused | None = None
        """In inference, instead of the two projections of the input: the queries' and the latent's."""
        self.kv_a_layernorm = make_norm(model.norm, self.rank)
        self.kv_b_proj = linear("kv_b_proj", self.rank, heads * (self.nope + self.v))
        self.attn_sub_norm = make_norm(model.norm, heads * self.v) if model.norm.placement == "sub" else None
        self.o_proj = linear("o_proj", heads * self.v, width)

    def cache_shape(self) -> LayerShape:
        if self.absorb:
            return LayerShape(1, self.rank + self.rope, 0, None)
        return LayerShape(self.num_heads, self.nope + self.rope, self.v, None)

    def forward(self, x: Tensor, inputs: LayerInputs, cache: LayerCache | None) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        first = self.q_a_proj if self.q_proj is None else self.q_proj
        query, latent = self.fused(x) if self.fused is not None else (first(x), self.kv_a_proj_with_mqa(x))
        if self.q_proj is None:
            query = self.q_b_proj(self.q_a_layernorm(query))
        query = query.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        q_nope, q_rope = query.split([self.nope, self.rope], dim=-1)
        q_rope = rotate_interleaved(q_rope, inputs.rotation)
        latent, k_rope = latent.split([self.rank, self.rope], dim=-1)
        latent = self.kv_a_layernorm(latent)
        k_rope = rotate_interleaved(k_rope[:, None], inputs.rotation)
        if cache is not None and self.absorb:
            mixed = self._attend_absorbed(q_nope, q_rope, latent, k_rope, inputs, cache)
        else:
            mixed = self._attend_naive(q_nope, q_rope, latent, k_rope, inputs, cache)
        mixed = mixed.transpose(1, 2).flatten(2)
        if self.attn_sub_norm is not None:
            mixed = self.attn_sub_norm(mixed)
        return self.o_proj(mixed)

    def _attend_naive(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        latent: Tensor,
        k_rope: Tensor,
        inputs: LayerInputs,
        cache: LayerCache | None,
    ) -> Tensor:
        """Keys and values of every head, [B, H, T, v] out."""
        expanded = self.kv_b_proj(latent).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k_nope, value = expanded.split([self.nope, self.v], dim=-1)
        query = torch.cat([q_nope, q_rope], dim=-1)
        key = torch.cat([k_nope, k_rope.expand(-1, self.num_heads, -1, -1)], dim=-1)
        if cache is not None:
            assert inputs.step is not None
            key, value = cache.append(key, value, inputs.step)
        return attend(query, key, value, inputs.visibility, scale=self.softmax_scale, dropout=inputs.dropout)

    def _attend_absorbed(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        latent: Tensor,
        k_rope: Tensor,
        inputs: LayerInputs,
        cache: LayerCache,
    ) -> Tensor:
        """The same through the latent cache: `q̃ = q_nope · W_k`, `out = (p · ĉ) · W_v`."""
        assert inputs.step is not None
        # The cache holds what kv_b_proj multiplies: under 8-bit activations the rounded latent, so that
        # (Wᵀq)·x̂ = q·(W x̂) stays exact.
        rounded = self.kv_b_proj.quantizer.input(latent)
        key, _ = cache.append(torch.cat([rounded[:, None], k_rope], dim=-1), None, inputs.step)
        if inputs.step.starts_empty:
            # A fresh prompt: expanding its keys costs less than attending over the wide latent.
            return self._attend_naive(q_nope, q_rope, latent, k_rope, inputs, None)
        weight = self.kv_b_proj.effective_weight(q_nope.dtype).unflatten(0, (self.num_heads, -1))
        key_weight, value_weight = weight.split([self.nope, self.v], dim=1)
        query = torch.cat([_by_head(q_nope, key_weight), q_rope], dim=-1)
        mixed = attend(
            query,
            key,
            key[..., : self.rank],
            inputs.visibility,
            scale=self.softmax_scale,
            dropout=inputs.dropout,
        )
        return _by_head(mixed, value_weight.transpose(1, 2))

    @staticmethod
    def frequencies(model: config.ModelConfig, layer_type: LayerType) -> Tensor:
        """RoPE's inverse frequencies, stretched by YaRN when the context is longer than the original."""
        attention = model.attention
        assert isinstance(attention, config.LatentAttention)
        if uses_yarn(model):
            return yarn_frequencies(attention.qk_rope_head_dim, attention.rope_theta, attention.yarn)
        return inverse_frequencies(attention.qk_rope_head_dim, attention.rope_theta)


def _by_head(x: Tensor, weight: Tensor) -> Tensor:
    """`x[b, h] · weight[h]` for x [B, H, T, d] and weight [H, d, e]: one product a head, whatever the batch."""
    batch, _, length, _ = x.shape
    if emulates_bf16(x):
        return _by_head(x.float(), weight.float()).to(x.dtype)
    if batch == 1:
        return x @ weight
    product = x.transpose(0, 1).flatten(1, 2) @ weight
    return product.unflatten(1, (batch, length)).transpose(0, 1)


def uses_yarn(model: config.ModelConfig) -> bool:
    """Whether YaRN acts: decided by the configured context, so that it never changes with a prompt's length."""
    attention = model.attention
    return isinstance(attention, config.LatentAttention) and model.max_seq_len > attention.yarn.original_max_seq_len


def attention_class(model: config.ModelConfig) -> type[GroupedQueryAttention] | type[LatentAttention]:
    """The attention that the configuration's `model.attention` section describes."""
    return LatentAttention if isinstance(model.attention, config.LatentAttention) else GroupedQueryAttention


def residual_dropout(x: Tensor, dropout: float) -> Tensor:
    """Dropout on the output of a sublayer; nothing at 0."""
    return F.dropout(x, dropout) if dropout else x
