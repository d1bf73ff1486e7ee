"""What every request passes before any route sees it: Host, Origin, the API key, a bound on open requests."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from smidgen.serving.errors import ApiError
from smidgen.serving.fields import shown
from smidgen.serving.settings import ServerSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""For everything but the chat page, which names what it needs itself."""


class Guard:
    """ASGI middleware; the outermost, so that no route is without it."""

    def __init__(self, app: App, settings: ServerSettings, max_open: int) -> None:
        self._app = app
        self._settings = settings
        self._max_open = max_open
        self._open = 0
        self._key = None if settings.api_key is None else _digest(settings.api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no websockets here
            await send({"type": "websocket.close", "code": 1000})
            return
        headers = scope["headers"]
        origin = _only(headers, b"origin")
        allowed_origin = origin if origin in self._settings.cors_origins else None

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self._complete(message.get("headers", ()), allowed_origin)
            await send(message)

        self._open += 1
        try:
            self._check_host(headers)
            self._check_origin(scope, origin, allowed_origin)
            if allowed_origin and scope["method"] == "OPTIONS" and _only(headers, b"access-control-request-method"):
                await respond(
                    send_with_headers,
                    204,
                    b"",
                    {
                        "access-control-allow-methods": "GET, POST",
                        "access-control-allow-headers": "authorization, content-type",
                        "access-control-max-age": "600",
                    },
                )
                return
            scope["authorized"] = self._is_authorized(headers)
            if not scope["authorized"] and scope["path"] != "/":  # there the page itself asks for the key, with a 401
                raise ApiError(
                    401,
                    "Authorization: send 'Bearer' and the API key of this server",
                    "Authorization",
                    "invalid_api_key",
                )
            if self._open > self._max_open:
                raise ApiError(503, "too many requests are open; try again", code="overloaded", retry_after=1)
            await self._app(scope, receive, send_with_headers)
        except ApiError as error:
            await respond_error(send_with_headers, error)
        finally:
            self._open -= 1

    def _check_host(self, headers: list[tuple[bytes, bytes]]) -> None:
        host = _only(headers, b"host")
        name = None if host is None else host_name(host)
        if name is None:
            raise ApiError(400, "Host: give it once, as name or name:port", "Host", "invalid_host")
        if not self._settings.serves_host(name):
            raise ApiError(
                403,
                f"Host: {shown(name)!r} is no name of this server (--allowed-host adds one)",
                "Host",
                "invalid_host",
            )

    def _check_origin(self, scope: Scope, origin: str | None, allowed: str | None) -> None:
        """Pages of others may not even send requests whose answers they could not read."""
        if origin is None:
            if sum(name == b"origin" for name, _ in scope["headers"]):
                raise ApiError(400, "Origin: give it once", "Origin", "invalid_origin")
            return
        host = _only(scope["headers"], b"host")
        if allowed is None and origin.lower() not in {f"http://{host}".lower(), f"https://{host}".lower()}:
            raise ApiError(
                403, f"Origin: pages of {shown(origin)!r} may not call this server", "Origin", "invalid_origin"
            )

    def _is_authorized(self, headers: list[tuple[bytes, bytes]]) -> bool:
        if self._key is None:
            return True
        value = [value for name, value in headers if name == b"authorization"]
        scheme, _, key = (value[0] if len(value) == 1 else b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(key.strip()), self._key)

    def _complete(self, headers: Any, origin: str | None) -> list[tuple[bytes, bytes]]:
        given = [(bytes(name).lower(), bytes(value)) for name, value in headers]
        names = {name for name, _ in given}
        extra = {**_HEADERS, "content-security-policy": _CONTENT_POLICY}
        if origin is not None:
            extra |= {"access-control-allow-origin": origin, "vary": "Origin"}
        return given + [(k.encode(), v.encode()) for k, v in extra.items() if k.encode() not in names]


def host_name(host: str) -> str | None:
    """The name in a Host header, lower case and without its port; None if it is malformed."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, "0"
    bracketed = name.startswith("[") and name.endswith("]")
    if not port.isdigit() or not name or (":" in name and not bracketed):
        return None
    return name.lower().rstrip(".")


def _only(headers: list[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The value of a header that is there exactly once."""
    values = [value for key, value in headers if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _digest(key: bytes) -> bytes:
    """Of one length for all keys, so that comparing tells nothing of the right one's."""
    return hashlib.sha256(key).digest()


async def respond(
    send: Send, status: int, body: bytes, headers: dict[str, str], content_type: str | None = None
) -> None:
    """Send a whole response."""
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    if content_type is not None:
        pairs.append((b"content-type", content_type.encode()))
    if status != 204:
        pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, error: ApiError) -> None:
    """Send an error in its shape."""
    await respond(send, error.status, json.dumps(error.body).encode(), dict(error.headers), "application/json")
