"""Direct preference optimisation (Rafailov et al., 2023): pairs of answers, and a model held near the one before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from smidgen.config import Dpo
from smidgen.kernels.cross_entropy import IGNORED
from smidgen.model import Decoder, cross_entropy
from smidgen.training.objectives import Batch, Loss


class DirectPreference:
    """The loss of DPO in nats a pair; the weight is the number of pairs.

    Rows of a batch alternate: chosen, rejected. With r = beta · (log p(answer) − log p_base(answer)), the implicit
    reward, a pair's loss is −log σ(r_chosen − r_rejected); with label smoothing ε it is (1 − ε) times that, less ε
    log σ of the negative. Figures, means over pairs: `accuracy`, the share of pairs whose chosen answer has the greater
    reward; `margin`, the difference; `chosen_reward` and `rejected_reward`.
    """

    def __init__(self, settings: Dpo) -> None:
        self._beta, self._smoothing = settings.beta, settings.label_smoothing

    def loss(self, model: Decoder, batch: Batch) -> Loss:
        assert batch.reference is not None, "pairs come with the base's log-probabilities"
        rewards = self._beta * (answer_log_probabilities(model, batch) - batch.reference)
        chosen, rejected = rewards[0::2], rewards[1::2]
        has_labels = (batch.labels != IGNORED).any(-1)
        counts = (has_labels[0::2] & has_labels[1::2]).to(rewards.dtype)
        margin = chosen - rejected
        losses = -(1 - self._smoothing) * F.logsigmoid(margin) - self._smoothing * F.logsigmoid(-margin)
        with torch.no_grad():
            figures = {
                "accuracy": ((margin > 0) * counts).sum(),
                "margin": (margin * counts).sum(),
                "chosen_reward": (chosen * counts).sum(),
                "rejected_reward": (rejected * counts).sum(),
            }
        return (losses * counts).sum(), counts.sum(), figures


def answer_log_probabilities(model: Decoder, batch: Batch) -> Tensor:
    """Log-probability of each row's labels, float32 [B], in nats; differentiable once."""
    hidden = model.hidden(batch.input_ids, positions=batch.positions, document_ids=batch.document_ids)
    # A row at a time, since each has a factor of its own in the gradient; the head may be divided over ranks.
    rows = zip(hidden, batch.labels, strict=True)
    return -torch.stack([cross_entropy(states, model.head_weight, labels)[0] for states, labels in rows])
