"""Sequence-level distillation: what a teacher of any tokenizer writes, and a student that learns it, by one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import smidgen
from smidgen.cli.main import main
from smidgen.runtime.sampling import SamplingParams
from smidgen.tokenization import train_tokenizer
from smidgen.tuning.sequences import write_texts


def test_texts_of_a_teacher(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Tom has\n3 red\ncats\n")
    out = tmp_path / "texts.jsonl"
    flags = ["distill", "--write", str(out), "--teacher", str(base), "--prompts", str(prompts), "--temperature", "0"]
    assert main([*flags, "--max-new-tokens", "5"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["Tom has", "3 red", "cats"]
    tokenizer = smidgen.load_tokenizer(base)
    expected = smidgen.generate(smidgen.load(base), tokenizer, "3 red", max_new_tokens=5, temperature=0)
    assert lines[1]["completion"] == expected
    whole = out.read_bytes()
    # A command that was killed in the middle of a line goes on, and ends with the same file.
    out.write_bytes(whole[: len(whole.split(b"\n")[0]) + 9])
    assert main([*flags, "--max-new-tokens", "5"]) == 0
    assert out.read_bytes() == whole
    prompts.write_text("Another\n")
    assert main(flags) == 1
    assert "holds answers to other prompts" in capsys.readouterr().err


def test_write_texts_counts_what_is_new(base: Path, tmp_path: Path) -> None:
    from smidgen.inference import TorchEngine

    model, tokenizer = smidgen.load(base), smidgen.load_tokenizer(base)
    params = SamplingParams(max_new_tokens=3, seed=1)
    written = [
        write_texts(TorchEngine(model, max_batch_size=2), tokenizer, ["a", "b", "c"], tmp_path / "out.jsonl", params)
        for _ in range(2)
    ]
    assert written == [3, 0]
    # Equal prompts get answers of their own.
    write_texts(TorchEngine(model, max_batch_size=2), tokenizer, ["a"] * 4, tmp_path / "same.jsonl", params)
    answers = [json.loads(line)["completion"] for line in (tmp_path / "same.jsonl").read_text().splitlines()]
    assert len(set(answers)) > 1


FLAGS = [
    *("--training.device=cpu", "--training.precision=fp32", "--training.batch_size=2", "--training.seq_len=24"),
    *("--training.max_steps=3", "--training.log_every=1", "--max-new-tokens", "12"),
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("".join(f"Tom has {n}\n" for n in range(24)))
    return tmp_path / "prompts.txt"


@pytest.fixture
def student(base: Path, tmp_path: Path) -> Path:
    """A model of another tokenizer and size than the teacher's."""
    tokenizer = train_tokenizer("byte_bpe", ["quite another text"] * 9, 270)
    fields = {"model.vocab_size": tokenizer.vocab_size, "model.hidden_size": 32, "model.num_layers": 1}
    fields |= {"model.attention.head_dim": 8, "model.feed_forward.intermediate_size": 32, "model.max_seq_len": 64}
    return smidgen.save(smidgen.build("elite-tiny", fields, seed=2), tmp_path / "student", tokenizer)


def test_a_student_of_another_tokenizer_by_one_command(
    base: Path, student: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", str(student), "--teacher", str(base), "--prompts", str(prompts), *FLAGS]
    assert main([*command, "--run", str(tmp_path / "whole")]) == 0
    assert "of 24 texts end at --max-new-tokens" in capsys.readouterr().out
    # Killed while the teacher wrote: the same command goes on, and ends with the same student.
    (tmp_path / "parts" / "teacher").mkdir(parents=True)
    lines = (tmp_path / "whole" / "teacher" / "texts.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "parts" / "teacher" / "texts.jsonl").write_bytes(b"".join(lines[:8]) + lines[8][:7])
    assert main([*command, "--run", str(tmp_path / "parts"), "--training.max_steps=2"]) == 0
    assert (tmp_path / "parts" / "teacher" / "texts.jsonl").read_bytes() == b"".join(lines)
    # Killed while the student learned, or simply more steps: the run alone says all.
    assert main(["distill", str(tmp_path / "parts"), "--training.max_steps=3"]) == 0
    whole, parts = (smidgen.load(tmp_path / name / "last") for name in ("whole", "parts"))
    assert whole.config == parts.config == smidgen.load(student).config
    assert smidgen.load_tokenizer(tmp_path / "whole").fingerprint == smidgen.load_tokenizer(student).fingerprint
    assert any(
        not torch.equal(a, b) for a, b in zip(whole.parameters(), smidgen.load(student).parameters(), strict=True)
    )
    capsys.readouterr()
    assert main([*command, "--run", str(tmp_path / "whole")]) == 0
    assert "is finished: 3 steps" in capsys.readouterr().out
    assert main([*command, "--run", str(tmp_path / "whole"), "--temperature", "0.5"]) == 1
    assert "holds texts that were written with another; name another --run" in capsys.readouterr().err


def test_a_student_from_random_weights_gets_a_tokenizer(base: Path, prompts: Path, tmp_path: Path) -> None:
    sizes = ["--model.hidden_size=32", "--model.num_layers=1", "--model.attention.head_dim=8"]
    sizes += ["--model.feed_forward.intermediate_size=32", "--tokenizer.vocab_size=280"]
    command = ["distill", "elite-tiny", "--teacher", str(base), "--prompts", str(prompts), *FLAGS, *sizes]
    assert main([*command, "--run", str(tmp_path / "run")]) == 0
    assert smidgen.load(tmp_path / "run").config.vocab_size == 280


def test_wrong_uses_are_told_in_a_line(
    base: Path, student: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run", str(tmp_path / "run")]
    teaching = ["distill", str(student), "--prompts", str(prompts), *run]
    assert main(teaching) == 1
    assert "--teacher: name the model that the student learns from" in capsys.readouterr().err
    assert main([*teaching, "--teacher", str(base), "--data.path", str(tmp_path)]) == 1
    assert "with --prompts the teacher's texts are the data; leave it out" in capsys.readouterr().err
