"""Who gets through: Host and Origin headers, keys, sizes; checked over the wire, byte by byte where it matters."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from smidgen.runtime import Tokenizer
from smidgen.serving import ServerError, ServerSettings, running
from smidgen.serving.guard import host_name

KEY = "a key of this test"
ROUTES = [
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/nothing/here"),
    ("OPTIONS", "/v1/models"),
]


@pytest.fixture(scope="module")
def guarded(tokenizer: Tokenizer, scripted_type: Any) -> Iterator[str]:
    settings = ServerSettings(
        port=0, api_key=KEY, allowed_hosts=("models.test",), cors_origins=("https://app.test",), body_timeout=2
    )
    with running(scripted_type(tokenizer.vocab_size), tokenizer, "tiny", settings) as url:
        yield url


def raw(url: str, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send exactly these bytes; status, headers and body of the answer."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(request)
        data = b""
        while piece := connection.recv(65536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_is_behind_the_key(guarded: str, method: str, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
        response = httpx.request(method, guarded + path, headers=headers)
        assert response.status_code == 401, headers
        if path != "/":
            assert response.json()["error"]["param"] == "Authorization"
    response = httpx.request(method, guarded + path, headers={"authorization": f"Bearer {KEY}"})
    assert response.status_code != 401


def test_the_page_without_the_key_holds_nothing_of_the_model(guarded: str) -> None:
    """It comes with a 401 and asks for the key; it is the same file whatever is served."""
    from smidgen.serving.page import document

    response = httpx.get(guarded)
    assert (response.status_code, response.content) == (401, document().html)
    assert b"tiny" not in response.content


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:80", "localhost.evil.test", "192.168.1.2", "127.0.0.1.evil.test"]
)
def test_other_names_are_refused(guarded: str, host: str) -> None:
    """DNS rebinding: a page's own name points here, so the Host header tells."""
    response = httpx.get(f"{guarded}/health", headers={"host": host, "authorization": f"Bearer {KEY}"})
    assert (response.status_code, response.json()["error"]["param"]) == (403, "Host")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1234", "127.0.0.1:5", "[::1]:8000", "models.test", "models.test."]
)
def test_own_names_are_served(guarded: str, host: str) -> None:
    response = httpx.get(f"{guarded}/health", headers={"host": host, "authorization": f"Bearer {KEY}"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers", [b"", b"Host: localhost\r\nHost: localhost\r\n", b"Host: ::1\r\n", b"Host: a:b:c\r\n"]
)
def test_malformed_hosts(guarded: str, headers: bytes) -> None:
    status, _, _ = raw(guarded, b"GET /health HTTP/1.0\r\n" + headers + b"\r\n")
    assert status == 400


def test_host_names() -> None:
    assert host_name("A.test:80") == "a.test"
    assert host_name("[::1]") == "[::1]"
    assert host_name("x:y") is None
    assert host_name("") is None


def test_pages_of_others_cannot_call(guarded: str) -> None:
    headers = {"authorization": f"Bearer {KEY}", "origin": "https://evil.test"}
    response = httpx.post(f"{guarded}/tokenize", json={"text": "a"}, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (403, "Origin")
    assert "access-control-allow-origin" not in response.headers
    assert (
        httpx.post(f"{guarded}/tokenize", json={"text": "a"}, headers=headers | {"origin": guarded}).status_code == 200
    )
    assert httpx.get(f"{guarded}/health", headers=headers | {"origin": "null"}).status_code == 403


def test_named_origins_can(guarded: str) -> None:
    origin = {"origin": "https://app.test"}
    preflight = httpx.options(f"{guarded}/tokenize", headers=origin | {"access-control-request-method": "POST"})
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.test"
    response = httpx.post(
        f"{guarded}/tokenize", json={"text": "a"}, headers=origin | {"authorization": f"Bearer {KEY}"}
    )
    assert response.headers["access-control-allow-origin"] == "https://app.test"
    assert "*" not in str(response.headers)


def test_headers_of_every_answer(guarded: str) -> None:
    for path in ("/", "/health", "/nothing"):
        headers = httpx.get(guarded + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in httpx.get(guarded).headers["content-security-policy"]


def post(url: str, headers: bytes, body: bytes) -> tuple[int, dict[str, str], bytes]:
    head = (
        f"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n".encode()
    )
    return raw(url, head + b"Content-Type: application/json\r\n" + headers + b"\r\n" + body)


def test_large_bodies_are_refused_by_their_length(guarded: str) -> None:
    status, _, body = post(guarded, b"Content-Length: 1048577\r\n", b"{")
    assert (status, json.loads(body)["error"]["param"]) == (413, "body")


def test_large_bodies_are_refused_in_pieces(guarded: str) -> None:
    """Chunked transfer promises no length."""
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    try:
        status, _, body = post(guarded, b"Transfer-Encoding: chunked\r\n", piece * 17)
    except (ConnectionResetError, BrokenPipeError):  # refused while we were still sending
        return
    assert (status, json.loads(body)["error"]["param"]) == (413, "body")
    fits = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    end = b'c\r\n{"text":"a"}\r\n0\r\n\r\n'
    assert post(guarded, b"Transfer-Encoding: chunked\r\n", fits * 15 + end)[0] == 200


def test_slow_bodies_are_given_up(guarded: str) -> None:
    status, _, body = post(guarded, b"Content-Length: 100\r\n", b"{")
    assert (status, json.loads(body)["error"]["param"]) == (408, "body")


def test_only_json(guarded: str) -> None:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "text/plain"}
    response = httpx.post(f"{guarded}/tokenize", content="{}", headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (415, "Content-Type")


def test_a_taken_port_is_told_once(tokenizer: Tokenizer, scripted_type: Any, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = ServerSettings(port=other.getsockname()[1])
        with (
            pytest.raises(ServerError, match="cannot listen there: Address already in use; choose another --port"),
            running(scripted_type(tokenizer.vocab_size), tokenizer, "tiny", settings),
        ):
            pass
    assert not caplog.records


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "example.org"])
def test_open_addresses_need_a_key(host: str) -> None:
    with pytest.raises(ServerError, match="SMIDGEN_API_KEY"):
        ServerSettings(host=host)
    assert ServerSettings(host=host, api_key="k").api_key == "k"


@pytest.mark.parametrize(
    ("field", "value"),
    [("port", -1), ("max_waiting", -1), ("request_timeout", 0.0), ("cors_origins", ("*",)), ("api_key", "ä")],
)
def test_settings_are_checked(field: str, value: object) -> None:
    with pytest.raises(ServerError, match=field):
        ServerSettings(**{field: value})  # type: ignore[arg-type]


def test_the_key_is_not_shown() -> None:
    assert KEY not in repr(ServerSettings(api_key=KEY))
