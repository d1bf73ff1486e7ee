"""The main job by the commands that a user types: a text file in, a model that writes text out, for every family."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from smidgen.cli.main import main
from smidgen.data.storyworld import generate

FAMILIES = ["tilda-tiny", "tinylm-tiny", "tinylm-gqa-tiny", "elite-tiny", "gemma3-tiny", "rscalm-tiny"]
SHORT = ["--training.batch_size", "2", "--training.seq_len", "64", "--training.eval_tokens", "256"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON Lines of a few stories."""
    path = tmp_path_factory.mktemp("corpus") / "stories.jsonl"
    stories = islice(generate(0, kinds=["stories"]), 120)
    path.write_text("".join(json.dumps({"text": story.text}) + "\n" for story in stories), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def datasets(corpus: Path) -> dict[str, Path]:
    """A dataset folder for each kind of tokenizer."""
    folders = {}
    for kind in ("byte_bpe", "sentencepiece"):
        folders[kind] = corpus.parent / kind
        arguments = ["--out", str(folders[kind]), "--tokenizer.kind", kind, "--tokenizer.vocab_size", "400"]
        assert main(["prepare", str(corpus), *arguments]) == 0
    return folders


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_from_text_to_text(
    family: str, datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = datasets["byte_bpe" if family != "rscalm-tiny" else "sentencepiece"]
    run = tmp_path / "run"
    pretrain = ["pretrain", family, "--data.path", str(data), "--run", str(run), *SHORT]
    assert main([*pretrain, "--training.max_steps", "4"]) == 0
    assert main([*pretrain, "--training.max_steps", "6"]) == 0
    assert "6 steps" in capsys.readouterr().out
    assert main([*pretrain, "--training.max_steps", "6"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--data", str(data), "--seq-len", "64", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert 3 < figures["loss"] < 7
    assert figures["bits_per_byte"] > 0
    assert main(["generate", str(run), "One day", "--max-new-tokens", "8", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.startswith("One day")
    assert main(["info", str(run)]) == 0
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["step"] == 6


@pytest.mark.slow
def test_quickstart_scores_samples_and_names_the_next_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quickstart = ["quickstart", "--out", str(tmp_path / "q"), "--documents", "800", "--questions", "4"]
    overrides = ["--training.max_steps", "6", "--tokenizer.vocab_size", "600", *SHORT]
    assert main([*quickstart, *overrides, "--training.max_time", "1e-9"]) == 0
    out = capsys.readouterr().out
    assert "Out of time after step 0 of 6; the same command goes on." in out
    assert "untrained" not in out
    assert main([*quickstart, *overrides]) == 0
    out = capsys.readouterr().out
    for part in ("untrained", "5-gram", "facts", "patterns", "formats", "smidgen chat", "smidgen plot"):
        assert part in out
    assert main([*quickstart, *overrides]) == 0
    assert "already there" in capsys.readouterr().out


def test_a_run_is_a_model_for_transformers(datasets: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--data.path", str(datasets["byte_bpe"]), "--run", str(run), "--training.max_steps", "2", *SHORT]
    assert main(["pretrain", "elite-tiny", *arguments]) == 0
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer; import sys;"
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1]); t = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "ids = m.generate(**t('One day', return_tensors='pt'), max_new_tokens=3, pad_token_id=0);"
        "print(type(m).__name__, ids.shape)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(run / "best" / "model")], capture_output=True, text=True, check=True
    )
    assert "LlamaForCausalLM" in result.stdout


def test_evaluating_a_text_is_exact_in_bytes(
    datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, text = tmp_path / "run", tmp_path / "text.txt"
    text.write_text("One day Mia met Tom. Ünïcödé!\n" * 5, encoding="utf-8")
    arguments = ["--data.path", str(datasets["byte_bpe"]), "--run", str(run), "--training.max_steps", "2", *SHORT]
    assert main(["pretrain", "elite-tiny", *arguments]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--text", str(text), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    nats = figures["loss"] * figures["tokens"]
    assert figures["bits_per_byte"] == pytest.approx(nats / 0.6931471805599453 / len(text.read_bytes()))
    text.write_bytes(b"caf\xe9")
    assert main(["evaluate", str(run), "--text", str(text)]) == 1
    assert "not UTF-8 at byte 3" in capsys.readouterr().err


def test_a_dataset_of_another_tokenizer_is_refused(
    datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = ["--data.path", str(datasets["byte_bpe"]), "--run", str(run), "--training.max_steps", "2", *SHORT]
    assert main(["pretrain", "elite-tiny", *arguments]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(datasets["sentencepiece"])]) == 1
    assert "another tokenizer" in capsys.readouterr().err
