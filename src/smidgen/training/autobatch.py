"""`training.batch_size: auto`: the largest batch that fits the device."""

from __future__ import annotations

import bisect
import gc
import logging
from collections.abc import Callable, Sequence

import torch

from smidgen.config import AUTO_BATCH_SIZE, Config, TrainingConfig
from smidgen.config.model import divisors
from smidgen.model import Decoder
from smidgen.runtime.errors import ConfigError
from smidgen.runtime.memory import available_memory
from smidgen.training.averaging import Averaging
from smidgen.training.data import Sequences
from smidgen.training.footprint import BatchOf, predict_footprint
from smidgen.training.objectives import Batch, Objective, to_device
from smidgen.training.optimizers import average_and_clip, make_optimizer, set_rates
from smidgen.training.parallel.ranks import Ranks
from smidgen.training.precision import apply_precision

logger = logging.getLogger(__name__)

MOST_TOKENS = 65_536
"""Without tokens_per_step a pass gets no more than these: no device that we know becomes faster beyond."""
_SHARE_OF_HOST = 0.7
"""Share of a computer's available memory to plan with: the C library loses up to a quarter between blocks."""
_SHARE_OF_GPU = 0.95
"""Share of a GPU's memory that a trial may reserve, so that later steps, whose blocks lie otherwise, fit too."""


def resolve_batch_size(
    config: Config,
    device: torch.device,
    objective: Objective,
    data: Sequences,
    starting_model: Callable[[], Decoder],
    ranks: Ranks,
    recorded: Config | None = None,
) -> Config:
    """`config` with numbers in place of batch_size auto, which a run records; others are returned as they are.

    With training.tokens_per_step, batch_size is the largest that fits among the divisors of a step's sequences, and
    gradient_accumulation_steps makes up the rest: steps are the same on every device. Without it, batch_size is the
    largest that fits among 1, 2, 3, 4, 6, 8, 12, … up to 65,536 tokens or an epoch, and gradient_accumulation_steps
    stays. On a GPU what fits is found by real steps on the first sequences, elsewhere by prediction. A run that goes
    on has the numbers that it `recorded`.

    On several ranks these are shares of the batch, and the least that any rank found counts for all. Each rank tries
    with a whole model, which is more than it holds where tensors are divided.

    To be called before random generators are seeded. Raises ConfigError where not one sequence fits, or where
    tokens_per_step is not a whole number of sequences for every rank.
    """
    training = config.training
    if training.batch_size != AUTO_BATCH_SIZE:
        return config
    if recorded is not None:
        return _with(config, recorded.training.batch_size, recorded.training.gradient_accumulation_steps)
    length = training.seq_len or config.model.max_seq_len
    total = _sequences_per_step(training, length, ranks.batch_size)
    most = min(MOST_TOKENS // length, data.per_epoch // ranks.batch_size)
    candidates = divisors(total, MOST_TOKENS) if total else _round_numbers(most)

    def batch_of(count: int) -> Batch:
        return to_device(data.batch(0, count), device)

    if device.type == "cuda":
        trial = Trial(config, device, objective, batch_of, starting_model())
        fitting = largest_fitting(candidates, trial.fits)
        del trial
        gc.collect()
        torch.cuda.empty_cache()
    else:
        budget = _SHARE_OF_HOST * available_memory() / ranks.size
        fitting = largest_fitting(candidates, lambda count: _predicted(config, count, objective, batch_of) <= budget)
    fitting = -ranks.highest(-fitting)
    if not fitting:
        raise ConfigError(
            f"training.batch_size = auto: not even one sequence of {length} tokens fits; shorten training.seq_len"
            " or set training.activation_checkpointing full"
        )
    accumulation = total // fitting if total else training.gradient_accumulation_steps
    batch_size = fitting * ranks.batch_size
    logger.info("batch_size auto: %d sequences a pass, %d passes a step", batch_size, accumulation)
    return _with(config, batch_size, accumulation)


def largest_fitting(candidates: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The largest of the ascending candidates that fits, by bisection; 0 if none does."""
    index = bisect.bisect_left(candidates, True, key=lambda count: not fits(count))
    return candidates[index - 1] if index else 0


class Trial:
    """Takes real steps with a model that is thrown away, to see whether they fit the device."""

    def __init__(
        self, config: Config, device: torch.device, objective: Objective, batch_of: BatchOf, model: Decoder
    ) -> None:
        training = config.training
        self.training, self.device, self.objective, self.batch_of = training, device, objective, batch_of
        self.model = model.to(device)
        apply_precision(self.model, training.precision, device)
        self.model.set_dropout(training.dropout)
        self.model.set_activation_checkpointing(training.activation_checkpointing)
        self.model.train()
        self.optimizer = make_optimizer(self.model, training.optimizer)
        set_rates(self.optimizer, training.lr, 0.0)
        self.average = None if training.ema_decay is None else Averaging(self.model, training.ema_decay)

    def fits(self, batch_size: int) -> bool:
        """Whether two steps of `batch_size` sequences a pass end without running out of memory."""
        try:
            # The first makes the optimiser's state, the second meets it.
            for _ in range(2):
                self._step(batch_size)
            return self._is_within_limit()
        except torch.OutOfMemoryError:
            return False
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                gc.collect()
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(self.device)

    def _step(self, batch_size: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(min(self.training.gradient_accumulation_steps, 2)):
            loss, weight, _ = self.objective.loss(self.model, self.batch_of(batch_size))
            loss.backward()
        average_and_clip(self.model.parameters(), weight, self.training.gradient_clip)
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _is_within_limit(self) -> bool:
        if self.device.type != "cuda":
            return True
        limit = torch.cuda.get_device_properties(self.device).total_memory * _SHARE_OF_GPU
        return torch.cuda.max_memory_reserved(self.device) <= limit


def _predicted(config: Config, batch_size: int, objective: Objective, batch_of: BatchOf) -> int:
    footprint = predict_footprint(config, batch_size, objective, batch_of)
    # While a checkpoint is written, a copy of what it holds lies in the same memory.
    return footprint.peak + footprint.state


def _sequences_per_step(training: TrainingConfig, length: int, shares: int) -> int:
    """Sequences of a share in a step of tokens_per_step; 0 where that is not given."""
    tokens, smallest = training.tokens_per_step or 0, length * shares
    if tokens % smallest:
        each = f" for each of {shares} ranks" if shares > 1 else ""
        raise ConfigError(
            f"training.tokens_per_step = {tokens}: no whole number of sequences of {length} tokens{each};"
            f" use {max(round(tokens / smallest), 1) * smallest}"
        )
    return tokens // smallest


def _round_numbers(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, … up to `most`, at least 1."""
    numbers = sorted({factor * 2**power for factor in (1, 3) for power in range(32)})
    return [1, *(number for number in numbers if 1 < number <= most)]


def _with(config: Config, batch_size: int, accumulation: int) -> Config:
    update = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation, "tokens_per_step": None}
    return config.model_copy(update={"training": config.training.model_copy(update=update)})
