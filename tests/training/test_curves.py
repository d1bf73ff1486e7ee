from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.runtime.errors import TrainingError
from smidgen.training.curves import draw_curves, smooth

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(name: str, steps: int, with_bytes: bool = True, with_validation: bool = True) -> Path:
        run = tmp_path / name
        run.mkdir()
        lines = []
        for step in range(1, steps + 1):
            loss = 2 + 5 / step
            bits = loss / 3 if with_bytes else None
            lines.append({"kind": "train", "step": step, "loss": loss, "bits_per_byte": bits, "lr": 1e-3 / step})
            if with_validation and step % 5 == 0:
                lines.append({"kind": "validation", "step": step, "loss": loss + 0.1, "bits_per_byte": bits})
        lines.append({"kind": "resume", "step": steps, "changes": {}})
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "tra')
        return run

    return make


def pixels(path: Path) -> np.ndarray:
    image = pytest.importorskip("matplotlib.image")
    return image.imread(path)


@pytest.mark.parametrize(
    "fields", [{}, {"with_bytes": False}, {"with_validation": False}, {"steps": 200}, {"steps": 1}]
)
def test_a_run_becomes_a_picture(make_run: MakeRun, tmp_path: Path, fields: dict[str, Any]) -> None:
    draw_curves([make_run("run", **{"steps": 20, **fields})], tmp_path / "curves.png")
    picture = pixels(tmp_path / "curves.png")
    assert picture.shape[0] > 600
    assert picture.shape[1] > 900
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 10


def test_several_runs_are_laid_over_each_other(make_run: MakeRun, tmp_path: Path) -> None:
    one, two = make_run("one", 20), make_run("two", 100)
    draw_curves([one], tmp_path / "one.png")
    draw_curves([one, two], tmp_path / "both.png")
    assert not np.array_equal(pixels(tmp_path / "one.png"), pixels(tmp_path / "both.png"))


def test_a_run_without_metrics_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no metrics to draw"):
        draw_curves([tmp_path], tmp_path / "curves.png")


def test_the_running_mean_follows_a_steep_start_and_ends_in_a_mean() -> None:
    line = np.arange(50.0)
    means = smooth(line, 5)
    assert np.allclose(means[:45], line[:45])
    assert means[0] == 0
    flat = np.ones(50)
    flat[-1] = 7
    assert smooth(flat, 5)[-1] == 2
    assert np.array_equal(smooth(line, 0), line)
