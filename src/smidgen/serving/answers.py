"""Answers in the interface's two shapes, whole and as a stream: chats and completions."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.runtime.detokenizer import Detokenizer, bytes_of
from smidgen.runtime.generation import Chunk
from smidgen.runtime.protocols import FinishReason, Tokenizer
from smidgen.runtime.scoring import TokenScore


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """A token of a text with its log-probabilities."""

    token: int
    logprob: float | None
    """None for the first token of a prompt, which has no place to be predicted from."""
    top: tuple[tuple[int, float], ...]
    offset: int
    """Where its text begins, in characters."""


def prompt_entries(tokenizer: Tokenizer, prompt: Sequence[int], scores: Sequence[TokenScore]) -> list[TokenEntry]:
    """The entries of an echoed prompt, whose tokens but the first have `scores`."""
    assert len(scores) == len(prompt) - 1
    detokenizer, offset, entries = Detokenizer(tokenizer), 0, []
    for token, score in zip(prompt, [None, *scores], strict=True):
        logprob, top = (None, ()) if score is None else (score.logprob, score.top_logprobs)
        entries.append(TokenEntry(token, logprob, top, offset))
        offset += len(detokenizer.push(token))
    return entries


class TokenLedger:
    """Gives out each token's entry together with its text, so that the tokens of a piece spell the piece.

    A token whose text is held back waits; one that lies behind a stop string never comes, nor do end tokens unless
    `with_end` asks for them. `begin`: characters before the answer, from which offsets count.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], begin: int = 0, with_end: bool = False) -> None:
        self._begin, self._with_end = begin, with_end
        self._detokenizer = Detokenizer(tokenizer)
        if prompt and prompt[-1] not in tokenizer.special_tokens.values():
            self._detokenizer.push(prompt[-1])
        self._raw = self._shown = 0
        self._held: list[TokenEntry] = []

    def push(self, chunk: Chunk, ended_by_token: bool) -> list[TokenEntry]:
        """Entries that come with this chunk; `ended_by_token`: its token is an end token, which is no text."""
        if chunk.token is not None and (self._with_end or not ended_by_token):
            assert chunk.logprob is not None
            self._held.append(TokenEntry(chunk.token, chunk.logprob, chunk.top_logprobs, self._begin + self._raw))
            if not ended_by_token:
                self._raw += len(self._detokenizer.push(chunk.token))
        self._shown += len(chunk.text)
        cut = chunk.finish_reason == "stop" and not ended_by_token
        ends = chunk.finish_reason is not None and not cut
        ready = [entry for entry in self._held if ends or entry.offset - self._begin < self._shown]
        self._held = self._held[len(ready) :]
        return ready


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def body(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


class Shape(ABC):
    """How answers are written; one object a request."""

    object: str
    stream_object: str
    prefix: str

    def __init__(self, model: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    @abstractmethod
    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice of the first chunk of an answer, before any text."""

    @abstractmethod
    def piece(self, index: int, text: str, entries: Sequence[TokenEntry] | None) -> dict[str, Any]:
        """The choice of a chunk that adds text."""

    @abstractmethod
    def closing(self, index: int, finish: FinishReason) -> dict[str, Any]:
        """The choice of an answer's one last chunk."""

    @abstractmethod
    def choice(
        self, index: int, text: str, finish: FinishReason, entries: Sequence[TokenEntry] | None
    ) -> dict[str, Any]:
        """A whole answer."""

    def chunk(self, choice: dict[str, Any] | None, usage: Usage | None, with_usage: bool) -> dict[str, Any]:
        """One event of a stream; the last, with the usage, has no choice."""
        body: dict[str, Any] = {**self._head, "object": self.stream_object, "choices": [choice] if choice else []}
        if with_usage:
            body["usage"] = usage.body if usage else None
        return body

    def whole(self, choices: Sequence[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        return {**self._head, "object": self.object, "choices": list(choices), "usage": usage.body}

    def token_text(self, token: int) -> str:
        """The text of one token; bytes that are no whole character become U+FFFD."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to a text."""
        return bytes_of(self._tokenizer, token)


class ChatShape(Shape):
    """`/v1/chat/completions`."""

    object = "chat.completion"
    stream_object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def opening(self, index: int) -> dict[str, Any]:
        return self._delta(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, text: str, entries: Sequence[TokenEntry] | None) -> dict[str, Any]:
        return self._delta(index, {"content": text}, entries)

    def closing(self, index: int, finish: FinishReason) -> dict[str, Any]:
        return {**self._delta(index, {}), "finish_reason": finish}

    def choice(
        self, index: int, text: str, finish: FinishReason, entries: Sequence[TokenEntry] | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(entries),
            "finish_reason": finish,
        }

    def _delta(self, index: int, delta: dict[str, Any], entries: Sequence[TokenEntry] | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": self._logprobs(entries), "finish_reason": None}

    def _logprobs(self, entries: Sequence[TokenEntry] | None) -> dict[str, Any] | None:
        if entries is None:
            return None
        content = [
            {
                **self._token(entry.token, entry.logprob),
                "top_logprobs": [self._token(token, logprob) for token, logprob in entry.top],
            }
            for entry in entries
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        assert logprob is not None
        return {
            "token": self.token_text(token),
            "logprob": finite(logprob),
            "bytes": list(self.token_bytes(token)),
        }


class CompletionShape(Shape):
    """`/v1/completions`."""

    object = "text_completion"
    stream_object = "text_completion"
    prefix = "cmpl"

    def opening(self, index: int) -> None:
        return None

    def piece(self, index: int, text: str, entries: Sequence[TokenEntry] | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": self._logprobs(entries), "finish_reason": None}

    def closing(self, index: int, finish: FinishReason) -> dict[str, Any]:
        return {**self.piece(index, "", None), "finish_reason": finish}

    def choice(
        self, index: int, text: str, finish: FinishReason, entries: Sequence[TokenEntry] | None
    ) -> dict[str, Any]:
        return {**self.piece(index, text, entries), "finish_reason": finish}

    def _logprobs(self, entries: Sequence[TokenEntry] | None) -> dict[str, Any] | None:
        if entries is None:
            return None
        return {
            "tokens": [self.token_text(entry.token) for entry in entries],
            "token_logprobs": [None if entry.logprob is None else finite(entry.logprob) for entry in entries],
            "top_logprobs": [self._top(entry) for entry in entries],
            "text_offset": [entry.offset for entry in entries],
        }

    def _top(self, entry: TokenEntry) -> dict[str, float] | None:
        """The likeliest tokens and, as the interface has it, the token itself; of equal texts the likeliest stays."""
        if entry.logprob is None:
            return None
        tokens = (*entry.top, (entry.token, entry.logprob))
        top: dict[str, float] = {}
        for token, logprob in tokens if entry.top else ():
            top.setdefault(self.token_text(token), finite(logprob))
        return top


def finite(logprob: float) -> float:
    """JSON has no infinity; -9999 is what the interface says for a token that cannot come."""
    return max(logprob, -9999.0)
