"""Ctrl-C and SIGTERM: finish the step, save, then stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


class StopSignals:
    """Notes SIGINT and SIGTERM while it is entered; a second one acts at once, as it would without this.

    Outside the main thread, where Python handles no signals, it does nothing.
    """

    def __init__(self, noted: Callable[[signal.Signals], None]) -> None:
        """`noted` is called within the signal's handler."""
        self._noted = noted
        self.received: signal.Signals | None = None
        """The signal that asked to stop."""
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
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
