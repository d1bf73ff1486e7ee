from __future__ import annotations

from pathlib import Path

import pytest

from smidgen.training.metrics import MetricsFile, drop_after, read_metrics


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
