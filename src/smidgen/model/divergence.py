"""Distillation's loss without the logits of all tokens in memory at once.

p is the student's distribution and q the teacher's, both softmax(logits / temperature). For a token:

- forward_kl `Σ q ln(q/p)` (Hinton et al., 2015): the student covers all that the teacher does;
- reverse_kl `Σ p ln(p/q)` (MiniLLM, Gu et al., 2024): it keeps to what the teacher finds likely;
- js `½ Σ q ln(q/m) + ½ Σ p ln(p/m)` with m = (p + q) / 2 (Jensen-Shannon; GKD, Agarwal et al., 2024, with β = ½).

Each is multiplied by temperature², which keeps its gradient's size (Hinton et al., 2015). N tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from smidgen.kernels.cross_entropy import IGNORED

Divergence = Literal["forward_kl", "reverse_kl", "js"]
LOGITS_IN_MEMORY = 2**23
"""Logits of each of the two models computed at once: 32 MiB in float32."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """`cross_entropy · CE(labels) + (1 - cross_entropy) · temperature² · divergence`."""

    divergence: Divergence = "forward_kl"
    temperature: float = 1.0
    cross_entropy: float = 0.0


def distillation_loss(
    hidden: Tensor, head: Tensor, teacher_hidden: Tensor, teacher_head: Tensor, labels: Tensor, mixture: Mixture
) -> tuple[Tensor, Tensor, Tensor]:
    """The summed mixture over the tokens that have a label, and its two parts summed: cross-entropy and divergence
    (without temperature²), in nats.

    hidden [N, D] and head [V, D] of the student, teacher_hidden [N, E] and teacher_head [V, E]; labels int64 [N].
    The first result is differentiable (once) in `hidden` and `head`; all are float32 without dimensions. Logits exist
    for a chunk of tokens at a time.
    """
    total, entropy, divergence = _Chunked.apply(hidden, head, teacher_hidden, teacher_head, labels, mixture)
    return total, entropy, divergence


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        teacher_hidden: Tensor,
        teacher_head: Tensor,
        labels: Tensor,
        mixture: Mixture,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        weight, teacher_weight = head.to(hidden.dtype), teacher_head.to(teacher_hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        sums = torch.zeros(2, dtype=dtype, device=hidden.device)
        rows = max(1, LOGITS_IN_MEMORY // len(weight))
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = (hidden[part] @ weight.T).to(dtype)
            teacher_logits = (teacher_hidden[part] @ teacher_weight.T).to(dtype)
            parts, gradient = _loss_and_gradient(logits, teacher_logits, labels[part], mixture)
            sums += parts
            gradient = gradient.to(hidden.dtype)
            grad_hidden[part] = gradient @ weight
            if grad_weight is not None:
                grad_weight += (gradient.T @ hidden[part]).to(grad_weight.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight)
        share = mixture.cross_entropy
        total = share * sums[0] + (1 - share) * mixture.temperature**2 * sums[1]
        entropy, divergence = sums[0].clone(), sums[1].clone()
        ctx.mark_non_differentiable(entropy, divergence)
        return total, entropy, divergence

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        of_weight = None if grad_weight is None else grad_weight * grad_total
        return grad_hidden * grad_total.to(grad_hidden.dtype), of_weight, None, None, None, None


def _loss_and_gradient(logits: Tensor, teacher: Tensor, labels: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and divergence [2] of a chunk, and the gradient of the mixture by `logits` [n, V]."""
    kept = (labels != IGNORED).to(logits.dtype)[:, None]
    temperature, share = mixture.temperature, mixture.cross_entropy
    log_p, log_q = (logits / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
    p = log_p.exp()
    match mixture.divergence:
        case "forward_kl":
            q = log_q.exp()
            values = (q * (log_q - log_p)).sum(-1, keepdim=True)
            slope = p - q
        case "reverse_kl":
            values = (p * (log_p - log_q)).sum(-1, keepdim=True)
            slope = p * (log_p - log_q - values)
        case "js":
            q = log_q.exp()
            log_m = ((p + q) / 2).clamp_min(torch.finfo(p.dtype).tiny).log()
            of_student = (p * (log_p - log_m)).sum(-1, keepdim=True)
            values = (of_student + (q * (log_q - log_m)).sum(-1, keepdim=True)) / 2
            slope = p * (log_p - log_m - of_student) / 2
    log_student = log_p if temperature == 1 else logits.log_softmax(-1)
    chosen = labels.clamp(min=0)[:, None]
    entropy = -(log_student.gather(1, chosen) * kept).sum()
    gradient = slope * ((1 - share) * temperature)
    if share:
        gradient += log_student.exp() * share
        gradient.scatter_add_(1, chosen, gradient.new_full(chosen.shape, -share))
    return torch.stack([entropy, (values * kept).sum()]), gradient * kept
