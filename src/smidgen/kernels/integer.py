"""Integer weights: the plain PyTorch reference of int8 with a scale a row and of int4 with a scale a group of columns.

A weight is `code · scale`, or `(code - zero_point) · scale` in asymmetric int4. Codes are -127 to 127 in 8 bits and -8
to 7 in 4. The stored form is that of compressed-tensors (formats `int-quantized` and `pack-quantized`): eight int4
codes in an int32, the first in the lowest bits, each 8 added to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_INT8 = 127
SMALLEST_INT4, LARGEST_INT4 = -8, 7
CODES_PER_WORD = 8
_TINY = 1e-10
"""Scale of a row or group of zeros, whose codes are then 0."""


def int8_row_scale(weight: Tensor) -> Tensor:
    """`absmax / 127` of each row of [N, K]: float32 [N, 1]."""
    return (weight.float().abs().amax(dim=1, keepdim=True) / LARGEST_INT8).clamp(min=_TINY)


def int8_row_codes(weight: Tensor, scale: Tensor) -> Tensor:
    """`clip(round(W / scale), -127, 127)`: int8 [N, K]."""
    codes = (weight.float() / scale.float()).round_().clamp_(-LARGEST_INT8, LARGEST_INT8)
    return codes.to(torch.int8)


def int4_scale(weight: Tensor, group_size: int, symmetric: bool) -> tuple[Tensor, Tensor | None]:
    """The scale of each group of `group_size` columns of [N, K], bfloat16 [N, K / group_size], and its int8 zero point.

    Symmetric: `max(max / 7, -min / 8)`, the smallest with which no weight is clipped, and no zero point. Asymmetric:
    `(max - min) / 15` over a range that holds 0, and `zero_point = clip(round(-8 - min / scale), -8, 7)`. Scales are
    rounded to bfloat16 before the codes are made, so that codes fit what is stored.
    """
    groups = _groups(weight.float(), group_size)
    lowest, highest = groups.amin(dim=-1).clamp(max=0), groups.amax(dim=-1).clamp(min=0)
    if symmetric:
        return _stored(torch.maximum(highest / LARGEST_INT4, lowest / SMALLEST_INT4)), None
    scale = _stored((highest - lowest) / (LARGEST_INT4 - SMALLEST_INT4))
    zero_point = SMALLEST_INT4 - lowest / scale.float()
    return scale, zero_point.round_().clamp_(SMALLEST_INT4, LARGEST_INT4).to(torch.int8)


def int4_codes(weight: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """`clip(round(W / scale) + zero_point, -8, 7)`: int8 [N, K]."""
    groups = _groups(weight.float(), weight.shape[1] // scale.shape[1])
    codes = (groups / scale.float()[..., None]).round_()
    if zero_point is not None:
        codes += zero_point[..., None]
    return codes.clamp_(SMALLEST_INT4, LARGEST_INT4).flatten(1).to(torch.int8)


def int8_row_dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """`codes · scale`, float32 [N, K], of int8 codes [N, K] and scales [N, 1]."""
    return codes.float() * scale.float()


def int4_dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """`(codes - zero_point) · scale`, float32 [N, K], of int4 codes in int8 [N, K] and scales [N, K / group_size]."""
    groups = _groups(codes.float(), codes.shape[1] // scale.shape[1])
    if zero_point is not None:
        groups = groups - zero_point.float()[..., None]
    return (groups * scale.float()[..., None]).flatten(1)


def pack_int4(codes: Tensor) -> Tensor:
    """Codes -8 to 7, int8 [R, C], eight to a word along C: int32 [R, ceil(C / 8)], unused bits zero."""
    padded = F.pad(codes.to(torch.int32) - SMALLEST_INT4, (0, -codes.shape[1] % CODES_PER_WORD))
    words = padded.unflatten(1, (-1, CODES_PER_WORD)) << _shifts(codes.device)
    # Bits do not overlap, so the sum is the union; int64 would only be narrowed again.
    return words.sum(dim=-1, dtype=torch.int32)


def unpack_int4(words: Tensor, columns: int) -> Tensor:
    """Inverse of `pack_int4`: int8 [R, columns]."""
    codes = (words[..., None] >> _shifts(words.device)) & 15
    return (codes.flatten(1)[:, :columns] + SMALLEST_INT4).to(torch.int8)


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(0, 32, 4, dtype=torch.int32, device=device)


def _groups(x: Tensor, group_size: int) -> Tensor:
    return x.unflatten(1, (-1, group_size))


def _stored(scale: Tensor) -> Tensor:
    return scale.clamp(min=_TINY).to(torch.bfloat16)
