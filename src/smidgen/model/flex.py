"""FlexAttention: softmax attention on a GPU that skips the blocks of keys which a window or document mask hides.

Where causal order alone is enough, PyTorch's flash kernels are faster; on a CPU FlexAttention has no backward pass.
B batch, T tokens, n blocks of 128 tokens.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

logger = logging.getLogger(__name__)

BLOCK = 128
"""Queries, and keys, that are skipped together."""
_HAS_TRITON = importlib.util.find_spec("triton") is not None


@functools.cache
def is_supported(device: torch.device) -> bool:
    """Whether FlexAttention runs here, forwards and backwards; says once where a GPU has to do without."""
    if device.type != "cuda":
        return False
    if not _HAS_TRITON or torch.cuda.get_device_capability(device) < (8, 0):
        reason = "is too old for it" if _HAS_TRITON else "needs triton for it; install it"
        logger.warning(
            "windows and document masks go through a mask in memory, not FlexAttention: %s %s",
            torch.cuda.get_device_name(device),
            reason,
        )
        return False
    return True


def block_mask(length: int, window: int | None, document_ids: Tensor | None, device: torch.device) -> BlockMask:
    """Causal attention of `length` tokens over themselves, within a window and within documents (int64 [B, T]).

    Blocks are judged by the smallest and largest document in them, so nothing of the size T² is ever made.
    """
    return _windowed(length, window, device) if document_ids is None else _made(length, window, document_ids, device)


@functools.lru_cache(maxsize=16)
def _windowed(length: int, window: int | None, device: torch.device) -> BlockMask:
    return _made(length, window, None, device)


def _made(length: int, window: int | None, document_ids: Tensor | None, device: torch.device) -> BlockMask:
    from torch.nn.attention.flex_attention import BlockMask

    count = -(-length // BLOCK)
    first = torch.arange(count, device=device) * BLOCK
    last = (first + BLOCK - 1).clamp(max=length - 1)
    query_first, query_last, key_first, key_last = first[:, None], last[:, None], first[None], last[None]
    seen, whole = key_first <= query_last, key_last <= query_first
    if window is not None:
        seen = seen & (query_first - key_last < window)
        whole = whole & (query_last - key_first < window)
    seen, whole = seen[None], whole[None]
    if document_ids is not None:
        padding = count * BLOCK - length
        ids = F.pad(document_ids[None].float(), (0, padding), mode="replicate")[0].long() if padding else document_ids
        lowest, highest = ids.unflatten(1, (count, BLOCK)).aminmax(dim=2)
        seen = seen & (lowest[:, :, None] <= highest[:, None]) & (highest[:, :, None] >= lowest[:, None])
        is_one = lowest == highest
        whole = whole & is_one[:, :, None] & is_one[:, None] & (lowest[:, :, None] == lowest[:, None])
    return BlockMask.from_kv_blocks(
        *_listed(seen & ~whole),
        *_listed(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=_visible(window, document_ids),
        seq_lengths=(length, length),
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Booleans [B, n, n] as FlexAttention wants them: how many a row has, [B, 1, n], and which first, [B, 1, n, n]."""
    numbers = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1)[:, None].int(), numbers[:, None].int().contiguous()


def _visible(window: int | None, document_ids: Tensor | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask of a single query and key; FlexAttention traces it into its kernels."""

    def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        visible = key <= query
        if window is not None:
            visible = visible & (query - key < window)
        return visible

    if document_ids is None:
        return causal
    documents = document_ids

    def within_document(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return causal(batch, head, query, key) & (documents[batch, query] == documents[batch, key])

    return within_document


def attend_flexibly(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
    """`softmax(scale · q kᵀ) v` under `mask`; shapes as in model/attend.py."""
    from torch.nn.attention.flex_attention import flex_attention

    attention: Any = flex_attention if torch.compiler.is_compiling() else _compiled()
    is_grouped = query.shape[1] != key.shape[1]
    output: Tensor = attention(query, key, value, block_mask=mask, scale=scale, enable_gqa=is_grouped)
    return output


@functools.cache
def _compiled() -> Callable[..., Any]:
    """By itself FlexAttention is only a definition: its kernels come from the compiler."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
