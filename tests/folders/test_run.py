from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smidgen.folders.run import (
    Retention,
    RunFolder,
    best_checkpoint,
    is_run_folder,
    latest_checkpoint,
    verify_checkpoint,
)
from smidgen.runtime.errors import ModelFolderError, TrainingError


def fill(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "state").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    (folder / "state" / "trainer.json").write_text('{"step": 1}')


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.config_path.write_text("model: {}\n")
        yield folder


def save(run: RunFolder, step: int, loss: float | None = None, keep_last: int = 2) -> Path:
    return run.write_checkpoint(step, fill, loss, Retention(keep_last))


def steps(run: RunFolder) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in run.checkpoints_path.glob("step-*"))


def target(run: RunFolder, link: str) -> str:
    return os.readlink(run.path / link)


def test_a_checkpoint_has_its_layout_and_verifies(run: RunFolder) -> None:
    path = save(run, 500, 1.5)
    assert path == run.path / "checkpoints" / "step-00000500"
    manifest = verify_checkpoint(path)
    assert (manifest.step, manifest.validation_loss) == (500, 1.5)
    assert set(manifest.files) == {"model/model.safetensors", "state/trainer.json"}
    assert manifest.files["model/model.safetensors"]["size"] == 2048
    assert {entry.name for entry in path.iterdir()} == {"model", "state", "manifest.json"}
    assert is_run_folder(run.path)


def test_links_are_relative_and_follow_loss_and_time(run: RunFolder) -> None:
    for step, loss in [(100, 3.0), (200, 2.0), (300, 2.5)]:
        save(run, step, loss)
    assert target(run, "best") == "checkpoints/step-00000200"
    assert target(run, "last") == "checkpoints/step-00000300"
    assert best_checkpoint(run.path).name == "step-00000200"
    assert latest_checkpoint(run.path).name == "step-00000300"
    assert run.best_validation_loss() == 2.0


def test_pruning_keeps_the_newest_and_the_best(run: RunFolder) -> None:
    for step, loss in [(1, 5.0), (2, 1.0), (3, 4.0), (4, None), (5, 3.0), (6, 2.0)]:
        save(run, step, loss, keep_last=2)
    assert steps(run) == [2, 5, 6]


def test_without_evaluation_the_best_is_the_last(run: RunFolder) -> None:
    save(run, 1)
    save(run, 2)
    assert not (run.path / "best").is_symlink()
    assert best_checkpoint(run.path).name == "step-00000002"


def test_a_failing_write_leaves_the_earlier_checkpoints_and_no_trace(run: RunFolder) -> None:
    save(run, 1, 1.0)

    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run.write_checkpoint(2, fail, 0.5, Retention(1))
    assert [entry.name for entry in run.checkpoints_path.iterdir()] == ["step-00000001"]
    assert run.resume_point().name == "step-00000001"


def test_a_checkpoint_of_the_same_step_replaces_the_old(run: RunFolder) -> None:
    save(run, 1, 3.0)
    save(run, 1, 2.0)
    assert verify_checkpoint(run.checkpoints_path / "step-00000001").validation_loss == 2.0


def test_every_changed_byte_and_truncation_is_detected(run: RunFolder) -> None:
    path = save(run, 7, 1.25)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    generator = random.Random(0)
    for _ in range(200):
        file = generator.choice(files)
        intact = file.read_bytes()
        damaged = bytearray(intact)
        position = generator.randrange(len(damaged))
        if generator.random() < 0.3:
            del damaged[position:]
        else:
            damaged[position] ^= 1 << generator.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(ModelFolderError, match=r"damaged|missing|cannot be read"):
            verify_checkpoint(path)
        file.write_bytes(intact)
    verify_checkpoint(path)


def test_resume_falls_back_to_the_newest_intact_checkpoint(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2, 3):
        save(run, step, 4.0 - step, keep_last=3)
    model = run.checkpoints_path / "step-00000003" / "model" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    (run.checkpoints_path / "step-00000002" / "state" / "trainer.json").unlink()
    assert run.resume_point().name == "step-00000001"
    assert steps(run) == [1]
    assert "step-00000003" in caplog.text
    assert (run.checkpoints_path / "damaged-step-00000003").is_dir()
    run.refresh(Retention(2))
    assert target(run, "best") == target(run, "last") == "checkpoints/step-00000001"


def test_models_are_read_from_intact_checkpoints_only(run: RunFolder) -> None:
    save(run, 1, 1.0)
    save(run, 2, 2.0)
    model = run.checkpoints_path / "step-00000001" / "model" / "model.safetensors"
    model.write_bytes(b"?" + model.read_bytes()[1:])
    assert best_checkpoint(run.path).name == "step-00000002"
    assert latest_checkpoint(run.path).name == "step-00000002"


def test_a_folder_without_manifest_does_not_exist(run: RunFolder) -> None:
    save(run, 1, 1.0)
    fill_only = run.checkpoints_path / "step-00000002"
    fill_only.mkdir()
    fill(fill_only)
    assert latest_checkpoint(run.path).name == "step-00000001"
    assert run.resume_point().name == "step-00000001"


def test_leftovers_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for name in (".writing-step-00000001", ".removed-step-00000002"):
        (run.checkpoints_path / name / "model").mkdir(parents=True)
    (run.checkpoints_path / ".DS_Store").touch()  # what a file manager leaves is not ours
    with run.locked():
        assert [path.name for path in run.checkpoints_path.iterdir()] == [".DS_Store"]


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert best_checkpoint(tmp_path) is None
    assert not is_run_folder(tmp_path)


def test_a_second_process_is_refused_by_name_of_the_first(run: RunFolder) -> None:
    lock = "import sys; from smidgen.folders.run import RunFolder; RunFolder(sys.argv[1]).locked().__enter__()"
    other = subprocess.run([sys.executable, "-c", lock, str(run.path)], capture_output=True, text=True, check=False)
    message = other.stderr.splitlines()[-1]
    assert "TrainingError" in message
    assert f"process {os.getpid()}" in message


def test_the_lock_is_free_after_use(run: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "other")
    with other.locked():
        pass
    with other.locked():
        assert "process" in (other.path / "lock").read_text()


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(TrainingError, match=r"thesis\.txt"), RunFolder(tmp_path).locked():
        pass
    with pytest.raises(TrainingError, match="is a file"), RunFolder(tmp_path / "thesis.txt").locked():
        pass
    assert {entry.name for entry in tmp_path.iterdir()} == {"thesis.txt"}


def test_the_manifest_is_plain_json(run: RunFolder) -> None:
    tree = json.loads((save(run, 3, 0.5) / "manifest.json").read_text())
    assert tree["step"] == 3
    assert len(tree["files"]["state/trainer.json"]["sha256"]) == 64
