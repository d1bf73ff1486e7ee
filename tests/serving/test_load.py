"""Overload, deadlines, clients that leave, engines that fail, the end: with an engine whose every step we decide."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from smidgen.runtime import Tokenizer
from smidgen.serving import ServerSettings, running
from smidgen.serving.runner import Generation, Overloaded, Runner

BODY: dict[str, Any] = {"prompt": [65], "max_tokens": 5}


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds; a failure after ten seconds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_overload_is_refused_and_passes(tokenizer: Tokenizer, scripted_type: Any) -> None:
    """Two run, two wait; of twelve, eight get a 429 at once, and the four their whole answers."""
    engine = scripted_type(tokenizer.vocab_size, batch=2, paced=True)
    with (
        running(engine, tokenizer, "tiny", ServerSettings(port=0, max_waiting=2)) as url,
        ThreadPoolExecutor(12) as pool,
    ):
        answers = [pool.submit(httpx.post, f"{url}/v1/completions", json=BODY, timeout=20) for _ in range(12)]
        wait_for(lambda: sum(answer.done() for answer in answers) == 8)
        refused = [answer.result() for answer in answers if answer.done()]
        assert [response.status_code for response in refused] == [429] * 8
        assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
        assert all(response.json()["error"]["code"] == "overloaded" for response in refused)
        engine.pace.release(1000)
        served = [answer.result() for answer in answers if answer.result().status_code == 200]
        assert {response.json()["choices"][0]["text"] for response in served} == {"lmnop"}
        assert len(served) == 4
        assert httpx.post(f"{url}/v1/completions", json=BODY).json()["choices"][0]["text"] == "lmnop"


def stream_and_leave(url: str, engine: Any, tokens: int) -> None:
    """Read a stream's first tokens, then close the connection."""
    parts = urlsplit(url)
    body = json.dumps({"prompt": [65], "max_tokens": 900, "stream": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        seen = b""
        while seen.count(b"data:") < tokens:
            engine.pace.release()
            seen += connection.recv(65536)


def test_a_client_that_leaves_costs_no_more_than_a_token(tokenizer: Tokenizer, scripted_type: Any) -> None:
    engine = scripted_type(tokenizer.vocab_size, batch=2, paced=True)
    with running(engine, tokenizer, "tiny", ServerSettings(port=0, max_waiting=0)) as url:
        stream_and_leave(url, engine, 3)
        metrics = lambda: httpx.get(f"{url}/metrics").text  # noqa: E731
        wait_for(lambda: "smidgen_cancelled_requests_total 1.0" in metrics())
        steps = engine.steps
        engine.pace.release()  # the step that was waiting
        wait_for(lambda: len(engine.cancelled) == 1)
        assert engine.steps <= steps + 1
        assert "smidgen_running_answers 0.0" in metrics()


def test_a_client_that_leaves_before_the_first_token(tokenizer: Tokenizer, scripted_type: Any) -> None:
    engine = scripted_type(tokenizer.vocab_size, batch=1, paced=True)
    with running(engine, tokenizer, "tiny", ServerSettings(port=0, max_waiting=4)) as url:
        for stream in (False, True):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/v1/completions", json={**BODY, "stream": stream}, timeout=0.2)
        wait_for(lambda: "smidgen_cancelled_requests_total 2.0" in httpx.get(f"{url}/metrics").text)
        engine.pace.release(2)
        wait_for(lambda: len(engine.cancelled) == 2)


def test_deadlines(tokenizer: Tokenizer, scripted_type: Any) -> None:
    """Before the first token a 503 that says when to try again; in a stream, an error event instead of an end."""
    engine = scripted_type(tokenizer.vocab_size, batch=1, paced=True)
    settings = ServerSettings(port=0, request_timeout=0.3)
    with running(engine, tokenizer, "tiny", settings) as url:

        def release_late() -> None:
            """After the deadline of the request that the engine is about to get."""
            wait_for(lambda: bool(engine.requests))
            threading.Timer(0.4, lambda: engine.pace.release(1)).start()

        threading.Thread(target=release_late).start()
        response = httpx.post(f"{url}/v1/completions", json=BODY)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "deadline")
        assert "retry-after" in response.headers
        engine.pace.release()
        with httpx.stream("POST", f"{url}/v1/completions", json={**BODY, "stream": True}) as stream:
            lines = stream.iter_lines()
            assert json.loads(next(lines)[6:])["choices"][0]["text"]
            threading.Timer(0.4, lambda: engine.pace.release(1)).start()
            rest = [line for line in lines if line]
        assert json.loads(rest[-1][6:])["error"]["code"] == "deadline"
        assert "[DONE]" not in "".join(rest)


def test_a_failing_step_fails_its_requests_only(tokenizer: Tokenizer, scripted_type: Any) -> None:
    engine = scripted_type(tokenizer.vocab_size)
    with running(engine, tokenizer, "tiny", ServerSettings(port=0)) as url:
        engine.failures = 1
        response = httpx.post(f"{url}/v1/completions", json=BODY)
        assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
        assert httpx.post(f"{url}/v1/completions", json=BODY).json()["choices"][0]["text"] == "lmnop"
        engine.failures = 3
        for _ in range(3):
            assert httpx.post(f"{url}/v1/completions", json=BODY).status_code in (500, 503)
        assert httpx.get(f"{url}/health").status_code == 503
        assert httpx.post(f"{url}/v1/completions", json=BODY).status_code == 503


def test_the_end_waits_for_open_answers(tokenizer: Tokenizer, scripted_type: Any) -> None:
    engine = scripted_type(tokenizer.vocab_size, paced=True)
    with ThreadPoolExecutor(1) as pool, running(engine, tokenizer, "tiny", ServerSettings(port=0)) as url:
        answer = pool.submit(httpx.post, f"{url}/v1/completions", json=BODY, timeout=20)
        wait_for(lambda: "smidgen_running_answers 1.0" in httpx.get(f"{url}/metrics").text)
        threading.Timer(0.3, lambda: engine.pace.release(1000)).start()
        assert not answer.done()
    assert answer.result().json()["choices"][0]["text"] == "lmnop"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_the_end_does_not_wait_for_ever(tokenizer: Tokenizer, scripted_type: Any) -> None:
    engine = scripted_type(tokenizer.vocab_size, paced=True)
    begun = time.monotonic()
    settings = ServerSettings(port=0, drain_timeout=0.5)
    with ThreadPoolExecutor(1) as pool, running(engine, tokenizer, "tiny", settings) as url:
        body = {**BODY, "max_tokens": 900}
        answer = pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=20)
        wait_for(lambda: "smidgen_running_answers 1.0" in httpx.get(f"{url}/metrics").text)
        threading.Timer(1.5, lambda: engine.pace.release(1)).start()
    assert time.monotonic() - begun < 8
    assert answer.exception() is not None or answer.result().status_code >= 500


def test_choices_count_in_the_queue(tokenizer: Tokenizer, scripted_type: Any) -> None:
    async def check() -> None:
        runner = Runner(scripted_type(tokenizer.vocab_size, batch=2), tokenizer, max_waiting=1)
        runner.start()
        from smidgen.runtime import SamplingParams

        def generation(n: int) -> Generation:
            return Generation([[65]] * n, [SamplingParams(max_new_tokens=1)] * n, time.monotonic() + 5)

        first = generation(2)
        runner.submit(first)
        with pytest.raises(Overloaded):
            runner.submit(generation(2))
        assert [len(chunks) async for chunks in first.chunks()] == [2]
        runner.release(first)
        await runner.close(1)
        assert runner.open == 0

    asyncio.run(check())
