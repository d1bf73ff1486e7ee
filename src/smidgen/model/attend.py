"""Softmax attention over whatever keys each query may see, by PyTorch's fused kernels.

Shapes: B batch, H query heads, K key/value heads (H is a multiple of K), T queries, S keys, d and e head sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from smidgen.kernels.bf16 import emulates_bf16
from smidgen.kernels.blocked_attention import blocked_attention
from smidgen.kernels.cross_entropy import imagines_gpu
from smidgen.model.flex import attend_flexibly

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

LONGEST_SHORT_SEQUENCE = 512
"""Up to this length, training on a CPU attends in blocks by products: beyond it the flash kernel is as fast."""
FORBIDDEN_POSITION = -1
"""Position of a key that no query may see: padding, or a slot of a cache that holds nothing."""


@dataclass
class Visibility:
    """Which keys each query sees: causal, within its document, never padding; a window narrows it further.

    Without any tensor it is plain causal attention of T queries over the same T keys, or, where `everything` is set,
    attention without a mask. Masks are made when first needed and shared by the layers of one forward pass.
    """

    query_positions: Tensor | None = None
    """int64 [B or 1, T], on the same axis as `key_positions`."""
    key_positions: Tensor | None = None
    """int64 [B or 1, S]; FORBIDDEN_POSITION hides a key."""
    document_ids: Tensor | None = None
    """int64 [B, T]: queries see keys of their own document. Only where queries and keys are the same tokens."""
    everything: bool = False
    added: Tensor | None = None
    """For a single query a row, instead of positions: numbers to add to its scores, float32 [B, 1, 1, S]."""
    by_products: bool = False
    """Scores are made by plain products whatever their size: for graphs that are exported, whose sizes nobody knows."""
    blocks: BlockMask | None = None
    """The same for FlexAttention, with the window of the layers that share it; where set, it is used."""
    _masks: dict[int | None, Tensor] = field(default_factory=dict)
    _biases: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    @property
    def is_causal(self) -> bool:
        return self.query_positions is None and not self.everything and self.added is None

    @property
    def is_packed(self) -> bool:
        """Whether queries and keys are the same tokens in their order, none of them padding."""
        return self.is_causal or (self.query_positions is not None and self.key_positions is self.query_positions)

    def mask(self, window: int | None) -> Tensor:
        """Boolean [B or 1, 1, T, S], true where a query sees a key."""
        if window not in self._masks:
            self._masks[window] = self.block(window, slice(None), slice(None))
        return self._masks[window]

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """The mask as numbers to add to scores, [B or 1, 1, T, S]: 0 where a query sees a key, else -inf."""
        if (window, dtype) not in self._biases:
            mask = self.mask(window)
            self._biases[window, dtype] = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
                ~mask, float("-inf")
            )
        return self._biases[window, dtype]

    def block(self, window: int | None, queries: slice, keys: slice) -> Tensor:
        """The part of the mask for some queries and keys, boolean [B or 1, 1, t, s]."""
        assert self.query_positions is not None
        assert self.key_positions is not None
        i = self.query_positions[:, queries, None]
        j = self.key_positions[:, None, keys]
        visible = (j <= i) & (j > FORBIDDEN_POSITION)
        if window is not None:
            visible &= i - j < window
        if self.document_ids is not None:
            visible = visible & (self.document_ids[:, queries, None] == self.document_ids[:, None, keys])
        # A query that sees nothing (padding) would be 0/0: it may see everything, its output is not used.
        return (visible | ~visible.any(-1, keepdim=True))[:, None]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visibility: Visibility,
    *,
    scale: float,
    window: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """`softmax(scale · q kᵀ) v` with query [B, H, T, d], key [B, K, S, d], value [B, K, S, e]; returns [B, H, T, e].

    With a window, queries that stand where keys stand (no cache) attend in blocks, at a cost of T · window.
    """
    if visibility.blocks is not None:
        assert not dropout, "FlexAttention has no dropout"
        return attend_flexibly(query, key, value, visibility.blocks, scale)
    if visibility.by_products:
        bias = visibility.bias(window, query.dtype)
        return _attend_by_products(query, key, value, bias, scale, dropout)
    length = query.shape[2]
    if length == 1 and not dropout and (visibility.everything or visibility.added is not None):
        return _attend_once(query, key, value, visibility.added, scale)
    if window is not None and window >= key.shape[2] and visibility.is_causal:
        window = None
    if visibility.everything:
        return _sdpa(query, key, value, None, scale, dropout)
    if _is_short_training_on_cpu(query, key) and visibility.is_packed and not dropout:
        return blocked_attention(query, key, value, visibility.document_ids, scale, window)
    if visibility.is_causal and window is None:
        return _sdpa(query, key, value, None, scale, dropout, causal=True)
    if window is None or length != key.shape[2] or length <= window:
        return _sdpa(query, key, value, _with_positions(visibility, query).mask(window), scale, dropout)
    return _attend_in_blocks(query, key, value, _with_positions(visibility, query), scale, window, dropout)


def _is_short_training_on_cpu(query: Tensor, key: Tensor) -> bool:
    """Where blocks by products beat PyTorch's flash kernel, whose backward pass on a CPU is its slowest part."""
    return (
        query.device.type == "cpu"
        and not imagines_gpu()
        and torch.is_grad_enabled()
        and (query.requires_grad or key.requires_grad)
        and 1 < query.shape[2] == key.shape[2] <= LONGEST_SHORT_SEQUENCE
    )


def _attend_by_products(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float, dropout: float
) -> Tensor:
    """Attention with its [B, H, T, S] scores in memory; grouped queries share their keys without a copy."""
    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    grouped = (query * scale).reshape(batch, kv_heads, heads // kv_heads * length, size)
    scores = (grouped @ key.transpose(-1, -2)).view(batch, heads, length, -1)
    weights = (scores + bias).softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    mixed = weights.view(batch, kv_heads, heads // kv_heads * length, -1) @ value
    return mixed.view(batch, heads, length, -1)


def _attend_once(query: Tensor, key: Tensor, value: Tensor, added: Tensor | None, scale: float) -> Tensor:
    """Attention of one query a row, in plain products: grouped queries read their keys once, and nothing is copied.

    Scores and softmax are in float32 at least; `added` [B, 1, 1, S] or None.
    """
    batch, heads, _, size = query.shape
    if emulates_bf16(query):
        return _attend_once_in_float32(query, key, value, added, scale).to(query.dtype)
    grouped = (query * scale).reshape(batch, key.shape[1], -1, size)
    scores = grouped @ key.transpose(-1, -2)
    if scores.dtype != torch.float64:
        scores = scores.float()
    if added is not None:
        scores = scores + added
    mixed = scores.softmax(-1).to(value.dtype) @ value
    return mixed.reshape(batch, heads, 1, -1)


def _attend_once_in_float32(query: Tensor, key: Tensor, value: Tensor, added: Tensor | None, scale: float) -> Tensor:
    """The same where products of bfloat16 are only emulated: converting all keys costs less than one of them."""
    batch, heads, _, size = query.shape
    kv_heads = key.shape[1]
    grouped = query.float().reshape(batch * kv_heads, -1, size)
    keys = key.float().flatten(0, 1).transpose(1, 2)
    if added is None:
        scores = torch.bmm(grouped, keys) * scale
    else:
        added = added[:, 0] if batch == 1 else added.expand(-1, kv_heads, -1, -1).flatten(0, 1)
        scores = torch.baddbmm(added, grouped, keys, alpha=scale)
    mixed = torch.bmm(scores.softmax(-1), value.float().flatten(0, 1))
    return mixed.view(batch, heads, 1, -1)


def _attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scale: float, window: int, dropout: float
) -> Tensor:
    """Sliding attention a block of `window` queries at a time, each over at most 2 · window - 1 keys."""
    length = query.shape[2]
    outputs = []
    for start in range(0, length, window):
        queries = slice(start, min(start + window, length))
        keys = slice(max(start - window + 1, 0), queries.stop)
        mask = visibility.block(window, queries, keys)
        outputs.append(_sdpa(query[:, :, queries], key[:, :, keys], value[:, :, keys], mask, scale, dropout))
    return torch.cat(outputs, dim=2)


def _with_positions(visibility: Visibility, query: Tensor) -> Visibility:
    """The same visibility with its implied positions written out."""
    if visibility.query_positions is None:
        visibility.query_positions = torch.arange(query.shape[2], device=query.device)[None]
        visibility.key_positions = visibility.query_positions
    return visibility


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float, causal: bool = False
) -> Tensor:
    key_size, value_size = query.shape[-1], value.shape[-1]
    if value_size != key_size and query.shape[2] > 1:
        # PyTorch's flash kernels want one head size; its other path would materialise [B, H, T, S].
        if value_size < key_size:
            value = F.pad(value, (0, key_size - value_size))
        else:
            query, key = (F.pad(x, (0, value_size - key_size)) for x in (query, key))
    output = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        # A GPU's fused kernels draw their dropout themselves; the CPU's have none, and all scores would be kept for it.
        dropout_p=0.0 if imagines_gpu() else dropout,
        is_causal=causal and query.shape[2] > 1,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output[..., :value_size]
