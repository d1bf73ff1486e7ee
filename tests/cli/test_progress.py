"""What a terminal and a pipe say of things out of the ordinary."""

from __future__ import annotations

import os

import pytest
from rich.console import Console

from smidgen.cli.progress import LiveProgress, PlainProgress

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
