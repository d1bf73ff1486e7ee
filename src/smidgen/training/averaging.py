"""An exponential moving average of the weights, and which weights evaluations and checkpoints see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from smidgen.runtime.errors import TrainingError
from smidgen.training.schedule_free import ScheduleFreeAdamW

_UPDATES = "updates"


class Averaging:
    """The moving average of a model's trained weights, `a ← d·a + (1 - d)·w` after every step that was taken.

    Bias-corrected, as Adam's means are: after n updates it is `Σ d^(n-i)·wᵢ / Σ d^(n-i)`, so that the random weights
    of the beginning never weigh in. The average is kept in the weights' own type and on their device.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._is_swapped = False

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's weights into the average; to be called after each step that moved them."""
        assert not self._is_swapped
        self.updates += 1
        share = (1 - self.decay) / (1 - self.decay**self.updates)
        torch._foreach_lerp_(list(self._averages.values()), list(self._parameters.values()), share)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """In here the model holds the average; afterwards its own weights again, to the bit. Needs no second copy."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint made within `swapped` keeps beside the model: the training weights, by parameter's name,
        and the number of updates."""
        assert self._is_swapped, "a checkpoint holds the average as its model"
        return {**self._averages, _UPDATES: torch.tensor(self.updates)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint: the model, which holds the average, gets its training weights back.

        Raises TrainingError where `tensors` belong to another model.
        """
        tensors = dict(tensors)
        self.updates = int(tensors.pop(_UPDATES))
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                self._averages[name].copy_(parameter)
        put_back_training_weights(self._parameters, tensors)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            average = self._averages[name]
            own = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(own)
        self._is_swapped = not self._is_swapped


def restore_averaging(model: nn.Module, averaging: Averaging | None, tensors: Mapping[str, Tensor]) -> None:
    """Take up a checkpoint that has an average, also where `training.ema_decay` is null now (`averaging` None).

    Raises TrainingError where `tensors` belong to another model.
    """
    if averaging is not None:
        averaging.load(tensors)
        return
    weights = {name: tensor for name, tensor in tensors.items() if name != _UPDATES}
    put_back_training_weights({name: p for name, p in model.named_parameters() if p.requires_grad}, weights)


@torch.no_grad()
def put_back_training_weights(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into the parameters of the same names. Raises TrainingError where they do not fit."""
    for name in parameters.keys() | weights.keys():
        if name not in parameters or name not in weights or parameters[name].shape != weights[name].shape:
            raise TrainingError(f"averaged weights of {name}: the checkpoint belongs to another model")
    for name, weight in weights.items():
        parameters[name].copy_(weight)


@contextmanager
def weights_to_keep(optimizer: torch.optim.Optimizer, averaging: Averaging | None) -> Iterator[None]:
    """In here the model holds the weights that evaluations and checkpoints are to see; afterwards its own again.

    They are the moving average, or schedule-free's, or else those that are trained. A checkpoint's optimiser state
    and `averaging.tensors()` are taken in here too.
    """
    if averaging is not None:
        with averaging.swapped():
            yield
    elif isinstance(optimizer, ScheduleFreeAdamW):
        optimizer.eval()
        try:
            yield
        finally:
            optimizer.train()
    else:
        yield
