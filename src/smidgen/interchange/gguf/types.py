"""The types a GGUF tensor is written in, and which tensor gets which."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "tq1_0", "tq2_0")
"""As the command line spells them. tq1_0 and tq2_0 hold -1, 0 and 1: for ternary models."""

TERNARY_TYPES = {"tq1_0", "tq2_0"}

BLOCK = {"f32": 1, "f16": 1, "bf16": 1, "q8_0": 32, "q4_0": 32, "tq1_0": 256, "tq2_0": 256}
"""Neighbours in a row that share a scale."""

_EMBEDDING_AND_HEAD = {"q4_0": "q8_0", "tq1_0": "q8_0", "tq2_0": "q8_0"}
"""Rounded more finely than the layers: errors there reach every logit, and no embedding is ternary."""

_KEEPS = {"int8": "q8_0", "fp8_tensor": "q8_0", "bf16": "bf16"}
"""The coarsest type that keeps what a quantised matrix of a scheme holds."""

_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32, "tq1_0": 36, "tq2_0": 37}


def file_type(kind: str) -> int:
    """`general.file_type`."""
    return _FILE_TYPES[kind]


def type_of(name: str, shape: tuple[int, ...], wanted: str) -> str:
    """The type of a tensor in a file of type `wanted`; f16 where a row does not divide into blocks."""
    if len(shape) == 1:
        return "f32"
    if name.startswith(("token_embd.", "output.")):
        wanted = _EMBEDDING_AND_HEAD.get(wanted, wanted)
    return wanted if shape[-1] % BLOCK[wanted] == 0 else "f16"


def type_of_override(wanted: str, scheme: str) -> str:
    """The type, in a file of type `wanted`, of a projection that the model stores by an override: q4_0 and q8_0 give
    way to a finer one where the override is finer, so that a mixed model stays mixed."""
    kept = _KEEPS.get(scheme, wanted)
    finer = {"q4_0": ("q8_0", "bf16"), "q8_0": ("bf16",)}.get(wanted, ())
    return kept if kept in finer else wanted


def encode(values: NDArray[np.float32], kind: str) -> NDArray[Any]:
    """`values` as bytes of a type, or as an array of floats."""
    import gguf

    return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind.upper()])


def encode_codes(codes: NDArray[np.float32], kind: str) -> NDArray[Any]:
    """-1, 0 and 1, without any loss: blocks of q8_0 and q4_0 get the scale 1, which rounding would not choose."""
    if kind not in ("q8_0", "q4_0"):
        return encode(codes, kind)
    blocks = codes.astype(np.int8).reshape(*codes.shape[:-1], -1, 32)
    scale = np.broadcast_to(np.ones(1, np.float16).view(np.uint8), (*blocks.shape[:-1], 2))
    if kind == "q8_0":
        packed: NDArray[Any] = blocks.view(np.uint8)
    else:
        nibbles = (blocks + 8).astype(np.uint8)
        packed = nibbles[..., :16] | nibbles[..., 16:] << 4
    return np.concatenate([scale, packed], axis=-1).reshape(*codes.shape[:-1], -1)
