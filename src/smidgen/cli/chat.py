"""Talk to a model in the terminal, or through a pipe, a message a line.

Example: smidgen chat runs/assistant --system "You answer in one sentence." --temperature 0.7
         echo "What is a door for?" | smidgen chat runs/assistant --temperature 0

A line that ends in \\ goes on in the next; three double quotes begin and end a message of several lines. Ctrl-C stops
an answer, Ctrl-D leaves, /help lists the commands. In a terminal, answers are drawn as Markdown (--plain: as they are).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from smidgen.cli.engines import add_engine_flags, open_engine_from
from smidgen.cli.sampling import add_sampling_flags, sampling_params
from smidgen.cli.terminal import Terminal
from smidgen.runtime.errors import SmidgenError

if TYPE_CHECKING:
    from smidgen.runtime.protocols import Engine, Tokenizer
    from smidgen.runtime.sampling import SamplingParams

_HELP = """\
/reset starts a new conversation     /retry answers again            /undo takes the last exchange back
/system [TEXT] shows or sets the instructions (- removes them)       /params [NAME VALUE] shows or sets the sampling
/save FILE, /load FILE keep the conversation as JSON                 /exit leaves, Ctrl-C stops an answer
\\ at the end of a line, or three double quotes around it: a message of several lines"""
HISTORY_LENGTH = 1000


class Screen(Protocol):
    """Where answers appear."""

    def write(self, text: str) -> None:
        """Show more of an answer."""

    def end(self) -> None:
        """The answer ends here."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_engine_flags(parser)
    parser.add_argument("--system", metavar="TEXT", help="instructions that stand before the conversation")
    parser.add_argument("--plain", action="store_true", help="show answers as they are, not as Markdown")
    add_sampling_flags(parser, without=frozenset({"logprobs"}), max_new_tokens=512)


def run(args: argparse.Namespace) -> int:
    params = sampling_params(args)
    chat = Chat(*open_engine_from(args, max_batch_size=1), params, args.system)
    terminal = Terminal()
    screen: Screen = terminal
    if terminal.styled and not args.plain:
        from smidgen.cli.markdown import MarkdownTerminal

        screen = MarkdownTerminal()
    if terminal.interactive:
        print("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves", file=sys.stderr)
    for message in messages_of(_lines()):
        command, _, argument = message.strip().partition(" ")
        if command == "/exit":
            break
        try:
            if command.startswith("/") and command[1:].isalpha():
                _carry_out(chat, command[1:], argument.strip(), screen)
            elif command:
                chat.answer(message, screen)
        except (SmidgenError, OSError) as error:
            print(error, file=sys.stderr)
    return 0


def _carry_out(chat: Chat, command: str, argument: str, screen: Screen) -> None:
    """Do what a command says; what it tells goes to standard error, beside the answers."""
    simple: dict[str, Callable[[], str | None]] = {
        "reset": chat.reset,
        "undo": chat.undo,
        "retry": lambda: chat.retry(screen),
        "system": lambda: chat.set_system(argument),
        "params": lambda: chat.set_param(*argument.replace("=", " ", 1).split(maxsplit=1)),
        "save": lambda: chat.save(argument),
        "load": lambda: chat.load(argument),
    }
    unknown = "" if command == "help" else f"/{command}: there is no such command\n"
    told = simple[command]() if command in simple else unknown + _HELP
    if told:
        print(told, file=sys.stderr)


def messages_of(lines: Iterable[str]) -> Iterator[str]:
    """Messages from lines: one each, or several joined by a \\ at the end or by three double quotes around them."""
    parts: list[str] = []
    quoted = False
    for line in lines:
        if quoted or line.lstrip().startswith('"""'):
            text = line if quoted else line.lstrip()[3:]
            closes = text.rstrip().endswith('"""')
            quoted = not closes
            if closes:
                text = text.rstrip()[:-3]
            if text or parts:
                parts.append(text)
            if not closes:
                continue
        elif line.endswith("\\"):
            parts.append(line[:-1])
            continue
        else:
            parts.append(line)
        yield "\n".join(parts).strip("\n")
        parts = []
    if parts:
        yield "\n".join(parts)


def _lines() -> Iterator[str]:
    """Lines from the keyboard with a prompt and a history, or from a pipe, until their end."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with _history():
        while True:
            try:
                yield input("> ")
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print("\n(Ctrl-D leaves)", file=sys.stderr)


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Earlier lines, by the arrow keys; kept in a file that only the user reads."""
    import readline

    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    file = state / "smidgen" / "chat_history"
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LENGTH)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(file)


class ChatError(SmidgenError):
    """A command cannot be carried out."""


class Chat:
    """A conversation: its messages, and the engine that answers them."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, params: SamplingParams, system: str | None) -> None:
        from smidgen.runtime.generation import end_of_turn_ids

        self._engine = engine
        self._tokenizer = tokenizer
        self._ends = end_of_turn_ids(tokenizer)
        self.params = params
        self._system = system
        self.reset()

    def reset(self) -> str:
        """Forget the conversation."""
        self.messages = [] if self._system is None else [{"role": "system", "content": self._system}]
        return "new conversation"

    def undo(self) -> str:
        """Take the last message and its answer back."""
        while self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if not self.messages or self.messages[-1]["role"] != "user":
            return "there is nothing to take back"
        return f"took back: {' '.join(self.messages.pop()['content'].split())[:60]}"

    def set_system(self, text: str) -> str:
        """Show the instructions, or give others from now on; - removes them."""
        if text:
            self._system = None if text == "-" else text
            self.messages = [message for message in self.messages if message["role"] != "system"]
            if self._system is not None:
                self.messages.insert(0, {"role": "system", "content": self._system})
        return "no instructions" if self._system is None else f"instructions: {self._system}"

    def set_param(self, name: str | None = None, value: str | None = None) -> str:
        """Show the sampling parameters, or set one."""
        values = {field.name: getattr(self.params, field.name) for field in fields(self.params)}
        if name is not None:
            name = name.replace("-", "_")
            if name not in values or value is None:
                raise ChatError(f"/params {name}: give one of {', '.join(values)}, and a value")
            self.params = replace(self.params, **{name: _value(name, value, values[name])})
            return f"{name} = {getattr(self.params, name)!r}"
        return "  ".join(f"{name} = {value!r}" for name, value in values.items())

    def save(self, path: str) -> str:
        """Write the conversation as JSON. An existing file is left alone."""
        if not path:
            raise ChatError("/save FILE: name the file")
        try:
            with Path(path).expanduser().open("x", encoding="utf-8") as file:
                json.dump({"messages": self.messages}, file, indent=2, ensure_ascii=False)
        except FileExistsError:
            raise ChatError(f"{path}: is there already; choose another name") from None
        return f"saved {len(self.messages)} messages to {path}"

    def load(self, path: str) -> str:
        """Go on with a saved conversation."""
        if not path:
            raise ChatError("/load FILE: name the file")
        try:
            document = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        except ValueError as error:
            raise ChatError(f"{path}: no JSON: {error}") from None
        messages = document.get("messages") if isinstance(document, dict) else document
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise ChatError(f"{path}: holds no messages, each with role and content")
        self.messages = [{"role": message["role"], "content": message["content"]} for message in messages]
        self._system = next((m["content"] for m in self.messages if m["role"] == "system"), None)
        return f"loaded {len(self.messages)} messages"

    def retry(self, screen: Screen) -> str | None:
        """Answer the last message again."""
        answered = self.messages[-1:] if self.messages and self.messages[-1]["role"] == "assistant" else []
        if answered:
            self.messages.pop()
        if not self.messages or self.messages[-1]["role"] != "user":
            self.messages += answered
            return "there is nothing to answer again"
        self.answer(self.messages.pop()["content"], screen)
        return None

    def answer(self, message: str, screen: Screen) -> None:
        """Stream the answer to a message. One that does not fit the context is refused and forgotten."""
        from smidgen.runtime.generation import encode_chat, stream

        self.messages.append({"role": "user", "content": message})
        try:
            ids = encode_chat(self._tokenizer, self.messages)
        except SmidgenError:
            self.messages.pop()
            raise
        context = self._engine.info.max_seq_len
        space = context - len(ids)
        if space < 1:
            self.messages.pop()
            print(
                f"the conversation would take {len(ids)} of the model's {context} tokens; "
                "/reset starts a new one, or ask something shorter",
                file=sys.stderr,
            )
            return
        ends = () if self.params.ignore_eos else self._ends
        params = replace(
            self.params,
            max_new_tokens=min(self.params.max_new_tokens, space),
            stop_token_ids=(*self.params.stop_token_ids, *ends),
        )
        text, finish = "", None
        chunks = stream(self._engine, self._tokenizer, [ids], params)
        try:
            for chunk in chunks:
                text += chunk.text
                finish = chunk.finish_reason
                screen.write(chunk.text)
        except KeyboardInterrupt:
            chunks.close()
        screen.end()
        if finish is None and not text:
            self.messages.pop()  # stopped before it began
            return
        if finish == "length":
            full = params.max_new_tokens == space
            remedy = "the context is full: /reset starts a new conversation" if full else "--max-new-tokens allows more"
            print(f"(cut after {params.max_new_tokens} tokens; {remedy})", file=sys.stderr)
        self.messages.append({"role": "assistant", "content": text})


def _value(name: str, text: str, present: Any) -> Any:
    """A parameter's value from text, of the type that the field has."""
    if name == "stop":
        return (text,)
    if isinstance(present, bool):
        if text not in ("true", "false"):
            raise ChatError(f"{name} = {text}: use true or false")
        return text == "true"
    if text.lower() == "none" and name in ("seed", "logprobs"):
        return None
    if isinstance(present, str):
        return text
    if isinstance(present, tuple) and name != "stop_token_ids":
        raise ChatError(f"{name}: set it when starting, with --{name.replace('_', '-')}")
    try:
        if name == "stop_token_ids":
            return tuple(map(int, text.split()))
        return float(text) if isinstance(present, float) else int(text)
    except ValueError:
        raise ChatError(f"{name} = {text}: use a number") from None


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("role") in ("system", "user", "assistant")
        and isinstance(value.get("content"), str)
    )
