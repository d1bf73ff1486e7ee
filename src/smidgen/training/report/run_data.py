"""Everything a run folder says about a run, read so that a damaged or older folder still gives a page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from smidgen.config.loading import read_tree
from smidgen.runtime.errors import ConfigError, TrainingError
from smidgen.training.metrics import read_metrics

Record = dict[str, Any]
Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class RunData:
    """One run as a report needs it."""

    name: str
    path: Path
    config: dict[str, str]
    """Dotted field → value; empty where config.yaml cannot be read."""
    train: list[Record]
    validation: list[Record]
    samples: list[Record]
    events: list[Record]
    """In the order they happened. For runs that kept none: the lines of metrics.jsonl that are no figures."""
    environments: list[Record]
    """One for each process that trained, oldest first."""

    @classmethod
    def read(cls, path: Path) -> RunData:
        """Read a run folder. Raises TrainingError where it has no metrics yet."""
        lines = list(read_metrics(path / "metrics.jsonl"))
        train = [line for line in lines if line["kind"] == "train"]
        if not train:
            raise TrainingError(f"{path}: no metrics to report; name a run folder whose training has begun")
        others = [line for line in lines if line["kind"] not in ("train", "validation")]
        return cls(
            name=path.resolve().name,
            path=path,
            config=_read_config(path),
            train=train,
            validation=[line for line in lines if line["kind"] == "validation"],
            samples=[record for record in read_metrics(path / "samples.jsonl") if _is_sample(record)],
            events=list(read_metrics(path / "events.jsonl")) or others,
            environments=_read_environments(path / "environment.json"),
        )

    @property
    def last_step(self) -> int:
        return max(line["step"] for line in self.train)

    @property
    def plan(self) -> Record:
        """What the newest process set out to do; empty for a run that kept no events."""
        return next((event for event in reversed(self.events) if event["kind"] in ("start", "resume")), {})

    @property
    def total_steps(self) -> int | None:
        total = self.plan.get("total_steps")
        return total if isinstance(total, int) else None

    @property
    def best_validation(self) -> Record | None:
        scored = [line for line in self.validation if number(line.get("loss")) is not None]
        return min(scored, key=lambda line: line["loss"], default=None)

    def points(self, name: str, lines: list[Record] | None = None) -> Points:
        """Steps and values of a figure of the training lines (or of `lines`), where it is a finite number."""
        found = ((line["step"], number(line.get(name))) for line in (self.train if lines is None else lines))
        return [(float(step), value) for step, value in found if value is not None]

    def typical(self, name: str) -> float | None:
        """The median of a figure over the training lines."""
        values = [value for _, value in self.points(name)]
        return median(values) if values else None

    def last(self, name: str) -> float | None:
        """A figure of the newest training line that has it."""
        points = self.points(name)
        return points[-1][1] if points else None


def number(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path → value as text, for every leaf of a tree."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differences(runs: list[RunData]) -> list[tuple[str, list[str | None]]]:
    """The fields whose values differ between runs, with the value of each; None where a run has no such field."""
    fields = list(dict.fromkeys(name for run in runs for name in run.config))
    rows = [(name, [run.config.get(name) for run in runs]) for name in fields]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _read_config(path: Path) -> dict[str, str]:
    try:
        return dict(flatten(read_tree(path / "config.yaml")))
    except ConfigError:
        return {}


def _read_environments(path: Path) -> list[Record]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []


def _is_sample(record: Record) -> bool:
    samples = record.get("samples")
    return isinstance(samples, list) and all(isinstance(s, dict) and {"prompt", "text"} <= s.keys() for s in samples)
