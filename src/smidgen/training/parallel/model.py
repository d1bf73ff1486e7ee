"""The loss of a decoder that may be divided over ranks, as the loop calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from smidgen.model import Decoder
from smidgen.training.objectives import Batch, Loss
from smidgen.training.parallel.ranks import ProcessGroup, Ranks

LossFunction = Callable[[Decoder, Batch], Loss]


class Parallel:
    """One process, the whole model. It is an `Objective`: the loop calls it where it would call the task's own."""

    def __init__(self, loss: LossFunction) -> None:
        self._loss = loss

    def loss(self, model: Decoder, batch: Batch) -> Loss:
        """The loss of this rank's share of a batch. Every rank calls it equally often, in training and evaluation."""
        return self._loss(model, batch)

    def allocate(self, device: torch.device) -> None:
        """Give weights that are on the meta device memory on another, of this rank's parts only."""

    @contextmanager
    def accumulating(self, is_last: bool) -> Iterator[None]:
        """Around one forward and backward pass; `is_last` of a step: then gradients are summed over the ranks."""
        yield

    def finish_gradients(self) -> None:
        """Call it after the last backward pass of a step, before gradients are read."""

    def finish_evaluation(self) -> None:
        """Call it after forward passes that no backward pass followed."""


def parallelize(model: Decoder, loss: LossFunction, ranks: Ranks) -> Parallel:
    """Divide `model`, in place, as `ranks.degrees` say; whole and equal on every rank before.

    Afterwards its parameters are plain tensors (replicas) or DTensors (anything divided), under the same names: make
    the optimiser after this.
    """
    if not isinstance(ranks, ProcessGroup):
        return Parallel(loss)
    # Here, so that one process does without a second of imports.
    from smidgen.training.parallel.divided import Replicated, Sharded

    if ranks.degrees.shard == ranks.degrees.tensor == 1:
        return Replicated(model, loss)
    return Sharded(model, loss, ranks)
