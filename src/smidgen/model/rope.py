"""Rotary position embeddings (Su et al., 2021), with YaRN (Peng et al., 2023)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from smidgen import config
from smidgen.kernels import lean


class Rotation(NamedTuple):
    """Cosines and sines of every position's angles, float32 [B or 1, 1, T, d / 2]: ready to multiply heads."""

    cos: Tensor
    sin: Tensor
    doubled: tuple[Tensor, Tensor] | None = None
    """`[cos, cos]` and `[-sin, sin]`, [..., d]: with them a single token is rotated in fewer calls (Llama's layout)."""


def inverse_frequencies(head_dim: int, theta: float) -> Tensor:
    """`theta^(-2i / d)` for i in 0 … d/2 - 1, float32."""
    return 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))


def yarn_frequencies(head_dim: int, theta: float, yarn: config.Yarn) -> Tensor:
    """Frequencies stretched by YaRN: fast dimensions keep theirs, slow ones are divided by the factor, float32.

    `dim(n) = d · ln(O / 2πn) / (2 ln θ)` is the dimension that turns n times over the original context O.
    """

    def dimension(turns: float) -> float:
        return head_dim * math.log(yarn.original_max_seq_len / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension(yarn.beta_fast)), 0)
    high: float = min(math.ceil(dimension(yarn.beta_slow)), head_dim - 1)
    if high == low:
        high += 0.001  # a ramp of no width would divide by zero
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    frequencies = inverse_frequencies(head_dim, theta)
    return frequencies * (1 - ramp) + frequencies / yarn.factor * ramp


def yarn_softmax_factor(yarn: config.Yarn) -> float:
    """What YaRN multiplies the softmax scale by: `(0.1 · mscale · ln(factor) + 1)²`, 1 for factors up to 1."""
    if yarn.factor <= 1:
        return 1.0
    return (0.1 * yarn.mscale * math.log(yarn.factor) + 1.0) ** 2


def rotation(positions: Tensor, frequencies: Tensor) -> Rotation:
    """Angles of `positions` (int64 [B or 1, T]) for `frequencies` (float32 [d / 2])."""
    angles = positions[:, None, :, None].float() * frequencies
    return Rotation(angles.cos(), angles.sin())


def token_rotation(position: int, frequencies: Tensor) -> Rotation:
    """Angles of one position, for a single token."""
    angles = (frequencies * position)[None, None, None]
    cos, sin = angles.cos(), angles.sin()
    return Rotation(cos, sin, (torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)))


def rotate_halves(x: Tensor, by: Rotation) -> Tensor:
    """Rotate [B, H, T, d] where dimension i pairs with i + d/2 (Llama's layout); float32 inside."""
    if lean.is_worthwhile(x, by.cos, by.sin):
        return lean.RotateHalves.apply(x, by.cos, by.sin)
    first, second = x.chunk(2, dim=-1)
    if by.doubled is not None:
        cos, sin = by.doubled
        return torch.addcmul(x.float() * cos, torch.cat([second, first], dim=-1).float(), sin).to(x.dtype)
    rotated = torch.cat([first * by.cos - second * by.sin, second * by.cos + first * by.sin], dim=-1)
    return rotated.to(x.dtype)


def rotate_interleaved(x: Tensor, by: Rotation) -> Tensor:
    """Rotate [B, H, T, d] where dimension 2i pairs with 2i + 1 (DeepSeek's layout); float32 inside."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([first * by.cos - second * by.sin, second * by.cos + first * by.sin], dim=-1)
    return rotated.flatten(-2).to(x.dtype)
