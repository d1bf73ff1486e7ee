"""A trained-looking base with its tokenizer, and a dataset of the same tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smidgen
from smidgen.config import TokenizerConfig
from smidgen.data import Dataset, prepare

TRAINING = {
    "training.device": "cpu",
    "training.precision": "fp32",
    "training.seq_len": 24,
    "training.batch_size": 2,
    "training.max_steps": 4,
    "training.log_every": 1,
    "training.eval_every": 2,
    "training.checkpoint_every": 2,
    "training.eval_tokens": 96,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "cats.txt").write_text("\n".join(f"Tom has {n} red cats and {n + 1} blue ones." for n in range(60)))
    prepare([tmp_path / "cats.txt"], tmp_path / "cats", TokenizerConfig(vocab_size=300), split_documents="line")
    return tmp_path / "cats"


@pytest.fixture
def base(randomized_decoder: Callable[..., Any], data: Path, tmp_path: Path) -> Path:
    tokenizer = Dataset.open(data).tokenizer()
    assert tokenizer is not None
    fields = {"model.vocab_size": tokenizer.vocab_size, "model.num_layers": 2, "model.hidden_size": 64}
    fields |= {"model.attention.head_dim": 16, "model.feed_forward.intermediate_size": 64}
    return smidgen.save(randomized_decoder("elite-tiny", fields), tmp_path / "base", tokenizer)


@pytest.fixture
def fields(data: Path) -> dict[str, Any]:
    return {**TRAINING, "data.path": str(data)}
