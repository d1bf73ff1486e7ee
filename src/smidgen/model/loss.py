"""Cross-entropy without the logits of all tokens in memory at once."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from smidgen.kernels.cross_entropy import IGNORED, loss_and_gradient, runs_in_place

LOGITS_IN_MEMORY = 2**26
"""Logits computed at once, 256 MiB in float32; their gradient takes their place."""
LOGITS_ON_GPU = 2**29
"""The same on a GPU: 1 GiB in bf16, enough rows for products at full speed."""


class DividedHead(Protocol):
    """A head whose rows other processes hold too: it knows how the loss of the whole is computed."""

    def cross_entropy(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `cross_entropy` below."""


def cross_entropy(hidden: Tensor, head_weight: Tensor | DividedHead, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of `hidden · head_weightᵀ` against `labels`, and the number of labels.

    hidden [N, D] in the compute dtype; head_weight [V, D], the float32 master; labels int64 [N], IGNORED for none.
    Returns the sum in nats (float32, differentiable once) and the count of labels (int64), both without dimensions.
    Softmax and sum are float32. The logits' gradient is made in the forward pass, a chunk of tokens at a time, so
    [N, V] never exists.
    """
    if not isinstance(head_weight, Tensor):
        return head_weight.cross_entropy(hidden, labels)
    count = (labels != IGNORED).sum()
    if torch.is_grad_enabled() and (hidden.requires_grad or head_weight.requires_grad):
        return _ChunkedCrossEntropy.apply(hidden, head_weight, labels), count
    weight = head_weight.to(hidden.dtype)
    parts = [loss_and_gradient(hidden[rows] @ weight.T, labels[rows])[0] for rows in _chunks(hidden, weight)]
    return torch.stack(parts).sum(), count


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head_weight: Tensor, labels: Tensor) -> Tensor:
        weight = head_weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight: Tensor | None = None
        total = hidden.new_zeros((), dtype=_loss_dtype(hidden))
        chunks = _chunks(hidden, weight)
        logits = hidden.new_empty((len(hidden[chunks[0]]), len(weight)))
        for rows in chunks:
            states = hidden[rows]
            torch.mm(states, weight.T, out=logits[: len(states)])
            loss, grad_logits = loss_and_gradient(logits[: len(states)], labels[rows])
            total += loss
            torch.mm(grad_logits, weight, out=grad_hidden[rows])
            if ctx.needs_input_grad[1]:
                grad_weight = _add_product(grad_weight, grad_logits.T, states, head_weight.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, Tensor | None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        of_weight = None if grad_weight is None else grad_weight * grad_total
        return grad_hidden * grad_total.to(grad_hidden.dtype), of_weight, None


def _add_product(total: Tensor | None, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """`left · right` in `dtype`, added to `total` in place where there is one."""
    if total is None:
        return (left @ right).to(dtype)
    if left.dtype == dtype:
        return total.addmm_(left, right)
    return total.add_(left @ right)


def _loss_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    logits = LOGITS_ON_GPU if runs_in_place(hidden) else LOGITS_IN_MEMORY
    rows = max(1, logits // weight.shape[0])
    return [slice(start, start + rows) for start in range(0, hidden.shape[0], rows)]
