"""`y = x · Wᵀ` of which all three products, the forward and both gradients', run in FP8; a function a recipe.

x is [..., K] in the compute type, W float32 [N, K] (rounded from the master, not from a bfloat16 copy); y and the
input's gradient come in the type of x, the weight's gradient in that of W. Sums are float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from smidgen.kernels.fp8 import E4M3
from smidgen.kernels.fp8_dispatch import act_quant, fp8_gemm, scaled_product, weight_quant
from smidgen.kernels.fp8_fake import is_divided, rounded_blocks, rounded_tiles
from smidgen.kernels.fp8_tensorwise import E5M2, absolute_max, delayed_descale, dynamic_scale, quantize


class DelayedScale(NamedTuple):
    """What delayed scaling knows of one tensor, float32 without dimensions."""

    scale: Tensor
    amax: Tensor
    """Largest |x| seen since the last step; raised in place by every pass."""


def tensorwise_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Dynamic scaling: each scale from the tensor at hand; gradients in e5m2."""
    rows = x.reshape(-1, x.shape[-1])
    operands = []
    with torch.no_grad():
        for tensor in (rows, weight):
            scale = dynamic_scale(absolute_max(tensor), E4M3)
            operands += [quantize(tensor, scale, E4M3), scale.reciprocal()]
    return _apply(_TensorwiseLinear, x, rows, weight, *operands, None, None)


def delayed_linear(
    x: Tensor, weight: Tensor, x_scale: DelayedScale, weight_scale: DelayedScale, gradient_scale: DelayedScale
) -> Tensor:
    """Delayed scaling: scales of earlier steps; each pass records the new amax. Gradients in e5m2."""
    rows = x.reshape(-1, x.shape[-1])
    operands = []
    with torch.no_grad():
        for tensor, known in ((rows, x_scale), (weight, weight_scale)):
            amax = absolute_max(tensor)
            known.amax.copy_(torch.maximum(known.amax, amax))
            operands += [quantize(tensor, known.scale, E4M3), delayed_descale(known.scale, amax)]
    return _apply(_TensorwiseLinear, x, rows, weight, *operands, gradient_scale.scale, gradient_scale.amax)


def block_linear(x: Tensor, weight: Tensor, power_of_two_scales: bool = False) -> Tensor:
    """DeepSeek-V3: 1×128 activations and gradients, 128×128 weights, e4m3 throughout, in all three products.

    The weight's gradient sums over tokens, so for it input and gradient are quantised again, in tiles of 128 tokens.
    What DeepSeek-V3 keeps in higher precision is this gradient's sum and storage (float32), the master weights, the
    optimiser, embedding, head, norms and attention, but none of the three products (section 3.3 of its report).
    """
    function = _DividedBlockLinear if is_divided(weight) else _BlockLinear
    return _apply(function, x, x.reshape(-1, x.shape[-1]), weight, power_of_two_scales)


def _apply(function: type[torch.autograd.Function], x: Tensor, *arguments: object) -> Tensor:
    result: Tensor = function.apply(*arguments)
    return result.view(*x.shape[:-1], -1)


class _TensorwiseLinear(torch.autograd.Function):
    """`gradient_scale` None means dynamic scaling of the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        x_values: Tensor,
        x_descale: Tensor,
        weight_values: Tensor,
        weight_descale: Tensor,
        gradient_scale: Tensor | None,
        gradient_amax: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x_values, x_descale, weight_values, weight_descale, gradient_scale)
        # Not among the saved tensors: a backward pass may change it before another one reads it.
        ctx.gradient_amax = gradient_amax
        ctx.dtypes = x.dtype, weight.dtype
        return scaled_product(x_values, x_descale, weight_values, weight_descale, dtype=x.dtype, fast_accumulation=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x_values, x_descale, weight_values, weight_descale, scale = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        amax = absolute_max(gradient)
        if scale is None:
            scale = dynamic_scale(amax, E5M2)
            descale = scale.reciprocal()
        else:
            ctx.gradient_amax.copy_(torch.maximum(ctx.gradient_amax, amax))
            descale = delayed_descale(scale, amax)
        values = quantize(gradient, scale, E5M2)
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = scaled_product(
                values, descale, weight_values.t(), weight_descale, dtype=x_dtype, fast_accumulation=False
            )
        if ctx.needs_input_grad[1]:
            weight_gradient = scaled_product(
                values.t(), descale, x_values.t(), x_descale, dtype=weight_dtype, fast_accumulation=False
            )
        return x_gradient, weight_gradient, None, None, None, None, None, None


class _BlockLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, power_of_two_scales: bool) -> Tensor:
        x_values, x_scale = act_quant(x, power_of_two_scales)
        weight_values, weight_scale = weight_quant(weight, power_of_two_scales)
        # x itself, which projections of the same input share, for the second quantisation.
        ctx.save_for_backward(x, weight_values, weight_scale)
        ctx.power_of_two_scales, ctx.weight_dtype = power_of_two_scales, weight.dtype
        return fp8_gemm(x_values, x_scale, weight_values, weight_scale, dtype=x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_values, weight_scale = ctx.saved_tensors
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            values, scale = act_quant(gradient, ctx.power_of_two_scales)
            x_gradient = fp8_gemm(values, scale, weight_values.t(), weight_scale.t(), dtype=x.dtype)
        if ctx.needs_input_grad[1]:
            values, scale = act_quant(gradient.t(), ctx.power_of_two_scales)
            x_values, x_scale = act_quant(x.t(), ctx.power_of_two_scales)
            weight_gradient = fp8_gemm(values, scale, x_values, x_scale, dtype=ctx.weight_dtype, rows_per_scale=1)
        return x_gradient, weight_gradient, None


class _DividedBlockLinear(torch.autograd.Function):
    """The same of DTensors, by float32 products on every device: shares of a tensor need not hold whole blocks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, power_of_two_scales: bool) -> Tensor:
        rounded_weight = rounded_blocks(weight, torch.float32, power_of_two_scales)
        ctx.save_for_backward(x, rounded_weight)
        ctx.power_of_two_scales, ctx.weight_dtype = power_of_two_scales, weight.dtype
        return (rounded_tiles(x, power_of_two_scales) @ rounded_weight.t()).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, rounded_weight = ctx.saved_tensors
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = (rounded_tiles(gradient, ctx.power_of_two_scales) @ rounded_weight).to(x.dtype)
        if ctx.needs_input_grad[1]:
            rounded_gradient = rounded_tiles(gradient.t(), ctx.power_of_two_scales)
            rounded_x = rounded_tiles(x.t(), ctx.power_of_two_scales)
            weight_gradient = (rounded_gradient @ rounded_x.t()).to(ctx.weight_dtype)
        return x_gradient, weight_gradient, None
