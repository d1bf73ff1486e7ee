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
    matrix: Tensor | None = None
    """The same as what a single token's heads are multiplied by from the right, float32 [B, d, d], in their layout."""


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


def rotation_matrix(by: Rotation, *, interleaved: bool) -> Tensor:
    """`Rotation.matrix` of one token a row: for pairs (2i, 2i + 1), or (i, i + d/2)."""
    cos, sin = (torch.diag_embed(part[:, 0, 0]) for part in (by.cos, by.sin))
    if interleaved:
        parts = torch.stack([torch.stack([cos, sin], dim=-1), torch.stack([-sin, cos], dim=-1)], dim=-3)
        return parts.flatten(-2).flatten(1, 2)
    return torch.cat([torch.cat([cos, sin], dim=-1), torch.cat([-sin, cos], dim=-1)], dim=-2)


def rotate_halves(x: Tensor, by: Rotation) -> Tensor:
    """Rotate [B, H, T, d] where dimension i pairs with i + d/2 (Llama's layout); float32 inside."""
    if lean.is_worthwhile(x, by.cos, by.sin):
        return lean.RotateHalves.apply(x, by.cos, by.sin)
    if by.matrix is not None and x.dtype != torch.float64:
        return _multiply(x, by.matrix)
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([first * by.cos - second * by.sin, second * by.cos + first * by.sin], dim=-1)
    return rotated.to(x.dtype)


def rotate_interleaved(x: Tensor, by: Rotation) -> Tensor:
    """Rotate [B, H, T, d] where dimension 2i pairs with 2i + 1 (DeepSeek's layout); float32 inside."""
    if by.matrix is not None and x.dtype != torch.float64:
        return _multiply(x, by.matrix)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([first * by.cos - second * by.sin, second * by.cos + first * by.sin], dim=-1)
    return rotated.flatten(-2).to(x.dtype)


def _multiply(x: Tensor, matrix: Tensor) -> Tensor:
    """One token's heads [B, H, 1, d] by a matrix a row: one product in place of the sums that it stands for."""
    return (x[:, :, 0].to(matrix.dtype) @ matrix)[:, :, None].to(x.dtype)
