"""`smidgen generate` end to end: a saved model, prompts from arguments and standard input."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import smidgen
from smidgen.cli.main import main
from smidgen.cli.terminal import Terminal
from smidgen.runtime import SamplingParams
from smidgen.tokenization import train_tokenizer

PROMPTS = ["Once upon", "The cat", "a"]


@pytest.fixture(scope="module")
def folder(randomized_decoder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer("byte_bpe", ["Once upon a time there was a dog. The cat sat."] * 20, 280)
    overrides = {
        "model.vocab_size": tokenizer.vocab_size,
        "model.num_layers": 2,
        "model.max_seq_len": 64,
        "model.tie_word_embeddings": False,  # a tied model with random weights repeats the last token
    }
    path = tmp_path_factory.mktemp("generate") / "model"
    smidgen.save(randomized_decoder("elite-tiny", overrides), path, tokenizer=tokenizer)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = main([str(argument) for argument in ("generate", *arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def expected(folder: Path, prompt: str, **sampling: Any) -> str:
    return smidgen.generate(smidgen.load(folder), smidgen.load_tokenizer(folder), prompt, **sampling)


def test_one_prompt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, folder, "Once upon", "--max-new-tokens", "12", "--temperature", "0")
    assert status == 0
    assert out == "Once upon" + expected(folder, "Once upon", max_new_tokens=12, temperature=0) + "\n"
    assert err.startswith("12 tokens in ")
    assert "tokens/s" in err


def test_python_spelling_of_flags_and_seed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"max_new_tokens": 9, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 4}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    _, out, _ = run(capsys, folder, "The", *flags)
    assert out == "The" + expected(folder, "The", **options) + "\n"


def test_several_prompts_come_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, folder, *PROMPTS, "--max-new-tokens", "6", "--temperature", "0")
    answers = [prompt + expected(folder, prompt, max_new_tokens=6, temperature=0) for prompt in PROMPTS]
    assert out == "\n\n".join(answers) + "\n"


def test_prompts_from_standard_input(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(PROMPTS) + "\n\n"))
    status, out, _ = run(capsys, folder, "-", "--max-new-tokens", "3", "--temperature", "0", "--json")
    results = json.loads(out)["results"]
    assert status == 0
    assert [result["prompt"] for result in results] == PROMPTS
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    status, _, err = run(capsys, folder, "-")
    assert (status, err) == (1, "smidgen: standard input: no prompt; write one a line\n")


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, folder, "The", "--json", "--logprobs", "2", "--max-new-tokens", "4", "--temperature", "0")
    report = json.loads(out)
    [result] = report["results"]
    assert result["text"] == expected(folder, "The", max_new_tokens=4, temperature=0)
    assert result["finish_reason"] == "length"
    assert report["num_tokens"] == len(result["tokens"]) == len(result["logprobs"]) == 4
    assert [top[0]["token"] for top in result["top_logprobs"]] == result["tokens"]
    assert report["tokens_per_second"] > 0


def test_stop_text_and_end_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = expected(folder, "Once", max_new_tokens=20, temperature=0)
    stop = text[5:8]
    _, out, _ = run(
        capsys, folder, "Once", "--temperature", "0", "--max-new-tokens", "20", "--stop", "no such text", "--stop", stop
    )
    assert out == "Once" + text[: text.index(stop)] + "\n"
    _, out, _ = run(capsys, folder, "Once", "--temperature", "0", "--max-new-tokens", "3", "--json")
    first = json.loads(out)["results"][0]["tokens"][0]
    config = folder / "generation_config.json"
    original = config.read_text()
    try:
        config.write_text(json.dumps({"eos_token_id": [first]}))
        _, out, _ = run(capsys, folder, "Once", "--temperature", "0", "--max-new-tokens", "3")
        assert out == "Once\n"
        _, out, _ = run(capsys, folder, "Once", "--temperature", "0", "--max-new-tokens", "3", "--ignore-eos")
        assert out == "Once" + expected(folder, "Once", max_new_tokens=3, temperature=0) + "\n"
    finally:
        config.write_text(original)


def test_every_sampling_parameter_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    text = capsys.readouterr().out
    assert all(f"--{field.name.replace('_', '-')}" in text for field in fields(SamplingParams))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["elite-tiny", "x"], "a preset has no tokenizer"),
        (["no-such-folder", "x"], "neither a preset nor a folder"),
        (["elite-tiny", "x", "--top-p", "1.5"], "top_p = 1.5: use above 0 and at most 1"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_logprobs_without_json_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["generate", "elite-tiny", "x", "--logprobs", "1"])
    assert exit_.value.code == 2


def test_too_long_for_the_context(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A length that was asked for is an error; left to itself the answer is as long as fits."""
    status, out, _ = run(capsys, folder, "Once", "--ignore-eos", "--json")
    [result] = json.loads(out)["results"]
    assert result["num_prompt_tokens"] + len(result["tokens"]) == 64
    status, out, err = run(capsys, folder, "Once", "--max-new-tokens", "64")
    assert status == 1
    assert out == ""
    assert "exceed the context of 64 tokens" in err


def test_ctrl_c_ends_with_what_was_written(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from smidgen.runtime import generation

    original = generation.stream
    first = expected(folder, "Once", max_new_tokens=1, temperature=0)

    def interrupted(*arguments: Any) -> Iterator[generation.Chunk]:
        chunks = original(*arguments)
        yield next(chunks)
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "stream", interrupted)
    status, out, err = run(capsys, folder, "Once", "--temperature", "0")
    assert status == 130
    assert out == f"Once{first}\n"
    assert err.startswith("1 tokens in ")


def test_a_terminal_is_safe_from_the_models_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "a\x1b[31mb\tc\n\x07é"
    Terminal().write_dim(text)
    assert capsys.readouterr().out == text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    Terminal().write_dim(text)
    assert capsys.readouterr().out == "\x1b[2ma�[31mb\tc\n�é\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    Terminal().write_dim("x")
    assert capsys.readouterr().out == "x"
