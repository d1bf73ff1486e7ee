"""The routes: what each takes from a request's body, and what answers it."""

from __future__ import annotations

import asyncio
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

from smidgen.runtime.errors import TokenizerError
from smidgen.runtime.generation import end_of_turn_ids
from smidgen.runtime.protocols import Engine, Tokenizer
from smidgen.runtime.scoring import Scorer
from smidgen.serving import page
from smidgen.serving.answering import Answering, Backend
from smidgen.serving.answers import ChatShape, CompletionShape, Shape
from smidgen.serving.errors import ApiError
from smidgen.serving.fields import parse_object, shown
from smidgen.serving.guard import App, Guard
from smidgen.serving.metrics import Metrics
from smidgen.serving.requests import (
    Facts,
    GenerationRequest,
    chat_request,
    completion_request,
    detokenize_request,
    tokenize_request,
)
from smidgen.serving.responses import json_response
from smidgen.serving.runner import Closing, EngineFailed, Generation, Overloaded, Runner
from smidgen.serving.settings import ServerSettings

OPEN_REQUESTS = 256
"""Requests that may be open beside those whose answers run or wait; their bodies are what they cost."""
MAX_ANSWERS = 64
"""Prompts times choices of one request."""
PARSERS = 2
"""Threads that check and tokenize requests."""

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
        self._backend = Backend(
            tokenizer, frozenset(info.eos_ids), self.runner, self._metrics, settings, self._in_parser
        )

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
                response = json_response(error.body, error.status, dict(error.headers))
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
            return json_response({"status": status}, 503, {"retry-after": "30"})
        return json_response({"status": "ok"})

    async def _show_metrics(self, _: Request) -> Response:
        text, content_type = self._metrics.text()
        return Response(text, headers={"content-type": content_type})

    async def _models(self, _: Request) -> Response:
        return json_response({"object": "list", "data": [self._model()]})

    async def _one_model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name != self._facts.model:
            raise ApiError(404, f"model: {shown(name)!r} is not served here", "model", "model_not_found")
        return json_response(self._model())

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
        return json_response({"tokens": ids, "count": len(ids), "context_length": self._facts.context})

    async def _detokenize(self, request: Request) -> Response:
        body = await self._body(request)
        return json_response({"text": await self._in_parser(detokenize_request, body, self._tokenizer)})

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
            answering = Answering(
                self._backend, request, generation, checked, shape(self._facts.model, self._tokenizer), begun
            )
            self.runner.submit(generation)
        except (Overloaded, Closing, EngineFailed, TokenizerError) as error:
            raise self._backend.as_api_error(error) from None
        try:
            return await answering.start()
        except BaseException:
            answering.end()
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


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        problem = ApiError(405, f"method: {shown(request.method)} is not for this path", "method", "method_not_allowed")
    else:
        problem = ApiError(error.status_code, f"path: nothing is at {shown(request.url.path)!r}", "path", "not_found")
    return json_response(problem.body, problem.status, dict(error.headers or {}))


async def _internal_error(request: Request, error: Exception) -> Response:
    problem = ApiError(500, "the server made a mistake; its log says more", code="internal")
    return json_response(problem.body, 500)
