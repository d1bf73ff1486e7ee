"""Loss on held-out data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from smidgen.data import Batch as ArrayBatch
from smidgen.kernels.cross_entropy import IGNORED
from smidgen.model import Decoder
from smidgen.training.data import Sequences
from smidgen.training.objectives import Objective, to_device
from smidgen.training.parallel import Ranks


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's loss on a fixed set of sequences."""

    loss: float
    """Mean over the weight of the objective: nats a token for language modelling."""
    weight: float
    """What the sum was divided by: the number of tokens for language modelling."""
    bits_per_byte: float | None
    """Loss in bits for each byte of text; None where the number of bytes is not known."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What else the objective measures, each a mean over the weight."""

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf


def bits_per_byte(loss: float | None, bytes_per_token: float | None) -> float | None:
    """Nats a token as bits a byte of text."""
    return None if loss is None or bytes_per_token is None else loss / math.log(2) / bytes_per_token


@torch.no_grad()
def evaluate(
    model: Decoder,
    objective: Objective,
    data: Sequences,
    batch_size: int,
    device: torch.device,
    bytes_per_token: float | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> Evaluation | None:
    """The mean loss over one epoch of `data`, without dropout; None if `cancelled` became true meanwhile.

    Sums of batches are float32, their total is float64, so the result hardly depends on `batch_size`, which counts the
    sequences of all `ranks`: each takes its share of every batch, and all get the same result.
    """
    ranks = ranks or Ranks()
    share = batch_size // ranks.batch_size
    was_training = model.training
    model.eval()
    sums: list[dict[str, Tensor]] = []
    for start in range(0, data.per_epoch, batch_size):
        if cancelled():
            break
        first = start + ranks.batch_rank * share
        count = min(share, data.per_epoch - first)
        # A rank for which the last batch has nothing left takes part with a sequence that counts for nothing.
        batch = to_device(data.batch(first, count) if count > 0 else without_labels(data.batch(start, 1)), device)
        total, weight, figures = objective.loss(model, batch)
        sums.append({**figures, "loss": total, "weight": weight})
    model.train(was_training)
    if cancelled():
        return None
    columns = [torch.stack([part[name] for part in sums]).cpu().double().sum() for name in sums[0]]
    totals = dict(zip(sums[0], ranks.sum(torch.stack(columns)).tolist(), strict=True))
    weight_sum = totals.pop("weight")
    means = {name: total / weight_sum for name, total in totals.items()}
    loss = means.pop("loss")
    return Evaluation(loss, weight_sum, bits_per_byte(loss, bytes_per_token), means)


def without_labels(batch: ArrayBatch) -> ArrayBatch:
    """The batch with nothing to predict."""
    return replace(batch, labels=np.full_like(batch.labels, IGNORED))
