"""Projections and heads whose int8 or ternary weights stay a byte a number on processors that multiply integers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smidgen.kernels.integer_products import int8_codes_linear, int8_linear, multiplies_int8
from smidgen.kernels.layouts import Int8Rows, TernaryPacked
from smidgen.kernels.ternary import int8_codes
from smidgen.kernels.ternary_packing import unpack_ternary
from smidgen.model.linear import Quantizer
from smidgen.model.quantized import QuantizedLinear, RoundedInput, StoredMatrix

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


def integer_linear(linear: QuantizedLinear, dtype: torch.dtype) -> IntegerLinear | None:
    """The projection in integers for inputs of `dtype`; None where the layout or the device has no such form."""
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
