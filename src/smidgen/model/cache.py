"""Key and value caches: preallocated, ring-shaped for sliding layers, latent for multi-head latent attention.

Every row of the batch is a slot with its own length, so prompts of unequal length, chunks, single tokens and slots
that are reused for another request are the same operation: append each row's unmasked tokens at its own end.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
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

    def __init__(self, capacity: int, window: int | None, keys: Tensor, values: Tensor | None) -> None:
        self.capacity = capacity
        self.window = window
        self.is_ring = window is not None
        self.keys = keys
        """[B, K, capacity + 1, d]."""
        self.values = values
        """[B, K, capacity + 1, e]; None for a latent layer."""

    @classmethod
    def allocate(
        cls,
        shape: LayerShape,
        batch_size: int,
        max_seq_len: int,
        dtype: torch.dtype,
        device: torch.device,
        ring_slack: int = 0,
    ) -> LayerCache:
        """An empty cache; a ring keeps `ring_slack` positions more than its window."""
        capacity = ring_capacity(shape.window, max_seq_len, ring_slack)
        slots = (batch_size, shape.heads, capacity + 1)
        keys = torch.zeros(*slots, shape.key_size, dtype=dtype, device=device)
        values = torch.zeros(*slots, shape.value_size, dtype=dtype, device=device) if shape.value_size else None
        return cls(capacity, shape.window, keys, values)

    @property
    def buffers(self) -> list[Tensor]:
        """Keys, and values where there are."""
        return [self.keys] if self.values is None else [self.keys, self.values]

    def rows(self, start: int, stop: int) -> LayerCache:
        """These slots alone, in the same memory."""
        values = None if self.values is None else self.values[start:stop]
        return LayerCache(self.capacity, self.window, self.keys[start:stop], values)

    def append(self, key: Tensor, value: Tensor | None, step: AnyStep) -> tuple[Tensor, Tensor | None]:
        """Store key [B, K, T, d] and value [B, K, T, e]; returns what the step's queries attend to.

        The result fits `step.visibility[...]` of this layer's type. Value is None for a latent layer.
        """
        if isinstance(step, TokenStep):
            return self._append_token(key, value, step)
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

    def _append_token(self, key: Tensor, value: Tensor | None, step: TokenStep) -> tuple[Tensor, Tensor | None]:
        for buffer, new in ((self.keys, key), (self.values, value)):
            if buffer is None or new is None:
                continue
            if len(new) == 1 and buffer.device.type == "cpu":
                buffer[0].index_copy_(1, step.slots, new[0])
            else:
                heads = torch.arange(new.shape[1], device=new.device)
                buffer.index_put_((step.rows[:, None], heads[None], step.slots[:, None]), new[:, :, 0])
        return self.keys[:, :, : step.stop], None if self.values is None else self.values[:, :, : step.stop]

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


@dataclass(frozen=True)
class TokenStep:
    """One token for each row, for the layers of one type: nothing here depends on values that the host would know."""

    rows: Tensor
    """int64 [B]: 0 … B - 1."""
    slots: Tensor
    """int64 [B]: where each row's token is stored; the layer's capacity for rows without one."""
    stop: int
    """Slots that are attended to."""
    starts_empty: bool = False


class CacheStep:
    """One forward pass over a cache: where its tokens stand, where they are stored, what they see."""

    def __init__(self, cache: Cache, length: int, attention_mask: Tensor | None, device: torch.device) -> None:
        before = cache.lengths.clone()
        is_right_padded = True
        if attention_mask is None:
            counts = torch.full_like(before, length)
            kept = None
        else:
            kept = attention_mask.to("cpu", torch.bool)
            counts = kept.sum(1)
            is_right_padded = torch.equal(kept, torch.arange(length) < counts[:, None])
        self.lengths = before + counts
        self.longest = int(self.lengths.max())
        if self.longest > cache.max_seq_len:
            raise ContextLengthError(
                f"the context of {cache.max_seq_len} tokens is full: {self.longest} are needed; "
                "shorten the prompt or the answer"
            )
        self._uniform = kept is None and bool((before == before[0]).all())
        self._start = int(before[0])
        # Padding behind a prompt needs no mask: it comes after every token, and nothing of it is kept.
        self.starts_empty = is_right_padded and not bool(before.any())
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
        self._ring_slack = cache.ring_slack
        self._slots: dict[tuple[int, bool], slice | Tensor] = {}

    def visibility(self, window: int | None, max_seq_len: int) -> Visibility:
        """What the queries of this step see of the keys that a layer with this window returns from `append`."""
        if self.starts_empty:
            return Visibility()
        if window is None:
            if self._uniform and self._length == 1:
                return Visibility(everything=True)
            return Visibility(self.positions, torch.arange(self.longest, device=self._device)[None])
        capacity = ring_capacity(window, max_seq_len, self._ring_slack)
        if self._length == 1:
            if self._uniform and min(self.longest, capacity) <= window:
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


AnyStep = CacheStep | TokenStep


class Cache:
    """The caches of all layers for `batch_size` slots of up to `max_seq_len` tokens."""

    def __init__(
        self,
        layers: Sequence[LayerShape],
        batch_size: int,
        max_seq_len: int,
        dtype: torch.dtype,
        device: torch.device,
        ring_slack: int = 0,
    ) -> None:
        self.batch_size = batch_size
        self.max_seq_len = max_seq_len
        self.ring_slack = ring_slack
        """Positions that a ring holds beyond its window: so many tokens can be taken back."""
        self.layers = [
            LayerCache.allocate(shape, batch_size, max_seq_len, dtype, device, ring_slack) for shape in layers
        ]
        self.lengths = torch.zeros(batch_size, dtype=torch.int64)
        """int64 [B] on the CPU: tokens stored in each slot."""

    def begin(self, length: int, attention_mask: Tensor | None, device: torch.device) -> CacheStep:
        """Plan a forward pass of `length` tokens a row; raises ContextLengthError when they do not fit."""
        return CacheStep(self, length, attention_mask, device)

    def commit(self, step: CacheStep) -> None:
        """Count the tokens of a finished pass."""
        self.lengths.copy_(step.lengths)

    def reset(self, rows: Sequence[int]) -> None:
        """Empty these slots."""
        self.lengths[list(rows)] = 0

    def rows(self, start: int, stop: int) -> Cache:
        """The slots from `start` to `stop` as a cache of their own, in the same memory."""
        part = copy(self)
        part.batch_size = stop - start
        part.layers = [layer.rows(start, stop) for layer in self.layers]
        part.lengths = self.lengths[start:stop]
        return part

    def reusable(self, stored: int, wanted: int) -> int:
        """How much of the first `wanted` tokens of a slot that stores `stored` can go on as if the rest had not come.

        All of it, or nothing: where a ring has overwritten what a token behind `wanted` still sees.
        """
        for layer in self.layers:
            if layer.window is not None and stored - layer.capacity > max(0, wanted - layer.window + 1):
                return 0
        return wanted

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Make `target` a copy of the first `length` tokens of `source` (see `reusable`)."""
        stored = int(self.lengths[source])
        for layer in self.layers:
            used = min(stored if layer.is_ring else length, layer.capacity)
            for buffer in layer.buffers:
                buffer[target, :, :used] = buffer[source, :, :used]
        self.lengths[target] = length

    def swap_rows(self, first: int, second: int) -> None:
        """Exchange two slots."""
        stored = int(self.lengths[[first, second]].max())
        for layer in self.layers:
            used = min(stored, layer.capacity)
            for buffer in layer.buffers:
                held = buffer[first, :, :used].clone()
                buffer[first, :, :used] = buffer[second, :, :used]
                buffer[second, :, :used] = held
        self.lengths[[first, second]] = self.lengths[[second, first]]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(b.numel() * b.element_size() for layer in self.layers for b in layer.buffers)


def cache_bytes(
    layers: Sequence[LayerShape], batch_size: int, max_seq_len: int, dtype: torch.dtype, ring_slack: int = 0
) -> int:
    """Bytes that a Cache of these layers would take."""
    positions = ((ring_capacity(shape.window, max_seq_len, ring_slack) + 1, shape) for shape in layers)
    numbers = sum(count * shape.heads * (shape.key_size + shape.value_size) for count, shape in positions)
    return batch_size * numbers * dtype.itemsize


def ring_capacity(window: int | None, max_seq_len: int, ring_slack: int) -> int:
    """Positions that a layer with this window (None: a full one) holds."""
    return max_seq_len if window is None else min(window + ring_slack, max_seq_len)


def layer_windows(layer_types: Sequence[LayerType], window: int | None) -> list[int | None]:
    """The window of each layer: `window` for sliding ones, None for full ones."""
    return [window if kind == "sliding" else None for kind in layer_types]


def _ring_positions(lengths: Tensor, capacity: int) -> Tensor:
    """Position held by each slot of a ring after `lengths` [B] tokens: int64 [B, capacity], FORBIDDEN where empty."""
    last = lengths[:, None] - 1
    return (last - (last - torch.arange(capacity)) % capacity).clamp(min=FORBIDDEN_POSITION)
