"""Products of int8 weights on a processor by its integer instructions (VNNI, AMX), which PyTorch reaches by oneDNN.

The weight stays a byte a number, which a single token reads about twice as fast as float32. The inputs become int8 as
well. Those that the model rounds to 8 bits have their codes; others, a few rows of float32, are written as two digits,
`x ≈ step · (d₀ + d₁ / 254)` with `step = absmax / 127` a token, each digit a row of one product, each product exact. A
number loses at most `absmax / 64,000` of its token: between bfloat16 and float32.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_BASE = 254
_LIMIT = 127
_SMALLEST = 1e-30
FEW_ROWS = 8
"""From so many rows on, a product with a float32 copy of the codes is faster than one of digits."""
_ALIGNMENT = 32
"""PyTorch's product of bfloat16 with int8 weights reads beyond matrices of other sizes."""


def multiplies_int8(device: torch.device) -> bool:
    """Whether `device` is a processor that multiplies int8 exactly and at speed.

    Without VNNI, oneDNN adds pairs of products in 16 bits, which saturates.
    """
    return device.type == "cpu" and _is_exact()


@cache
def _is_exact() -> bool:
    """Whether the largest codes are multiplied as they should."""
    if not (torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    x = torch.tensor([[-128], [127]], dtype=torch.int8).expand(2, 64).contiguous()
    weight = torch.tensor([[127], [-127]], dtype=torch.int8).expand(2, 64).contiguous()
    try:
        product = torch._int_mm(x, weight.t())
    except RuntimeError:
        return False
    return torch.equal(product, (x.long() @ weight.long().t()).int())


def int8_linear(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """`x · (codes · scale)ᵀ` for x [..., K], int8 codes [N, K] and float32 scales [N]: [..., N] in the type of x."""
    flat = x.reshape(-1, x.shape[-1])
    if len(flat) >= FEW_ROWS:
        result = F.linear(flat.float(), codes.float()).mul_(scale).to(x.dtype)
    elif x.dtype == torch.bfloat16 and not any(size % _ALIGNMENT for size in codes.shape):
        result = torch._weight_int8pack_mm(flat, codes, scale.to(x.dtype))
    else:
        digits, step = int8_digits(flat)
        products = torch._int_mm(digits.flatten(0, 1), codes.t()).float().unflatten(0, (2, -1))
        result = torch.add(products[0], products[1], alpha=1 / _BASE).mul_(step).mul_(scale).to(x.dtype)
    return result.view(*x.shape[:-1], -1)


def int8_digits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Digits int8 [2, M, K] and steps float32 [M, 1] of x [M, K]: `x ≈ step · (digits[0] + digits[1] / 254)`."""
    x = x.float()
    step = torch.linalg.vector_norm(x, torch.inf, dim=-1, keepdim=True).div_(_LIMIT).clamp_(min=_SMALLEST)
    digits = torch.empty(2, *x.shape, dtype=torch.int8)
    numbers = x / step
    whole = numbers.round()
    digits[0] = whole
    digits[1] = numbers.sub_(whole).mul_(_BASE).round_()
    return digits, step


def int8_codes_linear(input_codes: Tensor, token_scale: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """`(input_codes / token_scale) · (codes · scale)ᵀ`, float32 [M, N]; the product of the codes is exact.

    input_codes [M, K] whole numbers of any type in [-128, 127] with the scale s of each token, float32 [M, 1] (see
    kernels/ternary.py); int8 codes [N, K] and float32 scales [N].
    """
    product = torch._int_mm(input_codes.to(torch.int8), codes.t())
    return product.float() * (scale / token_scale)
