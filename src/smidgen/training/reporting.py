"""From the figures of single steps, kept on the device, to lines of metrics.jsonl and snapshots for an observer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.runtime.errors import TrainingError
from smidgen.training.evaluate import Evaluation, bits_per_byte
from smidgen.training.metrics import MetricsFile
from smidgen.training.observer import Observer, Snapshot
from smidgen.training.state import TrainerState, Window

_SECONDS_BETWEEN_SNAPSHOTS = 0.5


@dataclass(frozen=True, slots=True)
class Workload:
    """What turns steps into rates."""

    tokens_per_step: int
    flops_per_token: int
    peak_flops: float | None
    """FLOP/s of the device's matrix products; None where unknown."""
    bytes_per_token: float | None

    def mfu(self, tokens_per_second: float) -> float | None:
        """Model FLOPs utilisation (Chowdhery et al., 2022): the model's own arithmetic as a share of the peak."""
        return None if self.peak_flops is None else tokens_per_second * self.flops_per_token / self.peak_flops


class Reporter:
    """Reads figures from the device, which waits for it, only when somebody wants them: a line, a person, a save."""

    def __init__(
        self, state: TrainerState, workload: Workload, metrics: MetricsFile, observer: Observer, skips_overflow: bool
    ) -> None:
        self.state = state
        self.workload = workload
        self.metrics = metrics
        self.observer = observer
        self.skips_overflow = skips_overflow
        """Steps whose gradient overflows are skipped (fp16), so they do no harm."""
        self.pending: list[dict[str, Tensor]] = []
        self.read_at = time.perf_counter()

    def step(self, figures: dict[str, Tensor], lr: float, weight_decay: float, logged: bool) -> None:
        """Take the figures of the step that `state.step` counts: sums of loss, weight and more, and grad_norm.

        `logged`: a line of metrics.jsonl is due, with the means since the last one.
        """
        self.pending.append(figures)
        if logged or time.perf_counter() - self.read_at > _SECONDS_BETWEEN_SNAPSHOTS:
            tokens_per_second = self.settle()
            self.observer.stepped(self._snapshot(lr, tokens_per_second))
        if logged:
            self._write_line(lr, weight_decay)

    def settle(self) -> float:
        """Move the pending figures into the state's window; returns the tokens a second since the last time.

        Raises TrainingError at a loss or gradient that is no number, so that no checkpoint is made of it.
        """
        steps = [
            dict(zip(figures, torch.stack([value.float() for value in figures.values()]).tolist(), strict=True))
            for figures in self.pending
        ]
        now = time.perf_counter()
        seconds, self.read_at = now - self.read_at, now
        window = self.state.window
        window.seconds += seconds
        window.tokens += len(steps) * self.workload.tokens_per_step
        window.steps += steps
        self.pending.clear()
        for step, figures in enumerate(steps, self.state.step - len(steps) + 1):
            self._check_finite(step, figures)
        return len(steps) * self.workload.tokens_per_step / seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in here counts in no rate."""
        self.settle()
        yield
        self.read_at = time.perf_counter()

    def evaluation(self, evaluation: Evaluation) -> None:
        """Write an evaluation's line."""
        self.metrics.write(
            "validation",
            self.state.step,
            loss=evaluation.loss,
            perplexity=evaluation.perplexity,
            bits_per_byte=evaluation.bits_per_byte,
            tokens=self.state.tokens,
        )
        self.observer.evaluated(self.state.step, evaluation)

    def _check_finite(self, step: int, figures: dict[str, float]) -> None:
        harmless_norm = math.isfinite(figures["grad_norm"]) or self.skips_overflow
        if not (math.isfinite(figures["loss"]) and harmless_norm):
            raise TrainingError(
                f"step {step}: loss {figures['loss'] / max(figures['weight'], 1):g}, gradient norm"
                f" {figures['grad_norm']:g}: the training diverged; earlier checkpoints are sound, so lower"
                " training.lr or training.gradient_clip and resume"
            )

    def _snapshot(self, lr: float, tokens_per_second: float) -> Snapshot:
        last = self.state.window.steps[-1]
        loss = last["loss"] / max(last["weight"], 1)
        return Snapshot(
            step=self.state.step,
            loss=loss,
            bits_per_byte=bits_per_byte(loss, self.workload.bytes_per_token),
            lr=lr,
            grad_norm=last["grad_norm"],
            tokens=self.state.tokens,
            tokens_per_second=tokens_per_second,
            mfu=self.workload.mfu(tokens_per_second),
        )

    def _write_line(self, lr: float, weight_decay: float) -> None:
        window, self.state.window = self.state.window, Window()
        weight = max(sum(figures["weight"] for figures in window.steps), 1)
        means = {
            name: sum(figures[name] for figures in window.steps) / weight
            for name in window.steps[0]
            if name not in ("weight", "grad_norm")
        }
        norms = [figures["grad_norm"] for figures in window.steps if math.isfinite(figures["grad_norm"])]
        tokens_per_second = window.tokens / window.seconds
        self.metrics.write(
            "train",
            self.state.step,
            **means,
            bits_per_byte=bits_per_byte(means["loss"], self.workload.bytes_per_token),
            lr=lr,
            weight_decay=weight_decay,
            grad_norm=sum(norms) / len(norms) if norms else None,
            tokens=self.state.tokens,
            tokens_per_second=tokens_per_second,
            mfu=self.workload.mfu(tokens_per_second),
            seconds=self.state.seconds,
        )
