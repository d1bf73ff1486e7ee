"""What a training minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from smidgen.data import Batch as ArrayBatch
from smidgen.model import Decoder, cross_entropy


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch on the device: int64 tensors [B, T]."""

    input_ids: Tensor
    labels: Tensor
    """The token that follows each input token; -100 where there is none to learn."""
    document_ids: Tensor | None = None
    """Tokens attend only to tokens of the same number."""
    positions: Tensor | None = None
    """Positions for RoPE; None counts each row from 0."""
    reference: Tensor | None = None
    """Of pairs, float32 [B]: log-probability of each row's labels under the model that training began with."""


Loss = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Summed loss, its weight, and further summed figures; tensors without dimensions."""


class Objective(Protocol):
    """A loss as a sum and a weight, so that the result never depends on how the work was split."""

    def loss(self, model: Decoder, batch: Batch) -> Loss:
        """The summed loss of the batch (float32, differentiable), the weight that the sum will be divided by, and
        further figures by name, each a sum that is divided by the same weight when it is reported.

        The loop adds up gradients and weights over all forward passes of a step before it divides.
        """


class LanguageModeling:
    """Next-token cross-entropy in nats; the weight is the number of labels."""

    def loss(self, model: Decoder, batch: Batch) -> Loss:
        hidden = model.hidden(batch.input_ids, positions=batch.positions, document_ids=batch.document_ids)
        total, count = cross_entropy(hidden.flatten(0, 1), model.head_weight, batch.labels.flatten())
        return total, count, {}


def to_device(batch: ArrayBatch, device: torch.device) -> Batch:
    """The batch as tensors on `device`; copies to a GPU do not wait for it."""
    return Batch(
        _tensor(batch.input_ids, device),
        _tensor(batch.labels, device),
        None if batch.document_ids is None else _tensor(batch.document_ids, device),
        None if batch.positions is None else _tensor(batch.positions, device),
        None if batch.reference is None else _tensor(batch.reference, device),
    )


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
