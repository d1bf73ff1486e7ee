"""A prefetched stream answers exactly as its source does, and waits less."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data import Batch, Prefetched
from smidgen.runtime.errors import DataError


class Numbers:
    """Sequence n is the number n; every request is noted, and those from `broken` on fail."""

    per_epoch = 100

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken
        self.asked: list[tuple[int, int]] = []
        self.answered = threading.Semaphore(0)

    def batch(self, start: int, count: int) -> Batch:
        self.asked.append((start, count))
        try:
            if self.broken is not None and start >= self.broken:
                raise DataError("train-00000.bin: damaged")
            numbers = np.arange(start, start + count)[:, None]
            return Batch(numbers, numbers + 1, None, None)
        finally:
            self.answered.release()

    def wait_for(self, answers: int) -> None:
        for _ in range(answers):
            assert self.answered.acquire(timeout=10)


@pytest.fixture
def numbers() -> Iterator[Numbers]:
    threads = threading.active_count()
    yield Numbers()
    assert threading.active_count() == threads, "the thread has ended"


def test_the_next_batches_are_made_before_they_are_asked_for(numbers: Numbers) -> None:
    with Prefetched(numbers, depth=3) as prefetched:
        assert prefetched.batch(10, 5).input_ids[:, 0].tolist() == [10, 11, 12, 13, 14]
        numbers.wait_for(4)
        assert numbers.asked == [(10, 5), (15, 5), (20, 5), (25, 5)]
        for start in range(15, 60, 5):
            assert prefetched.batch(start, 5).labels[0, 0] == start + 1
            numbers.wait_for(1)
    assert len(numbers.asked) == len(set(numbers.asked)), "nothing is made twice"


def test_a_ranks_stride_is_learned(numbers: Numbers) -> None:
    with Prefetched(numbers, depth=1) as prefetched:
        for step in range(6):
            prefetched.batch(8 * step + 4, 2)
            numbers.wait_for(2 if step < 2 else 1)
    asked = numbers.asked
    assert asked[:3] == [(4, 2), (6, 2), (12, 2)], "the first guess is a single process's"
    assert asked[3:] == [(start, 2) for start in range(20, 60, 8)]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=20), st.integers(1, 4))
def test_any_requests_are_answered_as_by_the_source(requests: list[tuple[int, int]], depth: int) -> None:
    with Prefetched(Numbers(), depth) as prefetched:
        for start, count in requests:
            assert prefetched.batch(start, count).input_ids[:, 0].tolist() == list(range(start, start + count))
    assert prefetched.per_epoch == 100


def test_an_error_is_raised_by_the_request_it_belongs_to() -> None:
    source = Numbers(broken=20)
    with Prefetched(source, depth=4) as prefetched:
        prefetched.batch(0, 10)
        source.wait_for(5)
        prefetched.batch(10, 10)
        for _ in range(2):
            with pytest.raises(DataError, match="damaged"):
                prefetched.batch(20, 10)
        source.broken = None
        assert prefetched.batch(20, 10).input_ids[0, 0] == 20


def test_waiting_is_counted() -> None:
    release = threading.Event()

    class Slow(Numbers):
        def batch(self, start: int, count: int) -> Batch:
            release.wait(10)
            return super().batch(start, count)

    source = Slow()
    with Prefetched(source, depth=1) as prefetched:
        threading.Timer(0.05, release.set).start()
        prefetched.batch(0, 1)
        waited = prefetched.wait_seconds
        assert waited > 0.04
        source.wait_for(2)
        prefetched.batch(1, 1)
        assert prefetched.wait_seconds - waited < waited
