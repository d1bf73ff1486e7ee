from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.runtime.errors import TrainingError
from smidgen.training.loop import train
from smidgen.training.metrics import JsonLines, MetricsFile, drop_after, read_metrics


def write(path: Path, *steps: int) -> None:
    metrics = MetricsFile(path)
    for step in steps:
        metrics.write("train", step, loss=1 / 3 / step)
    metrics.sync()
    metrics.close()


def test_lines_are_there_at_once_with_every_digit(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.write("train", 1, loss=1 / 3, mfu=None)
    assert list(read_metrics(path)) == [{"kind": "train", "step": 1, "loss": 1 / 3, "mfu": None}]
    metrics.close()


def test_what_is_no_json_number_is_refused(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError):
        metrics.write("train", 1, loss=float("nan"))
    metrics.close()


def test_drop_after_leaves_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2, 3, 4)
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 5, "lo')
    before = list(read_metrics(path))
    drop_after(path, 3)
    write(path, 4, 5)
    after = list(read_metrics(path))
    assert after[:3] == before[:3]
    assert [line["step"] for line in after] == [1, 2, 3, 4, 5]


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert list(read_metrics(tmp_path / "metrics.jsonl")) == []
    drop_after(tmp_path / "metrics.jsonl", 0)


@pytest.mark.parametrize(
    "torn", ['{"kind": "train", "st', "12", "[1]", '{"kind": 3, "step": 1}', '{"kind": "train"}', "\xff"]
)
def test_what_is_no_line_is_passed_over(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1)
    with path.open("ab") as file:
        file.write(torn.encode("latin-1"))
    write(path, 2)
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


def test_a_file_that_cannot_be_opened_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: cannot be written: Is a directory; make the folder"):
        MetricsFile(tmp_path / "metrics.jsonl")

    def read_only(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(TrainingError, match="Read-only file system"):
        MetricsFile(tmp_path / "other.jsonl")


def test_a_full_disk_keeps_lines_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    really_write, room = os.write, 70

    def write_what_fits(file: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = really_write(file, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", write_what_fits)
    for step in range(5):
        lines.append({"kind": "train", "step": step, "loss": 1.0})
    lines.sync()
    assert [line["step"] for line in read_metrics(path)] == [0]  # the second line is half there
    assert caplog.messages == [f"{path}: No space left on device; lines wait in memory"]
    room = 1 << 20
    lines.append({"kind": "train", "step": 5, "loss": 1.0})
    lines.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4, 5]


def test_a_disk_that_stays_full_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", refuse)
    for step in range(30_000):
        lines.append({"kind": "train", "step": step, "text": "x" * 40})
    assert len(lines._waiting) <= 1 << 20
    monkeypatch.undo()
    lines.close()
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == list(range(len(steps)))


def test_a_clock_that_goes_backwards_changes_no_rate(
    tmp_path: Path, make_config: Callable[..., Any], make_task: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter(range(10**6, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(moments)))
    config = make_config(max_steps=3)
    train(config, make_task(config), tmp_path / "run")
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert len(lines) == 3
    assert all(line["tokens_per_second"] > 0 and line["seconds"] > 0 for line in lines)
