"""Cross-entropy of a block of logits and its gradient: the PyTorch reference, and the choice of Triton on GPUs."""

from __future__ import annotations

import importlib.util
from contextvars import ContextVar

import torch
from torch import Tensor

IGNORED = -100
"""Label of a token that has none."""

_HAS_TRITON = importlib.util.find_spec("triton") is not None

pretended_gpu: ContextVar[bool] = ContextVar("pretended_gpu", default=False)
"""Set where memory is predicted for a GPU on tensors that have none."""


def runs_in_place(logits: Tensor) -> bool:
    """Whether `loss_and_gradient` needs no memory beside logits of this device and type."""
    if not _HAS_TRITON or logits.dtype == torch.float64:
        return False
    return pretended_gpu.get() or (logits.is_cuda and torch.version.hip is None)


def loss_and_gradient(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of logits [n, V] against labels int64 [n], and its gradient [n, V].

    The sum is in nats, float32 (float64 for float64 logits), without dimensions; rows whose label is IGNORED add
    nothing and have no gradient. The gradient has the logits' type and may lie in their memory: they are used up.
    """
    if runs_in_place(logits):
        from smidgen.kernels import cross_entropy_triton

        return cross_entropy_triton.loss_and_gradient_(logits, labels).sum(), logits
    return reference(logits, labels)


def reference(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What `loss_and_gradient` is, by PyTorch's operations in float32."""
    log_probabilities = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    total = summed_loss(log_probabilities, labels)
    kept = labels != IGNORED
    # d loss / d logits is the probabilities, less 1 at the label; 0 where there is none. All in place.
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(1, labels.clamp(min=0)[:, None], -gradient.new_ones(len(kept), 1))
    gradient.index_fill_(0, (~kept).nonzero()[:, 0], 0.0)
    return total, gradient.to(logits.dtype)


def summed_loss(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-probabilities [n, V] of the labels, added up."""
    chosen = log_probabilities.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return -chosen.where(labels != IGNORED, 0.0).sum()
