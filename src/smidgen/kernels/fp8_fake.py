"""Tensors rounded to block FP8 and back, for products that run in another type."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from smidgen.kernels.fp8 import E4M3, E4M3_MAX, SMALLEST_AMAX, act_dequant
from smidgen.kernels.fp8_dispatch import act_quant, weight_dequant, weight_quant
from smidgen.kernels.ternary import straight_through


def fake_fp8_activation(x: Tensor, power_of_two_scales: bool = False) -> Tensor:
    """`x` [..., K] rounded to block FP8, in its own dtype; its gradient passes straight through."""
    return straight_through(rounded_tiles(x.detach(), power_of_two_scales).to(x.dtype), x)


def fake_fp8_tokens(x: Tensor) -> Tensor:
    """`x` [..., K] rounded to e4m3 with one scale a token, in its own dtype; its gradient passes straight through."""
    values = x.detach().float()
    scale = values.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_AMAX) / E4M3_MAX
    rounded = (values / scale).clamp_(-E4M3_MAX, E4M3_MAX).to(E4M3).float() * scale
    return straight_through(rounded.to(x.dtype), x)


def fake_fp8_weight(weight: Tensor, dtype: torch.dtype, power_of_two_scales: bool = False) -> Tensor:
    """`weight` [N, K] rounded to block FP8, in `dtype`; its gradient passes straight through."""
    return straight_through(rounded_blocks(weight.detach(), dtype, power_of_two_scales), weight)


def rounded_tiles(x: Tensor, power_of_two_scales: bool = False) -> Tensor:
    """What `act_quant` makes of `x` [..., K], float32; of a DTensor by the tiles of the whole, divided as `x` is."""

    def rounded(whole: Tensor) -> Tensor:
        rows = whole.reshape(-1, whole.shape[-1])
        return act_dequant(*act_quant(rows, power_of_two_scales)).view(whole.shape)

    return _as_whole(rounded, x)


def rounded_blocks(weight: Tensor, dtype: torch.dtype, power_of_two_scales: bool = False) -> Tensor:
    """What `weight_quant` makes of `weight` [N, K], in `dtype`; of a DTensor by the blocks of the whole."""
    return _as_whole(lambda whole: weight_dequant(*weight_quant(whole, power_of_two_scales), dtype), weight)


def is_divided(x: Tensor) -> bool:
    """Whether `x` is a DTensor (whose module is not imported before someone uses it)."""
    return hasattr(x, "full_tensor")


def _as_whole(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function`, which keeps the shape, of the whole tensor on every rank; each keeps its share of the result."""
    if not is_divided(x):
        return function(x)
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(x, DTensor)
    mesh = x.device_mesh
    whole = DTensor.from_local(function(x.full_tensor()), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(placements=[Replicate() if p.is_partial() else p for p in x.placements])
