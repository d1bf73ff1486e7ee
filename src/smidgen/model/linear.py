"""The projections of attention and feed-forward: dense, ternary or block FP8 by their quantiser."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smidgen import config
from smidgen.kernels.fp8 import fake_fp8_activation, fake_fp8_weight
from smidgen.kernels.ternary import fake_int8, fake_ternary


class Quantizer(Protocol):
    """How a linear layer rounds its input and its weight before the product; gradients pass straight through."""

    def input(self, x: Tensor) -> Tensor:
        """`x` [..., in] rounded, in its own dtype."""

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """`weight` [out, in] rounded, in `dtype`."""


class Unquantized:
    """A dense layer: the weight is only cast to the type of the product."""

    def input(self, x: Tensor) -> Tensor:
        return x

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return weight.to(dtype)


class Ternary:
    """BitNet b1.58 (see kernels/ternary.py)."""

    def __init__(self, activation_bits: int | None) -> None:
        self.activation_bits = activation_bits

    def input(self, x: Tensor) -> Tensor:
        return x if self.activation_bits is None else fake_int8(x)

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return fake_ternary(weight, dtype)


class BlockFP8:
    """DeepSeek-V3's block-scaled FP8 (see kernels/fp8.py)."""

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

    def __init__(self, in_features: int, out_features: int, quantizer: Quantizer) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.quantizer = quantizer
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.quantizer.input(x), self.effective_weight(x.dtype))

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
            return Unquantized()


def use_block_fp8(module: nn.Module) -> int:
    """Let every dense projection below `module` multiply in block FP8; returns how many were converted."""
    converted = 0
    for linear in module.modules():
        if isinstance(linear, Linear) and isinstance(linear.quantizer, Unquantized):
            linear.quantizer = BlockFP8()
            converted += 1
    return converted
