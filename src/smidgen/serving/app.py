"""The routes: from a request's body to events of the engine, and back to the client as one answer or a stream."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from smidgen.runtime.errors import SmidgenError
from smidgen.runtime.generation import Chunk, end_of_turn_ids
from smidgen.runtime.protocols import Engine, FinishReason, Tokenizer
from smidgen.runtime.scoring import Scorer
from smidgen.serving import page
from smidgen.serving.answers import ChatShape, CompletionShape, Shape, TokenEntry, TokenLedger, Usage, prompt_entries
from smidgen.serving.errors import ApiError
from smidgen.serving.fields import parse_object, shown
from smidgen.serving.guard import App, Guard, Receive, Scope, Send
from smidgen.serving.metrics import Metrics
from smidgen.serving.requests import (
    Facts,
    GenerationRequest,
    chat_request,
    completion_request,
    detokenize_request,
    tokenize_request,
)
from smidgen.serving.runner import Closing, DeadlineExceeded, EngineFailed, Generation, Overloaded, Runner
from smidgen.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

OPEN_REQUESTS = 256
"""Requests that may be open beside those whose answers run or wait; their bodies are what they cost."""
MAX_ANSWERS = 64
"""Prompts times choices of one request."""
PARSERS = 2
"""Threads that check and tokenize requests."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

T = TypeVar("T")
Parser = Callable[[dict[str, Any], Tokenizer, Facts], GenerationRequest]


class Service:
    """A model behind the interface: its routes as an ASGI application."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, model: str, settings: ServerSettings) -> None:
        """model: the name that clients call it by."""
        info = engine.info
        self._tokenizer = tokenizer
        self._settings = settings
        self._created = int(time.time())
        self._metrics = Metrics(lambda: self.runner.open, info.max_batch_size)
        self.runner = Runner(engine, tokenizer, settings.max_waiting, self._metrics.generated_tokens.inc)
        self._facts = Facts(
            model=model,
            vocab_size=info.vocab_size,
            context=info.max_seq_len,
            max_choices=settings.max_choices,
            max_answers=min(self.runner.capacity, MAX_ANSWERS),
            scores_prompts=isinstance(engine, Scorer),
            end_of_turn=end_of_turn_ids(tokenizer) if tokenizer.chat_template else (),
        )
        self._info = info
        self._parsers = ThreadPoolExecutor(PARSERS, thread_name_prefix="parse")
        self._page = page.document()

    def app(self) -> App:
        """The application, guarded."""
        routes = [
            Route("/", self._route("page", self._show_page)),
            Route("/health", self._route("health", self._health)),
            Route("/metrics", self._route("metrics", self._show_metrics)),
            Route("/v1/models", self._route("models", self._models)),
            Route("/v1/models/{model:path}", self._route("models", self._one_model)),
            Route("/tokenize", self._route("tokenize", self._tokenize), methods=["POST"]),
            Route("/detokenize", self._route("detokenize", self._detokenize), methods=["POST"]),
            Route("/v1/chat/completions", self._route("chat", self._chat), methods=["POST"]),
            Route("/v1/completions", self._route("completions", self._completions), methods=["POST"]),
        ]
        inner = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _no_such_route, Exception: _internal_error},
        )
        return Guard(inner, self._settings, self.runner.capacity + OPEN_REQUESTS)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.runner.start()
        try:
            yield
        finally:
            await self.runner.close(self._settings.drain_timeout)
            self._parsers.shutdown()

    def _route(self, name: str, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Any]:
        """A handler whose ApiErrors become responses, counted."""

        async def endpoint(request: Request) -> Response:
            try:
                response = await handler(request)
            except ApiError as error:
                response = _json(error.body, error.status, dict(error.headers))
            except ClientDisconnect:
                response = Response(status_code=499)  # nobody reads it; what others call a closed request
            self._metrics.requests.labels(name, str(response.status_code)).inc()
            return response

        return endpoint

    async def _show_page(self, request: Request) -> Response:
        """The chat page. Without the key it comes with a 401, and asks for it."""
        status = 200 if request.scope["authorized"] else 401
        headers = {"content-security-policy": self._page.content_policy}
        return Response(self._page.html, status, headers, "text/html; charset=utf-8")

    async def _health(self, _: Request) -> Response:
        if self.runner.broken or self.runner.closing:
            status = "the engine failed" if self.runner.broken else "closing"
            return _json({"status": status}, 503, {"retry-after": "30"})
        return _json({"status": "ok"})

    async def _show_metrics(self, _: Request) -> Response:
        text, content_type = self._metrics.text()
        return Response(text, headers={"content-type": content_type})

    async def _models(self, _: Request) -> Response:
        return _json({"object": "list", "data": [self._model()]})

    async def _one_model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name != self._facts.model:
            raise ApiError(404, f"model: {shown(name)!r} is not served here", "model", "model_not_found")
        return _json(self._model())

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._facts.model,
            "object": "model",
            "created": self._created,
            "owned_by": "smidgen",
            "engine": self._info.engine,
            "context_length": self._facts.context,
            "num_parameters": self._info.num_parameters,
            "chat": self._tokenizer.chat_template is not None,
        }

    async def _tokenize(self, request: Request) -> Response:
        body = await self._body(request)
        ids = await self._in_parser(tokenize_request, body, self._tokenizer)
        return _json({"tokens": ids, "count": len(ids), "context_length": self._facts.context})

    async def _detokenize(self, request: Request) -> Response:
        body = await self._body(request)
        return _json({"text": await self._in_parser(detokenize_request, body, self._tokenizer)})

    async def _chat(self, request: Request) -> Response:
        return await self._generate(request, chat_request, ChatShape)

    async def _completions(self, request: Request) -> Response:
        return await self._generate(request, completion_request, CompletionShape)

    async def _generate(self, request: Request, parse: Parser, shape: type[Shape]) -> Response:
        """Check, queue, and answer once the first token is there: what goes wrong until then has an HTTP status."""
        begun = time.monotonic()
        body = await self._body(request)
        checked = await self._in_parser(parse, body, self._tokenizer, self._facts)
        prompts, params = checked.answers
        scores = checked.params.logprobs if checked.echo else None
        deadline = begun + self._settings.request_timeout
        generation = Generation(prompts, params, deadline, scores, checked.only_echo)
        try:
            self.runner.submit(generation)
        except (Overloaded, Closing, EngineFailed) as error:
            raise self._as_api_error(error) from None
        answer = _Answering(self, request, generation, checked, shape(self._facts.model, self._tokenizer), begun)
        try:
            return await answer.start()
        except BaseException:
            answer.end()
            raise

    async def _body(self, request: Request) -> dict[str, Any]:
        """The JSON object of a request, read up to the limit whatever its headers promise."""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise ApiError(415, "Content-Type: send application/json", "Content-Type", "unsupported_content_type")
        limit = self._settings.max_body_bytes
        too_large = ApiError(413, f"body: above {limit:,} bytes", "body", "body_too_large")
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                async for piece in request.stream():
                    body += piece
                    if len(body) > limit:
                        raise too_large
        except TimeoutError:
            raise ApiError(408, "body: did not come in time", "body", "timeout") from None
        return await self._in_parser(parse_object, bytes(body))

    async def _in_parser(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._parsers, partial(function, *arguments))

    def _as_api_error(self, error: Exception) -> ApiError:
        match error:
            case Overloaded():
                return ApiError(
                    429, "as many answers are waiting as the server takes; try again", code="overloaded", retry_after=1
                )
            case Closing():
                return ApiError(503, "the server is closing", code="closing", retry_after=30)
            case DeadlineExceeded():
                seconds = self._settings.request_timeout
                return ApiError(503, f"no answer within {seconds:g} s; try again", code="deadline", retry_after=5)
            case SmidgenError():
                return ApiError(400, str(error), "prompt")
        return ApiError(503 if self.runner.broken else 500, "the engine failed", code="engine", retry_after=30)


class _Answering:
    """One request's answers on their way to the client."""

    def __init__(
        self,
        service: Service,
        request: Request,
        generation: Generation,
        checked: GenerationRequest,
        shape: Shape,
        begun: float,
    ) -> None:
        self._service = service
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
        tokenizer = service._tokenizer
        self._echoed = [tokenizer.decode(prompt) if checked.echo else "" for prompt in generation.prompts]
        self._ledgers = [
            TokenLedger(tokenizer, prompt, len(echoed), with_end=checked.echo) if wants else None
            for prompt, echoed in zip(generation.prompts, self._echoed, strict=True)
        ]
        self._end_ids = set(checked.params.stop_token_ids)
        if not checked.params.ignore_eos:
            self._end_ids |= set(service._info.eos_ids)
        self._texts = [""] * count
        self._entries: list[Any] = [[] if wants else None for _ in range(count)]
        self._finish: list[Any] = [None] * count

    async def start(self) -> Response:
        """The response: whole, or a stream whose first tokens are there."""
        watcher = asyncio.ensure_future(self._disconnected())
        try:
            first = await self._unless(watcher, anext(self._arrivals))
            metrics = self._service._metrics
            metrics.prompt_tokens.inc(sum(map(len, self._checked.prompts)))
            metrics.first_token.observe(time.monotonic() - self._begun)
            if self._checked.stream:
                return _Stream(self, first)
            self._take(first)
            while None in self._finish:
                self._take(await self._unless(watcher, anext(self._arrivals)))
        except (DeadlineExceeded, EngineFailed, Closing, SmidgenError) as error:
            raise self._service._as_api_error(error) from None
        finally:
            watcher.cancel()
        self.end()
        if self._generation.scores:  # thousands of entries: not on the event loop
            return await self._service._in_parser(self._whole)
        return self._whole()

    def _whole(self) -> Response:
        choices = []
        for i, (echoed, text) in enumerate(zip(self._echoed, self._texts, strict=True)):
            entries = self._entries[i]
            if entries is not None:
                entries = [*self._prompt_entries(i), *entries]
            choices.append(self._shape.choice(i, echoed + text, self._finish[i], entries))
        return _json(self._shape.whole(choices, self._usage()))

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

    async def _disconnected(self) -> None:
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
        return prompt_entries(self._service._tokenizer, prompt, self._generation.scores[prompt])

    def _usage(self) -> Usage:
        return Usage(sum(map(len, self._checked.prompts)), self._completion_tokens)

    def end(self) -> None:
        """Give the places back; what still runs ends before its next token."""
        if self._ended:
            return
        self._ended = True
        self._service.runner.release(self._generation)
        self._service._metrics.duration.observe(time.monotonic() - self._begun)
        if None in self._finish:
            self._service._metrics.cancelled.inc()

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
                        out += frames[index][0] + _encode(text) + frames[index][1]
                    if finish is not None:
                        out += event(shape.closing(index, finish))
                if None not in self._finish:
                    break
                if out:
                    yield out
                    out = b""
                chunks = await anext(self._arrivals)
        except (DeadlineExceeded, EngineFailed, Closing, SmidgenError) as error:
            yield _data(self._service._as_api_error(error).body)
            return
        if with_usage:
            out += _data(shape.chunk(None, self._usage(), True))
        yield out + b"data: [DONE]\n\n"


class _Stream(Response):
    """Server-sent events; a client that goes away, or takes nothing for too long, cancels its answers."""

    def __init__(self, answering: _Answering, first: list[Chunk]) -> None:
        super().__init__(headers={"x-accel-buffering": "no"}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._answering = answering
        self._first = first
        self._sending_since: float | None = None
        """When the client was offered what it has not taken yet, by `time.monotonic`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = asyncio.ensure_future(self._send(send))
        watcher = asyncio.ensure_future(self._answering._disconnected())
        try:
            # One watch a stream: a timer for every token would cost more than making it into an event.
            timeout = self._answering._service._settings.body_timeout
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
    before, _, behind = event.partition(_encode(_MARK))
    return before, behind


def _event(shape: Shape, with_usage: bool, choice: dict[str, Any]) -> bytes:
    return _data(shape.chunk(choice, None, with_usage))


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + _encode(body) + b"\n\n"


def _encode(body: Any) -> bytes:
    return _ENCODER.encode(body).encode("utf-8")


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(body), status, headers, "application/json")


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        problem = ApiError(405, f"method: {shown(request.method)} is not for this path", "method", "method_not_allowed")
    else:
        problem = ApiError(error.status_code, f"path: nothing is at {shown(request.url.path)!r}", "path", "not_found")
    return _json(problem.body, problem.status, dict(error.headers or {}))


async def _internal_error(request: Request, error: Exception) -> Response:
    problem = ApiError(500, "the server made a mistake; its log says more", code="internal")
    return _json(problem.body, 500)
