"""Which observers a configuration asks for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from smidgen.config import Config
from smidgen.runtime.errors import MissingDependencyError
from smidgen.training.events import RunRecord
from smidgen.training.observer import Observer
from smidgen.training.samples import Sampler, TextSamples
from smidgen.training.tracking.forwarder import Forwarder
from smidgen.training.tracking.tensorboard import TensorBoard
from smidgen.training.tracking.tracker import Tracker
from smidgen.training.tracking.trackio import Trackio
from smidgen.training.tracking.wandb import WeightsAndBiases

_TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "trackio": Trackio}


def make_trackers(config: Config, run: str | Path, sampler: Sampler | None = None) -> list[Observer]:
    """The observers that record a training: the run folder's own files, samples of text, and `tracking.trackers`.

    `sampler` continues prompts; without one no samples are taken. Nothing is written and nobody is called before the
    training starts. Raises MissingDependencyError for a tracker that is not installed.
    """
    run = Path(run)
    observers: list[Observer] = [RunRecord(run)]
    if sampler is not None and config.tracking.sample_every is not None:
        observers.append(TextSamples(config.tracking, run, sampler))
    return [*observers, *make_forwarders(config, run)]


def make_forwarders(config: Config, run: Path) -> list[Forwarder]:
    """One forwarder for each of `tracking.trackers`. Raises MissingDependencyError for one that is not installed."""
    for name in config.tracking.trackers:
        # A folder of that name, which some of them leave behind, would pass as a package without an origin.
        found = find_spec(name)
        if found is None or found.origin is None:
            raise MissingDependencyError(name, "track", f"tracking.trackers = {name}")
    return [Forwarder(_TRACKERS[name](), run) for name in config.tracking.trackers]
