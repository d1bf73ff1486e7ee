"""Random weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from smidgen.config import ModelConfig
from smidgen.model.norm import RMSNorm

RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight")


@torch.no_grad()
def initialize(
    decoder: nn.Module, model: ModelConfig, seed: int, divide: Callable[[Tensor, Tensor], Tensor] | None = None
) -> None:
    """Fill all parameters of a decoder, in the order of their names, from a CPU generator of `seed`.

    Matrices are normal(0, std); the projections that end a residual branch have std / √(2 · num_layers), the sum of
    2 · num_layers branches then keeps its scale (GPT-2, 2019). Norms start as the identity, the final one with its
    configured gain. Padded rows of embedding and head are zero, and stay so: they get no gradient.
    """
    settings = model.initialization
    residual_std = 0.0 if settings.zero_output_projections else settings.std / math.sqrt(2 * model.num_layers)
    generator = torch.Generator().manual_seed(seed)
    for name, module in decoder.named_modules():
        if isinstance(module, RMSNorm):
            module.set_gain(settings.final_norm_gain if name == "model.norm" else 1.0)
    for name, parameter in sorted(decoder.named_parameters()):
        if parameter.dim() < 2:
            continue
        std = residual_std if name.endswith(RESIDUAL_OUTPUTS) else settings.std
        values = torch.empty(parameter.shape).normal_(0.0, 1.0, generator=generator).mul_(std)
        if parameter.shape[0] == model.padded_vocab_size and name.endswith(("embed_tokens.weight", "lm_head.weight")):
            values[model.vocab_size :] = 0
        parameter.copy_(values if divide is None else divide(values, parameter))
