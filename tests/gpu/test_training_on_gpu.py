"""Training runs on a GPU: resumed to the bit, compiled and not, in every precision."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from smidgen.config import load_config
from smidgen.data.storyworld import generate
from smidgen.folders import load
from smidgen.training.pretraining import pretrain


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from smidgen.cli.main import main

    folder = tmp_path_factory.mktemp("data")
    corpus = folder / "stories.jsonl"
    stories = islice(generate(0, kinds=["stories"]), 300)
    corpus.write_text("".join(json.dumps({"text": story.text}) + "\n" for story in stories), encoding="utf-8")
    out = str(folder / "tokens")
    flags = ["--tokenizer.kind", "byte_bpe", "--tokenizer.vocab_size", "512"]
    assert main(["prepare", str(corpus), "--out", out, *flags]) == 0
    return Path(out)


@pytest.mark.parametrize(
    ("family", "precision", "compiled", "dropout"),
    [
        ("elite-tiny", "bf16", False, 0.0),
        ("elite-tiny", "bf16", True, 0.1),
        ("elite-tiny", "fp16", False, 0.0),
        ("gemma3-tiny", "bf16", True, 0.0),
        ("gemma3-tiny", "bf16", False, 0.0),
        ("tilda-tiny", "fp8_block", True, 0.0),
        ("elite-tiny", "fp8_delayed", True, 0.0),
        ("elite-tiny", "fp8_tensorwise", False, 0.0),
        ("tinylm-tiny", "bf16", True, 0.1),
    ],
)
def test_a_resumed_run_ends_with_the_same_weights(
    family: str, precision: str, compiled: bool, dropout: float, dataset: Path, tmp_path: Path, cuda: torch.device
) -> None:
    fields = {
        "data.path": str(dataset),
        "training.device": "cuda",
        "training.deterministic": True,
        "training.precision": precision,
        "training.compile": compiled,
        "training.dropout": dropout,
        "training.batch_size": 4,
        "training.seq_len": 128,
        "training.eval_tokens": 512,
        "training.max_steps": 12,
        "training.schedule": {"kind": "constant", "warmup_steps": 2},
        "training.checkpoint_every": 6,
    }
    if precision.startswith("fp8"):
        fields |= {"model.hidden_size": 128}
    config = load_config(family, fields)
    half = config.model_copy(update={"training": config.training.model_copy(update={"max_steps": 6})})
    pretrain(config, tmp_path / "whole")
    pretrain(half, tmp_path / "parts")
    pretrain(config, tmp_path / "parts")
    whole, parts = (load(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert all(value.isfinite().all() for value in whole.values())
