"""A decoder of floats becomes one of stored matrices: every projection, embedding and head by its layout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from smidgen.config import ModelConfig, Quantization, validate
from smidgen.kernels.layouts import FP8Blocks, Layout, TernaryPacked
from smidgen.model import Decoder
from smidgen.model.linear import BlockFP8, Linear
from smidgen.model.quantized import QuantizedLinear, QuantizedVocabulary, projection_layout
from smidgen.model.vocabulary import VocabularyMatrix
from smidgen.runtime.errors import ConfigError

Rounding = Callable[[str, Tensor, Layout], dict[str, Tensor]]
"""The stored form of the projection of a name, from its float32 weight."""


def round_to_nearest(name: str, weight: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Each weight by itself."""
    return layout.quantize(weight)


def quantized_config(config: ModelConfig, quantization: Quantization) -> ModelConfig:
    """`config` with its weights stored as `quantization` says.

    Raises ConfigError when they are stored so already, or when model and scheme do not fit.
    """
    if config.quantization is not None:
        raise ConfigError(
            f"model.quantization.scheme = {config.quantization.scheme}: quantised already; name the model it comes from"
        )
    return validate(ModelConfig, config.model_dump() | {"quantization": quantization.model_dump()})


@torch.no_grad()
def quantize(model: Decoder, quantization: Quantization, rounding: Rounding = round_to_nearest) -> Decoder:
    """A quantised copy of `model`, on its device; `rounding` makes the integers of the projections.

    Embedding and head are rounded to nearest. What stays float is rounded to bfloat16, as its folder will hold it.
    Raises ConfigError when model and scheme do not fit, naming the matrix.
    """
    config = quantized_config(model.config, quantization)
    check_sizes(model, config)
    result = Decoder(config).to(next(model.parameters()).device)
    modules = dict(model.named_modules())
    for name, target in result.named_modules():
        source = modules[name]
        if isinstance(target, QuantizedLinear):
            assert isinstance(source, Linear)
            target.fill(rounding(name, projection_weight(source, target.layout), target.layout))
        elif isinstance(target, QuantizedVocabulary):
            assert isinstance(source, VocabularyMatrix)
            target.fill(target.layout.quantize(source.effective_weight()[: config.vocab_size]))
        else:
            for parameter, original in zip(target.parameters(False), source.parameters(False), strict=True):
                parameter.copy_(original.to(torch.bfloat16))
    result.compute_dtype = model.compute_dtype
    return result.eval()


def projection_weight(linear: Linear, layout: Layout) -> Tensor:
    """The weight that is rounded, float32 [out, in]: what the product uses, or the master where the layout's rounding
    is the model's own, whose scales are those of the master."""
    is_own_rounding = isinstance(layout, TernaryPacked) or (
        isinstance(layout, FP8Blocks) and isinstance(linear.quantizer, BlockFP8)
    )
    if is_own_rounding:
        return linear.weight.detach().float()
    return linear.effective_weight(torch.float32)


def check_sizes(model: Decoder, config: ModelConfig) -> None:
    """Raise ConfigError naming the first projection that the configured layout has no form for."""
    assert config.quantization is not None
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            layout = projection_layout(config, name)
            misfit = None if layout is None else layout.misfit(module.out_features, module.in_features)
            if misfit is not None:
                scheme = config.quantization.storage(name).label
                raise ConfigError(f"{name}: {misfit}, which {scheme} needs; use a smaller group size or another scheme")


def check_method(method: str, config: ModelConfig) -> None:
    """Raise ConfigError where a scheme of the projections is none that `method` rounds to: int8, int4, or bf16, which
    it leaves alone. `config` is the quantised one."""
    assert config.quantization is not None
    for projection in config.projections:
        for index in range(config.num_layers):
            name = f"model.layers.{index}.{projection}"
            scheme = config.quantization.storage(name).scheme
            if scheme not in ("int8", "int4", "bf16"):
                raise ConfigError(f"method = {method}: rounds to int8 or int4, not to {scheme} ({name}); use rtn")
