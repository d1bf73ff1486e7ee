"""`smidgen chat` through a pipe."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import smidgen
from smidgen.cli.chat import Chat, messages_of
from smidgen.cli.engines import open_engine
from smidgen.cli.main import main
from smidgen.cli.markdown import MarkdownTerminal, split_blocks
from smidgen.runtime import SamplingParams
from smidgen.runtime.chat_template import render_chat
from smidgen.tokenization import train_tokenizer


@pytest.fixture(scope="module")
def folder(randomized_decoder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer("byte_bpe", ["What is a dog? A dog is an animal. user assistant system"] * 20, 300)
    overrides = {
        "model.vocab_size": tokenizer.vocab_size,
        "model.num_layers": 2,
        "model.max_seq_len": 128,
        "model.tie_word_embeddings": False,  # a tied model with random weights repeats the last token
    }
    path = tmp_path_factory.mktemp("chat") / "model"
    smidgen.save(randomized_decoder("elite-tiny", overrides), path, tokenizer=tokenizer)
    return path


@pytest.fixture
def chat(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    def run(lines: list[str], *flags: str, model: Path | str = folder) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        status = main(["chat", str(model), "--temperature", "0", "--max-new-tokens", "5", *flags])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def answer_tokens(folder: Path, messages: list[dict[str, str]]) -> list[int]:
    """What the model writes next, greedily and at most five tokens, by the plain decoder."""
    model, tokenizer = smidgen.load(folder), smidgen.load_tokenizer(folder)
    assert tokenizer.chat_template is not None
    ids = tokenizer.encode(render_chat(tokenizer.chat_template, messages, add_generation_prompt=True), special=True)
    ends = (tokenizer.special_tokens["<|im_end|>"], tokenizer.eos_id)
    tokens: list[int] = []
    for _ in range(5):
        token = int(model(torch.tensor([ids + tokens]))[0, -1].argmax())
        if token in ends:
            break
        tokens.append(token)
    return tokens


def answer(folder: Path, *contents: str, system: str | None = None) -> str:
    """Its answer to the last of the contents, which are the user's and the assistant's in turn."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return smidgen.load_tokenizer(folder).decode(answer_tokens(folder, messages))


def test_the_conversation_is_remembered_and_forgotten(folder: Path, chat: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = chat(["What is a dog?", "", "A cat?", "/reset", "A cat?", "/exit", "never read"])
    first = answer(folder, "What is a dog?")
    second = answer(folder, "What is a dog?", first, "A cat?")
    fresh = answer(folder, "A cat?")
    assert status == 0
    assert out == f"{first}\n{second}\n{fresh}\n"
    assert "new conversation" in err
    assert second != fresh


def test_system_message(folder: Path, chat: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = chat(["What?"], "--system", "A dog is.")
    assert out == answer(folder, "What?", system="A dog is.") + "\n"


def test_end_of_turn_ends_the_answer(
    folder: Path, chat: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The template says which token it is; here the first that the model writes."""
    tokens = answer_tokens(folder, [{"role": "user", "content": "What?"}])
    monkeypatch.setattr("smidgen.runtime.generation.end_of_turn_ids", lambda _: tuple(tokens[:1]))
    _, out, err = chat(["What?"])
    assert out == "\n"
    assert "cut" not in err


def test_a_full_context_is_explained_and_the_chat_goes_on(
    folder: Path, chat: Callable[..., tuple[int, str, str]]
) -> None:
    status, out, err = chat(["dog " * 200, "What?"])
    assert status == 0
    assert "of the model's 128 tokens; /reset starts a new one" in err
    assert out == answer(folder, "What?") + "\n"


def test_answers_that_are_cut_say_so(chat: Callable[..., tuple[int, str, str]]) -> None:
    _, _, err = chat(["What?"], "--ignore-eos", "--max-new-tokens", "2")
    assert "(cut after 2 tokens; --max-new-tokens allows more)" in err
    _, _, err = chat(["What?"], "--ignore-eos", "--max-new-tokens", "1000")
    assert "the context is full: /reset starts a new conversation" in err


class Interrupted:
    """A terminal at which Ctrl-C comes while the nth piece is written."""

    def __init__(self, piece: int) -> None:
        self.pieces = piece

    def write(self, text: str) -> None:
        self.pieces -= 1
        if self.pieces == 0:
            raise KeyboardInterrupt

    def end(self) -> None:
        pass


def test_interrupting_an_answer_keeps_its_part(folder: Path) -> None:
    chat = Chat(*open_engine(str(folder)), SamplingParams(max_new_tokens=5, temperature=0), system=None)
    chat.answer("What is a dog?", Interrupted(3))  # type: ignore[arg-type]
    question, partial = chat.messages
    assert question == {"role": "user", "content": "What is a dog?"}
    assert partial["role"] == "assistant"
    assert 0 < len(partial["content"]) < len(answer(folder, "What is a dog?"))
    # The engine is free for the next message.
    chat.reset()
    chat.answer("What?", Interrupted(0))  # type: ignore[arg-type]
    assert chat.messages[-1]["content"] == answer(folder, "What?")


def test_unknown_commands_show_the_help(chat: Callable[..., tuple[int, str, str]]) -> None:
    _, out, err = chat(["/rest"])
    assert out == ""
    assert "/reset starts a new conversation" in err


def test_a_base_model_is_refused(
    randomized_decoder: Callable[..., Any], tmp_path: Path, chat: Callable[..., tuple[int, str, str]]
) -> None:
    tokenizer = train_tokenizer("characters", ["abc"])
    overrides = {"model.vocab_size": tokenizer.vocab_size, "model.num_layers": 1}
    smidgen.save(randomized_decoder("elite-tiny", overrides), tmp_path / "base", tokenizer=tokenizer)
    status, out, err = chat(["a"], model=tmp_path / "base")
    assert (status, out) == (1, "")
    assert "no chat template" in err


def test_commands(folder: Path, chat: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    lines = [
        "What is a dog?",
        "/retry",
        f"/save {saved}",
        "/undo",
        "/system A dog is.",
        "What?",
        "/params max_new_tokens 2",
    ]
    status, out, err = chat(
        [
            *lines,
            f"/load {saved}",
            "A cat?",
            f"/save {saved}",
            "/params temprature 1",
            "/params top_k=7",
            "/params stop_token_ids 5 x",
            "/hlep",
        ]
    )
    first = answer(folder, "What is a dog?")
    assert status == 0
    assert out.startswith(f"{first}\n{first}\n{answer(folder, 'What?', system='A dog is.')}\n")
    cut = smidgen.load_tokenizer(folder).decode(
        answer_tokens(
            folder,
            [
                {"role": r, "content": c}
                for r, c in zip(("user", "assistant", "user"), ("What is a dog?", first, "A cat?"), strict=True)
            ],
        )[:2]
    )
    assert out.endswith(f"\n{cut}\n")
    assert "saved 2 messages" in err
    assert "took back: What is a dog?" in err
    assert "top_k = 7" in err
    assert "stop_token_ids = 5 x: use a number" in err
    assert "/hlep: there is no such command" in err
    assert "is there already" in err
    assert "temprature: give one of max_new_tokens" in err


def test_messages_of_several_lines() -> None:
    lines = ["one", "two \\", "lines", '"""three', "", 'of them"""', '"""four"""', '"""', "five", '"""', "open \\"]
    assert list(messages_of(lines)) == ["one", "two \nlines", "three\n\nof them", "four", "five", "open "]


def test_markdown_is_drawn_block_by_block() -> None:
    screen = io.StringIO()
    terminal = MarkdownTerminal(Console(file=screen, width=40, force_terminal=False))
    text = "# Title\n\nSome **bold** [link](https://example.org) \x1b[31m\n\n```python\na = 1\n\nb = 2\n```\n\n- one\n- two"  # noqa: E501
    for character in text:
        terminal.write(character)
    terminal.end()
    shown = screen.getvalue()
    assert "Title" in shown
    assert "Some bold link (https://example.org)" in shown
    assert "**" not in shown
    assert "\x1b[31m" not in shown
    assert "b = 2" in shown
    assert "• two" in shown
    assert split_blocks("a\n\n```\nb\n\nc") == ("a\n\n", "```\nb\n\nc")
