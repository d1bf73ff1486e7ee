"""How far `prepare` has come: a bar in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_UPDATES = 0.1


@contextmanager
def prepare_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Where `prepare` reports to: a bar in a terminal, now and then a line elsewhere; both on standard error."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}
        drawn = 0.0

        def report(stage: str, done: int, total: int) -> None:
            nonlocal drawn
            # Of sources whose size nobody knows, what is done stands for all of it: the bar moves to and fro instead.
            known = total if done < total else None
            if stage not in tasks:
                _complete(bars)
                tasks[stage] = bars.add_task(stage, total=known)
            # An update for every document would cost more than reading it.
            elif done < total and time.monotonic() - drawn < _SECONDS_BETWEEN_UPDATES:
                return
            bars.update(tasks[stage], completed=done, total=known)
            drawn = time.monotonic()

        yield report
        _complete(bars)


def _complete(bars: Progress) -> None:
    """What was done is all: another stage begins, or none."""
    for task in bars.tasks:
        bars.update(task.id, total=task.completed)


class _Lines:
    """A line when a stage takes long, with its rate and the time it will still take."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = self._printed = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._printed = stage, now, now
        if now - self._printed < _SECONDS_BETWEEN_LINES or done == 0:
            return
        self._printed = now
        rate = done / (now - self._began)
        print(
            f"{stage}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB, {rate / 1e6:.1f} MB/s, "
            f"{(total - done) / rate:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
