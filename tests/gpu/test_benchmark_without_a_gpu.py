"""The benchmark of training steps on a GPU, on a CPU: its figures mean nothing there, but it runs to its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.torture
def test_train_step_gpu_runs_on_a_cpu(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    command = [sys.executable, str(repository / "benchmarks" / "train_step_gpu.py"), "--cases", "tiny"]
    command += ["--ways", "ours-bf16", "ours-fp8_block", "transformers", "--steps", "1", "--device", "cpu"]
    command += ["--json", str(tmp_path / "result.json")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "failed" not in finished.stdout
    results = json.loads((tmp_path / "result.json").read_text())["results"]
    steps = {result["case"]: result for result in results if result["metric"] == "train step"}
    assert set(steps) == {"tiny, bf16", "tiny, fp8_block"}
    assert all(result["ours"] > 0 and result["ratio"] > 0 for result in steps.values())
