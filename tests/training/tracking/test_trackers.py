"""The real libraries, offline. Each test skips without its library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import load_config
from smidgen.runtime.errors import ConfigError, MissingDependencyError
from smidgen.training.tracking import Forwarder, make_trackers
from smidgen.training.tracking.tensorboard import TensorBoard
from smidgen.training.tracking.trackio import Trackio
from smidgen.training.tracking.wandb import WeightsAndBiases


def test_tensorboard_holds_every_step_once_after_a_resume(run: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.train(1, 2)
    run.validate(2)
    run.sample(2, Once=" upon\na time")
    assert run.forwarder(TensorBoard()).send_all(run.config) == 4
    run.train(3, 4)
    assert run.forwarder(TensorBoard()).send_all(run.config) == 2

    events = EventAccumulator(str(run.path / "tracking" / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "validation/loss"} <= set(events.Tags()["scalars"])
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (step, pytest.approx(10 / step)) for step in (1, 2, 3, 4)
    ]
    (text,) = events.Tensors("sample/0/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "    Once upon\n    a time\n"


def test_wandb_offline_goes_on_with_the_same_run(
    run: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    run.train(1, 2)
    with run.forwarder(WeightsAndBiases(), at_the_end=60) as first:
        first.started(run.plan())
    run.train(3)
    run.sample(3, Once=" upon")
    second = run.forwarder(WeightsAndBiases())
    assert second.state() == first.state()
    assert second.send_all(run.config) == 2
    folders = sorted((run.path / "tracking" / "wandb" / "wandb").glob("offline-run-*"))
    assert 1 <= len(folders) <= 2  # named by the second they were made in, and the id
    assert all(folder.name.endswith(first.state()["tracker.wandb"]) for folder in folders)
    assert b"train/loss" in b"".join(p.read_bytes() for folder in folders for p in folder.glob("*.wandb"))
    assert capfd.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("patience", [3.0, pytest.param(15.0, marks=pytest.mark.torture)])
def test_wandb_that_cannot_be_reached_does_not_keep_the_process(tmp_path: Path, patience: float) -> None:
    """wandb's own process goes on trying for long; nothing listens on port 9. After a while its threads know of it."""
    pytest.importorskip("wandb")
    code = """
import sys, time
from pathlib import Path
from smidgen.config import load_config
from smidgen.training.observer import Plan
from smidgen.training.tracking import Forwarder, Pace
from smidgen.training.tracking.wandb import WeightsAndBiases

run = Path(sys.argv[1])
(run / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 2.0}\\n')
with Forwarder(WeightsAndBiases(), run, Pace(at_the_end=float(sys.argv[2]))) as forwarder:
    forwarder.started(Plan(load_config("elite-tiny"), run, 1, "cpu", None, 1, 1, 1, None, 0, {}))
print(time.time(), flush=True)
"""
    environment = {
        **os.environ,
        "WANDB_MODE": "online",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-c", code, str(tmp_path), str(patience)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert time.time() - float(result.stdout) < 20
    assert f"'smidgen track {tmp_path}' sends the rest" in result.stderr
    assert "Traceback" not in result.stderr


def test_trackio_goes_on_with_the_same_run(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trackio")
    import sqlite3

    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio")
    run.train(1, 2)
    first = run.forwarder(Trackio())
    first.send_all(run.config)
    run.train(3)
    run.sample(3, Once=" upon")
    second = run.forwarder(Trackio())
    second.send_all(run.config)
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics order by step, id").fetchall()
    assert {name for name, _, _ in rows} == {f"demo-{first.state()['tracker.trackio']}"}
    figures = [(step, json.loads(metrics)) for _, step, metrics in rows]
    losses = [(step, values["train/loss"]) for step, values in figures if "train/loss" in values]
    assert losses == [(step, 10 / step) for step in (1, 2, 3)]
    assert capfd.readouterr().out == ""


def test_a_configuration_names_its_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trackers(**fields: Any) -> list[str]:
        config = load_config("elite-tiny", {f"tracking.{name}": value for name, value in fields.items()})
        return [o.tracker.name for o in make_trackers(config, tmp_path / "run") if isinstance(o, Forwarder)]

    assert trackers() == []
    pytest.importorskip("tensorboard")
    assert trackers(trackers=["tensorboard"]) == ["tensorboard"]
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="one stands twice"):
        trackers(trackers=["tensorboard", "tensorboard"])
    with pytest.raises(ConfigError, match=r"tracking\.trackers"):
        trackers(trackers=["mlflow"])
    with pytest.raises(ConfigError, match="give a prompt"):
        trackers(sample_every=5, sample_prompts=[])
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("smidgen.training.tracking.factory.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"tracking\.trackers = wandb needs .* 'smidgen\[track\]'"):
        trackers(trackers=["wandb"])
