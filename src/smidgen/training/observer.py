"""What a training tells while it runs, to whoever shows, sends or records it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Self

from smidgen.config import Config
from smidgen.model import Decoder
from smidgen.model.fp8 import Conversion
from smidgen.runtime.protocols import Tokenizer
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
    conversion: Conversion = field(default_factory=Conversion)
    """Which layers multiply in FP8."""
    num_trained: int | None = None
    """Parameters of the adapters, where only those are trained."""


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
    out_of_time: bool = False
    """training.max_time ended it early."""


class Observer:
    """Hears of a training's progress; a subclass shows what it likes. A context, so that `close` is never missed."""

    def started(self, plan: Plan) -> None:
        """Everything is checked; the first step follows."""

    def stepped(self, snapshot: Snapshot) -> None:
        """Some steps were taken: about two snapshots a second, and one for each line of metrics.jsonl."""

    def compiling(self) -> None:
        """The first forward and backward passes begin, in which torch.compile works."""

    def compiled(self, seconds: float) -> None:
        """They ended, after `seconds`."""

    def evaluating(self, step: int) -> None:
        """An evaluation begins."""

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """An evaluation ended."""

    def saving(self, step: int) -> None:
        """A checkpoint was copied; a thread begins to write it."""

    def saved(self, step: int, checkpoint: Path) -> None:
        """A checkpoint is on disk."""

    def noted(self, step: int, kind: str, message: str) -> None:
        """Something out of the ordinary. Kinds: `spike`, `skip`, `roll_back`, `save_failed`."""

    def wants_model(self, step: int) -> bool:
        """Whether `shown_model` is to be called after `step`, in time that counts in no rate. Asked at every step."""
        return False

    def shown_model(self, step: int, model: Decoder, tokenizer: Tokenizer | None) -> None:
        """The model after `step`. Its weights, its mode and every random generator are left as they were."""

    def stopping(self, signal: Signals) -> None:
        """A signal asked to stop: the step at hand and a checkpoint follow.

        Called within the signal's handler, at any instant of the other calls.
        """

    def state(self) -> dict[str, str]:
        """What a checkpoint keeps for this observer, so that a resumed run goes on where it was."""
        return {}

    def restore(self, state: Mapping[str, str]) -> None:
        """Take back what `state` gave when the checkpoint was made; called before `started`."""

    def failed(self, error: BaseException) -> None:
        """The training ends by this error; `close` follows."""

    def close(self) -> None:
        """The training ended or failed: leave everything in order."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.failed(error)
        self.close()


class Observers(Observer):
    """Several observers as one; each hears everything, in their order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = tuple(observers)

    def started(self, plan: Plan) -> None:
        self._each(lambda observer: observer.started(plan))

    def stepped(self, snapshot: Snapshot) -> None:
        self._each(lambda observer: observer.stepped(snapshot))

    def compiling(self) -> None:
        self._each(lambda observer: observer.compiling())

    def compiled(self, seconds: float) -> None:
        self._each(lambda observer: observer.compiled(seconds))

    def evaluating(self, step: int) -> None:
        self._each(lambda observer: observer.evaluating(step))

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        self._each(lambda observer: observer.evaluated(step, evaluation))

    def saving(self, step: int) -> None:
        self._each(lambda observer: observer.saving(step))

    def saved(self, step: int, checkpoint: Path) -> None:
        self._each(lambda observer: observer.saved(step, checkpoint))

    def noted(self, step: int, kind: str, message: str) -> None:
        self._each(lambda observer: observer.noted(step, kind, message))

    def wants_model(self, step: int) -> bool:
        return any(observer.wants_model(step) for observer in self.observers)

    def shown_model(self, step: int, model: Decoder, tokenizer: Tokenizer | None) -> None:
        for observer in self.observers:
            if observer.wants_model(step):
                observer.shown_model(step, model, tokenizer)

    def stopping(self, signal: Signals) -> None:
        self._each(lambda observer: observer.stopping(signal))

    def state(self) -> dict[str, str]:
        return {key: value for observer in self.observers for key, value in observer.state().items()}

    def restore(self, state: Mapping[str, str]) -> None:
        self._each(lambda observer: observer.restore(state))

    def failed(self, error: BaseException) -> None:
        self._each(lambda observer: observer.failed(error))

    def close(self) -> None:
        """Close all of them, also when one fails; the first failure is raised at the end."""
        failures: list[Exception] = []
        for observer in self.observers:
            try:
                observer.close()
            except Exception as failure:
                failures.append(failure)
        if failures:
            raise failures[0]

    def _each(self, tell: Callable[[Observer], None]) -> None:
        for observer in self.observers:
            tell(observer)
