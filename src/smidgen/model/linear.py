"""The projections of attention and feed-forward: dense, ternary or block FP8 by their quantiser."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smidgen import config
from smidgen.kernels.fp8_fake import fake_fp8_activation, fake_fp8_weight
from smidgen.kernels.ternary import fake_int8, fake_ternary


class Quantizer:
    """How a linear layer rounds its input and its weight before the product; gradients pass straight through.

    This one rounds nothing: a dense layer, whose weight is only cast to the type of the product.
    """

    def input(self, x: Tensor) -> Tensor:
        """`x` [..., in] rounded, in its own dtype."""
        return x

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """`weight` [out, in] rounded, in `dtype`."""
        return weight.to(dtype)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """`x · weightᵀ` [..., out] of the rounded factors, in the dtype of `x`."""
        return F.linear(self.input(x), self.weight(weight, x.dtype))


class Ternary(Quantizer):
    """BitNet b1.58 (see kernels/ternary.py); the product of the rounded factors runs in the dtype of `x`."""

    def __init__(self, activation_bits: int | None) -> None:
        self.activation_bits = activation_bits

    def input(self, x: Tensor) -> Tensor:
        return x if self.activation_bits is None else fake_int8(x)

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return fake_ternary(weight, dtype)


class BlockFP8(Quantizer):
    """DeepSeek-V3's block-scaled FP8 (see kernels/fp8.py) as a part of the model: the forward pass rounds."""

    def __init__(self, power_of_two_scales: bool = False) -> None:
        self.power_of_two_scales = power_of_two_scales

    def input(self, x: Tensor) -> Tensor:
        return fake_fp8_activation(x, self.power_of_two_scales)

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return fake_fp8_weight(weight, dtype, self.power_of_two_scales)


class Linear(nn.Module):
    """`y = quantized(x) · quantized(W)ᵀ` without bias; the product runs in the dtype of `x`.

    The weight [out_features, in_features] is the float32 master; it is uninitialised until the decoder fills it.
    """

    quantizer: Quantizer

    def __init__(self, in_features: int, out_features: int, quantizer: Quantizer) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.quantizer = quantizer
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.quantizer.product(x, self.weight)

    def effective_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight that the product really uses, in `dtype`."""
        return self.quantizer.weight(self.weight, dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {type(self.quantizer).__name__}"


def make_quantizer(linear: config.DenseLinear | config.TernaryLinear | config.BlockFP8Linear) -> Quantizer:
    """The quantiser that the configuration's `model.linear` section describes."""
    match linear:
        case config.TernaryLinear(activation_bits=bits):
            return Ternary(bits)
        case config.BlockFP8Linear(power_of_two_scales=power_of_two_scales):
            return BlockFP8(power_of_two_scales)
        case _:
            return Quantizer()
