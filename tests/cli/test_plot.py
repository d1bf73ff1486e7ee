"""`smidgen plot`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smidgen.cli.main import main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines = [
        {"kind": "train", "step": step, "loss": 9 / step, "bits_per_byte": 3 / step, "lr": 1e-3} for step in range(1, 9)
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "run"


def test_curves_lie_in_the_run_or_where_asked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(run)]) == 0
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", str(run), str(run), "--out", str(tmp_path / "both.svg")]) == 0
    assert "<svg" in (tmp_path / "both.svg").read_text()
    assert capsys.readouterr().out.split() == [str(run / "curves.png"), str(tmp_path / "both.svg")]


def test_a_folder_without_metrics_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err
        == f"smidgen: {tmp_path}: no metrics to draw; name a run folder whose training has begun\n"
    )
