"""From the figures of single steps to lines of metrics.jsonl and snapshots for an observer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
    """Gathers the figures of steps into lines of metrics.jsonl, and tells an observer now and then."""

    def __init__(self, state: TrainerState, workload: Workload, metrics: MetricsFile, observer: Observer) -> None:
        self.state = state
        self.workload = workload
        self.metrics = metrics
        self.observer = observer
        self.timed_at = self.told_at = time.perf_counter()
        self.tokens_since_told = 0
        self.seconds_since_told = 0.0

    def step(self, figures: dict[str, float], lr: float, weight_decay: float, *, taken: bool, logged: bool) -> None:
        """Take the figures of the step that `state.step` counts: sums of loss, weight and more, and grad_norm.

        `taken`: the step changed the weights; the figures of one that did not count in no mean.
        `logged`: a line of metrics.jsonl is due, with the means since the last one.
        """
        now = time.perf_counter()
        seconds, self.timed_at = now - self.timed_at, now
        window = self.state.window
        window.seconds += seconds
        window.tokens += self.workload.tokens_per_step
        self.seconds_since_told += seconds
        self.tokens_since_told += self.workload.tokens_per_step
        if taken:
            window.steps.append(figures)
        if window.steps and (logged or now - self.told_at > _SECONDS_BETWEEN_SNAPSHOTS):
            self.observer.stepped(self._snapshot(lr, self.tokens_since_told / self.seconds_since_told))
            self.told_at, self.tokens_since_told, self.seconds_since_told = now, 0, 0.0
        if logged and window.steps:
            self._write_line(lr, weight_decay)

    def event(self, kind: str, message: str) -> None:
        """Something out of the ordinary: a line of its own, and a word to the observer."""
        self.metrics.write(kind, self.state.step, message=message)
        self.observer.noted(self.state.step, kind, message)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in here counts in no rate."""
        yield
        self.timed_at = time.perf_counter()

    def evaluation(self, evaluation: Evaluation) -> None:
        """Write an evaluation's line."""
        self.metrics.write(
            "validation",
            self.state.step,
            loss=evaluation.loss,
            **evaluation.figures,
            # An objective with figures of its own measures no cross-entropy alone.
            perplexity=None if evaluation.figures else evaluation.perplexity,
            bits_per_byte=evaluation.bits_per_byte,
            tokens=self.state.tokens,
        )
        self.observer.evaluated(self.state.step, evaluation)

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
        norms = [figures["grad_norm"] for figures in window.steps]
        tokens_per_second = window.tokens / window.seconds
        self.metrics.write(
            "train",
            self.state.step,
            **means,
            bits_per_byte=bits_per_byte(means["loss"], self.workload.bytes_per_token),
            lr=lr,
            weight_decay=weight_decay,
            grad_norm=sum(norms) / len(norms),
            tokens=self.state.tokens,
            tokens_per_second=tokens_per_second,
            mfu=self.workload.mfu(tokens_per_second),
            seconds=self.state.seconds,
        )
