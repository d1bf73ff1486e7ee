"""Learning rate and weight decay of every step: pure functions, so that a resumed run needs no state of them."""

from __future__ import annotations

import math

from smidgen.config import Schedule, TrainingConfig


def learning_rate(training: TrainingConfig, step: int, total_steps: int) -> float:
    """The rate of optimiser step `step`, counted from 1 to `total_steps`.

    It rises linearly to exactly `training.lr` at step `warmup_steps`; without warm-up the first step has it. Then
    the schedule's kind decides; all but constant reach exactly `eta_min` at the last step.
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
        case "wsd":
            return _between(schedule.eta_min, training.lr, _stable_then_decay(schedule, step, total_steps, first))


def _stable_then_decay(schedule: Schedule, step: int, total_steps: int, first: int) -> float:
    """Height between eta_min and lr of warm-up, stable, decay (Hu et al., 2024; the shapes: Hägele et al., 2024).

    A decay longer than what follows the warm-up's end, step `first`, begins there.
    """
    fraction = 0.2 if schedule.decay_fraction is None else schedule.decay_fraction
    decay_steps = round(fraction * total_steps) if schedule.decay_steps is None else schedule.decay_steps
    decay_steps = max(min(decay_steps, total_steps - first), 1)
    done = max(step - (total_steps - decay_steps), 0) / decay_steps if total_steps > first else 0.0
    return 1 - math.sqrt(done) if schedule.decay_shape == "one_minus_sqrt" else 1 - done


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
