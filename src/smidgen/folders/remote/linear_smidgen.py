"""The projections of a Smidgen decoder: dense, ternary (BitNet b1.58) or block FP8, rounded as they run.

The weights in the file are the float32 masters, or quantised (`weights_are_rounded`); gradients pass through the
rounding unchanged.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def straight_through(rounded: Tensor, x: Tensor) -> Tensor:
    """The value of `rounded`, exactly; the gradient of `x`."""
    return rounded.detach() + (x - x.detach())


def ternary_weight(weight: Tensor) -> Tensor:
    """BitNet b1.58: `clip(round(W / β), -1, 1) · β` with `β = max(mean |W|, 1e-5)` over the tensor, in float32."""
    values = weight.float()
    inverse = 1.0 / values.abs().mean().clamp(min=1e-5)
    return ((values * inverse).round().clamp(-1, 1) / inverse).to(weight.dtype)


def int8_activation(x: Tensor) -> Tensor:
    """`clip(round(x · s), -128, 127) / s` with `s = 127 / max(absmax, 1e-5)` a token, in float32."""
    values = x.float()
    scale = 127.0 / values.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
    return ((values * scale).round().clamp(-128, 127) / scale).to(x.dtype)


def fp8_blocks(x: Tensor, rows: int, power_of_two: bool) -> Tensor:
    """e4m3 in blocks of `rows` × 128 of the last two dimensions, each scaled by `max(amax, 1e-4) / 448`, in float32."""
    height, width = x.shape[-2:]
    padded = F.pad(x.float(), (0, -width % 128, 0, -height % rows))
    blocks = padded.unflatten(-1, (-1, 128)).unflatten(-3, (-1, rows))
    scale = blocks.abs().amax(dim=(-3, -1), keepdim=True).clamp(min=1e-4) / 448.0
    if power_of_two:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    codes = (blocks / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
    rounded = (codes.float() * scale).flatten(-2).flatten(-3, -2)
    return rounded[..., :height, :width].to(x.dtype)


class SmidgenLinear(nn.Linear):
    """A projection without bias whose input and weight are rounded as `config.linear` says."""

    def __init__(self, config: Any, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.quantization = config.linear
        self.weight_is_rounded = getattr(config, "weights_are_rounded", False)

    def forward(self, x: Tensor) -> Tensor:
        kind, weight = self.quantization["kind"], self.weight
        if kind == "ternary":
            if not self.weight_is_rounded:
                weight = straight_through(ternary_weight(weight), weight)
            if self.quantization["activation_bits"] is not None:
                x = straight_through(int8_activation(x), x)
        elif kind == "fp8_block":
            power_of_two = self.quantization["power_of_two_scales"]
            if not self.weight_is_rounded:
                weight = straight_through(fp8_blocks(weight, 128, power_of_two), weight)
            x = straight_through(fp8_blocks(x, 1, power_of_two), x)
        return F.linear(x, weight)
