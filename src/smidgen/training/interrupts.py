"""Ctrl-C, SIGTERM, a terminal that closes and a time limit: finish the step, save, then stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

STOPPING = (
    (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if hasattr(signal, "SIGHUP") else (signal.SIGINT, signal.SIGTERM)
)


class StopSignals:
    """Notes SIGINT, SIGTERM and SIGHUP while it is entered; a second one acts at once, as it would without this.

    A SIGHUP that is ignored, as nohup has it, stays so.
    Outside the main thread, where Python handles no signals, only the time limit counts.
    """

    def __init__(self, noted: Callable[[signal.Signals], None], max_seconds: float | None = None) -> None:
        """`noted` is called within the signal's handler; `max_seconds` counts from here, by a clock that never turns
        back."""
        self._noted = noted
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self.received: signal.Signals | None = None
        """The signal that asked to stop."""
        self._previous: dict[int, signal._HANDLER] = {}

    @property
    def out_of_time(self) -> bool:
        """The time limit has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def stop(self) -> bool:
        """The training shall save and stop."""
        return self.received is not None or self.out_of_time

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()
        self._noted(self.received)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
