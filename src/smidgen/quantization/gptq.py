"""GPTQ (Frantar et al., 2022): columns are rounded one after the other, and what a column loses is made up for by those
that are still to come, as far as the inputs of a calibration text allow.

Scales are those of round to nearest, found before, so that columns may be taken in the order of their inputs' size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.config import Quantization
from smidgen.kernels import integer
from smidgen.kernels.layouts import Int4Groups, Int8Rows, Layout
from smidgen.model import Decoder
from smidgen.model.quantized import QuantizedLinear
from smidgen.quantization.calibration import Batches, layer_calls, watch
from smidgen.quantization.convert import check_method, projection_weight, quantize, quantized_config

DAMPING = 0.01
"""Part of the mean diagonal that is added to it."""
BLOCK = 128
"""Columns between two updates of all that follow; within a block each column updates the rest of it."""


@torch.no_grad()
def quantize_gptq(model: Decoder, quantization: Quantization, batches: Batches) -> Decoder:
    """A quantised copy of `model`; layers are rounded in order, each on what the rounded ones before it give, and each
    projection to its own scheme.

    Raises ConfigError for schemes other than int8, int4 and, of single projections, bf16.
    """
    check_method("gptq", quantized_config(model.config, quantization))
    result = quantize(model, quantization)
    calls = layer_calls(result, batches)
    for index, (layer, target) in enumerate(zip(model.layers, result.layers, strict=True)):
        with watch(layer) as seen:
            for call in calls:
                layer(call.x, call.inputs[index], None)
        for name, inputs in seen.items():
            linear = target.get_submodule(name)
            if not isinstance(linear, QuantizedLinear):
                continue  # an override keeps it in bf16
            weight = projection_weight(layer.get_submodule(name), linear.layout)  # type: ignore[arg-type]
            linear.fill(round_by_inputs(weight, inputs.gram, linear.layout))
        for call in calls:
            call.x = target(call.x, call.inputs[index], None)
    return result


def round_by_inputs(weight: Tensor, gram: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The stored form of float32 [N, K] for inputs with second moments float32 [K, K]."""
    scale, zero_point = _scales(weight, layout)
    group_size = weight.shape[1] // scale.shape[1]
    column_scale = scale.float().repeat_interleave(group_size, dim=1)
    column_zero = None if zero_point is None else zero_point.float().repeat_interleave(group_size, dim=1)
    lowest, highest = (-127, 127) if isinstance(layout, Int8Rows) else (-8, 7)

    order = gram.diagonal().argsort(descending=True)
    weight, column_scale = weight[:, order].clone(), column_scale[:, order]
    column_zero = torch.zeros_like(column_scale) if column_zero is None else column_zero[:, order]
    factor = _inverse_factor(gram[order][:, order])
    codes = torch.empty_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        end = min(start + BLOCK, weight.shape[1])
        errors = torch.empty_like(weight[:, start:end])
        for column in range(start, end):
            step, zero = column_scale[:, column], column_zero[:, column]
            code = ((weight[:, column] / step).round() + zero).clamp(lowest, highest)
            codes[:, column] = code
            error = (weight[:, column] - (code - zero) * step) / factor[column, column]
            weight[:, column:end] -= error[:, None] * factor[column, column:end]
            errors[:, column - start] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    codes = torch.empty_like(codes).index_copy_(1, order, codes).to(torch.int8)
    if isinstance(layout, Int8Rows):
        return {"weight": codes, "weight_scale": scale}
    assert isinstance(layout, Int4Groups)
    return layout.stored(codes, scale, zero_point)


def _scales(weight: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
    if isinstance(layout, Int8Rows):
        return integer.int8_row_scale(weight), None
    assert isinstance(layout, Int4Groups)
    return integer.int4_scale(weight, layout.group_size, layout.symmetric)


def _inverse_factor(gram: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped moments, [K, K] in the type of `gram`.

    In float64: inputs are often nearly dependent. Columns that no input reaches get the mean of the diagonal.
    """
    moments = gram.double()
    diagonal = moments.diagonal()
    mean = diagonal.mean().clamp(min=1e-12)
    diagonal += torch.where(diagonal == 0, mean, 0.0) + DAMPING * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    return torch.linalg.cholesky(inverse, upper=True).to(gram.dtype)
