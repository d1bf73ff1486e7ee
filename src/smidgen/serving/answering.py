"""A request's answers on their way from the engine to the client, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from smidgen.runtime.errors import SmidgenError
from smidgen.runtime.generation import Chunk
from smidgen.runtime.protocols import FinishReason, Tokenizer
from smidgen.serving.answers import Shape, TokenEntry, TokenLedger, Usage, prompt_entries
from smidgen.serving.errors import ApiError
from smidgen.serving.guard import Receive, Scope, Send
from smidgen.serving.metrics import Metrics
from smidgen.serving.requests import GenerationRequest
from smidgen.serving.responses import encode_json, json_response
from smidgen.serving.runner import Closing, DeadlineExceeded, EngineFailed, Generation, Overloaded, Runner
from smidgen.serving.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class Backend:
    """What answering takes of the server: one object for all requests."""

    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    """The model's own end tokens."""
    runner: Runner
    metrics: Metrics
    settings: ServerSettings
    in_parser: Callable[..., Awaitable[Any]]
    """Calls a function with its arguments in a thread, off the event loop."""

    def as_api_error(self, error: Exception) -> ApiError:
        """What a client is told of an error."""
        match error:
            case Overloaded():
                return ApiError(
                    429, "as many answers are waiting as the server takes; try again", code="overloaded", retry_after=1
                )
            case Closing():
                return ApiError(503, "the server is closing", code="closing", retry_after=30)
            case DeadlineExceeded():
                seconds = self.settings.request_timeout
                return ApiError(503, f"no answer within {seconds:g} s; try again", code="deadline", retry_after=5)
            case SmidgenError():
                return ApiError(400, str(error), "prompt")
        return ApiError(503 if self.runner.broken else 500, "the engine failed", code="engine", retry_after=30)


class Answering:
    """One request's answers on their way to the client."""

    def __init__(
        self,
        backend: Backend,
        request: Request,
        generation: Generation,
        checked: GenerationRequest,
        shape: Shape,
        begun: float,
    ) -> None:
        """Raises TokenizerError for a prompt that is to be echoed and cannot be spelled."""
        self._backend = backend
        self._receive = request.receive
        self._generation = generation
        self._checked = checked
        self._shape = shape
        self._begun = begun
        self._arrivals = generation.chunks()
        self._ended = False
        self._completion_tokens = 0
        count = len(generation.prompts)
        wants = checked.params.logprobs is not None
        tokenizer = backend.tokenizer
        self._echoed = [tokenizer.decode(prompt) if checked.echo else "" for prompt in generation.prompts]
        self._ledgers = [
            TokenLedger(tokenizer, prompt, len(echoed), with_end=checked.echo) if wants else None
            for prompt, echoed in zip(generation.prompts, self._echoed, strict=True)
        ]
        self._end_ids = set(checked.params.stop_token_ids)
        if not checked.params.ignore_eos:
            self._end_ids |= backend.eos_ids
        self._texts = [""] * count
        self._entries: list[Any] = [[] if wants else None for _ in range(count)]
        self._finish: list[Any] = [None] * count

    async def start(self) -> Response:
        """The response: whole, or a stream whose first tokens are there."""
        watcher = asyncio.ensure_future(self.disconnected())
        try:
            first = await self._unless(watcher, anext(self._arrivals))
            metrics = self._backend.metrics
            metrics.prompt_tokens.inc(sum(map(len, self._checked.prompts)))
            metrics.first_token.observe(time.monotonic() - self._begun)
            if self._checked.stream:
                return Stream(self._backend, self, first)
            self._take(first)
            while None in self._finish:
                self._take(await self._unless(watcher, anext(self._arrivals)))
        except (DeadlineExceeded, EngineFailed, Closing, SmidgenError) as error:
            raise self._backend.as_api_error(error) from None
        finally:
            watcher.cancel()
        self.end()
        if self._generation.scores:  # thousands of entries: not on the event loop
            return await self._backend.in_parser(self._whole)
        return self._whole()

    def _whole(self) -> Response:
        choices = []
        for i, (echoed, text) in enumerate(zip(self._echoed, self._texts, strict=True)):
            entries = self._entries[i]
            if entries is not None:
                entries = [*self._prompt_entries(i), *entries]
            choices.append(self._shape.choice(i, echoed + text, self._finish[i], entries))
        return json_response(self._shape.whole(choices, self._usage()))

    async def _unless(self, watcher: asyncio.Future[None], awaitable: Any) -> Any:
        """Wait for `awaitable`, unless the client goes away."""
        task = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientDisconnect
            return task.result()
        finally:
            task.cancel()

    async def disconnected(self) -> None:
        """Return when the client has gone away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _take(self, chunks: list[Chunk]) -> list[tuple[int, str, Any, FinishReason | None]]:
        """Note what steps brought; the same as index, text, entries and finish reason."""
        pieces = []
        for chunk in chunks:
            index, entries = chunk.index, None
            self._completion_tokens += chunk.token is not None
            ledger = self._ledgers[index]
            if ledger is not None:
                entries = ledger.push(chunk, chunk.finish_reason == "stop" and chunk.token in self._end_ids)
                self._entries[index] += entries
            self._finish[index] = chunk.finish_reason
            if not self._checked.stream:
                self._texts[index] += chunk.text
            pieces.append((index, chunk.text, entries, chunk.finish_reason))
        return pieces

    def _prompt_entries(self, index: int) -> list[TokenEntry]:
        """Of an echoed prompt; call it when the first chunks are there."""
        if not self._checked.echo:
            return []
        prompt = tuple(self._generation.prompts[index])
        return prompt_entries(self._backend.tokenizer, prompt, self._generation.scores[prompt])

    def _usage(self) -> Usage:
        return Usage(sum(map(len, self._checked.prompts)), self._completion_tokens)

    def end(self) -> None:
        """Give the places back; what still runs ends before its next token."""
        if self._ended:
            return
        self._ended = True
        self._backend.runner.release(self._generation)
        self._backend.metrics.duration.observe(time.monotonic() - self._begun)
        if None in self._finish:
            self._backend.metrics.cancelled.inc()

    async def events(self, first: list[Chunk]) -> AsyncIterator[bytes]:
        """The stream, event by event."""
        shape, with_usage = self._shape, self._checked.include_usage
        event = partial(_event, shape, with_usage)
        frames: dict[int, tuple[bytes, bytes]] = {}
        out = b""
        for index in range(len(self._generation.prompts)):
            opening = shape.opening(index)
            if opening is not None:
                out += event(opening)
            if self._checked.echo:
                entries = None if self._entries[index] is None else self._prompt_entries(index)
                out += event(shape.piece(index, self._echoed[index], entries))
        chunks = first
        try:
            while True:
                for index, text, entries, finish in self._take(chunks):
                    if entries is not None:
                        out += event(shape.piece(index, text, entries)) if text or entries else b""
                    elif text:
                        if index not in frames:
                            frames[index] = _frame(event(shape.piece(index, _MARK, None)))
                        out += frames[index][0] + encode_json(text) + frames[index][1]
                    if finish is not None:
                        out += event(shape.closing(index, finish))
                if None not in self._finish:
                    break
                if out:
                    yield out
                    out = b""
                chunks = await anext(self._arrivals)
        except (DeadlineExceeded, EngineFailed, Closing, SmidgenError) as error:
            yield _data(self._backend.as_api_error(error).body)
            return
        if with_usage:
            out += _data(shape.chunk(None, self._usage(), True))
        yield out + b"data: [DONE]\n\n"


class Stream(Response):
    """Server-sent events; a client that goes away, or takes nothing for too long, cancels its answers."""

    def __init__(self, backend: Backend, answering: Answering, first: list[Chunk]) -> None:
        super().__init__(headers={"x-accel-buffering": "no"}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._backend = backend
        self._answering = answering
        self._first = first
        self._sending_since: float | None = None
        """When the client was offered what it has not taken yet, by `time.monotonic`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = asyncio.ensure_future(self._send(send))
        watcher = asyncio.ensure_future(self._answering.disconnected())
        try:
            # One watch a stream: a timer for every token would cost more than making it into an event.
            timeout = self._backend.settings.body_timeout
            done: set[Any] = set()
            while not done:
                since = self._sending_since
                if since is not None and time.monotonic() - since > timeout:
                    raise TimeoutError
                done, _ = await asyncio.wait(
                    {sender, watcher}, timeout=timeout / 2, return_when=asyncio.FIRST_COMPLETED
                )
            if sender.done():
                sender.result()
        finally:
            sender.cancel()
            watcher.cancel()
            self._answering.end()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._answering.events(self._first):
            self._sending_since = time.monotonic()
            await send({"type": "http.response.body", "body": event, "more_body": True})
            self._sending_since = None
        await send({"type": "http.response.body", "body": b"", "more_body": False})


_MARK = "\0"
"""A text that no event holds elsewhere."""


def _frame(event: bytes) -> tuple[bytes, bytes]:
    """What stands before and behind the text of an event whose text is the mark: it is the same for every token."""
    before, _, behind = event.partition(encode_json(_MARK))
    return before, behind


def _event(shape: Shape, with_usage: bool, choice: dict[str, Any]) -> bytes:
    return _data(shape.chunk(choice, None, with_usage))


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + encode_json(body) + b"\n\n"
