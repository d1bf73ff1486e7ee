"""A run folder that grows, a service that may fail, and a forwarder that loses no time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import Config, load_config
from smidgen.training.metrics import JsonLines, MetricsFile
from smidgen.training.observer import Plan
from smidgen.training.tracking import Forwarder, Pace, Session


class Service:
    """A tracker whose service can hang and fail; it remembers all that reached it."""

    name = "service"

    def __init__(self) -> None:
        self.received: list[tuple[int, dict[str, float]]] = []
        self.samples: list[tuple[int, dict[str, str]]] = []
        self.sessions: list[Session] = []
        self.attempts = 0
        self.abandoned = False
        self.down: str | None = None
        """Why every call fails now."""
        self.fails_after: int | None = None
        """Figures that it takes before it goes down."""
        self.answering = threading.Event()
        """Every call hangs until it is set."""
        self.answering.set()

    def open(self, session: Session) -> None:
        self._reach()
        self.sessions.append(session)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.fails_after is not None and len(self.received) == self.fails_after:
            self.fails_after, self.down = None, "connection reset"
        self._reach()
        self.received.append((step, dict(values)))

    def log_samples(self, step: int, samples: Mapping[str, str]) -> None:
        self._reach()
        self.samples.append((step, dict(samples)))

    def flush(self) -> None:
        self._reach()

    def close(self) -> None:
        self._reach()

    def abandon(self) -> None:
        self.abandoned = True

    def _reach(self) -> None:
        self.attempts += 1
        self.answering.wait()
        if self.down is not None:
            raise ConnectionError(self.down)


@pytest.fixture
def service() -> Service:
    return Service()


class GrowingRun:
    """A run folder whose lines are written by the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        self.config: Config = load_config("elite-tiny", {"tracking.project": "stories"})
        (path / "config.yaml").write_text("")
        self.metrics = MetricsFile(path / "metrics.jsonl")

    def train(self, *steps: int) -> None:
        for step in steps:
            self.metrics.write("train", step, loss=10 / step, mfu=None, lr=1e-3)

    def validate(self, step: int) -> None:
        self.metrics.write("validation", step, loss=11 / step)

    def sample(self, step: int, **texts: str) -> None:
        samples = [{"prompt": prompt, "text": text} for prompt, text in texts.items()]
        lines = JsonLines(self.path / "samples.jsonl")
        lines.append({"kind": "sample", "step": step, "samples": samples})
        lines.close()

    def forwarder(self, tracker: Any, **pace: float) -> Forwarder:
        quick = {"between_looks": 0.002, "first_retry": 0.002, "longest_retry": 0.01, "at_the_end": 10.0}
        return Forwarder(tracker, self.path, Pace(**{**quick, **pace}))

    def plan(self, first_step: int = 0) -> Plan:
        return Plan(self.config, self.path, 1000, "cpu, 1 thread", None, 100, 64, 20, None, first_step, {})


@pytest.fixture
def run(tmp_path: Path) -> GrowingRun:
    return GrowingRun(tmp_path / "demo")


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    return wait
