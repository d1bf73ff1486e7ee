"""events.jsonl and environment.json: what happened to a run, and what it ran on."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from signal import Signals
from typing import Any

from smidgen.data.manifest import MANIFEST_NAME
from smidgen.runtime.files import write_text
from smidgen.training.environment import describe_environment
from smidgen.training.metrics import JsonLines
from smidgen.training.observer import Observer, Plan, Snapshot

logger = logging.getLogger(__name__)


class RunRecord(Observer):
    """Writes the history of a run into its folder: starts, saves, notices, signals, ends.

    Unlike metrics.jsonl, a history keeps what a resume takes back. The time of an event is a label for people; no rate
    is computed from it, so a clock that goes backwards spoils nothing.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._lines: JsonLines | None = None
        self._step = 0
        self._signal: Signals | None = None
        self._error: str | None = None

    def started(self, plan: Plan) -> None:
        self._lines = JsonLines(self.run / "events.jsonl")
        self._step = plan.first_step
        self._write(
            "start" if plan.resumed_from is None else "resume",
            plan.first_step,
            parameters=plan.num_parameters,
            device=plan.device,
            peak_flops=plan.peak_flops,
            total_steps=plan.total_steps,
            tokens_per_step=plan.tokens_per_step,
            sequences_per_epoch=plan.sequences_per_epoch,
            changes={name: list(pair) for name, pair in plan.changes.items()},
        )
        environment = {"step": plan.first_step, "time": _now(), **describe_environment(), "data": _describe_data(plan)}
        try:
            _add_environment(self.run / "environment.json", environment)
        except OSError as error:
            logger.warning("%s: %s; the environment is not recorded", self.run / "environment.json", error.strerror)

    def stepped(self, snapshot: Snapshot) -> None:
        self._step = snapshot.step

    def saved(self, step: int, checkpoint: Path) -> None:
        self._step = max(self._step, step)
        self._write("save", step, checkpoint=checkpoint.name)

    def noted(self, step: int, kind: str, message: str) -> None:
        self._write(kind, step, message=message)

    def stopping(self, signal: Signals) -> None:
        # A handler may come in the middle of a line: it is written at the end.
        self._signal = signal

    def failed(self, error: BaseException) -> None:
        self._error = " ".join(f"{type(error).__name__}: {error}".split())

    def close(self) -> None:
        if self._lines is None:
            return
        signal = None if self._signal is None else self._signal.name
        self._write("end", self._step, signal=signal, error=self._error)
        self._lines.close()
        self._lines = None

    def _write(self, kind: str, step: int, **values: Any) -> None:
        assert self._lines is not None
        self._lines.append({"kind": kind, "step": step, "time": _now(), **values})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _add_environment(path: Path, environment: dict[str, Any]) -> None:
    """Add what a process ran on to the list of those before it."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = []
    write_text(path, json.dumps([*before, environment], indent=1) + "\n")


def _describe_data(plan: Plan) -> dict[str, Any] | None:
    """The dataset's own words on itself: counts and sources, from its manifest; None for a foreign folder."""
    path = plan.config.data.path
    if path is None:
        return None
    try:
        manifest = json.loads((Path(path) / MANIFEST_NAME).read_text(encoding="utf-8"))
        splits = {
            name: {count: sum(shard[count] for shard in shards) for count in ("tokens", "documents", "bytes")}
            for name, shards in manifest["splits"].items()
        }
        return {
            "path": path,
            "vocab_size": manifest["vocab_size"],
            "tokenizer_kind": manifest["tokenizer_kind"],
            "tokenizer_fingerprint": manifest["tokenizer_fingerprint"],
            "splits": splits,
            "sources": [source["name"] for source in manifest["sources"]],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
