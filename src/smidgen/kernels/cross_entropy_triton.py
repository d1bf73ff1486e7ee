"""Cross-entropy and its gradient in Triton, in the memory of the logits: a program a token reads its row twice.

The second pass over a row finds it in the L2 cache, so device memory sees one read and one write of the logits.
With TRITON_INTERPRET=1 in the environment before the import it runs on CPU tensors.
"""

# mypy: disable-error-code="no-untyped-def"
# Inside kernels everything is Triton's: pointers, then blocks of values.

# No `from __future__ import annotations`: PyTorch reads the operators' schemas from the annotations.

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from smidgen.kernels.cross_entropy import IGNORED

_IGNORED = tl.constexpr(IGNORED)
_BLOCK = 4096


@triton.jit
def _loss_and_gradient(logits, labels, losses, vocabulary, row_stride, BLOCK: tl.constexpr):
    """One row: its loss, and the softmax less one at the label where the logits were."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    label = tl.load(labels + row)
    kept = label != _IGNORED
    peak = float("-inf")
    total = 0.0
    for start in range(0, vocabulary, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(logits + column, mask=column < vocabulary, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(peak, tl.max(x, axis=0))
        total = total * tl.exp(peak - higher) + tl.sum(tl.exp(x - higher), axis=0)
        peak = higher
    log_total = peak + tl.log(total)
    chosen = tl.load(logits + tl.maximum(label, 0)).to(tl.float32)
    tl.store(losses + row, tl.where(kept, log_total - chosen, 0.0))
    # Every thread has read the label's logit before any of them writes over it.
    tl.debug_barrier()
    for start in range(0, vocabulary, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(logits + column, mask=column < vocabulary, other=float("-inf")).to(tl.float32)
        gradient = tl.exp(x - log_total) - tl.where(column == label, 1.0, 0.0)
        gradient = tl.where(kept, gradient, 0.0)
        tl.store(logits + column, gradient.to(logits.dtype.element_ty), mask=column < vocabulary)


@torch.library.custom_op("smidgen::cross_entropy_gradient_", mutates_args=("logits",))
def loss_and_gradient_(logits: Tensor, labels: Tensor) -> Tensor:
    """Each row's loss, float32 [n]; the gradient takes the place of the logits [n, V], whose columns are contiguous."""
    assert logits.stride(1) == 1
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    with torch.cuda.device(logits.device) if logits.is_cuda else nullcontext():
        _loss_and_gradient[(len(logits),)](
            logits, labels.contiguous(), losses, logits.shape[1], logits.stride(0), BLOCK=_BLOCK, num_warps=8
        )
    return losses


@loss_and_gradient_.register_fake
def _(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.empty(len(logits), dtype=torch.float32, device=logits.device)
