"""A model that was tuned to answer and end: every way to talk to it ends with it, also where there is no PyTorch."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import smidgen
from smidgen.cli.engines import open_engine
from smidgen.cli.main import main
from smidgen.serving import ServerSettings, running
from smidgen.tokenization import train_tokenizer

QUESTION, ANSWER = "How many cats?", "Two cats. No dogs."
MESSAGES = [{"role": "user", "content": QUESTION}]
WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "pydantic"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())

from smidgen.cli.main import main

for line in open(sys.argv[1]):
    status = main(eval(line))
    if status:
        sys.exit(status)
    print("---", flush=True)
assert not {"torch", "transformers", "pydantic"} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, save_one_layer: Callable[..., Path]) -> Path:
    """A run of `smidgen sft` that knows one answer, of one layer."""
    path = tmp_path_factory.mktemp("tuned")
    tokenizer = train_tokenizer("byte_bpe", [f"{QUESTION} {ANSWER} user assistant"] * 20, 300)
    save_one_layer(path / "base", tokenizer)
    record = {"messages": [*MESSAGES, {"role": "assistant", "content": ANSWER}]}
    other = {"messages": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "No."}]}
    (path / "chats.jsonl").write_text(f"{json.dumps(record)}\n{json.dumps(other)}\n")
    command = ["sft", str(path / "base"), "--data", str(path / "chats.jsonl"), "--val-data", str(path / "chats.jsonl")]
    command += ["--run", str(path / "run"), "--training.max_steps=40", "--training.batch_size=2"]
    command += ["--training.seq_len=64", "--training.lr=2e-2", "--training.schedule.warmup_steps=0"]
    command += ["--training.device=cpu", "--training.precision=fp32", "--training.eval_every=40"]
    assert main(command) == 0
    return path / "run"


@pytest.fixture
def served(run: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    engine, tokenizer = open_engine(str(run), request.param, max_batch_size=2)
    with running(engine, tokenizer, "tuned", ServerSettings(port=0)) as url:
        path = f"{url}/v1/chat/completions"
        yield lambda **body: httpx.post(path, json={"messages": MESSAGES, "temperature": 0, **body})


@pytest.mark.parametrize("served", ["torch", "edge"], indirect=True)
def test_served_answers_end_for_the_right_reason(served: Callable[..., Any], run: Path) -> None:
    tokens = len(smidgen.load_tokenizer(run).encode(ANSWER)) + 1  # the end token counts, and is no text
    for body, text, reason, count in (
        ({}, ANSWER, "stop", tokens),
        ({"max_tokens": tokens}, ANSWER, "stop", tokens),
        ({"max_tokens": tokens - 1}, ANSWER, "length", tokens - 1),
        ({"stop": " No"}, "Two cats.", "stop", None),
    ):
        whole = served(**body).json()
        [choice] = whole["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason), body
        assert count is None or whole["usage"]["completion_tokens"] == count
        lines = [line[6:] for line in served(stream=True, **body).text.splitlines() if line.startswith("data: {")]
        chunks = [json.loads(line)["choices"][0] for line in lines]
        assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == text
        assert [chunk["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + [reason]
    assert served(ignore_eos=True, max_tokens=tokens + 3).json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("engine", ["torch", "edge"])
def test_chats_in_the_terminal_end(
    engine: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\n/exit\n"))
    assert main(["chat", str(run), "--engine", engine, "--temperature", "0"]) == 0
    assert capsys.readouterr().out.strip() == ANSWER


def test_everything_that_runs_models_runs_without_torch(run: Path, tmp_path: Path) -> None:
    """In a process where torch, transformers and pydantic cannot be imported: inspect, generate, chat, serve."""
    commands = [
        ["tokenizer", "inspect", str(run / "best" / "model"), QUESTION],
        ["generate", str(run), "How many", "--engine", "edge", "--temperature", "0", "--max-new-tokens", "4"],
        ["chat", str(run), "--engine", "edge", "--temperature", "0"],
        ["serve", str(run), "--engine", "edge", "--port", "0"],
    ]
    (tmp_path / "commands").write_text("".join(f"{command!r}\n" for command in commands))
    arguments = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "commands")]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write(f"{QUESTION}\n/exit\n")
            process.stdin.close()
            out = ""
            while (found := re.search(r"chat at (http://127\.0\.0\.1:\d+) ", out)) is None:
                line = process.stdout.readline()
                assert line, out + process.stderr.read()
                out += line
            inspected, generated, chatted, _ = out.split("---\n")
            assert "byte_bpe" in inspected
            assert generated.startswith("How many")
            assert chatted.strip() == ANSWER
            answer = httpx.post(f"{found[1]}/v1/chat/completions", json={"messages": MESSAGES, "temperature": 0}).json()
            assert answer["choices"][0]["message"]["content"] == ANSWER
            assert answer["choices"][0]["finish_reason"] == "stop"
            body = {"prompt": QUESTION, "echo": True, "logprobs": 1, "max_tokens": 0}
            assert httpx.post(f"{found[1]}/v1/completions", json=body).status_code == 200
        finally:
            process.terminate()
        rest = process.stdout.read()
        assert process.wait(30) == 0, process.stderr.read() + rest
