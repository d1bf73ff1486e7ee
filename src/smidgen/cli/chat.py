"""Talk to a model in the terminal, or through a pipe, a message a line.

Example: smidgen chat runs/assistant --system "You answer in one sentence." --temperature 0.7
         echo "What is a door for?" | smidgen chat runs/assistant --temperature 0

/reset starts a new conversation, /exit (or Ctrl-D) leaves; Ctrl-C stops an answer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from smidgen.cli.engines import add_engine_flags, open_engine_from
from smidgen.cli.sampling import add_sampling_flags, sampling_params
from smidgen.cli.terminal import Terminal

if TYPE_CHECKING:
    from smidgen.runtime.protocols import Engine, Tokenizer
    from smidgen.runtime.sampling import SamplingParams

_HELP = "/reset starts a new conversation, /exit leaves, Ctrl-C stops an answer"


def configure(parser: argparse.ArgumentParser) -> None:
    add_engine_flags(parser)
    parser.add_argument("--system", metavar="TEXT", help="instructions that stand before the conversation")
    add_sampling_flags(parser, without=frozenset({"logprobs"}), max_new_tokens=512)


def run(args: argparse.Namespace) -> int:
    params = sampling_params(args)
    chat = Chat(*open_engine_from(args, max_batch_size=1), params, args.system)
    terminal = Terminal()
    if terminal.interactive:
        print(_HELP, file=sys.stderr)
    for message in _messages():
        command = message.strip()
        if command == "/exit":
            break
        if command == "/reset":
            chat.reset()
            print("new conversation", file=sys.stderr)
        elif command == "/help" or (command.startswith("/") and command[1:].isalpha()):
            print(_HELP, file=sys.stderr)
        elif command:
            chat.answer(message, terminal)
    return 0


def _messages() -> Iterator[str]:
    """Lines from the keyboard with a prompt, or from a pipe, until their end."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    import readline  # noqa: F401 (gives `input` a history and line editing)

    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/exit leaves)", file=sys.stderr)


class Chat:
    """A conversation: its messages, and the engine that answers them."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, params: SamplingParams, system: str | None) -> None:
        from smidgen.runtime.generation import end_of_turn_ids

        self._engine = engine
        self._tokenizer = tokenizer
        ends = () if params.ignore_eos else end_of_turn_ids(tokenizer)
        self._params = replace(params, stop_token_ids=(*params.stop_token_ids, *ends))
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.reset()

    def reset(self) -> None:
        """Forget the conversation."""
        self.messages = list(self._system)

    def answer(self, message: str, terminal: Terminal) -> None:
        """Stream the answer to a message. One that does not fit the context is refused and forgotten."""
        from smidgen.runtime.generation import encode_chat, stream

        self.messages.append({"role": "user", "content": message})
        ids = encode_chat(self._tokenizer, self.messages)
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
        params = replace(self._params, max_new_tokens=min(self._params.max_new_tokens, space))
        text, finish = "", None
        chunks = stream(self._engine, self._tokenizer, [ids], params)
        try:
            for chunk in chunks:
                text += chunk.text
                finish = chunk.finish_reason
                terminal.write(chunk.text)
        except KeyboardInterrupt:
            chunks.close()
        terminal.write("\n")
        if finish is None and not text:
            self.messages.pop()  # stopped before it began
            return
        if finish == "length":
            full = params.max_new_tokens == space
            remedy = "the context is full: /reset starts a new conversation" if full else "--max-new-tokens allows more"
            print(f"(cut after {params.max_new_tokens} tokens; {remedy})", file=sys.stderr)
        self.messages.append({"role": "assistant", "content": text})
