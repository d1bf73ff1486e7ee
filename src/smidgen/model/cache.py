"""Key and value caches: preallocated, ring-shaped for sliding layers, latent for multi-head latent attention.

Every row of the batch is a slot with its own length, so prompts of unequal length, chunks, single tokens and slots
that are reused for another request are the same operation: append each row's unmasked tokens at its own end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.config import LayerType
from smidgen.model.attend import FORBIDDEN_POSITION, Visibility
from smidgen.runtime.errors import ContextLengthError


@dataclass(frozen=True)
class LayerShape:
    """What one layer stores a token: `heads` keys of `key_size`, and as many values of `value_size` (0: none)."""

    heads: int
    key_size: int
    value_size: int
    window: int | None
    """A ring of this many positions; None keeps them all."""


class LayerCache:
    """Keys and values of one layer. The last slot of each buffer takes what is not to be kept (padding)."""

    def __init__(
        self, shape: LayerShape, batch_size: int, max_seq_len: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.capacity = max_seq_len if shape.window is None else min(shape.window, max_seq_len)
        self.is_ring = shape.window is not None
        slots = (batch_size, shape.heads, self.capacity + 1)
        self.keys = torch.zeros(*slots, shape.key_size, dtype=dtype, device=device)
        self.values = torch.zeros(*slots, shape.value_size, dtype=dtype, device=device) if shape.value_size else None

    def append(self, key: Tensor, value: Tensor | None, step: CacheStep) -> tuple[Tensor, Tensor | None]:
        """Store key [B, K, T, d] and value [B, K, T, e]; returns what the step's queries attend to.

        The result fits `step.visibility[...]` of this layer's type. Value is None for a latent layer.
        """
        if step.starts_empty:
            self._write(key, value, step)
            return key, value
        if self.is_ring and key.shape[2] > 1:
            # The chunk would overwrite keys that its first queries still see: attend to both, then write.
            keys = torch.cat([self.keys[:, :, : self.capacity], key], dim=2)
            values = None
            if self.values is not None and value is not None:
                values = torch.cat([self.values[:, :, : self.capacity], value], dim=2)
            self._write(key, value, step)
            return keys, values
        self._write(key, value, step)
        stop = min(step.longest, self.capacity)
        return self.keys[:, :, :stop], None if self.values is None else self.values[:, :, :stop]

    def _write(self, key: Tensor, value: Tensor | None, step: CacheStep) -> None:
        slots = step.slots(self.capacity, self.is_ring)
        for buffer, new in ((self.keys, key), (self.values, value)):
            if buffer is None or new is None:
                continue
            if isinstance(slots, slice):
                buffer[:, :, slots] = new
            else:
                rows = torch.arange(slots.shape[0], device=slots.device)[:, None]
                buffer[rows, :, slots] = new.transpose(1, 2).to(buffer.dtype)


class CacheStep:
    """One forward pass over a cache: where its tokens stand, where they are stored, what they see."""

    def __init__(self, cache: Cache, length: int, attention_mask: Tensor | None, device: torch.device) -> None:
        before = cache.lengths
        if attention_mask is None:
            counts = torch.full_like(before, length)
            kept = None
        else:
            kept = attention_mask.to("cpu", torch.bool)
            counts = kept.sum(1)
        self.lengths = before + counts
        self.longest = int(self.lengths.max())
        if self.longest > cache.max_seq_len:
            raise ContextLengthError(
                f"the context of {cache.max_seq_len} tokens is full: {self.longest} are needed; "
                "shorten the prompt or the answer"
            )
        self._uniform = kept is None and bool((before == before[0]).all())
        self._start = int(before[0])
        self.starts_empty = self._uniform and self._start == 0
        if kept is None:
            positions = before[:, None] + torch.arange(length)
            self._stored = positions
        else:
            positions = (before[:, None] + kept.cumsum(1) - 1).clamp(min=0)
            self._stored = torch.where(kept, positions, FORBIDDEN_POSITION)
        self.positions = positions.to(device)
        """int64 [B, T]: position of each token in its row; what padding gets does not matter."""
        self._before = before
        self._device = device
        self._length = length
        self._slots: dict[tuple[int, bool], slice | Tensor] = {}

    def visibility(self, window: int | None, max_seq_len: int) -> Visibility:
        """What the queries of this step see of the keys that a layer with this window returns from `append`."""
        if self.starts_empty:
            return Visibility()
        if window is None:
            if self._uniform and self._length == 1:
                return Visibility(everything=True)
            return Visibility(self.positions, torch.arange(self.longest, device=self._device)[None])
        capacity = min(window, max_seq_len)
        if self._length == 1:
            if self._uniform:
                return Visibility(everything=True)
            held = _ring_positions(self.lengths, capacity)[:, : min(self.longest, capacity)]
        else:
            held = torch.cat([_ring_positions(self._before, capacity), self._stored], dim=1)
        return Visibility(self.positions, held.to(self._device))

    def slots(self, capacity: int, is_ring: bool) -> slice | Tensor:
        """Where a layer stores the tokens: a slice, or int64 [B, T] with `capacity` for those not kept."""
        key = (capacity, is_ring)
        if key not in self._slots:
            self._slots[key] = self._compute_slots(capacity, is_ring)
        return self._slots[key]

    def _compute_slots(self, capacity: int, is_ring: bool) -> slice | Tensor:
        stop = self._start + self._length
        if self._uniform and stop <= capacity:
            return slice(self._start, stop)
        stored = self._stored
        discarded = stored == FORBIDDEN_POSITION
        if is_ring:
            # Of a chunk longer than the ring only the end stays.
            discarded = discarded | (stored < self.lengths[:, None] - capacity)
            stored = stored % capacity
        return torch.where(discarded, capacity, stored).to(self._device)


class Cache:
    """The caches of all layers for `batch_size` slots of up to `max_seq_len` tokens."""

    def __init__(
        self,
        layers: Sequence[LayerShape],
        batch_size: int,
        max_seq_len: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.batch_size = batch_size
        self.max_seq_len = max_seq_len
        self.layers = [LayerCache(shape, batch_size, max_seq_len, dtype, device) for shape in layers]
        self.lengths = torch.zeros(batch_size, dtype=torch.int64)
        """int64 [B] on the CPU: tokens stored in each slot."""

    def begin(self, length: int, attention_mask: Tensor | None, device: torch.device) -> CacheStep:
        """Plan a forward pass of `length` tokens a row; raises ContextLengthError when they do not fit."""
        return CacheStep(self, length, attention_mask, device)

    def commit(self, step: CacheStep) -> None:
        """Count the tokens of a finished pass."""
        self.lengths = step.lengths

    def reset(self, rows: Sequence[int]) -> None:
        """Empty these slots."""
        self.lengths = self.lengths.clone()
        self.lengths[list(rows)] = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        buffers = [b for layer in self.layers for b in (layer.keys, layer.values) if b is not None]
        return sum(b.numel() * b.element_size() for b in buffers)


def layer_windows(layer_types: Sequence[LayerType], window: int | None) -> list[int | None]:
    """The window of each layer: `window` for sliding ones, None for full ones."""
    return [window if kind == "sliding" else None for kind in layer_types]


def _ring_positions(lengths: Tensor, capacity: int) -> Tensor:
    """Position held by each slot of a ring after `lengths` [B] tokens: int64 [B, capacity], FORBIDDEN where empty."""
    last = lengths[:, None] - 1
    return (last - (last - torch.arange(capacity)) % capacity).clamp(min=FORBIDDEN_POSITION)
