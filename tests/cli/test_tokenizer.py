"""`smidgen tokenizer`: train and inspect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smidgen.cli.main import main
from smidgen.tokenization import load_tokenizer

TEXT = "the king went home because it rained\n\nhello hello hello\n" * 40


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["tokenizer", *map(str, arguments)])
    return status, *capsys.readouterr()


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["tokenizer", *map(str, arguments)])
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece", "characters"])
def test_train_then_inspect(capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path, kind: str) -> None:
    size = [] if kind == "characters" else ["--tokenizer.vocab_size", 290]
    status, out, _ = run(capsys, "train", source, "--out", tmp_path / "t", "--tokenizer.kind", kind, *size)
    tokenizer = load_tokenizer(tmp_path / "t")
    assert status == 0
    assert out.startswith(f"{tmp_path / 't'}: {kind} tokenizer with {tokenizer.vocab_size} ids.\n")

    status, out, err = run(capsys, "inspect", tmp_path / "t", "hello king")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert f"kind            {kind}" in lines
    assert f"fingerprint     {tokenizer.fingerprint}" in lines
    pieces = [line.split("\t") for line in lines if "\t" in line]
    assert [int(token) for token, _ in pieces] == tokenizer.encode("hello king")
    assert "".join(json.loads(piece) for _, piece in pieces).strip() == "hello king"
    assert "\x1b" not in out


def test_inspect_as_json(capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path) -> None:
    status, out, _ = run(capsys, "train", source, "--out", tmp_path / "t", "--tokenizer.vocab_size", 290, "--json")
    trained = json.loads(out)
    assert (status, trained["kind"], trained["vocab_size"]) == (0, "byte_bpe", 290)
    status, out, _ = run(capsys, "inspect", tmp_path / "t", "hello 日", "--json")
    result = json.loads(out)
    ids = load_tokenizer(tmp_path / "t").encode("hello 日")
    assert {key: result[key] for key in trained} == trained
    assert (result["tokens"], result["bytes"], result["bytes_a_token"]) == (len(ids), 9, round(9 / len(ids), 3))
    assert [piece["id"] for piece in result["pieces"]] == ids
    assert result["pieces"][-1]["text"] == "\\xa5"


def test_a_terminal_gets_colours_and_no_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path
) -> None:
    run(capsys, "train", source, "--out", tmp_path / "t", "--tokenizer.vocab_size", 290)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, out, _ = run(capsys, "inspect", tmp_path / "t", "hello\n\x07")
    assert "\x1b[30;106m" in out
    assert "⏎" in out
    assert "\x07" not in out


def test_json_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"story": "ab" * number}) + "\n" for number in range(1, 9)))
    status, out, _ = run(
        capsys, "train", path, "--out", tmp_path / "t", "--field", "story", "--tokenizer.kind", "characters", "--json"
    )
    assert (status, json.loads(out)["vocab_size"]) == (0, 2)


def test_mistakes(capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path) -> None:
    for arguments, message in [
        (("train", source), "train: --out DIR is missing"),
        (("inspect", "x", "--tokenizer.vocab_size", 3), "--tokenizer.vocab_size belongs to 'tokenizer train'"),
        (("inspect", "x", "two", "words"), "put quotes around the text"),
    ]:
        assert message in usage_error(capsys, *arguments)
    for arguments, message in [
        (("train", tmp_path / "none.txt", "--out", tmp_path / "t"), "no such file or folder"),
        (("train", source, "--out", source), "is a file; name a folder to write the tokenizer to"),
        (("train", source, "--out", tmp_path / "t", "--field", "text"), "none of the sources is JSON Lines"),
        (("train", source, "--out", tmp_path / "t", "--tokenizer.vocab_size", 9), "byte_bpe needs at least 260"),
        (("inspect", tmp_path / "nowhere"), "no such file or folder"),
    ]:
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (1, "")
        assert err.startswith("smidgen: ")
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "t").exists()
