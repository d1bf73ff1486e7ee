"""Scales found from activations (AWQ, Lin et al., 2023): columns whose inputs are large are made larger before they are
rounded, so that they lose less, and what produces those inputs is divided by the same factors.

Factors are `mean |x|^α`, α the best of a grid on a calibration text; they are folded into the norm or the projection
before, so the model computes the same and the folder has no new tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smidgen.config import GroupedQueryAttention, LatentAttention, ModelConfig, Quantization
from smidgen.kernels.layouts import Layout
from smidgen.model import Decoder
from smidgen.model.decoder import Layer
from smidgen.model.linear import Linear
from smidgen.model.quantized import projection_layout
from smidgen.quantization.calibration import Batches, Inputs, input_statistics
from smidgen.quantization.convert import check_method, quantize, quantized_config
from smidgen.runtime.errors import ConfigError

GRID = tuple(step / 20 for step in range(20))
"""Values of α; 0 is round to nearest."""


@dataclass(frozen=True)
class Share:
    """Projections that get the same input, and how to divide that input by factors [K]."""

    names: tuple[str, ...]
    """Below the layer."""
    divide: Callable[[Tensor], None]
    tie: Callable[[Tensor], Tensor] = lambda values: values
    """Makes values [K] equal where one producer feeds several inputs."""


@torch.no_grad()
def quantize_awq(model: Decoder, quantization: Quantization, batches: Batches) -> Decoder:
    """A quantised copy of `model`, whose columns were scaled before rounding.

    Raises ConfigError for other schemes than int8 and int4 (and bf16 of single projections), and for models trained
    with rounded weights: scaling would move them off the values that they were trained to.
    """
    config = quantized_config(model.config, quantization)
    check_method("awq", config)
    if model.config.linear.kind != "dense":
        raise ConfigError(
            f"method = awq: model.linear.kind = {model.config.linear.kind}: its weights were trained rounded, and "
            "scaled columns would no longer be; use rtn or gptq"
        )
    seen = input_statistics(model, batches)
    scaled = copy.deepcopy(model)
    for index, layer in enumerate(scaled.layers):
        for share in _shares(layer, scaled.config):
            names = {name: f"model.layers.{index}.{name}" for name in share.names}
            layouts = {name: projection_layout(config, whole) for name, whole in names.items()}
            _scale(layer, share, layouts, seen[names[share.names[0]]])
    return quantize(scaled, quantization)


def _scale(layer: Layer, share: Share, layouts: Mapping[str, Layout | None], inputs: Inputs) -> None:
    """Scale projections of one input, each stored by its layout: the factors are the best for their errors together.
    Those that stay floats (None) are scaled along and make no error."""
    linears = [_linear(layer, name) for name in share.names]
    rounded = [(_linear(layer, name).weight, layout) for name, layout in layouts.items() if layout is not None]
    if not rounded:
        return
    sizes, gram = share.tie(inputs.absolute).clamp(min=1e-6), inputs.gram
    best, factors = None, None
    for alpha in GRID:
        candidate = sizes**alpha
        candidate /= (candidate.max() * candidate.min()).sqrt()
        error = sum((_error(weight, candidate, gram, layout) for weight, layout in rounded), 0.0)
        if best is None or error < best:
            best, factors = error, candidate
    assert factors is not None
    share.divide(factors)
    for linear in linears:
        linear.weight.mul_(factors)


def _error(weight: Tensor, factors: Tensor, gram: Tensor, layout: Layout) -> float:
    """Mean squared error of the product when `weight · factors` is what is rounded."""
    error = layout.dequantize(layout.quantize(weight * factors)) / factors - weight
    return float(((error @ gram) * error).sum())


def _shares(layer: Layer, config: ModelConfig) -> Iterator[Share]:
    attention, mlp = layer.self_attn, layer.mlp
    plus_one = config.norm.kind == "rms_norm_plus_one"

    def norm(module: nn.Module) -> Callable[[Tensor], None]:
        gain = module.weight
        assert isinstance(gain, Tensor)

        def divide(factors: Tensor) -> None:
            gain.copy_((gain + 1) / factors - 1 if plus_one else gain / factors)

        return divide

    if isinstance(config.attention, LatentAttention):
        first = "self_attn.q_a_proj" if config.attention.q_lora_rank else "self_attn.q_proj"
        yield Share((first, "self_attn.kv_a_proj_with_mqa"), norm(layer.input_layernorm))
        if config.attention.q_lora_rank:
            yield Share(("self_attn.q_b_proj",), norm(attention.get_submodule("q_a_layernorm")))
        yield Share(("self_attn.kv_b_proj",), norm(attention.get_submodule("kv_a_layernorm")))
    else:
        names: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        yield Share(names, norm(layer.input_layernorm))
    if attention.attn_sub_norm is not None:
        yield Share(("self_attn.o_proj",), norm(attention.attn_sub_norm))
    else:
        yield _values(layer, config)
    before = layer.pre_feedforward_layernorm if layer.is_sandwich else layer.post_attention_layernorm
    names = ("mlp.gate_proj", "mlp.up_proj") if config.feed_forward.gated else ("mlp.up_proj",)
    yield Share(names, norm(before))
    if mlp.ffn_sub_norm is not None:
        yield Share(("mlp.down_proj",), norm(mlp.ffn_sub_norm))
    elif config.feed_forward.gated:
        # `act(gate) · up` is linear in up.
        yield Share(("mlp.down_proj",), _rows(_linear(layer, "mlp.up_proj")))


def _values(layer: Layer, config: ModelConfig) -> Share:
    """The output projection after the values: factors go into the rows that make them."""
    attention = config.attention
    if isinstance(attention, GroupedQueryAttention):
        value = _linear(layer, "self_attn.v_proj")
        shape = (attention.num_kv_heads, attention.num_heads // attention.num_kv_heads, attention.head_dim)

        def tie(values: Tensor) -> Tensor:
            return values.view(shape).mean(dim=1, keepdim=True).expand(shape).flatten()

        def divide(factors: Tensor) -> None:
            value.weight.div_(factors.view(shape)[:, 0].flatten()[:, None])

        return Share(("self_attn.o_proj",), divide, tie)
    heads, nope, size = attention.num_heads, attention.qk_nope_head_dim, attention.v_head_dim
    both = _linear(layer, "self_attn.kv_b_proj")

    def divide_values(factors: Tensor) -> None:
        both.weight.view(heads, nope + size, -1)[:, nope:].div_(factors.view(heads, size, 1))

    return Share(("self_attn.o_proj",), divide_values)


def _rows(linear: Linear) -> Callable[[Tensor], None]:
    """Divides what a projection puts out."""

    def divide(factors: Tensor) -> None:
        linear.weight.div_(factors[:, None])

    return divide


def _linear(layer: Layer, name: str) -> Linear:
    module = layer.get_submodule(name)
    assert isinstance(module, Linear)
    return module
