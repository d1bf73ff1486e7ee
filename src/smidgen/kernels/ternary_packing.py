"""Ternary codes two bits each: the plain PyTorch reference of the stored form and of its product with 8-bit inputs.

A code w in {-1, 0, 1} is stored as `w + 1`. Byte r of a column holds rows r, r + R, r + 2R and r + 3R of [N, K], where
R = N / 4, the first in its lowest bits: the order of the `bitnet` layers of transformers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.kernels.ternary import int8_codes

CODES_PER_BYTE = 4


def pack_ternary(codes: Tensor) -> Tensor:
    """Codes {-1, 0, 1} [N, K], N divisible by 4, of any type: uint8 [N / 4, K]."""
    quarters = (codes.to(torch.int8) + 1).to(torch.uint8).unflatten(0, (CODES_PER_BYTE, -1))
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


def unpack_ternary(packed: Tensor) -> Tensor:
    """Inverse of `pack_ternary`: int8 [N, K]."""
    quarters = [(packed >> shift) & 3 for shift in (0, 2, 4, 6)]
    return torch.cat(quarters).to(torch.int8) - 1


def ternary_linear(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """`y = (xq · Wᵀ) · scale / s` with `xq, s` the 8-bit codes and the scale of each token of x [..., K].

    packed uint8 [N / 4, K]; scale float32 [1]. The product of the codes is exact; y [..., N] has the type of x.
    """
    codes, token_scale = int8_codes(x)
    return scale_product(ternary_gemm(codes, packed), token_scale, scale).to(x.dtype)


def ternary_gemm(codes: Tensor, packed: Tensor) -> Tensor:
    """The exact product of integer activations [..., K], |code| ≤ 128, by packed weights: int32 [..., N]."""
    # float64 holds every sum of K < 2^45 such products exactly, and multiplies fast everywhere.
    return (codes.double() @ unpack_ternary(packed).double().T).to(torch.int32)


def scale_product(product: Tensor, token_scale: Tensor, scale: Tensor) -> Tensor:
    """`product · (scale / s)` in float32, for int32 [..., N], s [..., 1] and the weight's scale [1]."""
    return product.float() * (scale.float() / token_scale)
