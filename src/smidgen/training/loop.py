"""The training loop: one for every objective."""

from __future__ import annotations

import logging
import signal
from contextlib import ExitStack
from pathlib import Path

from smidgen.config import Config, load_config
from smidgen.folders.run import RunFolder
from smidgen.training.autobatch import resolve_batch_size
from smidgen.training.devices import resolve_device
from smidgen.training.evaluate import bits_per_byte
from smidgen.training.interrupts import StopSignals
from smidgen.training.observer import Observer, Summary
from smidgen.training.origin import count_steps, find_origin
from smidgen.training.parallel import (
    joined_ranks,
    rank_device,
    resolve_degrees,
    world_size,
)
from smidgen.training.precision import resolve_precision
from smidgen.training.task import Task
from smidgen.training.trainer import Trainer

logger = logging.getLogger(__name__)


def train(config: Config, task: Task, run_path: str | Path, observer: Observer | None = None) -> Summary:
    """Train until `training.max_steps` or `training.epochs`, in the run folder `run_path`; resume it if it exists.

    A resumed run ends with the same weights, to the bit, as one that was never stopped (on the same machine). A
    finished run returns at once. SIGINT and SIGTERM end the run after the step at hand and a checkpoint.
    Under torchrun every process calls it, with the same configuration and data: they share the work as
    `training.parallel` says, the first writes the run folder, and a signal to any of them stops all.
    Raises ConfigError or TrainingError before any work where the configuration does not fit the run or the machine.
    """
    run, given = RunFolder(run_path), config
    device = rank_device(resolve_device(config.training.device))
    degrees = resolve_degrees(config, world_size())
    hours = config.training.max_time
    with joined_ranks(degrees, device) as ranks, ExitStack() as stack:
        observer = observer if observer is not None and ranks.is_main else Observer()
        ranks.on_main(lambda: stack.enter_context(run.locked()))
        signals = stack.enter_context(StopSignals(observer.stopping, None if hours is None else hours * 3600))
        recorded = ranks.on_main(lambda: load_config(run.config_path) if run.config_path.is_file() else None)
        config = ranks.on_main(lambda: resolve_precision(given, device, recorded))
        objective, sequences = task.objective, task.data.train
        config = resolve_batch_size(config, device, objective, sequences, task.starting_model, ranks, recorded)
        total_steps = count_steps(config, sequences.per_epoch)
        _warn_of_warmup(config, total_steps)
        origin = ranks.on_main(lambda: find_origin(config, task.data, run))
        state, checkpoint = origin.state, origin.checkpoint
        first_step = state.step
        if state.step < total_steps:
            checkpoint = Trainer(config, task, run, device, total_steps, signals, origin, observer, ranks).run()
        best = ranks.on_main(run.best_validation_loss)
        unfinished = state.step < total_steps
        received = ranks.highest(signals.received or 0)
        return Summary(
            run=run.path,
            steps=state.step,
            total_steps=total_steps,
            steps_taken=state.step - first_step,
            tokens=state.tokens,
            seconds=state.seconds,
            best_validation_loss=best,
            best_bits_per_byte=bits_per_byte(best, task.data.validation_bytes_per_token),
            checkpoint=checkpoint,
            stopped_by=signal.Signals(received) if unfinished and received else None,
            out_of_time=unfinished and not received,
        )


def _warn_of_warmup(config: Config, total_steps: int) -> None:
    warmup_steps = config.training.schedule.warmup_steps
    if warmup_steps > total_steps:
        logger.warning(
            "training.schedule.warmup_steps = %d: longer than the %d steps of this run, which never reach training.lr",
            warmup_steps,
            total_steps,
        )
