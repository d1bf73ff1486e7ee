"""The type of activations and products. Master weights, gradients and optimiser state are float32 in all of them."""

from __future__ import annotations

import math

import torch

from smidgen.model import Decoder, use_block_fp8
from smidgen.runtime.errors import ConfigError

_COMPUTE_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_block": torch.bfloat16,
}


def compute_dtype(precision: str) -> torch.dtype:
    """The type in which activations are kept and products run (fp8_block rounds the operands of its products more)."""
    return _COMPUTE_DTYPES[precision]


def apply_precision(model: Decoder, precision: str, device: torch.device) -> None:
    """Make the model compute as `training.precision` says. Raises ConfigError where the device cannot."""
    dtype = compute_dtype(precision)
    if dtype == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise ConfigError(
            f"training.precision = {precision}: {torch.cuda.get_device_name(device)} has no bf16; use fp16"
        )
    model.compute_dtype = None if precision == "fp32" else dtype
    if precision == "fp8_block":
        use_block_fp8(model)


def make_scaler(precision: str, device: torch.device, tokens: int) -> torch.amp.GradScaler:
    """The gradient scaler of fp16; for the other precisions one that does nothing.

    `tokens` is the number of labels in a forward pass: losses are sums over them, so the usual first scale, meant
    for means, is divided by it (to a power of two).
    """
    return torch.amp.GradScaler(
        device.type, init_scale=2.0 ** max(0, 16 - round(math.log2(tokens))), enabled=precision == "fp16"
    )
