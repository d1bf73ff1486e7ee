"""How a quantised matrix is stored: the tensors of each layout, and the way from a float matrix to them and back.

Names and types are those of the files, which compressed-tensors, DeepSeek-V3 and BitNet defined; see
docs/quantization.md. A layout is a value: it holds no tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from smidgen.kernels import fp8, integer
from smidgen.kernels.fp8_tensorwise import quantize_dynamic
from smidgen.kernels.ternary import ternary_codes
from smidgen.kernels.ternary_packing import CODES_PER_BYTE, pack_ternary, unpack_ternary

Stored = Mapping[str, Tensor]
"""The tensors of one matrix by the last part of their names: `weight`, `weight_scale` …"""


class Spec(NamedTuple):
    """Shape and type of a stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Layout(ABC):
    """The stored form of a matrix [N, K]."""

    @abstractmethod
    def specs(self, rows: int, columns: int) -> dict[str, Spec]:
        """The tensors that a matrix of this size is stored as; scales may also come in other float types."""

    @abstractmethod
    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """The stored form of a float matrix, rounded to nearest."""

    @abstractmethod
    def dequantize(self, stored: Stored) -> Tensor:
        """The matrix that the stored form stands for: float32 [N, K]."""

    def misfit(self, rows: int, columns: int) -> str | None:
        """Why a matrix of this size has no stored form, or None."""
        return None

    def dequantize_rows(self, stored: Stored, rows: Tensor) -> Tensor:
        """Some rows [..., K] of the matrix, for int64 row numbers [...]; by default all are made first."""
        return self.dequantize(stored)[rows]

    def bytes(self, rows: int, columns: int) -> int:
        """Bytes of the stored form."""
        return sum(torch.Size(s.shape).numel() * s.dtype.itemsize for s in self.specs(rows, columns).values())


@dataclass(frozen=True)
class Int8Rows(Layout):
    """8 bits a weight, a scale a row (compressed-tensors' `int-quantized`, strategy channel)."""

    def specs(self, rows: int, columns: int) -> dict[str, Spec]:
        return {"weight": Spec((rows, columns), torch.int8), "weight_scale": Spec((rows, 1), torch.float32)}

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        scale = integer.int8_row_scale(weight)
        return {"weight": integer.int8_row_codes(weight, scale), "weight_scale": scale}

    def dequantize(self, stored: Stored) -> Tensor:
        return integer.int8_row_dequantize(stored["weight"], stored["weight_scale"])

    def dequantize_rows(self, stored: Stored, rows: Tensor) -> Tensor:
        return stored["weight"][rows].float() * stored["weight_scale"][rows].float()


@dataclass(frozen=True)
class Int4Groups(Layout):
    """4 bits a weight, a scale a group of columns (compressed-tensors' `pack-quantized`, strategy group)."""

    group_size: int
    symmetric: bool = True

    def specs(self, rows: int, columns: int) -> dict[str, Spec]:
        groups = columns // self.group_size
        specs = {
            "weight_packed": Spec((rows, -(-columns // integer.CODES_PER_WORD)), torch.int32),
            "weight_scale": Spec((rows, groups), torch.bfloat16),
            "weight_shape": Spec((2,), torch.int64),
        }
        if not self.symmetric:
            specs["weight_zero_point"] = Spec((-(-rows // integer.CODES_PER_WORD), groups), torch.int32)
        return specs

    def misfit(self, rows: int, columns: int) -> str | None:
        if columns % self.group_size:
            return f"{columns} columns are not divisible by groups of {self.group_size}"
        return None

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        scale, zero_point = integer.int4_scale(weight, self.group_size, self.symmetric)
        return self.stored(integer.int4_codes(weight, scale, zero_point), scale, zero_point)

    def stored(self, codes: Tensor, scale: Tensor, zero_point: Tensor | None) -> dict[str, Tensor]:
        """The stored form of codes int8 [N, K], scales [N, groups] and zero points int8 [N, groups], if any."""
        tensors = {
            "weight_packed": integer.pack_int4(codes),
            "weight_scale": scale,
            "weight_shape": torch.tensor(codes.shape, dtype=torch.int64),
        }
        if zero_point is not None:
            tensors["weight_zero_point"] = integer.pack_int4(zero_point.t()).t().contiguous()
        return tensors

    def dequantize(self, stored: Stored) -> Tensor:
        scale, zero_point = stored["weight_scale"], None
        if not self.symmetric:
            zero_point = integer.unpack_int4(stored["weight_zero_point"].t(), len(scale)).t()
        codes = integer.unpack_int4(stored["weight_packed"], scale.shape[1] * self.group_size)
        return integer.int4_dequantize(codes, scale, zero_point)

    def dequantize_rows(self, stored: Stored, rows: Tensor) -> Tensor:
        flat = rows.flatten()
        scale, zero_point = stored["weight_scale"][flat], None
        if not self.symmetric:
            words = stored["weight_zero_point"][flat // integer.CODES_PER_WORD]
            shifts = (flat % integer.CODES_PER_WORD * 4).to(torch.int32)[:, None]
            zero_point = ((words >> shifts & 15) + integer.SMALLEST_INT4).to(torch.int8)
        codes = integer.unpack_int4(stored["weight_packed"][flat], scale.shape[1] * self.group_size)
        return integer.int4_dequantize(codes, scale, zero_point).unflatten(0, rows.shape)


@dataclass(frozen=True)
class TernaryPacked(Layout):
    """2 bits a weight, a scale a matrix, which multiplies (`bitnet` of transformers, its offline layers)."""

    def specs(self, rows: int, columns: int) -> dict[str, Spec]:
        return {
            "weight": Spec((rows // CODES_PER_BYTE, columns), torch.uint8),
            "weight_scale": Spec((1,), torch.float32),
        }

    def misfit(self, rows: int, columns: int) -> str | None:
        return f"{rows} rows are not divisible by {CODES_PER_BYTE}" if rows % CODES_PER_BYTE else None

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        codes, scale = ternary_codes(weight)
        return {"weight": pack_ternary(codes), "weight_scale": scale.view(1)}

    def dequantize(self, stored: Stored) -> Tensor:
        return unpack_ternary(stored["weight"]).float() * stored["weight_scale"].float()


@dataclass(frozen=True)
class FP8Blocks(Layout):
    """e4m3 with a float32 scale a block of 128×128, which multiplies although its name says inverse (DeepSeek-V3)."""

    power_of_two_scales: bool = False

    def specs(self, rows: int, columns: int) -> dict[str, Spec]:
        blocks = (-(-rows // fp8.BLOCK), -(-columns // fp8.BLOCK))
        return {"weight": Spec((rows, columns), fp8.E4M3), "weight_scale_inv": Spec(blocks, torch.float32)}

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        values, scale = fp8.weight_quant(weight, self.power_of_two_scales)
        return {"weight": values, "weight_scale_inv": scale}

    def dequantize(self, stored: Stored) -> Tensor:
        return fp8.weight_dequant(stored["weight"], stored["weight_scale_inv"].float())


@dataclass(frozen=True)
class FP8Tensor(Layout):
    """e4m3 with one float32 scale a matrix, which multiplies (compressed-tensors' `float-quantized`, by tensor)."""

    def specs(self, rows: int, columns: int) -> dict[str, Spec]:
        return {"weight": Spec((rows, columns), fp8.E4M3), "weight_scale": Spec((1,), torch.float32)}

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        values, scale = quantize_dynamic(weight)
        return {"weight": values, "weight_scale": scale.view(1)}

    def dequantize(self, stored: Stored) -> Tensor:
        return stored["weight"].float() * stored["weight_scale"].float()
