"""A decoder made ready for inference: weights rounded and cast once, not at every product."""

from __future__ import annotations

import copy
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smidgen.inference import lowering
from smidgen.inference.integer import integer_form, integer_linear
from smidgen.kernels.bf16 import emulates_bf16
from smidgen.kernels.integer_products import int8_linear
from smidgen.model import Decoder
from smidgen.model.linear import Linear
from smidgen.model.norm import RMSNormPlusOne
from smidgen.model.quantized import QuantizedLinear, QuantizedVocabulary
from smidgen.model.vocabulary import VocabularyMatrix

FEW_ROWS = 64
"""Up to this many rows, `W · xᵀ` is faster on a CPU in bfloat16 than `x · Wᵀ`."""
WIDENED_ROWS = 8
"""From this many rows on, a CPU that only emulates bfloat16 products is faster with a float32 copy of the weight."""
SMALL_MATRIX = 2**19
"""Numbers of a weight below which the beginning of a product costs more than its reading."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x · weightᵀ` for x [..., in] and weight [out, in], by the fastest of PyTorch's routes.

    oneDNN's bfloat16 product of a few rows reads the weight at 60 % of the speed of the product with the factors
    exchanged (elite-112m, 1 to 64 rows); the results are equal to the bit. Where the processor has no instructions for
    bfloat16, a single row still profits from its half of the bytes, and many rows from a float32 copy of the weight.
    There a single row's product begins by oneDNN at a cost of 50 µs, which for small matrices PyTorch's own does not.
    """
    rows = x.shape[:-1].numel()
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return F.linear(x, weight)
    if emulates_bf16(x):
        if rows >= WIDENED_ROWS:
            return F.linear(x.float(), _widened(weight)).to(x.dtype)
        if rows == 1 and weight.numel() < SMALL_MATRIX:
            return F.linear(x, weight)
        if rows == 1 and weight.stride(0) == 1:
            return torch.mm(x.view(1, -1), weight.t()).view(*x.shape[:-1], weight.shape[0])
    if rows > FEW_ROWS:
        return F.linear(x, weight)
    flat = x.reshape(rows, x.shape[-1])
    result = torch.mv(weight, flat[0]) if rows == 1 else torch.mm(weight, flat.t()).t().contiguous()
    return result.view(*x.shape[:-1], weight.shape[0])


def _widened(weight: Tensor) -> Tensor:
    """A float32 copy of a weight, in its layout.

    Columns that lie a power of two apart meet in the same sets of the caches: MKL's product of 128 rows with one of
    4,096 took 1.6 times as long.
    """
    rows, columns = weight.shape
    if weight.is_contiguous():
        return weight.float()
    wider = torch.empty(columns, rows + 16, dtype=torch.float32)
    return wider[:, :rows].copy_(weight.t()).t()


def laid_out(weight: Tensor) -> Tensor:
    """`weight` [out, in] as a single row's product reads it fastest.

    A CPU that only emulates bfloat16 reads a large one with many more rows than columns, a head above all, up to 40 %
    faster column by column: 10 GB/s on a Xeon that reads 7 row by row. The native library reads rows.
    """
    is_tall = weight.shape[0] >= 2 * weight.shape[1] and weight.numel() >= SMALL_MATRIX and not lowering.is_available()
    return weight.t().contiguous().t() if is_tall and emulates_bf16(weight) else weight


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


class IntegerVocabulary(QuantizedVocabulary):
    """An int8 embedding or head that stays a byte a number: rows are made when looked up, products are of integers."""

    def __init__(self, matrix: QuantizedVocabulary, form: tuple[Tensor, Tensor]) -> None:
        nn.Module.__init__(self)
        self.layout, self.size, self.names = matrix.layout, matrix.size, matrix.names
        for name, tensor in matrix.stored.items():
            self.register_buffer(name, tensor)
        self._form = form

    def product(self, x: Tensor) -> Tensor:
        """Logits float32 [..., V] of states [..., D]."""
        return int8_linear(x.float(), *self._form)


def head_product(model: Decoder, hidden: Tensor) -> Tensor:
    """Logits [..., V], float32 at least, of states [..., D] by the head of a frozen decoder."""
    head = model.model.embed_tokens if model.config.tie_word_embeddings else model.lm_head
    if isinstance(head, IntegerVocabulary):
        return head.product(hidden)
    logits = product(hidden, model.head_weight)
    return logits if logits.dtype == torch.float64 else logits.float()


def frozen(model: Decoder) -> Decoder:
    """A copy of `model` in eval mode that computes the same with less work a token; `model` itself is not changed.

    Projections hold the weight that the product uses (ternary or FP8 values where they are rounded) in the compute
    dtype; so do embedding and head. Stored int8 and ternary weights stay integers where the device multiplies those
    (see inference/integer.py). Weights that need no change are shared, so a dense float32 model costs nothing, and
    later changes of its weights show. Scaled embeddings in bfloat16 are rounded before and after the scaling.
    """
    shared: dict[int, object] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    result = copy.deepcopy(model, shared).eval()
    dtype = result.compute_dtype or result.model.embed_tokens.dtype
    with torch.no_grad():
        for parent in list(result.modules()):
            for name, module in list(parent.named_children()):
                if isinstance(module, Linear) and not _stays_packed(name, module):
                    setattr(parent, name, _frozen_linear(name, module, dtype))
                elif isinstance(module, RMSNormPlusOne):
                    setattr(parent, name, module.plain())
        result.model.embed_tokens = _frozen_vocabulary(result.model.embed_tokens, dtype)
        if not result.config.tie_word_embeddings:
            result.lm_head = _frozen_vocabulary(result.lm_head, dtype)
    return result


def _frozen_linear(name: str, linear: Linear, dtype: torch.dtype) -> nn.Module:
    if isinstance(linear, QuantizedLinear) and name != "kv_b_proj":
        integer = integer_linear(linear, dtype)
        if integer is not None:
            return integer
    return FrozenLinear(linear, dtype)


def _frozen_vocabulary(matrix: VocabularyMatrix, dtype: torch.dtype) -> VocabularyMatrix:
    form = integer_form(matrix, dtype) if isinstance(matrix, QuantizedVocabulary) else None
    if form is None:
        return FrozenVocabulary(matrix, dtype)
    assert isinstance(matrix, QuantizedVocabulary)
    return IntegerVocabulary(matrix, form)


def _stays_packed(name: str, module: Linear) -> bool:
    """Whether the products of a projection run on its packed weight. Absorbed latents multiply by kv_b_proj's parts."""
    return isinstance(module, QuantizedLinear) and module.multiplies_packed and name != "kv_b_proj"


def _constant(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(laid_out(weight.detach()), requires_grad=False)
