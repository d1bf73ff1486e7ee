"""BitNet b1.58's fake quantisation: the plain PyTorch reference that every ternary kernel is tested against.

Weights: `β = max(mean |W|, 1e-5)` over the tensor, `Wq = clip(round(W / β), -1, 1) · β`. Activations, a token at a
time: `s = 127 / max(absmax, 1e-5)`, `xq = clip(round(x · s), -128, 127) / s` (Ma et al., 2024; "The Era of 1-bit LLMs:
Training Tips, Code and FAQ"). Both are computed in float32 whatever the input's type, so that a code never depends on
the precision of the surrounding model.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_SCALE = 1e-5


def ternary_codes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in {-1, 0, 1} (float32, the shape of `weight`) and the scale β (float32, no dimensions)."""
    weight = weight.float()
    scale = weight.abs().mean().clamp(min=SMALLEST_SCALE)
    # The reciprocal first, as transformers' BitNet has it: the codes agree to the last tie.
    codes = (weight * (1.0 / scale)).round().clamp(-1, 1)
    return codes, scale


def int8_codes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in [-128, 127] (float32, shape [..., D]) and the scale s a token (float32, [..., 1]); `x ≈ codes / s`."""
    x = x.float()
    scale = 127.0 / x.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_SCALE)
    return (x * scale).round().clamp(-128, 127), scale


def fake_ternary(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight` rounded to ternary values, in `dtype`; its gradient passes straight through."""
    codes, scale = ternary_codes(weight.detach())
    # Dividing by the reciprocal, not multiplying: again the rounding of transformers' BitNet.
    return straight_through((codes / (1.0 / scale)).to(dtype), weight)


def fake_int8(x: Tensor) -> Tensor:
    """`x` [..., D] rounded to 8 bits a token, in its own dtype; its gradient passes straight through."""
    codes, scale = int8_codes(x.detach())
    return straight_through((codes / scale).to(x.dtype), x)


def straight_through(quantized: Tensor, original: Tensor) -> Tensor:
    """A tensor whose value is exactly `quantized` and whose gradient goes to `original` unchanged.

    `q + (x - x)` keeps the forward exact, which `x + (q - x)` does not.
    """
    if not (original.requires_grad and torch.is_grad_enabled()):
        return quantized
    original = original.to(quantized.dtype)
    return quantized.detach() + (original - original.detach())
