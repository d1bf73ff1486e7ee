"""Where bfloat16 is the faster type."""

from __future__ import annotations

import torch
from torch import Tensor


def multiplies_bf16_fast(device: torch.device) -> bool:
    """Whether products of bfloat16 run in the device's own instructions: AVX512-BF16 or AMX, a GPU from Ampere on.

    Other processors convert every weight on its way, which costs more than the shorter way from memory gains.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def emulates_bf16(x: Tensor) -> bool:
    """Whether products of `x` are bfloat16 on a CPU without instructions for it: small ones take a fifth in float32."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not multiplies_bf16_fast(x.device)
