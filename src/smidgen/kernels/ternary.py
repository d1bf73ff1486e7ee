"""BitNet b1.58's fake quantisation: the plain PyTorch reference that every ternary kernel is tested against.

Weights: `β = max(mean |W|, 1e-5)` over the tensor, `Wq = clip(round(W / β), -1, 1) · β`. Activations, a token at a
time: `s = 127 / max(absmax, 1e-5)`, `xq = clip(round(x · s), -128, 127) / s` (Ma et al., 2024; "The Era of 1-bit LLMs:
Training Tips, Code and FAQ"). Both are computed in float32 whatever the input's type, so that a code never depends on
the precision of the surrounding model. In training the product of the rounded factors runs in the compute type on every
device: on a GPU in bfloat16, which holds codes times a scale as it holds any weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SMALLEST_SCALE = 1e-5


def ternary_codes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in {-1, 0, 1} (float32, the shape of `weight`) and the scale β (float32, no dimensions)."""
    weight = weight.float()
    scale = weight.abs().mean().clamp(min=SMALLEST_SCALE)
    # The reciprocal first, as transformers' BitNet has it: the codes agree to the last tie.
    codes = (weight * (1.0 / scale)).round_().clamp_(-1, 1)
    return codes, scale


def int8_codes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in [-128, 127] (float32, shape [..., D]) and the scale s a token (float32, [..., 1]); `x ≈ codes / s`."""
    scale = 127.0 / x.abs().amax(dim=-1, keepdim=True).float().clamp(min=SMALLEST_SCALE)
    # The formula's clip would change nothing: |x · s| exceeds 127 by a rounding error at most.
    return (x.float() * scale).round_(), scale


def fake_ternary(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight` rounded to ternary values, in `dtype`; its gradient passes straight through."""
    codes, scale = ternary_codes(weight.detach())
    # Dividing by the reciprocal, not multiplying: again the rounding of transformers' BitNet.
    return straight_through(codes.div_(1.0 / scale).to(dtype), weight)


def fake_int8(x: Tensor) -> Tensor:
    """`x` [..., D] rounded to 8 bits a token, in its own dtype; its gradient passes straight through."""
    codes, scale = int8_codes(x.detach())
    return straight_through(codes.div_(scale).to(x.dtype), x)


def straight_through(quantized: Tensor, original: Tensor) -> Tensor:
    """A tensor whose value is exactly `quantized` and whose gradient goes to `original` unchanged, in its dtype.

    The same as `q + (x - x.detach())`, without its three passes over the data.
    """
    if not (original.requires_grad and torch.is_grad_enabled()):
        return quantized
    result: Tensor = _StraightThrough.apply(quantized.detach(), original)
    return result


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, quantized: Tensor, original: Tensor) -> Tensor:
        ctx.dtype = original.dtype
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient.to(ctx.dtype)
