"""Block-scaled FP8 in Triton: the kernels of kernels/fp8.py for GPUs with FP8 products (compute capability 8.9 up).

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

from smidgen.kernels.fp8 import BLOCK, E4M3

INTERPRETED = bool(triton.knobs.runtime.interpret)
_TILE = tl.constexpr(BLOCK)
_INTERPRETED = tl.constexpr(INTERPRETED)
_QUANT_ROWS = 64


@triton.jit
def _divided(x, y):
    """x / y rounded to nearest, as PyTorch divides; Triton's own division is approximate."""
    return tl.div_rn(x, y + tl.zeros_like(x))


@triton.jit
def _scale_of(amax, has_nan, POWER_OF_TWO: tl.constexpr):
    """`max(amax, 1e-4) / 448`, infinite where there was a NaN (which `tl.max` passes over)."""
    scale = _divided(tl.maximum(amax, 1e-4), 448.0)
    scale = tl.where(has_nan > 0, float("inf"), scale)
    if POWER_OF_TWO:
        # Up to the next power of two by the bits: exact, where log2 and exp2 of the hardware are not.
        bits = (scale.to(tl.int32, bitcast=True) + 0x7FFFFF) & 0x7F800000
        scale = bits.to(tl.float32, bitcast=True)
    return scale


@triton.jit
def _to_e4m3(x):
    """float32 to e4m3, to nearest even. |x| exceeds 448 by rounding errors at most, which round back to it."""
    if _INTERPRETED:
        # The interpreter's own cast loses the carry from mantissa to exponent, and NaN: the bits by hand.
        bits = x.to(tl.int32, bitcast=True)
        magnitude = bits & 0x7FFFFFFF
        normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120 << 3)
        # Adding 1.5 · 2^14 rounds to multiples of 2^-9, the step of subnormal e4m3.
        subnormal = (((tl.abs(x) + 24576.0) - 24576.0) * 512.0).to(tl.int32)
        code = tl.minimum(tl.where(magnitude < (121 << 23), subnormal, normal), 0x7E)
        code = tl.where(x != x, 0x7F, code) | ((bits >> 24) & 0x80)
        return code.to(tl.uint8).to(tl.float8e4nv, bitcast=True)
    else:
        return x.to(tl.float8e4nv)


@triton.jit
def _act_quant(
    x, values, scale, rows, columns, x_row, x_column, scale_row, scale_tile, POWER_OF_TWO: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS rows of one tile of 128 columns."""
    tile = tl.program_id(1)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = (tile * _TILE + tl.arange(0, _TILE)).to(tl.int64)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    block = tl.load(x + row[:, None] * x_row + column[None, :] * x_column, mask=inside, other=0.0).to(tl.float32)
    has_nan = tl.max((block != block).to(tl.int32), axis=1)
    row_scale = _scale_of(tl.max(tl.abs(block), axis=1), has_nan, POWER_OF_TWO)
    quantized = _to_e4m3(_divided(block, row_scale[:, None]))
    tl.store(values + row[:, None] * columns + column[None, :], quantized, mask=inside)
    tl.store(scale + row * scale_row + tile * scale_tile, row_scale, mask=row < rows)


@triton.jit
def _weight_quant(x, values, scale, rows, columns, x_row, x_column, tiles, POWER_OF_TWO: tl.constexpr):
    """One block of 128×128."""
    row = (tl.program_id(0) * _TILE + tl.arange(0, _TILE)).to(tl.int64)
    column = (tl.program_id(1) * _TILE + tl.arange(0, _TILE)).to(tl.int64)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    block = tl.load(x + row[:, None] * x_row + column[None, :] * x_column, mask=inside, other=0.0).to(tl.float32)
    has_nan = tl.max(tl.max((block != block).to(tl.int32), axis=1), axis=0)
    block_scale = _scale_of(tl.max(tl.max(tl.abs(block), axis=1), axis=0), has_nan, POWER_OF_TWO)
    quantized = _to_e4m3(_divided(block, block_scale))
    tl.store(values + row[:, None] * columns + column[None, :], quantized, mask=inside)
    tl.store(scale + tl.program_id(0) * tiles + tl.program_id(1), block_scale)


@triton.jit
def _weight_dequant(values, scale, result, rows, columns, tiles):
    """One block of 128×128."""
    row = (tl.program_id(0) * _TILE + tl.arange(0, _TILE)).to(tl.int64)
    column = (tl.program_id(1) * _TILE + tl.arange(0, _TILE)).to(tl.int64)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    offset = row[:, None] * columns + column[None, :]
    block = tl.load(values + offset, mask=inside, other=0.0).to(tl.float32)
    block_scale = tl.load(scale + tl.program_id(0) * tiles + tl.program_id(1))
    tl.store(result + offset, (block * block_scale).to(result.dtype.element_ty), mask=inside)


@triton.jit
def _fp8_gemm(
    a, b, c, a_scale, b_scale, m, n, k, a_scale_row, a_scale_tile, b_scale_row, b_scale_tile,
    ROWS_PER_SCALE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """BLOCK_M×BLOCK_N of `c`. Programs go down GROUP_M blocks of rows before the next columns, to reuse them in L2."""
    blocks_m, blocks_n = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    group, within = tl.program_id(0) // (GROUP_M * blocks_n), tl.program_id(0) % (GROUP_M * blocks_n)
    height = tl.minimum(blocks_m - group * GROUP_M, GROUP_M)
    block_m, block_n = group * GROUP_M + within % height, within // height
    row = (block_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    column = (block_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for tile in range(tl.cdiv(k, _TILE)):
        inner = tile * _TILE + tl.arange(0, _TILE)
        left = tl.load(a + row[:, None] * k + inner[None, :], mask=(row < m)[:, None] & (inner < k)[None, :], other=0.0)
        right = tl.load(
            b + column[None, :] * k + inner[:, None], mask=(column < n)[None, :] & (inner < k)[:, None], other=0.0
        )
        left_scale = tl.load(a_scale + row * a_scale_row + tile * a_scale_tile, mask=row < m, other=0.0)
        # The tensor cores sum FP8 products with fewer bits than float32 has, so each tile is added up here.
        product = tl.dot(left, right)
        if ROWS_PER_SCALE == 1:
            right_scale = tl.load(b_scale + column * b_scale_row + tile * b_scale_tile, mask=column < n, other=0.0)
            total += product * left_scale[:, None] * right_scale[None, :]
        else:
            # BLOCK_N divides 128: all columns of this program lie in one block of the weight.
            right_scale = tl.load(b_scale + (block_n * BLOCK_N // ROWS_PER_SCALE) * b_scale_row + tile * b_scale_tile)
            total += product * (left_scale * right_scale)[:, None]
    inside = (row < m)[:, None] & (column < n)[None, :]
    tl.store(c + row[:, None] * n + column[None, :], total.to(c.dtype.element_ty), mask=inside)


@torch.library.custom_op("smidgen::fp8_act_quant", mutates_args=())
def act_quant(x: Tensor, power_of_two_scales: bool) -> tuple[Tensor, Tensor]:
    """`kernels.fp8.act_quant` of a matrix [M, K] of any strides: contiguous values, scales [M, tiles] by columns.

    A column of scales is what a program of `fp8_gemm` reads at once, so columns are contiguous.
    """
    values, scale = _empty_act_quant(x)
    rows, columns = x.shape
    with _on(x):
        _act_quant[triton.cdiv(rows, _QUANT_ROWS), triton.cdiv(columns, BLOCK)](
            x, values, scale, rows, columns, *x.stride(), *scale.stride(),
            POWER_OF_TWO=power_of_two_scales, ROWS=_QUANT_ROWS, num_warps=8,
        )  # fmt: skip
    return values, scale


@act_quant.register_fake
def _(x: Tensor, power_of_two_scales: bool) -> tuple[Tensor, Tensor]:
    return _empty_act_quant(x)


def _empty_act_quant(x: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape
    values = x.new_empty(x.shape, dtype=E4M3)
    return values, x.new_empty((triton.cdiv(columns, BLOCK), rows), dtype=torch.float32).t()


@torch.library.custom_op("smidgen::fp8_weight_quant", mutates_args=())
def weight_quant(weight: Tensor, power_of_two_scales: bool) -> tuple[Tensor, Tensor]:
    """`kernels.fp8.weight_quant` of a matrix [N, K] of any strides: contiguous values and scales."""
    values, scale = _empty_weight_quant(weight)
    with _on(weight):
        _weight_quant[tuple(scale.shape)](
            weight, values, scale, *weight.shape, *weight.stride(), scale.shape[1],
            POWER_OF_TWO=power_of_two_scales, num_warps=8,
        )  # fmt: skip
    return values, scale


@weight_quant.register_fake
def _(weight: Tensor, power_of_two_scales: bool) -> tuple[Tensor, Tensor]:
    return _empty_weight_quant(weight)


def _empty_weight_quant(weight: Tensor) -> tuple[Tensor, Tensor]:
    shape = [triton.cdiv(size, BLOCK) for size in weight.shape]
    return weight.new_empty(weight.shape, dtype=E4M3), weight.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("smidgen::fp8_weight_dequant", mutates_args=())
def weight_dequant(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`kernels.fp8.weight_dequant` in `dtype`: [N, K]."""
    values, scale = values.contiguous(), scale.contiguous()
    result = values.new_empty(values.shape, dtype=dtype)
    with _on(values):
        _weight_dequant[tuple(scale.shape)](values, scale, result, *values.shape, scale.shape[1], num_warps=8)
    return result


@weight_dequant.register_fake
def _(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return values.new_empty(values.shape, dtype=dtype)


@torch.library.custom_op("smidgen::fp8_gemm", mutates_args=())
def fp8_gemm(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, rows_per_scale: int, dtype: torch.dtype) -> Tensor:
    """`kernels.fp8.fp8_gemm` of matrices a [M, K] and b [N, K], in `dtype`: [M, N]."""
    # FP8 products of Hopper want the summed dimension of both operands contiguous.
    a, b = a.contiguous(), b.contiguous()
    (m, k), n = a.shape, b.shape[0]
    result = a.new_empty((m, n), dtype=dtype)
    block_m, block_n, warps, stages = _launch(m, n, a.device)
    with _on(a):
        _fp8_gemm[(triton.cdiv(m, block_m) * triton.cdiv(n, block_n),)](
            a, b, result, a_scale, b_scale, m, n, k, *a_scale.stride(), *b_scale.stride(),
            ROWS_PER_SCALE=rows_per_scale, BLOCK_M=block_m, BLOCK_N=block_n, GROUP_M=8,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return result


@fp8_gemm.register_fake
def _(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, rows_per_scale: int, dtype: torch.dtype) -> Tensor:
    return a.new_empty((a.shape[0], b.shape[0]), dtype=dtype)


def _launch(m: int, n: int, device: torch.device) -> tuple[int, int, int, int]:
    """BLOCK_M, BLOCK_N, warps and pipeline stages: the largest blocks that occupy every multiprocessor.

    No autotuning: sums have the same order in every run. A stage holds (BLOCK_M + BLOCK_N) · 128 bytes of shared
    memory; GPUs other than those for data centres have 100 KB.
    """
    if device.type != "cuda":
        return 64, 64, 4, 1
    properties = torch.cuda.get_device_properties(device)
    stages = 4 if (properties.major, properties.minor) in {(9, 0), (10, 0), (10, 3)} else 2
    for block_m, block_n, warps in ((128, 128, 8), (64, 128, 4)):
        if triton.cdiv(m, block_m) * triton.cdiv(n, block_n) >= properties.multi_processor_count:
            return block_m, block_n, warps, stages
    return 64, 64, 4, stages


def _on(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
