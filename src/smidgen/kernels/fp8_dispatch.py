"""Where the choice between the FP8 references and the hardware's products is made.

Hardware: NVIDIA GPUs of compute capability 8.9 and up, through `torch._scaled_mm` (one scale a tensor) and Triton
(blocks). Everything else runs the PyTorch references, which define the results.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from smidgen.kernels import fp8, fp8_tensorwise

_HAS_TRITON = importlib.util.find_spec("triton") is not None

Backend = Literal["reference", "scaled_mm", "triton"]
ALIGNMENT = 16
"""`torch._scaled_mm` wants both dimensions of the second factor divisible by this."""


def _constant_in_graphs(function: Callable[[torch.device], Backend]) -> Callable[[torch.device], Backend]:
    """torch.compile calls `function` while it traces, instead of tracing it.

    What `torch.compiler.assume_constant_result` does, without importing the compiler: a second of every start.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant_in_graphs
def tensorwise_backend(device: torch.device) -> Backend:
    """What multiplies FP8 tensors with one scale on `device`."""
    return "scaled_mm" if _has_fp8_products(device) else "reference"


@_constant_in_graphs
def block_backend(device: torch.device) -> Backend:
    """What quantises and multiplies in blocks on `device`."""
    return "triton" if _HAS_TRITON and _has_fp8_products(device) else "reference"


def _has_fp8_products(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 9)


def scaled_product(
    a: Tensor, a_descale: Tensor, b: Tensor, b_descale: Tensor, dtype: torch.dtype, fast_accumulation: bool
) -> Tensor:
    """`a · bᵀ` of FP8 values a [M, K] and b [N, K] of any strides, descaled: [M, N] in `dtype`.

    At most one factor is e5m2; N must be divisible by 16. `fast_accumulation` lets the tensor cores sum with fewer bits
    than float32 has, which is precise enough in a forward pass; the reference always sums in float32.
    """
    if tensorwise_backend(a.device) == "reference":
        return fp8_tensorwise.scaled_product(a, a_descale, b, b_descale, dtype)
    assert b.shape[0] % ALIGNMENT == 0, f"N = {b.shape[0]} is not divisible by {ALIGNMENT}"
    return torch._scaled_mm(
        _aligned_rows(a),
        _aligned_rows(b).t(),
        scale_a=a_descale,
        scale_b=b_descale,
        out_dtype=dtype,
        use_fast_accum=fast_accumulation,
    )


def _aligned_rows(values: Tensor) -> Tensor:
    """FP8 values [M, K] with contiguous rows, K padded with zeros to a multiple of 16."""
    padding = -values.shape[1] % ALIGNMENT
    if padding == 0:
        return values.contiguous()
    # Zero is all bits zero; padding bytes works where padding FP8 is not implemented.
    return F.pad(values.view(torch.uint8), (0, padding)).view(values.dtype)


def act_quant(x: Tensor, power_of_two_scales: bool = False) -> tuple[Tensor, Tensor]:
    """`fp8.act_quant` of a matrix [M, K]."""
    if block_backend(x.device) == "reference":
        return fp8.act_quant(x, power_of_two_scales)
    from smidgen.kernels import fp8_triton

    return fp8_triton.act_quant(x, power_of_two_scales)


def weight_quant(weight: Tensor, power_of_two_scales: bool = False) -> tuple[Tensor, Tensor]:
    """`fp8.weight_quant` of a matrix [N, K]."""
    if block_backend(weight.device) == "reference":
        return fp8.weight_quant(weight, power_of_two_scales)
    from smidgen.kernels import fp8_triton

    return fp8_triton.weight_quant(weight, power_of_two_scales)


def weight_dequant(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`fp8.weight_dequant` in `dtype`."""
    if block_backend(values.device) == "reference":
        return fp8.weight_dequant(values, scale).to(dtype)
    from smidgen.kernels import fp8_triton

    return fp8_triton.weight_dequant(values, scale, dtype)


def fp8_gemm(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, dtype: torch.dtype, rows_per_scale: int = fp8.BLOCK
) -> Tensor:
    """`fp8.fp8_gemm` of matrices, in `dtype`."""
    if block_backend(a.device) == "reference":
        return fp8.fp8_gemm(a, a_scale, b, b_scale, rows_per_scale).to(dtype)
    from smidgen.kernels import fp8_triton

    return fp8_triton.fp8_gemm(a, a_scale, b, b_scale, rows_per_scale, dtype)
