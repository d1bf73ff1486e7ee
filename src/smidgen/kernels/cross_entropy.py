"""Cross-entropy of a block of logits and its gradient: the PyTorch reference, and the choice of Triton on GPUs."""

from __future__ import annotations

import importlib.util
from contextvars import ContextVar

import torch
from torch import Tensor

IGNORED = -100
"""Label of a token that has none."""

_LOGITS_IN_FLOAT = 2**22
"""Logits whose softmax is computed at once, in float32: 16 MiB, which processors hold in their caches."""

_HAS_TRITON = importlib.util.find_spec("triton") is not None

pretended_gpu: ContextVar[bool] = ContextVar("pretended_gpu", default=False)
"""Set where memory is predicted for a GPU on tensors that have none."""


def imagines_gpu() -> bool:
    """Whether `pretended_gpu` is set, where no compiler is at work: it cannot follow one."""
    return not torch.compiler.is_compiling() and pretended_gpu.get()


def runs_in_place(logits: Tensor) -> bool:
    """Whether a kernel of one pass computes `loss_and_gradient` for logits of this device and type."""
    if not _HAS_TRITON or logits.dtype == torch.float64:
        return False
    return imagines_gpu() or (logits.is_cuda and torch.version.hip is None)


def loss_and_gradient(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of logits [n, V] against labels int64 [n], and its gradient [n, V].

    The sum is in nats, float32 (float64 for float64 logits), without dimensions; rows whose label is IGNORED add
    nothing and have no gradient. The gradient has the logits' type and takes their place: they are used up.
    """
    if runs_in_place(logits):
        from smidgen.kernels import cross_entropy_triton

        return cross_entropy_triton.loss_and_gradient_(logits, labels).sum(), logits
    return reference(logits, labels)


def reference(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What `loss_and_gradient` is, by PyTorch's operations in float32, a few rows at a time."""
    kept = labels != IGNORED
    columns = labels.clamp(min=0)[:, None]
    losses = logits.new_empty((len(logits), 1), dtype=torch.promote_types(logits.dtype, torch.float32))
    count = max(1, _LOGITS_IN_FLOAT // logits.shape[1])
    for start in range(0, len(logits), count):
        rows = slice(start, start + count)
        losses[rows] = _loss_and_gradient_(logits[rows], columns[rows])
    logits.index_fill_(0, (~kept).nonzero()[:, 0], 0.0)
    return losses[:, 0].where(kept, 0.0).sum(), logits


def _loss_and_gradient_(logits: Tensor, columns: Tensor) -> Tensor:
    """Each row's loss [n, 1]; the gradient takes the place of the logits [n, V]. columns [n, 1]: the labels."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    excess = x.amax(-1, keepdim=True) - x.gather(1, columns)
    probabilities = torch.ops.aten._softmax.out(x, -1, False, out=x) if x.device.type == "cpu" else x.softmax(-1)
    # The largest probability is 1 / Σ exp(x - max x), however small that of the label may be.
    losses = excess - probabilities.amax(-1, keepdim=True).log()
    # d loss / d logits is the probabilities, less 1 at the label.
    probabilities.scatter_add_(1, columns, -probabilities.new_ones(columns.shape))
    if probabilities is not logits:
        logits.copy_(probabilities)
    return losses
