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


def test_bad_input_is_counted_and_the_first_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"text": f"{number} {TEXT}"}) for number in range(9)]
    (folder / "foxes.jsonl").write_text("\n".join([*lines, "{", '{"text": null}', "{"]))
    command = ["prepare", "foxes.jsonl", "--out", "data", "--tokenizer.vocab_size", "280"]
    assert main([*command, "--strict"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("smidgen: foxes.jsonl, line 10: no valid JSON")
    assert not (folder / "data").exists()
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "skipped, broken JSON: 2\n  foxes.jsonl, line 10: no valid JSON" in shown.out
    assert "skipped, null: 1\n  foxes.jsonl, line 11: the text is null" in shown.out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bad_input"]["broken JSON"]["count"] == 2


def test_nothing_but_bad_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "foxes.jsonl").write_text('{"body": "a"}\n{"body": "b"}\n')
    for tokenizer in (["--tokenizer.vocab_size", "280"], []):
        assert main(["prepare", "foxes.jsonl", "--out", "data", *tokenizer]) == 1
        error = capsys.readouterr().err
        assert "no document: 2 bad records were skipped, the first: foxes.jsonl, line 1: no field 'text'" in error
        assert error.count("\n") == 1


def test_parts_are_merged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "lines.txt").write_text("".join(f"{number} {TEXT}" for number in range(30)))
    options = ["lines.txt", "--split-documents", "line"]
    assert main(["prepare", *options, "--out", "whole", "--tokenizer.vocab_size", "280"]) == 0
    for number in (1, 2):
        part = [*options, "--out", f"part{number}", "--shard", f"{number}/2", "--tokenizer.path", "whole"]
        assert main(["prepare", *part]) == 0
        assert main(["prepare", *part]) == 0
    assert "part 2 of 2, already prepared" in capsys.readouterr().out
    assert main(["prepare", "merge", "part1", "part2", "--out", "merged"]) == 0
    assert "Next: smidgen pretrain" in capsys.readouterr().out
    assert (folder / "merged/train-00000.bin").read_bytes() == (folder / "whole/train-00000.bin").read_bytes()
    for arguments, message in (
        (["merge", "part1"], "part 2 of 2 is missing"),
        (
            ["merge", "part1", "part2", "--val-fraction", "0.2"],
            "--val-fraction: the parts were made with their options",
        ),
        (["merge", "part1", "part2", "--tokenizer.path", "whole"], "--tokenizer.path: the parts were made"),
        ([*options, "--shard", "1/2", "--report", "a.html"], "--report: a part has none"),
    ):
        assert main(["prepare", *arguments, "--out", "more"]) == 1
        assert message in capsys.readouterr().err


def test_limits_weights_and_cleaning_reach_the_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.txt").write_text("".join(f"{number} {TEXT}" for number in range(30)))
    (folder / "b.txt").write_text("".join(f"b{number} is a line\n" for number in range(100)))
    command = ["prepare", "a.txt", "b.txt", "--split-documents", "line", "--out", "data", "--overwrite", "--json"]
    command += ["--tokenizer.vocab_size", "280"]
    assert main([*command, "--limit-documents", "b.txt=10", "--limit-bytes", "a.txt=4000"]) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert splits["train"]["bytes"] + splits["val"]["bytes"] < 4_200
    assert main([*command, "--weight", "a.txt=1", "--weight", "b.txt=1"]) == 0
    mixture = json.loads(capsys.readouterr().out)["mixture"]
    assert abs(mixture[0]["taken"] - mixture[1]["taken"]) < 100
    cleaning = ["--cleaning.duplicates.documents", "true", "--report", "report.html"]
    assert main([*command, *cleaning]) == 0
    result = json.loads(capsys.readouterr().out)
    assert sum(drops["documents"] for drops in result["cleaning"]["drops"].values()) == 19 * 30 - 1
    assert "<html" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weight", "x=1"], "--weight x=1: no source is called so; use one of fox.txt"),
        (["--weight", "fox.txt"], "--weight fox.txt: write SOURCE=W"),
        (["--weight", "fox.txt=0"], "--weight: all are 0"),
        (["--limit-documents", "many"], "--limit-documents many: write a whole number"),
        (["--limit-documents", "0"], "--limit fox.txt=0: use a positive number"),
        (["--shard", "3/2", "--tokenizer.path", "x"], "--shard 3/2: use 1/N to N/N"),
        (["--shard", "one"], "--shard one: write I/N"),
        (["--workers", "0"], "--workers 0: use at least 1"),
        (["--cleaning.level", "spotless"], "cleaning.level = spotless"),
    ],
)
def test_options_that_cannot_be(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["prepare", "fox.txt", "--out", "data", *options]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(f"smidgen: {message}")
    assert not (folder / "data").exists()
