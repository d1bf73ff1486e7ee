"""FP8 with one scale a tensor: the plain PyTorch reference of dynamic and of delayed scaling.

HYBRID format: e4m3 (largest value 448) for activations and weights, e5m2 (57344) for gradients. A value is
`clamp(x · scale)` rounded, with `scale = largest / amax`; the product multiplies by `descale = 1 / scale`. Dynamic
scaling takes the amax of the tensor at hand; delayed scaling that of a history of steps ("FP8 Formats for Deep
Learning", Micikevicius et al., 2022; TransformerEngine's DelayedScaling).
"""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.kernels.fp8 import E4M3

E5M2 = torch.float8_e5m2
HISTORY_LENGTH = 16
SMALLEST_AMAX = 1e-12


def largest(format: torch.dtype) -> float:
    """The largest finite value of an FP8 format."""
    return torch.finfo(format).max


def absolute_max(x: Tensor) -> Tensor:
    """max |x| over the whole tensor, float32 without dimensions; NaN if `x` holds one.

    Of a DTensor too it is that of the whole, as a plain tensor equal on every rank.
    """
    # Two reductions need no copy of x as x.abs() does, and torch.compile reads x once for both.
    amax = torch.maximum(x.amax(), -x.amin()).float()
    return amax.full_tensor() if hasattr(amax, "full_tensor") else amax


def dynamic_scale(amax: Tensor, format: torch.dtype) -> Tensor:
    """`largest / max(amax, 1e-12)`; 0 for a non-finite amax, whose descale is then infinite and its products NaN."""
    return largest(format) / amax.nan_to_num(nan=torch.inf, posinf=torch.inf).clamp(min=SMALLEST_AMAX)


def delayed_descale(scale: Tensor, amax: Tensor) -> Tensor:
    """`1 / scale`; NaN where the amax of the tensor at hand is not finite, which clamping would otherwise hide.

    Rounding itself thus depends on the scale alone, and can share its pass over the tensor with the new amax.
    """
    return torch.where(amax.isfinite(), scale.reciprocal(), torch.nan)


def quantize(x: Tensor, scale: Tensor, format: torch.dtype) -> Tensor:
    """`x` times `scale` in `format`, clamped to what it holds: casts need not saturate."""
    # Not in place: of a DTensor that is a sum over ranks, clamping must add up first.
    return (x.float() * scale).clamp(-largest(format), largest(format)).to(format)


def quantize_dynamic(x: Tensor, format: torch.dtype = E4M3) -> tuple[Tensor, Tensor]:
    """Values in `format` and their descale, float32 without dimensions, by the amax of `x` itself."""
    scale = dynamic_scale(absolute_max(x), format)
    return quantize(x, scale, format), scale.reciprocal()


def scaled_product(a: Tensor, a_descale: Tensor, b: Tensor, b_descale: Tensor, dtype: torch.dtype) -> Tensor:
    """`a · bᵀ` of FP8 values a [M, K] and b [N, K], summed in float32 and descaled: [M, N] in `dtype`."""
    return ((a.float() @ b.float().T) * (a_descale * b_descale)).to(dtype)


def roll_history(history: Tensor, amax: Tensor, scale: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Histories and scales of `n` tensors after a step.

    history float32 [n, 16], newest first; amax [n] of the step; scale [n]; limit [n], the largest value of each format.
    A non-finite amax leaves its history as it is; where a history holds zeros only, the old scale is kept.
    """
    rolled = torch.cat([amax[:, None], history[:, :-1]], dim=1)
    history = torch.where(amax.isfinite()[:, None], rolled, history)
    peak = history.amax(dim=1)
    return history, torch.where(peak > 0, limit / peak.clamp(min=SMALLEST_AMAX), scale)
