from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from smidgen.training.interrupts import StopSignals


@pytest.fixture
def handled_interrupt() -> Iterator[None]:
    """SIGINT as Python has it, also where these tests are a background job of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handled_interrupt")
def test_the_first_signal_is_noted_and_the_second_acts() -> None:
    noted: list[signal.Signals] = []
    with StopSignals(noted.append) as signals:
        assert signals.received is None
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        assert noted == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_before_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals(lambda _: None) as signals:
        signal.raise_signal(signal.SIGTERM)
    assert signals.received == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_other_threads_are_left_alone() -> None:
    outcome = []

    def work() -> None:
        with StopSignals(lambda _: None) as signals:
            outcome.append(signals.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [None]


@pytest.mark.parametrize(("number", "ignored"), [(signal.SIGHUP, True), (signal.SIGINT, False)])
def test_a_hang_up_may_be_ignored(number: signal.Signals, ignored: bool) -> None:
    """By nohup; as shells make background jobs ignore SIGINT, which asks to stop all the same."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with StopSignals(lambda _: None) as signals:
            signal.raise_signal(number)
        assert signals.received == number
        signal.signal(number, signal.SIG_IGN)
        with StopSignals(lambda _: None) as signals:
            signal.raise_signal(number)
        assert signals.received == (None if ignored else number)
    finally:
        signal.signal(number, before)
