"""Cross-entropy whose vocabulary is divided among ranks (the loss of Megatron-LM, Shoeybi et al., 2019), in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from smidgen.kernels.cross_entropy import IGNORED

LOGITS_IN_MEMORY = 2**24
"""A rank's logits computed at once: 64 MiB in float32, and as much again for their gradient."""


@dataclass(frozen=True, slots=True)
class VocabularyShard:
    """This rank's rows of the head: stands for the head's weight where a loss is computed."""

    weight: Tensor
    """[v, D], the float32 master; without padded rows, so the last rank's may be fewer."""
    first: int
    """Token id of the first row."""
    chunk: int
    """Tokens whose logits are in memory at once; the same on every rank."""
    group: dist.ProcessGroup

    def cross_entropy(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `smidgen.model.cross_entropy`, of the whole vocabulary, on every rank.

        hidden [N, D] and labels [N] are the same on all ranks of the group. The gradient of `hidden` is this rank's
        part: that of the whole is the sum over the group.
        """
        total: Tensor = _VocabularyParallelCrossEntropy.apply(hidden, self.weight, labels, self)
        return total, (labels != IGNORED).sum()


def rows_in_memory(vocab_rows: int) -> int:
    """Tokens a chunk has for a head of `vocab_rows` rows a rank."""
    return max(1, LOGITS_IN_MEMORY // vocab_rows)


class _VocabularyParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, shard: VocabularyShard) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        product_weight = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for start in range(0, len(hidden), shard.chunk):
            rows = slice(start, start + shard.chunk)
            kept = labels[rows] != IGNORED
            own = labels[rows] - shard.first
            is_own = kept & (own >= 0) & (own < len(weight))
            logits = (hidden[rows] @ product_weight.T).to(total.dtype)
            highest = logits.amax(-1)
            dist.all_reduce(highest, dist.ReduceOp.MAX, group=shard.group)
            logits -= highest[:, None]
            chosen = logits.gather(1, own.where(is_own, 0)[:, None])[:, 0].where(is_own, 0.0)
            exponentials = logits.exp_()
            # One sum over the group for both: the softmax's denominator, and the label's logit from its owner.
            sums = torch.stack([exponentials.sum(-1), chosen])
            dist.all_reduce(sums, group=shard.group)
            denominator, chosen = sums
            total += (denominator.log() - chosen).where(kept, 0.0).sum()
            if needs_gradient:
                gradient = exponentials.div_(denominator[:, None])
                gradient.scatter_add_(1, own.where(is_own, 0)[:, None], -is_own.to(gradient.dtype)[:, None])
                gradient.masked_fill_(~kept[:, None], 0.0)
                grad_logits = gradient.to(hidden.dtype)
                grad_hidden[rows] = grad_logits @ product_weight
                grad_weight += grad_logits.T @ hidden[rows]
        if needs_gradient:
            ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_total.to(grad_hidden.dtype), grad_weight * grad_total, None, None
