"""A decoder made ready for inference: weights rounded and cast once, not at every product."""

from __future__ import annotations

import copy
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smidgen.model import Decoder
from smidgen.model.linear import Linear
from smidgen.model.quantized import QuantizedLinear
from smidgen.model.vocabulary import VocabularyMatrix

FEW_ROWS = 64
"""Up to this many rows, `W · xᵀ` is faster on a CPU in bfloat16 than `x · Wᵀ`."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x · weightᵀ` for x [..., in] and weight [out, in], by the fastest of PyTorch's routes.

    oneDNN's bfloat16 product of a few rows reads the weight at 60 % of the speed of the product with the factors
    exchanged (elite-112m, 1 to 64 rows); the results are equal to the bit.
    """
    rows = x.shape[:-1].numel()
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or rows > FEW_ROWS:
        return F.linear(x, weight)
    flat = x.reshape(rows, x.shape[-1])
    result = torch.mv(weight, flat[0]) if rows == 1 else torch.mm(weight, flat.t()).t().contiguous()
    return result.view(*x.shape[:-1], weight.shape[0])


class FrozenLinear(nn.Module):
    """A projection whose weight is what the product uses; only the input is still rounded, where it is."""

    def __init__(self, linear: Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.quantizer = linear.quantizer
        self.weight = _constant(linear.effective_weight(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return product(self.quantizer.input(x), self.weight)

    def effective_weight(self, dtype: torch.dtype) -> Tensor:
        assert dtype == self.weight.dtype, "a frozen decoder computes in one dtype"
        return self.weight


class FrozenVocabulary(VocabularyMatrix):
    """An embedding or head in the dtype of products."""

    def __init__(self, matrix: VocabularyMatrix, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.weight = _constant(matrix.effective_weight().to(dtype))


def frozen(model: Decoder) -> Decoder:
    """A copy of `model` in eval mode that computes the same with less work a token; `model` itself is not changed.

    Projections hold the weight that the product uses (ternary or FP8 values where they are rounded) in the compute
    dtype; so do embedding and head. Weights that need no change are shared, so a dense float32 model costs nothing,
    and later changes of its weights show. Scaled embeddings in bfloat16 are rounded before and after the scaling.
    """
    shared: dict[int, object] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    result = copy.deepcopy(model, shared).eval()
    dtype = result.compute_dtype or result.model.embed_tokens.dtype
    with torch.no_grad():
        for parent in list(result.modules()):
            for name, module in list(parent.named_children()):
                if isinstance(module, Linear) and not _stays_packed(name, module):
                    setattr(parent, name, FrozenLinear(module, dtype))
        result.model.embed_tokens = FrozenVocabulary(result.model.embed_tokens, dtype)
        if not result.config.tie_word_embeddings:
            result.lm_head = FrozenVocabulary(result.lm_head, dtype)
    return result


def _stays_packed(name: str, module: Linear) -> bool:
    """Whether the products of a projection run on its packed weight. Absorbed latents multiply by kv_b_proj's parts."""
    return isinstance(module, QuantizedLinear) and module.multiplies_packed and name != "kv_b_proj"


def _constant(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach(), requires_grad=False)
