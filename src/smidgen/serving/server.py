"""Listening: the application under uvicorn, in the foreground or beside a program."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from smidgen.runtime.errors import MissingDependencyError
from smidgen.runtime.protocols import Engine, Tokenizer
from smidgen.serving.settings import ServerError, ServerSettings, ip_address

if TYPE_CHECKING:
    import uvicorn

    from smidgen.serving.app import Service

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 1000
"""Open connections, idle ones included."""


def serve(
    engine: Engine,
    tokenizer: Tokenizer,
    model: str,
    settings: ServerSettings | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; then finish what is open, and return.

    model: the name that clients call it by. on_ready: told the URL once the server listens. Raises ServerError when
    the address cannot be listened on.
    """
    _server(engine, tokenizer, model, settings or ServerSettings(), on_ready).run()


@contextmanager
def running(engine: Engine, tokenizer: Tokenizer, model: str, settings: ServerSettings | None = None) -> Iterator[str]:
    """A server in a thread of this program, for as long as the block lasts; gives its URL."""
    ready = threading.Event()
    urls: list[str] = []
    errors: list[BaseException] = []

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            errors.append(error)
        finally:
            ready.set()

    server = _server(engine, tokenizer, model, settings or ServerSettings(port=0), on_ready)
    thread = threading.Thread(target=run, name="server", daemon=True)
    thread.start()
    try:
        ready.wait()
        if not urls:
            raise errors[0] if errors else ServerError("the server ended before it listened")
        yield urls[0]
    finally:
        server.should_exit = True
        thread.join()


def _server(
    engine: Engine, tokenizer: Tokenizer, model: str, settings: ServerSettings, on_ready: Callable[[str], None]
) -> Any:
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingDependencyError(str(error.name), "serve", "the server") from None
    from smidgen.serving.app import Service

    service = Service(engine, tokenizer, model, settings)
    config = uvicorn.Config(
        service.app(),
        host=settings.host,
        port=settings.port,
        http="h11",  # it bounds the size of headers
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # whoever sends them could claim to be anybody
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout)),
    )
    return _announcing(config, service, settings, on_ready)


def _announcing(
    config: uvicorn.Config, service: Service, settings: ServerSettings, on_ready: Callable[[str], None]
) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Tells when it listens and where, and lets the service know at once that it ends."""

        async def startup(self, sockets: Any = None) -> None:
            logger = logging.getLogger("uvicorn.error")
            logger.disabled = True  # a reason not to listen is told once, below
            try:
                await super().startup(sockets)
            except SystemExit as error:  # how uvicorn ends for a reason not to listen
                cause = error.__context__
                number = cause.errno if isinstance(cause, OSError) else None
                reason = f": {os.strerror(number)}" if number else ""
                raise ServerError(
                    f"{settings.host}:{settings.port}: cannot listen there{reason}; choose another --port, "
                    "or stop what uses it"
                ) from None
            finally:
                logger.disabled = False
            if self.started:
                port = self.servers[0].sockets[0].getsockname()[1]
                address = ip_address(settings.host)
                host = f"[{address}]" if address is not None and address.version == 6 else settings.host
                on_ready(f"http://{host}:{port}")

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """SIGTERM and Ctrl-C end the server; uvicorn would send them to itself once more when it has ended."""
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        async def shutdown(self, sockets: Any = None) -> None:
            service.runner.closing = True
            await super().shutdown(sockets)

    return Server(config)
