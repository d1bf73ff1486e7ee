"""Products of int8 weights on a processor by its integer instructions (VNNI, AMX), which PyTorch reaches by oneDNN.

The weight stays a byte a number, which a single token reads three to four times as fast as float32. The inputs become
int8 as well. Those that the model rounds to 8 bits have their codes; others are written as digits of a number to the
base 254, `x ≈ s · (d₀ + d₁ / 254 + d₂ / 254²)` with `s = absmax / 127` a token: rows of one product, each exact. What
is lost is at most `absmax / 64,000` a number with two digits, and float32's own rounding with three.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

_BASE = 254
_LIMIT = 127
_SMALLEST = 1e-30
DIGITS = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 3}
"""Digits by the type of the inputs: at least as exact as the type of the result."""


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
    count = DIGITS[x.dtype]
    digits, step = int8_digits(flat, count)
    products = torch._int_mm(digits.flatten(0, 1), codes.t()).unflatten(0, (count, -1))
    # The least digit first: what is small is added while the sum is small.
    result = products[-1].float()
    for product in products[:-1].flip(0):
        result = result / _BASE + product
    return (result * step * scale).to(x.dtype).view(*x.shape[:-1], -1)


def int8_digits(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Digits int8 [count, M, K] and steps float32 [M, 1] of x [M, K]: `x ≈ step · Σ digits[i] / 254^i`."""
    x = x.float()
    step = (x.abs().amax(dim=-1, keepdim=True) / _LIMIT).clamp(min=_SMALLEST)
    rest = x / step
    digits = torch.empty(count, *x.shape, dtype=torch.int8)
    for index in range(count):
        whole = rest.round()
        digits[index] = whole
        rest = (rest - whole) * _BASE
    return digits, step


def int8_codes_linear(input_codes: Tensor, token_scale: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """`(input_codes / token_scale) · (codes · scale)ᵀ`, float32 [M, N]; the product of the codes is exact.

    input_codes [M, K] whole numbers of any type in [-128, 127] with the scale s of each token, float32 [M, 1] (see
    kernels/ternary.py); int8 codes [N, K] and float32 scales [N].
    """
    product = torch._int_mm(input_codes.to(torch.int8), codes.t())
    return product.float() * (scale / token_scale)
