"""The feed-forward sublayer: SwiGLU, GeGLU or squared ReLU, gated or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from smidgen import config
from smidgen.model.norm import make_norm
from smidgen.model.quantized import linear_maker


def squared_relu(x: Tensor) -> Tensor:
    """`max(x, 0)²` (So et al., 2021)."""
    return F.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation (Hendrycks & Gimpel, 2016)."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu_tanh": gelu_tanh, "relu2": squared_relu}


class FeedForward(nn.Module):
    """`down(act(gate(x)) · up(x))`, or `down(act(up(x)))`; with SubLN a norm stands before `down`."""

    def __init__(self, model: config.ModelConfig, index: int) -> None:
        super().__init__()
        linear = linear_maker(model, f"model.layers.{index}.mlp")
        width, inner = model.hidden_size, model.feed_forward.intermediate_size
        self.activation = ACTIVATIONS[model.feed_forward.activation]
        self.gate_proj = linear("gate_proj", width, inner) if model.feed_forward.gated else None
        self.up_proj = linear("up_proj", width, inner)
        self.fused: Callable[[Tensor], Sequence[Tensor]] | None = None
        """In inference, instead of gate and up."""
        self.ffn_sub_norm = make_norm(model.norm, inner) if model.norm.placement == "sub" else None
        self.down_proj = linear("down_proj", inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        if self.gate_proj is None:
            inner = self.activation(self.up_proj(x))
        else:
            gate, up = self.fused(x) if self.fused is not None else (self.gate_proj(x), self.up_proj(x))
            inner = self.activation(gate) * up
        if self.ffn_sub_norm is not None:
            inner = self.ffn_sub_norm(inner)
        return self.down_proj(inner)
