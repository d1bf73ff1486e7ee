"""Which steps may change the weights: no step whose loss or gradient is no number, and spikes by choice."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from smidgen.runtime.errors import TrainingError

SPIKE_SIGMAS = 6.0
_MEMORY = 0.98
"""Share of the running mean and variance that a step keeps: they remember about the last fifty steps."""
_STEPS_BEFORE_SPIKES = 50
_REFUSALS_IN_A_ROW = 10
_OVERFLOWS_IN_A_ROW = 40
"""The gradient scaler of fp16 halves its scale at each overflow, from 65,536 at most: more than this is no search."""

Verdict = Literal["take", "skip", "roll_back"]


@dataclass(slots=True)
class LossStatistics:
    """Running mean and variance of the loss of steps taken, and how many were refused since. Kept in checkpoints."""

    mean: float = 0.0
    variance: float = 0.0
    steps: int = 0
    refused_in_a_row: int = 0
    overflows_in_a_row: int = 0

    def sigmas(self, loss: float) -> float:
        """How many standard deviations `loss` lies above the mean; 0 while too few steps are known."""
        if self.steps < _STEPS_BEFORE_SPIKES or self.variance <= 0:
            return 0.0
        return (loss - self.mean) / math.sqrt(self.variance)

    def add(self, loss: float) -> None:
        """Take a step's loss into the mean and the variance (West, 1979, with exponential weights)."""
        share = max(1 - _MEMORY, 1 / (self.steps + 1))
        difference = loss - self.mean
        self.mean += share * difference
        self.variance = (1 - share) * (self.variance + share * difference**2)
        self.steps += 1

    def return_to(self, earlier: LossStatistics) -> None:
        """Take the mean and the variance of an earlier step; what was refused since is not forgotten."""
        self.mean, self.variance, self.steps = earlier.mean, earlier.variance, earlier.steps


class StepGuard:
    """Judges each step by its mean loss and the norm of its mean gradient, the same on all ranks."""

    def __init__(
        self, statistics: LossStatistics, spikes: Literal["report", "skip", "roll_back"], scaled: bool
    ) -> None:
        self.statistics = statistics
        self._spikes = spikes
        self._scaled = scaled
        """A gradient scaler is at work: overflows of the gradient are part of its search for a scale."""
        self.reason = ""
        """Why the last step was refused, or what was strange about it; empty for an ordinary one."""

    def judge(self, loss: float, grad_norm: float) -> Verdict:
        """Whether the step may be taken. `reason` says what is the matter, if anything is."""
        self.reason = ""
        statistics = self.statistics
        if not math.isfinite(loss):
            return self._refuse(f"the loss is {loss}")
        if not math.isfinite(grad_norm):
            if self._scaled:
                statistics.overflows_in_a_row += 1
                self.reason = "the scaled gradient overflows fp16; its scale is halved"
                return "skip"
            return self._refuse(f"the gradient's norm is {grad_norm}")
        statistics.overflows_in_a_row = 0
        sigmas = statistics.sigmas(loss)
        if sigmas > SPIKE_SIGMAS:
            spike = f"loss {loss:.4g} lies {sigmas:.1f} standard deviations above the recent mean {statistics.mean:.4g}"
            if self._spikes != "report":
                return self._refuse(spike, "skip" if self._spikes == "skip" else "roll_back")
            self.reason = spike
        statistics.refused_in_a_row = 0
        statistics.add(loss)
        return "take"

    @property
    def exhausted(self) -> bool:
        """So many steps in a row were refused that going on is useless."""
        statistics = self.statistics
        return statistics.refused_in_a_row >= _REFUSALS_IN_A_ROW or statistics.overflows_in_a_row >= _OVERFLOWS_IN_A_ROW

    def _refuse(self, reason: str, verdict: Verdict = "skip") -> Verdict:
        self.statistics.refused_in_a_row += 1
        self.reason = reason
        return verdict


def diagnosis(model: nn.Module, step: int, reason: str, lr: float) -> TrainingError:
    """Why the training stops after many refused steps, with where the trouble shows, as an error to raise."""
    weights = _names_of_non_finite((name, p.detach()) for name, p in model.named_parameters())
    gradients = _names_of_non_finite((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    if weights:
        where = (
            f"weights are no numbers, first {weights[0]}: the run was damaged before; start from an older checkpoint"
        )
    elif gradients:
        where = f"the gradient of {gradients[0]} (and {len(gradients) - 1} more) is no number, the weights are sound"
    else:
        where = "weights and gradients are sound numbers"
    return TrainingError(
        f"step {step}: {reason}; stopped after too many refused steps in a row, none of which touched the weights "
        f"({where}); the run is saved: lower training.lr = {lr:g} or training.gradient_clip, or check the data, and "
        "resume"
    )


def _names_of_non_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    return [name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())]
