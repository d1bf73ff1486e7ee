"""Where the choice between the reference of packed ternary products and the Triton kernels is made.

NVIDIA GPUs of compute capability 8.0 and up multiply int8 in tensor cores. Everything else runs the PyTorch reference,
which defines the results.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch import Tensor

from smidgen.kernels import ternary_packing

_HAS_TRITON = importlib.util.find_spec("triton") is not None

Backend = Literal["reference", "triton"]


def ternary_backend(device: torch.device) -> Backend:
    """What multiplies packed ternary weights on `device`."""
    if device.type != "cuda" or torch.version.hip is not None or not _HAS_TRITON:
        return "reference"
    return "triton" if torch.cuda.get_device_capability(device) >= (8, 0) else "reference"


# torch.compile calls it while it traces; see kernels/fp8_dispatch.py.
ternary_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def ternary_linear(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """`ternary_packing.ternary_linear`: x [..., K] by packed uint8 [N / 4, K] and scale [1], [..., N] in the type of x.

    It has no gradient.
    """
    if ternary_backend(packed.device) == "reference":
        return ternary_packing.ternary_linear(x, packed, scale)
    from smidgen.kernels import ternary_triton

    codes, token_scale = ternary_triton.int8_quant(x.reshape(-1, x.shape[-1]))
    return ternary_triton.ternary_product(codes, token_scale, packed, scale, x.dtype).view(*x.shape[:-1], -1)
