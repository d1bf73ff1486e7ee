"""Block-scaled FP8 as DeepSeek-V3 defines it: the plain PyTorch reference that the Triton kernels are tested against.

Activations and gradients are e4m3 in tiles of 1×128 along the dimension that a product sums over, weights in blocks of
128×128; each tile and block has one float32 scale that multiplies (`inference/kernel.py` of DeepSeek-V3 states the
formulas). A tile with a non-finite element has the scale infinity: its products are NaN, as they would be unquantised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128
E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
SMALLEST_AMAX = 1e-4


def act_quant(x: Tensor, power_of_two_scales: bool = False) -> tuple[Tensor, Tensor]:
    """Quantise [..., K] in tiles of 128 along K; a last partial tile has its own scale.

    Returns e4m3 values [..., K] and float32 scales [..., ceil(K / 128)], `scale = max(amax, 1e-4) / 448`.
    """
    tiles = _tiles(x.float())
    scale = _scale(tiles.abs().amax(dim=-1), power_of_two_scales)
    values = (tiles / scale[..., None]).clamp_(-E4M3_MAX, E4M3_MAX).flatten(-2)[..., : x.shape[-1]]
    return values.to(E4M3), scale


def weight_quant(weight: Tensor, power_of_two_scales: bool = False) -> tuple[Tensor, Tensor]:
    """Quantise [N, K] in blocks of 128×128, edges padded with zeros.

    Returns e4m3 values [N, K] and float32 scales [ceil(N / 128), ceil(K / 128)].
    """
    blocks = _blocks(weight.float())
    scale = _scale(blocks.abs().amax(dim=(1, 3)), power_of_two_scales)
    values = (blocks / scale[:, None, :, None]).clamp_(-E4M3_MAX, E4M3_MAX)
    return _unblock(values, weight.shape).to(E4M3), scale


def act_dequant(values: Tensor, scale: Tensor) -> Tensor:
    """Inverse of `act_quant`: float32 [..., K]."""
    return (_tiles(values.float()) * scale[..., None]).flatten(-2)[..., : values.shape[-1]]


def weight_dequant(values: Tensor, scale: Tensor) -> Tensor:
    """Inverse of `weight_quant`: float32 [N, K]."""
    return _unblock(_blocks(values.float()) * scale[:, None, :, None], values.shape)


def fp8_gemm(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, rows_per_scale: int = BLOCK) -> Tensor:
    """`C = Σ_k (A_k B_kᵀ) · a_s · b_s` in float32: the product of what the operands stand for.

    a: e4m3 [..., M, K] with scales [..., M, ceil(K / 128)]. b: e4m3 [N, K] in blocks with scales [ceil(N / 128),
    ceil(K / 128)], or with `rows_per_scale` 1 in tiles like `a`. Returns float32 [..., M, N].
    """
    dequant = act_dequant if rows_per_scale == 1 else weight_dequant
    return act_dequant(a, a_scale) @ dequant(b, b_scale).T


def _scale(amax: Tensor, power_of_two: bool) -> Tensor:
    scale = amax.nan_to_num(nan=torch.inf, posinf=torch.inf).clamp(min=SMALLEST_AMAX) / E4M3_MAX
    return torch.exp2(torch.ceil(torch.log2(scale))) if power_of_two else scale


def _tiles(x: Tensor) -> Tensor:
    """[..., K] to [..., ceil(K / 128), 128], padded with zeros."""
    return F.pad(x, (0, -x.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))


def _blocks(weight: Tensor) -> Tensor:
    """[N, K] to [ceil(N / 128), 128, ceil(K / 128), 128], padded with zeros."""
    rows, columns = weight.shape
    padded = F.pad(weight, (0, -columns % BLOCK, 0, -rows % BLOCK))
    return padded.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))


def _unblock(blocks: Tensor, shape: torch.Size) -> Tensor:
    rows, columns = shape
    return blocks.flatten(2, 3).flatten(0, 1)[:rows, :columns]
