"""Batches made ready in a thread before they are asked for."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from smidgen.data.batch import Batch, Sequences

Request = tuple[int, int]
"""Start and count of a batch."""


class Prefetched:
    """The sequences of `source`, with the next `depth` batches prepared in a thread while one is being used.

    What comes next is foretold from the last two requests: the same count, as far on again. So it serves a loop that
    reads on, a rank that takes a slice of each step, and one that changes its batch size or starts elsewhere, where
    the first request or two wait. Every answer is what `source` itself gives; an error in the thread is raised by
    the request it belongs to.

    For use from one thread. `close` it, or use it as a context manager, to end its thread.
    """

    def __init__(self, source: Sequences, depth: int = 2) -> None:
        assert depth > 0
        self._source = source
        self._depth = depth
        self._last: Request | None = None
        self._stride: int | None = None
        self._pending: deque[tuple[Request, Future[Batch]]] = deque()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self.wait_seconds = 0.0
        """Time that `batch` took so far: what a loop has waited for its data."""

    @property
    def per_epoch(self) -> int:
        """Sequences in one pass over the data."""
        return self._source.per_epoch

    def batch(self, start: int, count: int) -> Batch:
        """Sequences number `start` to `start + count - 1`."""
        begun = time.perf_counter()
        try:
            return self._answer(start, count)
        finally:
            self.wait_seconds += time.perf_counter() - begun

    def close(self) -> None:
        """Drop what was prepared and end the thread; a batch that is being made is waited for."""
        self._drop()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, start: int, count: int) -> Batch:
        self._foresee(start, count)
        if not self._pending or self._pending[0][0] != (start, count):
            self._drop()
            self._submit(start, count)
        _, future = self._pending.popleft()
        self._fill(start, count)
        return future.result()

    def _foresee(self, start: int, count: int) -> None:
        """Learn from a request how far on the next one will be."""
        if self._last is not None and self._last[1] == count and start > self._last[0]:
            self._stride = start - self._last[0]
        else:
            self._stride = None
        self._last = (start, count)

    def _fill(self, start: int, count: int) -> None:
        """Have the batches that follow this one prepared."""
        stride = self._stride or count
        expected = [(start + ahead * stride, count) for ahead in range(1, self._depth + 1)]
        if [request for request, _ in self._pending] != expected[: len(self._pending)]:
            self._drop()
        for request in expected[len(self._pending) :]:
            self._submit(*request)

    def _submit(self, start: int, count: int) -> None:
        self._pending.append(((start, count), self._worker.submit(self._source.batch, start, count)))

    def _drop(self) -> None:
        for _, future in self._pending:
            future.cancel()
        self._pending.clear()
