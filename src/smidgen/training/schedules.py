"""Learning rate and weight decay of every step: pure functions, so that a resumed run needs no state of them."""

from __future__ import annotations

import math

from smidgen.config import TrainingConfig


def learning_rate(training: TrainingConfig, step: int, total_steps: int) -> float:
    """The rate of optimiser step `step`, counted from 1 to `total_steps`.

    It rises linearly to exactly `training.lr` at step `warmup_steps`; without warm-up the first step has it. Then
    the schedule's kind decides; cosine, linear and two_stage reach exactly `eta_min` at the last step.
    """
    schedule = training.schedule
    if step <= schedule.warmup_steps:
        return training.lr * step / schedule.warmup_steps
    first = max(schedule.warmup_steps, 1)
    remaining = (total_steps - step) / max(total_steps - first, 1) if total_steps > first else 1.0
    match schedule.kind:
        case "constant":
            return training.lr
        case "linear":
            return _between(schedule.eta_min, training.lr, remaining)
        case "cosine":
            return _between(schedule.eta_min, training.lr, (1 + math.cos(math.pi * (1 - remaining))) / 2)
        case "two_stage":
            # "The Era of 1-bit LLMs: Training Tips, Code and FAQ" (2024): both stages lie on lines that reach the
            # end together; at the half the rate falls from the line of one peak to that of a lower one.
            peak = second_stage_lr(training) if in_second_stage(step, total_steps) else training.lr
            return _between(schedule.eta_min, peak, remaining)


def weight_decay(training: TrainingConfig, step: int, total_steps: int) -> float:
    """The weight decay of optimiser step `step` (from 1): constant, but 0 in the second half of two_stage."""
    if training.schedule.kind == "two_stage" and in_second_stage(step, total_steps):
        return 0.0
    return training.optimizer.weight_decay


def in_second_stage(step: int, total_steps: int) -> bool:
    """Whether `step` (from 1) lies in the second half."""
    return 2 * step > total_steps


def second_stage_lr(training: TrainingConfig) -> float:
    """two_stage: the peak of the line that the second half follows; the paper's ratio of 2/3 where not given."""
    given = training.schedule.second_stage_lr
    return training.lr * 2 / 3 if given is None else given


def _between(low: float, high: float, fraction: float) -> float:
    return low + (high - low) * fraction if fraction < 1 else high
