"""Tuning on several ranks: the commands, from a base and files, end where one process ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

import smidgen
from smidgen.cli.main import main
from smidgen.tokenization.byte_bpe import train_byte_bpe

FLAGS = {
    "training.device": "cpu",
    "training.precision": "fp32",
    "training.batch_size": 4,
    "training.max_steps": 3,
    "training.eval_every": 3,
    "training.lr": 1e-3,
    "training.seq_len": 40,
    "training.log_every": 1,
    "training.optimizer.eps": 1e-3,
}


def test_dpo_on_divided_tensors_is_dpo_on_one_rank(
    tmp_path: Path, run_ranks: Callable[..., None], save_one_layer: Callable[..., Path]
) -> None:
    tokenizer = train_byte_bpe(["what is one plus two? it is three."] * 9, 300)
    save_one_layer(tmp_path / "base", tokenizer, {"model.vocab_padding_multiple": 4}, seed=1)
    records = [{"prompt": f"what is {n}?", "chosen": f"it is {n}.", "rejected": "no."} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)))
    flags = [word for name, value in FLAGS.items() for word in (f"--{name}", str(value))]
    command = ["dpo", str(tmp_path / "base"), "--data", str(tmp_path / "pairs.jsonl"), "--val-fraction", "0.2", *flags]
    assert main([*command, "--run", str(tmp_path / "one")]) == 0
    run_ranks(2, "-m", "smidgen", *command, "--run", tmp_path / "two", "--training.parallel.tensor", "2")
    one, two = (smidgen.load(tmp_path / name).state_dict() for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    accuracies = [[line["accuracy"] for line in run if "accuracy" in line] for run in lines]
    # At first policy and reference are one model: the sign of a margin that is nothing but rounding means nothing.
    assert accuracies[0][1:] == accuracies[1][1:]
    assert len(accuracies[0]) == len(accuracies[1]) > 1
