"""Sends a run's figures to a tracker, beside the training and never in its way.

The run folder is the buffer: a thread follows metrics.jsonl and samples.jsonl and sends each line once. A tracker that
cannot be reached is tried again, less and less often; meanwhile nothing gathers in memory, and what it has not
received is still in the files. How far it came is noted in `tracking/<tracker>.json`, so that a later process goes on
from there.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.config import Config
from smidgen.runtime.files import write_text
from smidgen.training.observer import Observer, Plan
from smidgen.training.tracking.tail import Tail
from smidgen.training.tracking.tracker import Session, Tracker, figures_of

logger = logging.getLogger(__name__)

_LINES_BETWEEN_NOTES = 200


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between a forwarder's doings."""

    between_looks: float = 1.0
    """At files that may have grown."""
    first_retry: float = 1.0
    """After a failure; each further one doubles it …"""
    longest_retry: float = 60.0
    """… up to this."""
    at_the_end: float = 15.0
    """That the end of a training waits at most for what is not yet sent."""


class Forwarder(Observer):
    """Keeps one tracker informed of one run."""

    def __init__(self, tracker: Tracker, run: Path, pace: Pace | None = None) -> None:
        self.tracker = tracker
        self.run = run
        self.pace = pace or Pace()
        self._note_path = run / "tracking" / f"{tracker.name}.json"
        note = _read_note(self._note_path)
        self._known = note is not None
        self._id, self._sent = note or (secrets.token_hex(4), {})
        self._noted = dict(self._sent)
        self._tails = (Tail(run / "metrics.jsonl"), Tail(run / "samples.jsonl"))
        self._config: Config | None = None
        self._open = False
        self._warned = False
        self._complete = False
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None

    def started(self, plan: Plan) -> None:
        self._config = plan.config
        self._thread = threading.Thread(target=self._work, name=f"smidgen-{self.tracker.name}", daemon=True)
        self._thread.start()

    def state(self) -> dict[str, str]:
        return {f"tracker.{self.tracker.name}": self._id}

    def restore(self, state: Mapping[str, str]) -> None:
        # The run folder's own note is newer than any checkpoint; one without it was copied, or lost it.
        if not self._known:
            self._id = state.get(f"tracker.{self.tracker.name}", self._id)

    def close(self) -> None:
        """Wait a little for what is not yet sent, then leave it in the run folder."""
        if self._thread is None:
            return
        self._closing.set()
        self._thread.join(self.pace.at_the_end)
        self._abandoned.set()
        if self._thread.is_alive():
            try:
                self.tracker.abandon()
            except Exception as error:
                self._warn(error)
        if not self._complete:
            logger.warning(
                "%s has not received everything; when it can be reached, 'smidgen track %s' sends the rest",
                self.tracker.name,
                self.run,
            )
        self._thread = None

    def send_all(self, config: Config) -> int:
        """Send what was never sent, in this thread; returns the number of lines. Raises what the tracker raises."""
        self._config = config
        try:
            return self._send_new()
        finally:
            self._write_note()
            self._disconnect()

    def _work(self) -> None:
        """The thread: look, send, wait."""
        failures = 0
        while not self._abandoned.is_set():
            # Asked before sending: lines that were written before `close` are still seen.
            closing = self._closing.is_set()
            try:
                self._send_new()
                self._complete = True
                if failures:
                    logger.info("%s can be reached again", self.tracker.name)
                failures, pause = 0, self.pace.between_looks
            except Exception as error:  # whatever a service or its library may raise
                self._complete = False
                pause = min(self.pace.first_retry * 2**failures, self.pace.longest_retry)
                failures = min(failures + 1, 30)
                self._warn(error)
                self._disconnect()
            self._write_note()
            if closing:
                break
            self._closing.wait(pause)
        self._disconnect()

    def _send_new(self) -> int:
        """Send the lines that the tracker has not received; returns their number."""
        if not self._open:
            self.tracker.open(self._session())
            self._open = True
        count = 0
        for tail in self._tails:
            for record in tail.records():
                if self._abandoned.is_set():
                    return count
                if self._send(record):
                    count += 1
                    self._complete = False
                    if count % _LINES_BETWEEN_NOTES == 0:
                        self.tracker.flush()
                        self._write_note()
        if count:
            self.tracker.flush()
        return count

    def _send(self, record: dict[str, Any]) -> bool:
        """Send a line unless one of its kind and step, or a later one, was sent before."""
        kind, step = record["kind"], record["step"]
        if step <= self._sent.get(kind, -1):
            return False
        if kind == "sample":
            self.tracker.log_samples(step, {sample["prompt"]: sample["text"] for sample in record["samples"]})
        elif kind in ("train", "validation"):
            self.tracker.log(step, figures_of(record))
        else:
            return False
        self._sent[kind] = step
        return True

    def _session(self) -> Session:
        assert self._config is not None
        folder = self.run / "tracking" / self.tracker.name
        folder.mkdir(parents=True, exist_ok=True)
        return Session(
            id=self._id,
            name=self._config.tracking.name or self.run.resolve().name,
            project=self._config.tracking.project,
            folder=folder,
            config=self._config.model_dump(mode="json"),
            last_step=max(self._sent.values(), default=None),
        )

    def _write_note(self) -> None:
        if self._known and self._noted == self._sent:
            return
        try:
            self._note_path.parent.mkdir(exist_ok=True)
            write_text(self._note_path, json.dumps({"id": self._id, "sent": self._sent}) + "\n")
        except OSError as error:
            self._warn(error)
            return
        self._known, self._noted = True, dict(self._sent)

    def _disconnect(self) -> None:
        if self._open:
            self._open = False
            try:
                self.tracker.close()
            except Exception as error:
                self._warn(error)

    def _warn(self, error: Exception) -> None:
        """Say once that the tracker fails; later failures are seen at the level of debugging."""
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.log(level, "%s: %s; training goes on, and what it misses is sent later", self.tracker.name, reason)


def _read_note(path: Path) -> tuple[str, dict[str, int]] | None:
    """The run's id in the tracker, and the last step of each kind that it received."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return str(note["id"]), {str(kind): int(step) for kind, step in note["sent"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s: cannot be read (%s); the run begins anew in the tracker", path, error)
        return None
