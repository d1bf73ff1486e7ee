"""What a terminal and a pipe say of things out of the ordinary."""

from __future__ import annotations

import io
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from smidgen.cli import progress as display
from smidgen.cli.prepare_progress import prepare_progress
from smidgen.cli.progress import LiveProgress, Pace, PlainProgress

MESSAGE = "loss [nan] of step 7: the step was not taken"


def test_a_pipe_gets_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress() as progress:
        progress.noted(7, "skip", MESSAGE)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"step 7: {MESSAGE}\n")


def test_a_terminal_gets_the_words_as_they_are() -> None:
    with open(os.devnull, "w") as nowhere:
        console = Console(width=120, record=True, force_terminal=True, file=nowhere)
        with LiveProgress(console) as progress:
            progress.noted(7, "skip", MESSAGE)
            progress.saving(8)
            assert progress.activity == "saving"
    assert MESSAGE in console.export_text()


def test_the_time_left_follows_the_last_half_minute_and_says_what_the_whole_will_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    plan: Any = SimpleNamespace(first_step=20, total_steps=320)
    pace = Pace(plan)
    assert pace.left(20) == "? left"

    def steps(first: int, last: int, seconds: float) -> str:
        nonlocal now
        for step in range(first, last + 1):
            now += seconds
            snapshot: Any = SimpleNamespace(step=step)
            pace.add(snapshot)
        return pace.left(last)

    assert steps(21, 22, 2.0) == "9:56 left of 10:00"  # 2 of 300 steps in 4 s: an answer from the first seconds on
    assert steps(23, 60, 1.0) == "4:20 left of 5:02"  # the slow start is forgotten, but not the time it took
    assert steps(61, 320, 1.0) == "0:00 left of 5:02"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_source_of_unknown_size_never_looks_finished_before_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with prepare_progress() as report:
        report("reading", 500_000, 500_000)
        report("reading", 1_100_000, 1_100_000)
        report("training the tokenizer", 0, 300_000)
        report("training the tokenizer", 300_000, 300_000)
        report("encoding", 1_100_000, 1_100_000)
    shown = terminal.getvalue()
    assert "0.0/300.0 kB" in shown
    assert "0.5/0.5 MB" not in shown
    last = shown[shown.rindex("reading") :]
    assert "1.1/1.1 MB" in last
    assert "300.0/300.0 kB" in last
    assert "?/" not in last
