"""Checkpoints written beside the training: what they hold, what stays, and what a failure does."""

from __future__ import annotations

import shutil
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smidgen.config import Config
from smidgen.folders.run import RunFolder, verify_checkpoint
from smidgen.runtime.errors import TrainingError
from smidgen.training.loop import train
from smidgen.training.metrics import read_metrics
from smidgen.training.observer import Observer, Snapshot
from smidgen.training.task import Task

MakeConfig = Callable[..., Config]
MakeTask = Callable[..., Task]
Usage = namedtuple("Usage", "total used free")


def steps(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def test_training_goes_on_while_a_checkpoint_is_written(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(max_steps=12, checkpoint_every=4, eval_every=100)
    release, stepped = threading.Event(), []
    write = RunFolder.publish_checkpoint

    def slow(self: RunFolder, *args: object) -> Path:
        assert release.wait(60)
        return write(self, *args)

    class Watching(Observer):
        def stepped(self, snapshot: Snapshot) -> None:
            stepped.append(snapshot.step)
            if snapshot.step == 7:
                assert steps(tmp_path / "run") == []
                release.set()

    monkeypatch.setattr(RunFolder, "publish_checkpoint", slow)
    train(config, make_task(config), tmp_path / "run", Watching())
    assert stepped[-1] == 12
    assert steps(tmp_path / "run") == [8, 12]
    # The copy was that of step 4, not of the steps taken while it was written: step 8's differs from a run of 8 alone.
    alone = make_config(max_steps=12, checkpoint_every=8, eval_every=100, keep_last=9)
    train(alone, make_task(alone), tmp_path / "alone")
    for part in ("model/model.safetensors", "state/optimizer.safetensors"):
        one, other = (load_file(tmp_path / run / "checkpoints/step-00000008" / part) for run in ("run", "alone"))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_best_numbered_and_newest_checkpoints_stay(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    config = make_config(max_steps=24, checkpoint_every=2, eval_every=2, keep_last=1, keep_best=2, keep_every=6)
    train(config, make_task(config), tmp_path / "run")
    losses = {}
    for line in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        if line["kind"] == "validation":
            losses[line["step"]] = line["loss"]
    best = sorted(losses, key=losses.__getitem__)[:2]
    assert set(steps(tmp_path / "run")) == {6, 12, 18, 24, *best}


def test_a_full_disk_keeps_the_last_good_checkpoint_and_training_goes_on(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    class Filling(Observer):
        def saved(self, step: int, checkpoint: Path) -> None:
            free = 0 if step == 4 else 1 << 40
            monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, free))

        def noted(self, step: int, kind: str, message: str) -> None:
            heard.append((step, kind, message))
            monkeypatch.undo()

    config = make_config(max_steps=16, checkpoint_every=4, eval_every=100, keep_last=9)
    train(config, make_task(config), tmp_path / "run", Filling())
    ((step, kind, message),) = heard
    assert kind == "save_failed"
    assert "step 8 could not be written" in message
    assert "0.0 MB are free" in message
    assert steps(tmp_path / "run") == [4, 12, 16]
    assert step >= 8


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_a_write_that_fails_at_the_end_is_an_error_that_says_where_the_run_stands(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    config = make_config(max_steps=8, checkpoint_every=4, eval_every=100)
    write = RunFolder.publish_checkpoint

    def failing(self: RunFolder, step: int, *args: object) -> Path:
        if step == 8:
            raise error
        return write(self, step, *args)

    monkeypatch.setattr(RunFolder, "publish_checkpoint", failing)
    with pytest.raises(TrainingError, match=rf"step 8 could not be written.*{error.strerror}.*from step 4"):
        train(config, make_task(config), tmp_path / "run")
    assert verify_checkpoint(tmp_path / "run" / "last").step == 4
    monkeypatch.undo()
    assert train(config, make_task(config), tmp_path / "run").steps == 8


def test_a_time_limit_saves_and_stops_and_the_same_command_goes_on(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    short = make_config(max_steps=100_000, max_time=1 / 3600, checkpoint_every=100_000, eval_every=100_000)
    summary = train(short, make_task(short), tmp_path / "run")
    assert summary.out_of_time
    assert summary.stopped_by is None
    assert 0 < summary.steps < 100_000
    assert verify_checkpoint(tmp_path / "run" / "last").step == summary.steps
    again = train(short, make_task(short), tmp_path / "run")
    assert again.steps > summary.steps
