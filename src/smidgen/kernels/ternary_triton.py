"""Packed ternary products in Triton: the kernels of kernels/ternary_packing.py for GPUs with int8 tensor cores.

Each kernel is a custom operator of PyTorch, so torch.compile takes it into its graph as it is. With TRITON_INTERPRET=1
in the environment before the import they run on CPU tensors, element by element as on a GPU.
"""

# mypy: disable-error-code="no-untyped-def"
# Inside kernels everything is Triton's: pointers, then blocks of values.

# No `from __future__ import annotations`: PyTorch reads the operators' schemas from the annotations.

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from smidgen.kernels.ternary import SMALLEST_SCALE
from smidgen.kernels.ternary_packing import CODES_PER_BYTE

INTERPRETED = bool(triton.knobs.runtime.interpret)
_SMALLEST = tl.constexpr(SMALLEST_SCALE)
_BLOCK_R, _BLOCK_K = 32, 64
"""Bytes that a program reads at once: rows of the packed weight, each holding four rows of codes, and columns."""


@triton.jit
def _int8_quant(x, codes, scale, columns, x_row, x_column, WIDTH: tl.constexpr):
    """One token: its largest magnitude, then its codes; WIDTH columns at a time."""
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((WIDTH,), dtype=tl.float32)
    for start in range(0, columns, WIDTH):
        column = start + tl.arange(0, WIDTH)
        values = tl.load(x + row * x_row + column.to(tl.int64) * x_column, mask=column < columns, other=0.0)
        largest = tl.maximum(largest, tl.abs(values.to(tl.float32)))
    # The reciprocal first, as PyTorch divides a number by a tensor: scales agree to the bit.
    amax = tl.maximum(tl.max(largest, axis=0), _SMALLEST) + tl.zeros((1,), dtype=tl.float32)
    token_scale = tl.div_rn(tl.full((1,), 1.0, tl.float32), amax) * 127.0
    for start in range(0, columns, WIDTH):
        column = start + tl.arange(0, WIDTH)
        values = tl.load(x + row * x_row + column.to(tl.int64) * x_column, mask=column < columns, other=0.0)
        # Adding 1.5 · 2^23 leaves a multiple of one, rounded to nearest even as PyTorch rounds.
        rounded = (values.to(tl.float32) * token_scale + 12582912.0) - 12582912.0
        tl.store(codes + row * columns + column, rounded.to(tl.int8), mask=column < columns)
    tl.store(scale + row + tl.arange(0, 1), token_scale)


@triton.jit
def _ternary_gemm(
    a, packed, token_scale, weight_scale, c, m, packed_rows, k,
    BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """BLOCK_M tokens by BLOCK_R packed rows: four blocks of the result, `packed_rows` columns apart.

    A byte is read once and gives a code to each of the four. Sums are int32, exact.
    """
    row = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    byte_row = (tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)).to(tl.int64)
    first = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.int32)
    second = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.int32)
    third = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.int32)
    fourth = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.int32)
    for start in range(0, k, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        left = tl.load(a + row[:, None] * k + inner[None, :], mask=(row < m)[:, None] & (inner < k)[None, :], other=0)
        # Beyond the edges every code is 0, which is stored as 1: 01010101.
        inside = (byte_row < packed_rows)[None, :] & (inner < k)[:, None]
        right = tl.load(packed + byte_row[None, :] * k + inner[:, None], mask=inside, other=85)
        first += tl.dot(left, ((right & 3).to(tl.int8) - 1).to(tl.int8), out_dtype=tl.int32)
        second += tl.dot(left, (((right >> 2) & 3).to(tl.int8) - 1).to(tl.int8), out_dtype=tl.int32)
        third += tl.dot(left, (((right >> 4) & 3).to(tl.int8) - 1).to(tl.int8), out_dtype=tl.int32)
        fourth += tl.dot(left, (((right >> 6) & 3).to(tl.int8) - 1).to(tl.int8), out_dtype=tl.int32)
    scale = tl.load(token_scale + row, mask=row < m, other=1.0)
    factor = tl.div_rn(tl.load(weight_scale) + tl.zeros_like(scale), scale)[:, None]
    inside = (row < m)[:, None] & (byte_row < packed_rows)[None, :]
    result = c + row[:, None] * (4 * packed_rows) + byte_row[None, :]
    tl.store(result, (first.to(tl.float32) * factor).to(c.dtype.element_ty), mask=inside)
    tl.store(result + packed_rows, (second.to(tl.float32) * factor).to(c.dtype.element_ty), mask=inside)
    tl.store(result + 2 * packed_rows, (third.to(tl.float32) * factor).to(c.dtype.element_ty), mask=inside)
    tl.store(result + 3 * packed_rows, (fourth.to(tl.float32) * factor).to(c.dtype.element_ty), mask=inside)


@torch.library.custom_op("smidgen::ternary_int8_quant", mutates_args=())
def int8_quant(x: Tensor) -> tuple[Tensor, Tensor]:
    """`kernels.ternary.int8_codes` of a matrix [M, K] of any strides: int8 codes [M, K], float32 scales [M, 1]."""
    codes, scale = _empty_quant(x)
    rows, columns = x.shape
    with _on(x):
        _int8_quant[(rows,)](x, codes, scale, columns, *x.stride(), WIDTH=1024, num_warps=4)
    return codes, scale


@int8_quant.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return _empty_quant(x)


def _empty_quant(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty((x.shape[0], 1), dtype=torch.float32)


@torch.library.custom_op("smidgen::ternary_product", mutates_args=())
def ternary_product(codes: Tensor, token_scale: Tensor, packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`scale_product(ternary_gemm(codes, packed), …)` of kernels/ternary_packing.py in `dtype`: [M, N].

    codes int8 [M, K] with token_scale float32 [M, 1]; packed uint8 [N / 4, K] with scale float32 [1].
    """
    codes, packed = codes.contiguous(), packed.contiguous()
    (m, k), packed_rows = codes.shape, packed.shape[0]
    result = codes.new_empty((m, CODES_PER_BYTE * packed_rows), dtype=dtype)
    block_m = 16 if m <= 16 else 32 if m <= 64 else 64
    grid = (triton.cdiv(m, block_m), triton.cdiv(packed_rows, _BLOCK_R))
    with _on(codes):
        _ternary_gemm[grid](
            codes, packed, token_scale, scale.float(), result, m, packed_rows, k,
            BLOCK_M=block_m, BLOCK_R=_BLOCK_R, BLOCK_K=_BLOCK_K, num_warps=4, num_stages=3,
        )  # fmt: skip
    return result


@ternary_product.register_fake
def _(codes: Tensor, token_scale: Tensor, packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.new_empty((codes.shape[0], CODES_PER_BYTE * packed.shape[0]), dtype=dtype)


def _on(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
