"""What a training tells while it runs, to whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from smidgen.config import Config
from smidgen.training.evaluate import Evaluation
from smidgen.training.resume import Changes


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be done."""

    config: Config
    """Resolved: what the run folder's config.yaml holds."""
    run: Path
    num_parameters: int
    device: str
    peak_flops: float | None
    """FLOP/s of the device's matrix products at this precision; None where unknown."""
    total_steps: int
    tokens_per_step: int
    sequences_per_epoch: int
    resumed_from: Path | None
    """The checkpoint that the run goes on from."""
    first_step: int
    """Steps taken before."""
    changes: Changes
    """Fields that changed since the run last wrote its configuration."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the training after a step."""

    step: int
    loss: float
    """Mean loss of this step: nats a token for language modelling."""
    bits_per_byte: float | None
    lr: float
    grad_norm: float
    """Norm of the mean gradient before clipping."""
    tokens: int
    """Tokens of the whole run so far."""
    tokens_per_second: float
    """Since the last snapshot, without evaluations and checkpoints."""
    mfu: float | None
    """Model FLOPs utilisation: the share of `peak_flops` that the model's own arithmetic reaches."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a training ended."""

    run: Path
    steps: int
    total_steps: int
    steps_taken: int
    """Steps of this process; 0 if the run had been finished before."""
    tokens: int
    seconds: float
    """Time of the whole run, earlier processes included."""
    best_validation_loss: float | None
    """Of the checkpoints, nats a token."""
    best_bits_per_byte: float | None
    checkpoint: Path | None
    """The last one."""
    stopped_by: Signals | None
    """The signal that ended it early."""


class Observer:
    """Hears of a training's progress; a subclass shows what it likes."""

    def started(self, plan: Plan) -> None:
        """Everything is checked; the first step follows."""

    def stepped(self, snapshot: Snapshot) -> None:
        """Some steps were taken: about two snapshots a second, and one for each line of metrics.jsonl."""

    def evaluating(self, step: int) -> None:
        """An evaluation begins."""

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """An evaluation ended."""

    def saved(self, step: int, checkpoint: Path) -> None:
        """A checkpoint is on disk."""

    def stopping(self, signal: Signals) -> None:
        """A signal asked to stop: the step at hand and a checkpoint follow.

        Called within the signal's handler, at any instant of the other calls.
        """
