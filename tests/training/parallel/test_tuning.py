"""Tuning on several ranks: the commands, from a base and files, end where one process ends."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.cli.main import main
from smidgen.config import Quantization
from smidgen.quantization import quantize
from smidgen.tokenization.byte_bpe import train_byte_bpe
from smidgen.training.metrics import read_metrics

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
REPLICAS, SHARDS, TENSORS = "data", "shard", "tensor"
LORA = {"tuning.lora.rank": 2}
Case = tuple[str, str, str, dict[str, Any]]
"""Command, base, what the two ranks divide, flags."""
CASES: list[Case] = [
    ("sft", "base", REPLICAS, LORA),
    ("sft", "int4", SHARDS, {**LORA, "training.ema_decay": 0.9}),
    ("dpo", "base", TENSORS, {}),
    ("distill", "base", SHARDS, {}),
    ("sft", "base", SHARDS, {}),
    ("sft", "base", TENSORS, {"training.activation_checkpointing": "full"}),
    ("sft", "base", SHARDS, LORA),
    ("dpo", "base", REPLICAS, {}),
    ("dpo", "base", SHARDS, LORA),
    ("distill", "base", REPLICAS, {}),
    ("distill", "base", SHARDS, LORA),
]


def name(case: Case) -> str:
    kind, base, division, fields = case
    return " ".join([kind, base, division, *fields])


def flags(fields: dict[str, Any]) -> list[str]:
    return [word for field, value in fields.items() for word in (f"--{field}", str(value))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, save_one_layer: Callable[..., Path]) -> Path:
    """Bases, and data for every command."""
    folder = tmp_path_factory.mktemp("tuning")
    tokenizer = train_byte_bpe(["what is one plus two? it is three."] * 9, 300)
    save_one_layer(folder / "base", tokenizer, {"model.vocab_padding_multiple": 4}, seed=1)
    smidgen.save(quantize(smidgen.load(folder / "base"), Quantization(scheme="int4")), folder / "int4", tokenizer)
    chats = [{"question": f"what is {n}?", "answer": f"it is {n}."} for n in range(40)]
    pairs = [{"prompt": f"what is {n}?", "chosen": f"it is {n}.", "rejected": "no."} for n in range(40)]
    for kind, records in (("sft", chats), ("dpo", pairs)):
        (folder / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, records)))
    (folder / "text.txt").write_text("\n".join(f"what is {n}? it is {n}." for n in range(200)))
    made = ["--out", str(folder / "distill"), "--tokenizer.path", str(folder / "base")]
    assert main(["prepare", str(folder / "text.txt"), *made]) == 0
    return folder


def command(folder: Path, case: Case) -> list[str]:
    kind, base, _, fields = case
    if kind == "distill":
        data = ["--teacher", str(folder / "base"), "--data.path", str(folder / kind)]
    else:
        data = ["--data", str(folder / f"{kind}.jsonl"), "--val-fraction", "0.2"]
    return [kind, str(folder / base), *data, *flags({**FLAGS, **fields})]


def train(folder: Path, run_ranks: Callable[..., None], cases: list[Case]) -> None:
    """Give every case a run of two ranks, under `two`, and one of this process alone, under `one`."""
    shared = [
        [*command(folder, case), f"--training.parallel.{case[2]}", "2", "--run", str(folder / "two" / name(case))]
        for case in cases
    ]
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in shared]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in probes]
    (folder / "commands.json").write_text(json.dumps(list(zip(ports, shared, strict=True))))
    run_ranks(2, Path(__file__).with_name("command_worker.py"), folder / "commands.json")
    for case in cases:
        assert main([*command(folder, case), "--run", str(folder / "one" / name(case))]) == 0


def check(folder: Path, case: Case) -> None:
    one, two = (smidgen.load(folder / count / name(case)).state_dict() for count in ("one", "two"))
    begun = smidgen.load(folder / case[1]).state_dict()
    assert one.keys() == two.keys()
    assert any(key not in begun or not torch.equal(weight, begun[key]) for key, weight in one.items())
    for key, weight in one.items():
        torch.testing.assert_close(two[key], weight, rtol=1e-4, atol=1e-5)
    ours, theirs = (list(read_metrics(folder / count / name(case) / "metrics.jsonl")) for count in ("one", "two"))
    assert len(ours) == len(theirs) > 3
    for line, other in zip(ours, theirs, strict=True):
        assert (line["kind"], line["step"]) == (other["kind"], other["step"])
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-5)
        # At first policy and reference are one model: the sign of a margin that is nothing but rounding means nothing.
        assert line["step"] == 1 or line.get("accuracy") == other.get("accuracy")


@pytest.fixture(scope="module")
def trained(folder: Path, run_ranks: Callable[..., None]) -> Path:
    """One launch serves all of CASES."""
    train(folder, run_ranks, CASES)
    return folder


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_objective_on_two_ranks_is_that_of_one(case: Case, trained: Path) -> None:
    """Replicas, shards and divided tensors, of all weights and of adapters beside a base, also a quantised one."""
    check(trained, case)
