"""The same bytes when datatrove runs the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smidgen.config import TokenizerConfig
from smidgen.data import prepare
from smidgen.data.distributed import PartStep
from smidgen.tokenization import train_tokenizer

SCRIPT = """
import sys
from pathlib import Path
from smidgen.config import TokenizerConfig
from smidgen.data.distributed import PartStep, prepare_with_datatrove

if __name__ == "__main__":
    step = PartStep(["corpus.jsonl"], Path("parts"), TokenizerConfig(path="tokenizer"), {"seed": 3})
    prepare_with_datatrove(step, sys.argv[1], tasks=3, workers=2)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    line = "word " * 3_000
    with Path("corpus.jsonl").open("w") as file:
        for number in range(500):
            file.write(json.dumps({"text": f"{number} {line[: 5 * (number * 37 % 3_000)]}"}) + "\n")
    train_tokenizer("byte_bpe", ["word words 1234567890"], 280).save("tokenizer")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_datatrove_gives_the_bytes_of_an_undivided_run(folder: Path) -> None:
    pytest.importorskip("datatrove")
    whole = prepare(["corpus.jsonl"], "whole", TokenizerConfig(path="tokenizer"), seed=3, workers=1)
    Path("script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "script.py", "made"], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert contents(Path("made")) == contents(Path("whole"))
    assert whole.dataset.train.num_tokens > 0
    assert sorted(path.name for path in Path("parts").iterdir()) == ["logs", "part-00000", "part-00001", "part-00002"]


def test_a_step_is_a_function_that_any_engine_can_call(folder: Path) -> None:
    whole = prepare(["corpus.jsonl"], "whole", TokenizerConfig(path="tokenizer"), seed=3, workers=1)
    step = PartStep(["corpus.jsonl"], Path("parts"), TokenizerConfig(path="tokenizer"), {"seed": 3})
    for rank in (1, 0, 1):
        step(rank=rank, world_size=2)
    assert step.merge("made", 2) == whole.manifest
