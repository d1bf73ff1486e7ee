"""smidgen prepare: what it prints, where, and with which exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smidgen.cli.main import main

TEXT = "The quick brown fox jumps over the lazy dog.\n" * 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fox.txt").write_text(TEXT)
    return tmp_path


CHARACTERS = ["prepare", "fox.txt", "--out", "data", "--tokenizer.kind", "characters"]


def test_the_summary_says_what_there_is_and_what_to_do_next(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(CHARACTERS) == 0
    shown = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines() if line}
    assert rows["train"] == ["1", "810", "810", "1.00"]
    assert rows["val"] == ["1", "90", "90", "1.00"]
    assert "data: characters tokenizer with 30 ids." in shown.out
    assert "Next: smidgen pretrain elite-tiny --data.path data --run runs/demo" in shown.out
    assert shown.err == ""


def test_running_it_again_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(CHARACTERS) == main(CHARACTERS) == 0
    assert "data: already prepared" in capsys.readouterr().out


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CHARACTERS, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["path"] == "data"
    assert result["vocab_size"] == 30
    assert result["already_prepared"] is False
    assert result["splits"]["train"] == {"documents": 1, "tokens": 810, "bytes": 810}


def test_options_reach_the_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"body": f"{number} {TEXT}"}) for number in range(20)]
    (folder / "foxes.jsonl").write_text("\n".join(lines))
    options = ["--field", "body", "--val-documents", "3", "--val-split", "tail", "--seed", "4"]
    tokenizer = ["--tokenizer.kind=byte_bpe", "--tokenizer.vocab_size", "280"]
    assert main(["prepare", *options, "foxes.jsonl", *tokenizer, "--out", "data", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["tokenizer"], result["vocab_size"]) == ("byte_bpe", 280)
    assert result["splits"]["train"]["documents"] == 17
    assert result["splits"]["val"]["documents"] == 3
    assert result["splits"]["val"]["tokens"] < result["splits"]["val"]["bytes"]
    assert main(["prepare", *options, "foxes.jsonl", *tokenizer, "--out", "data", "--seed", "5"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["prepare", *options, "foxes.jsonl", *tokenizer, "--out", "data", "--seed", "5", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.txt", "--out", "data"], "absent.txt: no such file or folder"),
        (["fox.txt", "--out", "fox.txt"], "--out fox.txt: is a file"),
        (["fox.txt", "--out", "data", "--tokenizer.kind", "bpe"], "tokenizer.kind = bpe: input should be 'byte_bpe'"),
        (["fox.txt", "--out", "data", "--tokenizer.kind", "pretrained"], "tokenizer.path = null"),
        (["fox.txt", "--out", "data", "--val-fraction", "1"], "--val-fraction 1: use a number between 0 and 1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_1(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["prepare", *arguments]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(f"smidgen: {message}")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (folder / "data").exists()


@pytest.mark.parametrize("arguments", [["fox.txt"], ["--out", "data"], ["fox.txt", "--out", "data", "--unheard-of"]])
def test_wrong_usage_is_exit_status_2(folder: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["prepare", *arguments])
    assert error.value.code == 2
