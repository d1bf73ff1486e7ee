"""Causal attention of short sequences on a CPU, for training, in blocks of queries by batched products.

Shapes: B batch, H query heads, K key/value heads, G = H / K queries a key head, T tokens, d and e head sizes.

A block's scores hold only the keys that some of its queries see, so that what a causal mask or a window hides is not
computed, and they fit a core's cache. Grouped queries are rows beside each other of one product: keys are read once,
never repeated. The backward pass computes the probabilities again: nothing is kept but query, key and value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 128
"""Rows that a block of scores aims at."""
FEWEST_QUERIES, MOST_QUERIES = 32, 64


@torch.library.custom_op("smidgen::blocked_attention", mutates_args=(), device_types="cpu")
def blocked_attention(
    query: Tensor, key: Tensor, value: Tensor, document_ids: Tensor | None, scale: float, window: int | None
) -> Tensor:
    """`softmax(scale · q kᵀ) v` of query [B, H, T, d], key [B, K, T, d], value [B, K, T, e]: [B, H, T, e].

    A token sees itself and those before it, at most `window` in all, of its own document (document_ids int64 [B, T]).
    Scores are rounded to the type of `query`; softmax is computed in float32 at least. Differentiable once. It is an
    operator, so that graphs and activation checkpointing see it as one.
    """
    blocks = _Blocks(query, key, value, document_ids, scale, window)
    mixed = query.new_empty(blocks.queries.shape[0], blocks.queries.shape[1], value.shape[-1])
    for rows, keys, start in blocks.spans():
        torch.bmm(blocks.probabilities(rows, keys, start), blocks.values[:, keys], out=mixed[:, rows])
    return _to_heads(mixed, query.shape[:3])


@blocked_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    return _new_heads(query, query.shape[:3], value.shape[-1])


@torch.library.custom_op("smidgen::blocked_attention_backward", mutates_args=(), device_types="cpu")
def blocked_attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    document_ids: Tensor | None,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, given that of `blocked_attention`'s result."""
    blocks = _Blocks(query, key, value, document_ids, scale, window)
    of_mixed = _to_rows(gradient, key.shape[1])
    of_queries = torch.empty_like(blocks.queries)
    of_keys, of_values = torch.zeros_like(blocks.keys), torch.zeros_like(blocks.values)
    for rows, keys, start in blocks.spans():
        weights = blocks.probabilities(rows, keys, start)
        of_weights = torch.bmm(of_mixed[:, rows], blocks.values[:, keys].transpose(1, 2))
        of_values[:, keys].baddbmm_(weights.transpose(1, 2), of_mixed[:, rows])
        of_scores = torch.ops.aten._softmax_backward_data.out(
            of_weights, weights, -1, weights.dtype, grad_input=of_weights
        )
        of_keys[:, keys].baddbmm_(of_scores.transpose(1, 2), blocks.queries[:, rows])
        torch.bmm(of_scores, blocks.keys[:, keys], out=of_queries[:, rows])
    return _to_heads(of_queries.mul_(scale), query.shape[:3]), of_keys.view(key.shape), of_values.view(value.shape)


@blocked_attention_backward.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return _new_heads(query, query.shape[:3], query.shape[-1]), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, key, value, document_ids, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(query, key, value, document_ids)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    gradients = blocked_attention_backward(gradient, *ctx.saved_tensors, ctx.scale, ctx.window)
    return *gradients, None, None, None


blocked_attention.register_autograd(_backward, setup_context=_keep)


class _Blocks:
    """Operands as matrices, one a key head: rows of `queries` are the scaled queries of a token, token after token."""

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, document_ids: Tensor | None, scale: float, window: int | None
    ) -> None:
        self.batch, self.length = query.shape[0], query.shape[2]
        self.group = query.shape[1] // key.shape[1]
        self.queries = _to_rows(query, key.shape[1], scale)
        self.keys, self.values = key.reshape(-1, *key.shape[2:]), value.reshape(-1, *value.shape[2:])
        self.document_ids, self.window = document_ids, window
        self.size = min(max(ROWS // self.group, FEWEST_QUERIES), MOST_QUERIES)
        ahead = torch.ones(self.size, self.size, dtype=torch.bool).triu(1)
        zeros = torch.zeros(ahead.shape, dtype=query.dtype)
        self.causal = zeros.masked_fill_(ahead, float("-inf")).repeat_interleave(self.group, 0)

    def spans(self) -> list[tuple[slice, slice, int]]:
        """For each block its rows of `queries`, the keys that some of them see, and its first token."""
        spans = []
        for start in range(0, self.length, self.size):
            stop = min(start + self.size, self.length)
            first = 0 if self.window is None else max(start - self.window + 1, 0)
            spans.append((slice(start * self.group, stop * self.group), slice(first, stop), start))
        return spans

    def probabilities(self, rows: slice, keys: slice, start: int) -> Tensor:
        """Softmax of a block's scores, [B · K, rows, keys]."""
        scores = torch.bmm(self.queries[:, rows], self.keys[:, keys].transpose(1, 2))
        count = keys.stop - start
        scores[:, :, start - keys.start :].add_(self.causal[: count * self.group, :count])
        hidden = self._hidden(start, keys)
        if hidden is not None:
            by_token = scores.view(self.batch, -1, count, self.group, scores.shape[2])
            by_token.masked_fill_(hidden[:, None, :, None], float("-inf"))
        return torch.ops.aten._softmax.out(scores, -1, False, out=scores)

    def _hidden(self, start: int, keys: slice) -> Tensor | None:
        """What else queries from `start` on do not see, boolean [B or 1, queries, keys]; None if they see all."""
        hidden = None
        if self.window is not None and keys.stop - keys.start > self.window:
            distance = torch.arange(start, keys.stop)[:, None] - torch.arange(keys.start, keys.stop)
            hidden = (distance >= self.window)[None]
        if self.document_ids is not None:
            queries = self.document_ids[:, start : keys.stop, None]
            other = queries != self.document_ids[:, None, keys]
            hidden = other if hidden is None else hidden | other
        return hidden


def _to_rows(x: Tensor, kv_heads: int, factor: float | None = None) -> Tensor:
    """[B, H, T, d], times a factor, as [B · K, T · G, d]: the heads of a group beside each other, token after token."""
    batch, heads, length, size = x.shape
    grouped = x.unflatten(1, (kv_heads, -1)).transpose(2, 3)
    rows = x.new_empty(batch, kv_heads, length, heads // kv_heads, size)
    if factor is None:
        rows.copy_(grouped)
    else:
        torch.mul(grouped, factor, out=rows)
    return rows.view(batch * kv_heads, -1, size)


def _to_heads(rows: Tensor, shape: torch.Size) -> Tensor:
    """[B · K, T · G, d] as [B, H, T, d], in memory [B, T, H, d] as projections want it."""
    batch, heads, length = shape
    result = _new_heads(rows, shape, rows.shape[-1])
    kv_heads = rows.shape[0] // batch
    grouped = rows.view(batch, kv_heads, length, heads // kv_heads, -1)
    result.unflatten(1, (kv_heads, -1)).copy_(grouped.transpose(2, 3))
    return result


def _new_heads(like: Tensor, shape: torch.Size, size: int) -> Tensor:
    batch, heads, length = shape
    return like.new_empty(batch, length, heads, size).transpose(1, 2)
