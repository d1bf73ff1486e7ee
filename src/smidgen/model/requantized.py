"""A dense decoder on its way to another kind of linear: ternary with SubLN, or projections rounded to int4 in training.

**Ternary.** Every projection becomes a BitNet b1.58 one over the same master weights. BitNet norms the input of every
projection (SubLN); a dense pre-norm model lacks the norms before `o_proj` and `down_proj`. They are added, as BitNet
Distillation (Wu et al., 2025) does, each with one gain for all channels: the root mean square that the base shows there
on text it writes itself, so that the dense function stays as near as a norm allows. Sandwich norms stay as they are.

**int4.** The forward pass sees the weights that quantisation to int4 would store, gradients go to the float32 masters
(straight-through; Jacob et al., 2018). Checkpoints hold the masters; rounding to nearest then stores what was trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from smidgen.config import ModelConfig, TernaryLinear, validate
from smidgen.kernels import integer
from smidgen.kernels.ternary import straight_through
from smidgen.model.decoder import Decoder
from smidgen.model.linear import Linear, Quantizer
from smidgen.runtime.errors import ConfigError

_CALIBRATION = (4, 64)
"""Texts that the base writes, and their tokens."""


class FakeInt4(Quantizer):
    """Weights as int4 stores them: a scale, and a zero point if not symmetric, for each group of columns."""

    def __init__(self, group_size: int, symmetric: bool) -> None:
        self.group_size, self.symmetric = group_size, symmetric

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        master = weight.detach().float()
        scale, zero_point = integer.int4_scale(master, self.group_size, self.symmetric)
        codes = integer.int4_codes(master, scale, zero_point)
        return straight_through(integer.int4_dequantize(codes, scale, zero_point).to(dtype), weight)


def ternary_config(config: ModelConfig, *, sub_norm: bool) -> ModelConfig:
    """The configuration of the ternary model that a dense one becomes. Raises ConfigError where it is not dense."""
    if config.quantization is not None or config.linear.kind != "dense":
        kind = config.linear.kind if config.quantization is None else config.quantization.scheme
        raise ConfigError(f"tuning.quantize.scheme = ternary: the base is {kind} already; begin with a dense model")
    tree: dict[str, Any] = config.model_dump() | {"linear": TernaryLinear().model_dump()}
    if sub_norm and config.norm.placement == "pre":
        tree["norm"] = config.norm.model_dump() | {"placement": "sub"}
    return validate(ModelConfig, tree)


def to_ternary(model: Decoder, *, sub_norm: bool, seed: int = 0) -> Decoder:
    """The ternary decoder that `model`, dense, becomes; it shares the weights of `model`."""
    result = Decoder(ternary_config(model.config, sub_norm=sub_norm)).train(model.training)
    result.load_state_dict(dict(model.state_dict()), strict=False, assign=True)
    if result.config.norm.placement != model.config.norm.placement:
        sizes = _input_sizes(model, seed)
        for name, module in result.named_modules():
            if name.endswith("sub_norm"):
                projection = name.replace("attn_sub_norm", "o_proj").replace("ffn_sub_norm", "down_proj")
                module.set_gain(sizes[projection])
    for parameter in result.parameters():
        parameter.requires_grad_(True)
    return result


def use_fake_int4(model: Decoder, group_size: int, symmetric: bool) -> Decoder:
    """Let every projection of a dense `model` multiply by what int4 would store, in place.

    Raises ConfigError where the model is not dense or a projection's columns are not divisible by `group_size`.
    """
    if model.config.quantization is not None or model.config.linear.kind != "dense":
        raise ConfigError(
            f"tuning.quantize.scheme = int4: the base is {model.config.linear.kind}; begin with a dense one"
        )
    quantizer = FakeInt4(group_size, symmetric)
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            if module.in_features % group_size:
                raise ConfigError(
                    f"tuning.quantize.group_size = {group_size}: does not divide the {module.in_features} of {name}"
                )
            module.quantizer = quantizer
    return model


@torch.no_grad()
def _input_sizes(model: Decoder, seed: int) -> dict[str, float]:
    """The root mean square of the inputs of every `o_proj` and `down_proj` on text that `model` writes itself."""
    rows, length = _CALIBRATION
    generator = torch.Generator().manual_seed(seed)
    squares: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            squares[name] = inputs[0].float().square().mean().item()

        return hook

    was_training = model.training
    model.eval()
    length = min(length, model.config.max_seq_len)
    ids = torch.randint(0, model.config.vocab_size, (rows, 1), generator=generator)
    device = model.model.embed_tokens.device
    cache = model.new_cache(rows, length)
    step = ids
    while ids.shape[1] < length:
        logits = model(step.to(device), cache=cache)[:, -1].cpu()
        step = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, step], 1)
    hooks = [
        module.register_forward_pre_hook(watch(name))
        for name, module in model.named_modules()
        if name.endswith(("o_proj", "down_proj"))
    ]
    model(ids.to(device))
    for hook in hooks:
        hook.remove()
    model.train(was_training)
    return {name: square**0.5 for name, square in squares.items()}
