"""`smidgen sft`: a look at the tokens, shares of sources, the way from files to a chat model, and going on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import smidgen
from smidgen.cli.main import main
from smidgen.tokenization.byte_bpe import train_byte_bpe

FLAGS = [
    *("--training.device=cpu", "--training.precision=fp32", "--training.batch_size=2", "--training.seq_len=40"),
    *("--training.eval_every=2", "--training.schedule.warmup_steps=0"),
]


@pytest.fixture
def base(tmp_path: Path, save_one_layer: Callable[..., Path]) -> Path:
    for name, word in (("cats", "cats"), ("dogs", "dogs")):
        records = [{"prompt": f"How many {word}, {n}?", "completion": f"{n} {word}."} for n in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    tokenizer = train_byte_bpe(["How many cats and dogs?"] * 5, 280)
    return save_one_layer(tmp_path / "base", tokenizer)


def test_preview_marks_what_is_learned(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft", str(base), "--data", str(base.parent / "cats.jsonl"), "--preview", "1"]) == 0
    shown = capsys.readouterr().out
    prompt, _, answer = shown.partition("⟦")
    assert "<|im_start|>user\nHow many cats, 0?<|im_end|>\n<|im_start|>assistant\n" in prompt
    assert answer.split("⟧")[0].replace("·", "") == "0 cats.<|im_end|>"


def test_sources_in_shares_then_more_steps(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [str(base.parent / f"{name}.jsonl") for name in ("cats", "dogs")]
    run = str(base.parent / "run")
    command = ["sft", str(base), "--data", *sources, "--weight", f"{sources[1]}=3", "--run", run, *FLAGS]
    assert main([*command, "--training.max_steps", "2"]) == 0
    assert main([*command, "--training.max_steps", "2"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["sft", run, "--training.max_steps", "3"]) == 0
    out = capsys.readouterr().out
    assert "Finished 3 steps" in out
    assert f"smidgen chat {run}" in out
    config = smidgen.folders.run.RunFolder(run).config_path.read_text()
    assert "/conversations/01: 3.0" in config


def test_wrong_uses_are_told_in_a_line(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft", str(base), "--preview"]) == 1
    assert main(["dpo", str(base), "--data", str(base.parent / "cats.jsonl"), "--run", str(base.parent / "r")]) == 1
    assert main(["sft", str(base), "--data", "x", "--weight", "y=1", "--run", str(base.parent / "r")]) == 1
    errors = capsys.readouterr().err
    assert "--preview: shows conversations of --data; name some" in errors
    assert "no chosen and rejected in the fields 'prompt', 'completion'" in errors
    assert "--weight y: names none of the sources" in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["sft", "--val-fraction", "0.1"],
            "--val-fraction: is about the records of --data; name some, or leave it out",
        ),
        (["dpo", "--strict"], "--strict: is about the records of --data"),
        (["sft", "--data", "READY", "--val-data", "x.jsonl"], "--val-data: READY is a dataset already; leave it out"),
        (["sft", "--data", "SOURCE", "--documents", "9"], "--documents: counts the chats of the source storyworld"),
        (["sft", "--data", "SOURCE", "--val-data", "x", "--val-fraction", "0.1"], "--val-fraction: --val-data is held"),
        (["distill", "--top-k", "5"], "--top-k: says how the teacher writes answers to --prompts; leave it out"),
        (["distill", "--engine", "torch"], "--engine: says how the teacher writes"),
        (["distill", "--temperature", "2"], "use --tuning.objective.temperature for that of the divergence"),
    ],
)
def test_flags_that_would_be_without_effect_are_refused(
    base: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    ready = base.parent / "ready"
    ready.mkdir()
    (ready / "dataset.json").write_text("{}")
    places = {"READY": str(ready), "SOURCE": str(base.parent / "cats.jsonl")}
    command, *flags = (places.get(word, word) for word in arguments)
    if command == "distill":
        flags += ["--teacher", str(base), "--data.path", "data"]
    assert main([command, str(base), *flags, "--run", str(base.parent / "run")]) == 1
    error = capsys.readouterr().err
    assert words.replace("READY", str(ready)) in error
    assert error.count("\n") == 1
