"""Records of the formats that conversations come in, as messages. The fields of a record say which format it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.data.documents import SURROGATE, excerpt, surrogate_fault

Message = Mapping[str, str]
Messages = tuple[Message, ...]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
}
_LISTS = ("messages", "conversations", "conversation")


class UnusableRecord(ValueError):
    """A record that holds no conversation; `kind` is a short name to count by."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, one of which is better."""

    prompt: Messages
    chosen: Messages
    """The turns after the prompt; the last is the assistant's."""
    rejected: Messages


def conversation_of(record: Mapping[str, Any]) -> Messages:
    """The messages of a record; the last is the assistant's.

    messages (or conversations, conversation): turns with role and content, or ShareGPT's from and value. instruction,
    output (and input, system): Alpaca. prompt, completion. question, answer: GSM8K. Raises UnusableRecord.
    """
    for name in _LISTS:
        if record.get(name) is not None:
            return _ending_with_assistant(messages_of(record[name], name))
    if "instruction" in record:
        # Alpaca leaves input empty where the instruction says all.
        parts = [_text(record, "instruction"), _text(record, "input", optional=True)]
        asked = "\n\n".join(part for part in parts if part)
        return _exchange(asked, _text(record, "output"), _text(record, "system", optional=True))
    for prompt, answer in (("prompt", "completion"), ("prompt", "response"), ("question", "answer")):
        if prompt in record and answer in record:
            if isinstance(record[prompt], str):
                return _exchange(_text(record, prompt), _text(record, answer))
            turns = (*messages_of(record[prompt], prompt), *messages_of(record[answer], answer))
            return _ending_with_assistant(turns)
    raise UnusableRecord("no conversation", f"no conversation in the fields {_names(record)}; {_FORMATS}")


def preference_of(record: Mapping[str, Any]) -> Preference:
    """The pair of a record with chosen and rejected, texts or messages, and prompt; without it, both begin alike.

    Raises UnusableRecord.
    """
    if "chosen" not in record or "rejected" not in record:
        raise UnusableRecord("no pair", f"no chosen and rejected in the fields {_names(record)}")
    chosen, rejected = (_answer(record, name) for name in ("chosen", "rejected"))
    asked = next((record[name] for name in ("prompt", "question", "instruction") if record.get(name)), None)
    if isinstance(asked, str):
        prompt: Messages = _exchange(asked, "-", _text(record, "system", optional=True))[:-1]
    else:
        prompt = () if asked is None else messages_of(asked, "prompt")
    if not prompt or chosen[: len(prompt)] == prompt:
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if not prompt:
        raise UnusableRecord("no pair", "chosen and rejected begin with different messages, and there is no prompt")
    if chosen == rejected:
        raise UnusableRecord("equal answers", "chosen and rejected are the same")
    for answer in (chosen, rejected):
        _ending_with_assistant((*prompt, *answer))
    return Preference(prompt, chosen, rejected)


def messages_of(value: Any, name: str) -> Messages:
    """Turns as role and content. Raises UnusableRecord for what is no list of turns."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, Sequence) or not value:
        raise UnusableRecord("no messages", f"{name} is no list of messages")
    return tuple(_message(turn, f"{name}[{number}]") for number, turn in enumerate(value))


def _message(turn: Any, name: str) -> Message:
    if not isinstance(turn, Mapping):
        raise UnusableRecord("no messages", f"{name} is no object with role and content")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    if not isinstance(role, str) or role not in _ROLES:
        raise UnusableRecord("unknown role", f"{name}: role {role!r} is unknown; use system, user or assistant")
    if not isinstance(content, str):
        raise UnusableRecord("no text", f"{name}: the content is no text")
    _refuse_surrogates(content, name)
    return {"role": _ROLES[role], "content": content}


def _answer(record: Mapping[str, Any], name: str) -> Messages:
    value = record[name]
    if isinstance(value, str):
        return ({"role": "assistant", "content": _text(record, name)},)
    return messages_of([value] if isinstance(value, Mapping) else value, name)


def _exchange(asked: str, answer: str, system: str = "") -> Messages:
    first = [{"role": "system", "content": system}] if system else []
    return (*first, {"role": "user", "content": asked}, {"role": "assistant", "content": answer})


def _ending_with_assistant(messages: Messages) -> Messages:
    """The messages up to the assistant's last; what nobody answered teaches nothing."""
    last = max((n for n, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    if last < 1:
        raise UnusableRecord("no answer", "no answer of the assistant to a message before it")
    if not any(message["content"].strip() for message in messages if message["role"] == "assistant"):
        raise UnusableRecord("empty answer", "the assistant's answer is empty")
    return messages[: last + 1]


def _text(record: Mapping[str, Any], name: str, optional: bool = False) -> str:
    value = record.get(name)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        raise UnusableRecord("no text", f"field '{name}' is no text ({excerpt(str(value))})")
    if not value.strip() and not optional:
        raise UnusableRecord("empty text", f"field '{name}' is empty")
    _refuse_surrogates(value, f"field '{name}'")
    return value


def _refuse_surrogates(text: str, name: str) -> None:
    fault = surrogate_fault(text)
    if fault is not None:
        raise UnusableRecord(SURROGATE, f"{name} {fault}")


def _names(record: Mapping[str, Any]) -> str:
    return (", ".join(map(repr, record)) or "none")[:200]


_FORMATS = "expected messages, conversations, instruction and output, prompt and completion, or question and answer"
