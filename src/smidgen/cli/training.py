"""What the commands that train have in common: the run with its progress, and what is said at its end."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smidgen.config import Config
    from smidgen.training.observer import Observer, Summary

    Train = Callable[[Config, Path, Observer | None], Summary]

_WRITES = ("pretrain", "distill")
"""Commands whose models continue text; those of the others answer."""


def run_training(train: Train, config: Config, run_path: Path, command: str) -> int:
    """Train with the progress shown and say what came of it; the exit status. `command` goes on with the run."""
    from smidgen.cli.observers import training_observers
    from smidgen.training.parallel import is_main_rank

    if not is_main_rank():
        # One of several processes under torchrun: the first alone reports.
        logging.disable(logging.WARNING)
        summary = train(config, run_path, None)
    else:
        with training_observers(config, run_path) as observer:
            summary = train(config, run_path, observer)
        print_summary(summary, command)
    return 0 if summary.stopped_by is None else 128 + summary.stopped_by


def print_summary(summary: Summary, command: str) -> None:
    """What a training came to, and what to do next."""
    from smidgen.cli.tables import format_count
    from smidgen.training.report.formats import duration

    spent = f"{format_count(summary.tokens)} tokens in {duration(summary.seconds)}"
    if summary.stopped_by is not None or summary.out_of_time:
        cause = "training.max_time" if summary.stopped_by is None else summary.stopped_by.name
        print(f"Stopped by {cause} after step {summary.steps} of {summary.total_steps}: {spent}")
        print(f"Go on with: smidgen {command} {summary.run}")
        return
    if summary.steps_taken == 0:
        print(f"{summary.run} is finished: {summary.steps} steps, {spent}")
    else:
        print(f"Finished {summary.steps} steps: {spent}")
    if summary.best_validation_loss is not None:
        bits = summary.best_bits_per_byte
        per_byte = "" if bits is None else f", {bits:.4f} bits/byte"
        print(f"Best validation loss {summary.best_validation_loss:.4f}{per_byte}")
    print(f"Model: {summary.run}")
    print()
    if summary.steps_taken == 0:
        print(f"More steps:   smidgen {command} {summary.run} --training.max_steps {2 * summary.steps}")
    if command in _WRITES:
        print(f'Let it write: smidgen generate {summary.run} "Once upon a time"')
    else:
        print(f"Talk to it:   smidgen chat {summary.run}")
    print(f"Curves:       smidgen plot {summary.run}   or   smidgen report {summary.run}")


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Make `folder` and hold its lock: of torchrun's processes, which come together, the first does the work that the
    others then find done."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
