from __future__ import annotations

import signal
import threading

import pytest

from smidgen.training.interrupts import StopSignals


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


def test_a_hang_up_is_noted_unless_it_is_ignored() -> None:
    with StopSignals(lambda _: None) as signals:
        signal.raise_signal(signal.SIGHUP)
    assert signals.received == signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(lambda _: None) as signals:
            signal.raise_signal(signal.SIGHUP)
        assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)
