"""Projections and heads whose weights stay what is stored: int8 and ternary a byte a number, int4 half of one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smidgen.kernels import integer
from smidgen.kernels.integer_products import int8_codes_linear, int8_linear, multiplies_int8
from smidgen.kernels.layouts import Int4Groups, Int8Rows, TernaryPacked
from smidgen.kernels.ternary import int8_codes
from smidgen.kernels.ternary_packing import unpack_ternary
from smidgen.model.linear import Quantizer
from smidgen.model.quantized import QuantizedLinear, RoundedInput, StoredMatrix

_INT4_ROWS, _INT4_GROUPS = 16, (32, 64, 128)
"""What PyTorch's int4 product takes: multiples of so many rows, groups of so many columns."""
SMALLEST_MATRIX = 2**16
"""Weights from which on a matrix is worth it: smaller ones stay in the processor's caches in any type."""


class IntegerLinear(nn.Module):
    """`y = rounded(x) · (codes · scale)ᵀ` for int8 codes [out, in] and a float32 scale a row [out].

    Inputs that are rounded to 8 bits are multiplied as the integers they are; others as digits of int8 (see
    kernels/integer_products.py), whatever the model's own rounding has made of them.
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor, quantizer: Quantizer) -> None:
        super().__init__()
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.quantizer = quantizer
        self._is_int8 = isinstance(quantizer, RoundedInput) and quantizer.is_int8

    def forward(self, x: Tensor) -> Tensor:
        if not self._is_int8:
            return int8_linear(self.quantizer.input(x), self.codes, self.scale)
        codes, token_scale = int8_codes(x.reshape(-1, x.shape[-1]))
        return int8_codes_linear(codes, token_scale, self.codes, self.scale).to(x.dtype).view(*x.shape[:-1], -1)

    def effective_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight that the codes stand for: an adapter on a latent's projection asks for it."""
        return (self.codes.float() * self.scale[:, None]).to(dtype)

    @staticmethod
    def joined(linears: Sequence[IntegerLinear]) -> IntegerLinear:
        """The projections one below the other."""
        codes = torch.cat([linear.codes for linear in linears])
        return IntegerLinear(codes, torch.cat([linear.scale for linear in linears]), linears[0].quantizer)


class Int4Linear(nn.Module):
    """`y = rounded(x) · (codes · scale)ᵀ` for bfloat16 inputs and symmetric int4 codes with a scale a group of columns.

    The codes [out, in] are held twice: as PyTorch's kernel reads them, and as they are stored.
    """

    words: Tensor
    scale: Tensor
    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, words: Tensor, scale: Tensor, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.group_size = words.shape[1] * integer.CODES_PER_WORD // scale.shape[1]
        codes = integer.unpack_int4(words, words.shape[1] * integer.CODES_PER_WORD)
        nibbles = codes.to(torch.int32) - integer.SMALLEST_INT4
        by_group = torch.stack([scale.t(), torch.zeros_like(scale.t())], dim=-1).contiguous()
        self.register_buffer("words", words, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("packed", torch._convert_weight_to_int4pack_for_cpu(nibbles, 2), persistent=False)
        self.register_buffer("scales_and_zeros", by_group, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.quantizer.input(x).reshape(-1, x.shape[-1])
        y = torch._weight_int4pack_mm_for_cpu(flat, self.packed, self.group_size, self.scales_and_zeros)
        return y.view(*x.shape[:-1], -1)

    def effective_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight that the codes stand for."""
        stored = {"weight_packed": self.words, "weight_scale": self.scale}
        return Int4Groups(self.group_size).dequantize(stored).to(dtype)

    @staticmethod
    def joined(linears: Sequence[Int4Linear]) -> Int4Linear:
        """The projections one below the other."""
        words = torch.cat([linear.words for linear in linears])
        return Int4Linear(words, torch.cat([linear.scale for linear in linears]), linears[0].quantizer)


def int4_linear(linear: QuantizedLinear, dtype: torch.dtype) -> Int4Linear | None:
    """The projection in int4 for inputs of `dtype`; None where PyTorch has no fast product that is exact but for
    bfloat16's rounding: zero points would be rounded, float32 inputs too, and other processors multiply slowly.
    """
    layout, stored = linear.layout, linear.stored
    if not isinstance(layout, Int4Groups) or not layout.symmetric or dtype != torch.bfloat16:
        return None
    rows, columns = linear.size
    if linear.device.type != "cpu" or not torch.cpu._is_avx512_supported() or rows * columns < SMALLEST_MATRIX:
        return None
    if rows % _INT4_ROWS or layout.group_size not in _INT4_GROUPS or stored["weight_scale"].dtype != dtype:
        return None
    return Int4Linear(stored["weight_packed"], stored["weight_scale"], linear.quantizer)


def integer_linear(linear: QuantizedLinear, dtype: torch.dtype) -> IntegerLinear | Int4Linear | None:
    """The projection in integers for inputs of `dtype`; None where the layout or the device has no such form."""
    if isinstance(linear.layout, Int4Groups):
        return int4_linear(linear, dtype)
    form = integer_form(linear, dtype)
    return None if form is None else IntegerLinear(*form, linear.quantizer)


def integer_form(matrix: StoredMatrix, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """Codes int8 [N, K] and scales float32 [N] of a stored matrix, or None."""
    if dtype not in (torch.float32, torch.bfloat16) or not multiplies_int8(matrix.device):
        return None
    if matrix.size[0] * matrix.size[1] < SMALLEST_MATRIX:
        return None
    stored = matrix.stored
    match matrix.layout:
        case Int8Rows():
            return stored["weight"], stored["weight_scale"].float().flatten()
        case TernaryPacked():
            codes = unpack_ternary(stored["weight"])
            return codes, stored["weight_scale"].float().expand(len(codes)).contiguous()
        case _:
            return None
