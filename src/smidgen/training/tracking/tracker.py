"""What every tracker can do: the one interface behind which TensorBoard, Weights & Biases and trackio stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Session:
    """What a tracker learns when it is opened."""

    id: str
    """Of the run in the tracker: the same in every process that goes on with it."""
    name: str
    """Of the run, for people."""
    project: str
    folder: Path
    """Of the tracker's own files, below the run folder; it exists."""
    config: Mapping[str, Any]
    """The whole configuration."""
    last_step: int | None
    """The newest step that was logged before; None for a run that is new to the tracker."""


class Tracker(Protocol):
    """Receives a run's figures. Every method may take long or raise anything: none is called by the training itself."""

    name: str
    """As `tracking.trackers` calls it."""

    def open(self, session: Session) -> None:
        """Reach the service; called again after a failure."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take figures of a step, such as `train/loss`. Steps never go down."""

    def log_samples(self, step: int, samples: Mapping[str, str]) -> None:
        """Take texts that the model wrote: prompt → continuation."""

    def flush(self) -> None:
        """Bring what was logged to where it stays."""

    def close(self) -> None:
        """Let go of the service; `open` may follow."""

    def abandon(self) -> None:
        """See to it that the process can end now. Called at the very end, from another thread, while a call hangs."""


def figures_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl, named after its kind: `{"train/loss": 2.3}`."""
    return {
        f"{record['kind']}/{name}": float(value)
        for name, value in record.items()
        if name not in ("kind", "step") and isinstance(value, int | float) and not isinstance(value, bool)
    }
