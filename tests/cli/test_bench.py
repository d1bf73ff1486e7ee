"""`smidgen bench`: figures of a small model as JSON and as a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smidgen
from smidgen.cli.main import main
from smidgen.edge.library import library_path


@pytest.mark.skipif(not library_path().is_file(), reason="the native library was not built: no compiler")
def test_bench(randomized_decoder: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    smidgen.save(randomized_decoder("elite-tiny", {"model.vocab_size": 300, "model.num_layers": 1}), folder)
    common = ["bench", str(folder), "--threads", "1,2", "--prompt-tokens", "20", "--tokens", "5", "--rounds", "1"]
    assert main([*common, "--weights", "int4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["threads"] for row in report["results"]] == [1, 2]
    assert all(row["decode"] > 0 and row["prompt_20"] > 0 for row in report["results"])
    assert main(common) == 0
    assert "decode" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["bench", str(folder), "--threads", "0"])
