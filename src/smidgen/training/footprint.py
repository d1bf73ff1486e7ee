"""How much memory a training takes, by playing one of its steps on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from smidgen.config import Config
from smidgen.model import Decoder
from smidgen.model.memory import imagined
from smidgen.training.averaging import Averaging
from smidgen.training.objectives import Batch, LanguageModeling, Objective
from smidgen.training.optimizers import average_and_clip, make_optimizer, set_rates
from smidgen.training.precision import apply_precision


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of the tensors of a training, on one device."""

    weights: int
    gradients: int
    optimizer: int
    """State of the optimiser."""
    average: int
    """The moving average of the weights; 0 without training.ema_decay."""
    activations: int
    """What a forward pass keeps for its backward pass."""
    peak: int
    """The most that is alive at once within a step: less than the sum of all, for they do not all peak together, and
    more by what single operations need."""

    @property
    def state(self) -> int:
        """What a checkpoint copies: weights, the optimiser's state, the average."""
        return self.weights + self.optimizer + self.average


BatchOf = Callable[[int], Batch]
"""A batch of so many sequences."""


def predict_footprint(
    config: Config,
    batch_size: int,
    objective: Objective | None = None,
    batch_of: BatchOf | None = None,
    *,
    as_gpu: bool = False,
) -> Footprint:
    """The memory of a step of `config` with `batch_size` sequences a pass, without torch.compile, which saves some.

    It is what PyTorch's allocator gives out at most. A process takes more: on a CPU the C library loses 15 to 33 %
    between blocks, on a GPU the driver and the context take half a gigabyte.

    It is played as on the CPU, or `as_gpu`, whose attention keeps no scores for dropout. `objective` and `batch_of` are
    by default language modelling and sequences of full length, with document masks where the configuration has them.
    """
    training = config.training
    objective = objective or LanguageModeling()
    with imagined(as_gpu=as_gpu) as memory:
        model = Decoder(config.model)
        weights = memory.now
        apply_precision(model, training.precision, torch.device("cpu"))
        model.set_dropout(training.dropout)
        model.set_activation_checkpointing(training.activation_checkpointing)
        model.train()
        average = None if training.ema_decay is None else Averaging(model, training.ema_decay)
        averaged = memory.now
        optimizer = make_optimizer(model, training.optimizer)
        set_rates(optimizer, training.lr, training.optimizer.weight_decay)
        # A step on gradients of zero makes the optimiser's state.
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        gradients = memory.now - averaged
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        del parameter
        before = memory.peak = memory.now

        batch = (batch_of or full_sequences(config))(batch_size)
        activations = 0
        for _ in range(min(training.gradient_accumulation_steps, 2)):
            held = memory.now
            loss, weight, _ = objective.loss(model, batch)
            activations = memory.now - held
            loss.backward()
            del loss
        average_and_clip(model.parameters(), weight, training.gradient_clip)
        optimizer.step()
        if average is not None:
            average.update()
        return Footprint(weights, gradients, before - averaged, averaged - weights, activations, memory.peak)


def full_sequences(config: Config) -> BatchOf:
    """Batches as pretraining has them."""
    length = config.training.seq_len or config.model.max_seq_len

    def batch(count: int) -> Batch:
        ids = torch.zeros(count, length, dtype=torch.int64)
        return Batch(ids, ids.clone(), ids.clone() if config.data.document_masks else None)

    return batch
