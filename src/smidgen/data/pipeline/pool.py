"""Units of work on all cores, results in the order of the tasks, memory bounded by a window."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import wait
from typing import Any

from smidgen.data.pipeline.worker import Job, Task, Unit, Worker
from smidgen.data.writing import Interrupted
from smidgen.runtime.protocols import Tokenizer

_TASKS_A_WORKER = 2
"""Tasks that wait or are done for every worker at work: enough that none is idle while results are written."""


class Pool(AbstractContextManager["Pool"]):
    """Processes that do units of a job; with one worker, this process does them.

    Processes are started afresh, not forked: engines with threads of their own do not survive a fork. They end when
    this process does, however it ends.
    """

    def __init__(self, job: Job, workers: int, tokenizer: Tokenizer | None = None) -> None:
        self._workers = workers
        self._here = Worker(job, tokenizer)
        self._executor: ProcessPoolExecutor | None = None
        if workers > 1:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(workers, context, _start, (job,))
            with _ignored_interrupts():
                for _ in range(workers):
                    self._executor.submit(_nothing)

    def __exit__(self, *exception: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def do(self, unit: Unit, task: Task) -> Any:
        """One unit, in this process."""
        return self._here.do(unit, task)

    def map(self, unit: Unit, tasks: Iterable[Task]) -> Iterator[Any]:
        """The results of the tasks, in their order. Tasks are taken as they can be done.

        Raises Interrupted when a process died.
        """
        if self._executor is None:
            for task in tasks:
                yield self._here.do(unit, task)
            return
        pending: deque[Future[Any]] = deque()
        try:
            for task in tasks:
                pending.append(self._executor.submit(_do, unit, task))
                if len(pending) > self._workers * _TASKS_A_WORKER:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise Interrupted(
                "a worker process died, most likely for want of memory; run the command again to go on from where it "
                "stopped, with fewer --workers"
            ) from None


@contextmanager
def _ignored_interrupts() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C from their first moment: this process decides what it means."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_worker: Worker | None = None


def _start(job: Job) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One process a core is enough threads.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["OMP_NUM_THREADS"] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = Worker(job)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _nothing() -> None:
    """A task that makes the executor start a process."""


def _do(unit: Unit, task: Task) -> Any:
    assert _worker is not None
    return _worker.do(unit, task)
