"""What an engine takes of the memory, asked before it takes any."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from smidgen.edge.config import EdgeModelConfig
from smidgen.edge.library import CACHES, FLOAT32, FORMATS, INT8, STORED_FP8, Layer, Matrix
from smidgen.runtime.errors import ModelFolderError
from smidgen.runtime.memory import GIB, available_memory

_BITS = {"float32": 32.0, "bf16": 16.0, "int8": 8.0, "int4": 4.0, "ternary": 2.0, "base3": 1.6}
_TILE = 16
"""Rows, and positions of the cache, that are stored together."""


def weight_bytes(head: Matrix, layers: Iterable[Layer]) -> int:
    """Bytes of the packed matrices, but for columns that are filled up; the embedding's rows stay in their file."""
    total = _packed(head)
    for layer in layers:
        total += sum(_packed(getattr(layer, name)) for name in Layer.MATRICES if name != "kv_b")
        total += _packed(layer.kv_b, is_cut_into_heads=True)
    return int(total)


def cache_bytes(config: EdgeModelConfig, max_seq_len: int, num_slots: int, cache: str, chunk: int) -> int:
    """Bytes of keys and values for `num_slots` sequences of `max_seq_len` tokens; sliding layers keep a ring."""
    dtype = CACHES[cache]
    element = 4 if dtype == FLOAT32 else 1 if dtype == INT8 else 2
    if config.latent:
        position = (config.kv_lora_rank + config.qk_rope_head_dim) * element
    else:
        position = 2 * config.num_kv_heads * config.head_dim * element
    if dtype == INT8:  # a scale for keys and one for values, or for the latent's two parts
        position += 8 * (1 if config.latent else config.num_kv_heads)
    total = 0
    for kind in config.layer_types:
        ring = config.sliding_window + chunk + _TILE if kind == "sliding" else max_seq_len
        total += _tiled(min(ring, max_seq_len)) * position
    return num_slots * total


def check_memory(folder: Path, weights: int, cache: int, num_slots: int, max_seq_len: int) -> None:
    """Raise ModelFolderError, with the sum, when these bytes exceed the free memory."""
    available = available_memory()
    if weights + cache > available:
        raise ModelFolderError(
            f"{folder}: weights of {weights / GIB:.1f} GiB and a cache of {cache / GIB:.1f} GiB for {num_slots} x "
            f"{max_seq_len:,} tokens take {(weights + cache) / GIB:.1f} GiB, and {available / GIB:.1f} GiB are free; "
            "lower max_seq_len or max_batch_size, take smaller weights (int8, int4), or use a machine with more memory"
        )


def _packed(matrix: Matrix, is_cut_into_heads: bool = False) -> float:
    name = next(name for name, number in FORMATS.items() if number == matrix.format)
    if is_cut_into_heads and (name == "int4" or matrix.source == STORED_FP8 or matrix.round >= 2):
        name = "float32"  # a head's part has no scales of its own there
    bits = _BITS[name]
    if name == "int4":
        bits += 16 / (matrix.group if matrix.group > 0 else max(matrix.cols, 1))
    return _tiled(matrix.rows) * matrix.cols * bits / 8


def _tiled(count: int) -> int:
    return -(-count // _TILE) * _TILE
