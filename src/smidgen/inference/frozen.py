"""A decoder made ready for inference: weights rounded and cast once, not at every product."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from smidgen.model import Decoder
from smidgen.model.linear import Linear, Quantizer


class RoundedWeights:
    """The quantiser of a layer whose weight is rounded already: only the input is left to do."""

    def __init__(self, quantizer: Quantizer) -> None:
        self.input = quantizer.input

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        assert weight.dtype == dtype, "a frozen decoder computes in one dtype"
        return weight


def frozen(model: Decoder) -> Decoder:
    """A copy of `model` in eval mode that computes the same with less work a token; `model` itself is not changed.

    Projections hold the weight that the product uses (ternary or FP8 values where they are rounded) in the compute
    dtype; so do embedding and head. Weights that need no change are shared, so a dense float32 model costs nothing,
    and later changes of its weights show. Scaled embeddings in bfloat16 are rounded before and after the scaling.
    """
    shared: dict[int, object] = {id(parameter): parameter for parameter in model.parameters()}
    result = copy.deepcopy(model, shared).eval()
    embedding = result.model.embed_tokens.weight
    dtype = result.compute_dtype or embedding.dtype
    with torch.no_grad():
        for module in result.modules():
            if isinstance(module, Linear):
                module.weight = _constant(module.effective_weight(dtype))
                module.quantizer = RoundedWeights(module.quantizer)
        result.model.embed_tokens.weight = _constant(embedding.to(dtype))
        if not result.config.tie_word_embeddings:
            result.lm_head.weight = _constant(result.lm_head.weight.to(dtype))
    return result


def _constant(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach(), requires_grad=False)
