"""Runs of the command on several ranks: the same as on one, resumed on another number, stopped and guarded together."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from smidgen.config import TokenizerConfig, load_config
from smidgen.data import prepare
from smidgen.folders.run import verify_checkpoint
from smidgen.training import pretrain
from smidgen.training.metrics import read_metrics

FIELDS = {
    "model.hidden_size": 32,
    "model.num_layers": 2,
    "model.max_seq_len": 32,
    "model.vocab_padding_multiple": 4,
    "model.attention.head_dim": 8,
    "model.feed_forward.intermediate_size": 64,
    "training.device": "cpu",
    "training.precision": "fp32",
    "training.dropout": 0.0,
    "training.batch_size": 4,
    "training.gradient_accumulation_steps": 2,
    "training.eval_every": 4,
    "training.checkpoint_every": 4,
    "training.log_every": 1,
    "training.schedule.kind": "constant",
    "training.schedule.warmup_steps": 2,
    "training.optimizer.eps": 1e-3,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose validation windows do not fill the last batch."""
    folder = tmp_path_factory.mktemp("data")
    text = "\n\n".join(f"{n} times {n % 7} is {n * (n % 7)}, and the cat sat on mat {n}." for n in range(300))
    (folder / "text.txt").write_text(text)
    tokenizer = TokenizerConfig(kind="byte_bpe", vocab_size=300)
    prepare([folder / "text.txt"], folder / "data", tokenizer, split_documents="blank")
    return folder / "data"


def flags(fields: dict[str, object]) -> list[str]:
    return [word for name, value in fields.items() for word in (f"--{name}", json.dumps(value).strip('"'))]


def pretrain_on_two(run_ranks: Callable[..., None], run: Path, data: Path, fields: dict[str, object]) -> None:
    command = ["-m", "smidgen", "pretrain", "elite-tiny", "--run", run]
    run_ranks(2, *command, *flags({**FIELDS, "data.path": str(data), **fields}))


def losses(run: Path) -> list[tuple[str, int, float]]:
    return [(r["kind"], r["step"], r["loss"]) for r in read_metrics(run / "metrics.jsonl") if "loss" in r]


def test_a_run_of_two_ranks_is_that_of_one_and_goes_on_with_any_number(
    tmp_path: Path, data: Path, run_ranks: Callable[..., None]
) -> None:
    """Shards on two ranks, then one rank alone, then divided tensors on two: each resumes what the last one saved."""

    def on_two(max_steps: int, **degrees: int) -> None:
        division = {f"training.parallel.{kind}": degree for kind, degree in degrees.items()}
        pretrain_on_two(run_ranks, tmp_path / "run", data, {**division, "training.max_steps": max_steps})

    def alone(max_steps: int, run: Path) -> None:
        fields = {**FIELDS, "data.path": str(data), "training.max_steps": max_steps}
        pretrain(load_config("elite-tiny", fields), run)

    alone(12, tmp_path / "alone")
    on_two(4, shard=2)
    alone(8, tmp_path / "run")
    on_two(12, tensor=2)
    ours, theirs = losses(tmp_path / "run"), losses(tmp_path / "alone")
    assert [line[:2] for line in ours] == [line[:2] for line in theirs]
    assert [line[2] for line in ours] == pytest.approx([line[2] for line in theirs], rel=1e-5)
    for file in ("model/model.safetensors", "state/optimizer.safetensors"):
        ended, expected = (load_file(tmp_path / run / "last" / file) for run in ("run", "alone"))
        assert ended.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (ended[name] - tensor).abs().max() < 1e-5, name


@pytest.mark.parametrize(
    ("shard", "tensor", "precision"), [(1, 1, "fp32"), (2, 1, "fp32"), (2, 1, "fp16"), (1, 2, "fp16")]
)
def test_what_befalls_one_rank_is_everyone_s(
    tmp_path: Path, run_ranks: Callable[..., None], shard: int, tensor: int, precision: str
) -> None:
    """A NaN on one rank skips the step on both, an overflow in its part of a gradient halves the scale of both; SIGTERM
    to one stops both after saving, at the same step."""
    run = tmp_path / "run"
    worker = Path(__file__).with_name("fault_worker.py")
    run_ranks(2, worker, run, tmp_path / "result", shard, tensor, precision, "once")
    answers = [json.loads((tmp_path / f"result-{rank}").read_text()) for rank in (0, 1)]
    # The first scale is 2^16 over the 64 labels of a pass.
    scale = 2.0**10 / 2 if precision == "fp16" else 1.0
    expected = {"steps": 6, "signal": signal.SIGTERM, "checkpoint": "step-00000006", "scale": scale}
    assert answers[0] == answers[1] == expected
    lines = list(read_metrics(run / "metrics.jsonl"))
    assert [line["step"] for line in lines if line["kind"] == "skip"] == [3]
    assert all(tensor.isfinite().all() for tensor in load_file(run / "last" / "model/model.safetensors").values())


@pytest.mark.parametrize(("shard", "tensor"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.torture)])
def test_ranks_that_may_take_no_step_stop_together_with_one_diagnosis(
    tmp_path: Path, run_ranks: Callable[..., None], shard: int, tensor: int
) -> None:
    worker = Path(__file__).with_name("fault_worker.py")
    run_ranks(2, worker, tmp_path / "run", tmp_path / "result", shard, tensor, "fp32", "always", timeout=120)
    one, other = ((tmp_path / f"result-{rank}").read_text() for rank in (0, 1))
    # The loss of ranks that share tensors is one: where it is spoilt on one of them, the other sees the gradient.
    assert one.split("; ")[1:] == other.split("; ")[1:]
    assert re.match("step 10: the (loss is|gradient's norm is) nan; stopped after too many refused steps", one)
    assert "the weights are sound" in one
    assert verify_checkpoint(tmp_path / "run" / "last").step == 10


@pytest.mark.torture
@pytest.mark.parametrize("division", [{}, {"training.parallel.shard": 2}, {"training.parallel.tensor": 2}])
def test_a_run_resumed_on_as_many_ranks_is_the_same_to_the_bit(
    tmp_path: Path, data: Path, run_ranks: Callable[..., None], division: dict[str, object]
) -> None:
    """With dropout, of which every rank draws its own, and a moving average of the weights."""
    fields = {"training.dropout": 0.1, "training.ema_decay": 0.9, **division}
    pretrain_on_two(run_ranks, tmp_path / "whole", data, {**fields, "training.max_steps": 8})
    pretrain_on_two(run_ranks, tmp_path / "resumed", data, {**fields, "training.max_steps": 4})
    pretrain_on_two(run_ranks, tmp_path / "resumed", data, {**fields, "training.max_steps": 8})
    files = ("model/model.safetensors", "state/optimizer.safetensors", "state/averaging.safetensors")
    for file in (*files, "state/random.safetensors"):
        resumed, expected = (load_file(tmp_path / run / "last" / file) for run in ("resumed", "whole"))
        assert resumed.keys() == expected.keys()
        assert all(resumed[name].equal(expected[name]) for name in expected), file
