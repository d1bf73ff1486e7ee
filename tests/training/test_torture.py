"""Faults injected into real runs: kills, damaged checkpoints, a full disk, a read-only folder."""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from smidgen.config import Config
from smidgen.folders.run import RunFolder
from smidgen.runtime.errors import SmidgenError
from smidgen.training.loop import train
from smidgen.training.task import Task

MakeConfig = Callable[..., Config]
MakeTask = Callable[..., Task]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from smidgen.config import TokenizerConfig
    from smidgen.data import prepare

    folder = tmp_path_factory.mktemp("torture")
    (folder / "text.txt").write_text("".join(f"{i} bottles of water on the wall\n" for i in range(2000)))
    prepare([folder / "text.txt"], folder / "data", TokenizerConfig(kind="characters"))
    return folder / "data"


@pytest.mark.parametrize(
    ("objective", "kills", "inside_saves"),
    [
        pytest.param("pretraining", 8, 3, id="few"),
        pytest.param("pretraining", 200, 60, id="many", marks=pytest.mark.torture),
        pytest.param("dpo", 60, 20, id="preferences", marks=pytest.mark.torture),
    ],
)
def test_kills_at_random_instants_lose_at_most_an_interval_and_change_no_weight(
    dataset: Path, tmp_path: Path, objective: str, kills: int, inside_saves: int
) -> None:
    command = [sys.executable, str(HERE / "killing.py"), str(tmp_path), str(dataset)]
    command += ["--kills", str(kills), "--inside-saves", str(inside_saves), "--objective", objective]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    outcome: dict[str, Any] = json.loads(finished.stdout)
    phases = collections.Counter(kill["phase"] for kill in outcome["kills"])
    lost = [kill["step"] - kill["resumes"] for kill in outcome["kills"] if kill["step"]]
    print(f"kills by phase: {dict(phases)}; steps lost: {max(lost)} at most; runs finished: {outcome['runs']}")
    assert len(outcome["kills"]) == kills
    assert phases["save"] >= inside_saves * 2 // 3
    assert outcome["unloadable"] == outcome["different"] == 0
    assert outcome["runs"] > 0
    # An interval, and the steps taken while the checkpoint at its end was being written: at most another one.
    assert max(lost) <= 2 * outcome["interval"]


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.torture)])
def test_flipped_and_cut_bytes_are_detected_and_the_newest_good_checkpoint_is_used(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path, count: int
) -> None:
    config = make_config(max_steps=8, keep_last=2)
    train(config, make_task(config), tmp_path / "run")
    files = sorted(p for p in (tmp_path / "run/checkpoints/step-00000008").rglob("*") if p.is_file())
    chance = random.Random(0)
    for number in range(count):
        shutil.copytree(tmp_path / "run", tmp_path / "damaged", symlinks=True)
        victim = tmp_path / "damaged" / chance.choice(files).relative_to(tmp_path / "run")
        content = bytearray(victim.read_bytes())
        if number % 4 == 0:
            del content[chance.randrange(len(content)) :]
        else:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        victim.write_bytes(content)
        run = RunFolder(tmp_path / "damaged")
        newest = run.resume_point()
        assert newest is not None
        assert newest.name == "step-00000004", victim
        shutil.rmtree(tmp_path / "damaged")


@pytest.fixture
def file_system(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 24 MB."""
    if os.geteuid():
        pytest.skip("a file system of its own needs root")
    folder = tmp_path / "folder"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.torture
def test_a_full_file_system_keeps_the_last_good_checkpoint(
    make_config: MakeConfig, make_task: MakeTask, file_system: Path
) -> None:
    config, longer = make_config(max_steps=8, keep_last=9), make_config(max_steps=16, keep_last=9)
    run = file_system / "run"
    train(config, make_task(config), run)
    # The loop's own check leaves 16 MB of slack: the file fills the rest, and beyond.
    (file_system / "filler").write_bytes(bytes(shutil.disk_usage(file_system).free - 4096))
    with pytest.raises((SmidgenError, OSError)) as failure:
        train(longer, make_task(longer), run)
    assert "space" in str(failure.value) or "free" in str(failure.value)
    assert RunFolder(run).resume_point() == run / "checkpoints/step-00000008"
    (file_system / "filler").unlink()
    assert train(longer, make_task(longer), run).steps == 16


@pytest.mark.torture
def test_a_read_only_run_folder_is_told_of_and_the_run_goes_on_when_it_is_writable_again(
    make_config: MakeConfig, make_task: MakeTask, file_system: Path
) -> None:
    def remount(mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(file_system)], check=True)

    config, longer = make_config(max_steps=8), make_config(max_steps=16)
    train(config, make_task(config), file_system / "run")
    remount("ro")
    with pytest.raises((SmidgenError, OSError), match="Read-only file system"):
        train(longer, make_task(longer), file_system / "run")
    remount("rw")
    assert train(longer, make_task(longer), file_system / "run").steps == 16


def test_a_clock_that_runs_backwards_changes_nothing(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    ticks = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    config = make_config()
    train(config, make_task(config), tmp_path / "backwards")
    monkeypatch.undo()
    train(config, make_task(config), tmp_path / "forwards")
    from safetensors.torch import load_file

    one, other = (load_file(tmp_path / name / "last/model/model.safetensors") for name in ("backwards", "forwards"))
    assert all(torch.equal(one[name], other[name]) for name in one)
