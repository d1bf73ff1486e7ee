"""Structure-aware fuzzing: bodies that are nearly right. No crash, no 5xx, and every refusal names the field."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import pytest

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    0.5,
    -0.0,
    1e308,
    10**30,
    2**63,
    "",
    "a",
    "1",
    "\ud800",
    "世界🙂",
    [],
    {},
    [1],
    ["a"],
    [[]],
    [None],
    {"a": 1},
    {"type": "text"},
    "x" * 2000,
    [0] * 300,
    "<|im_end|>",
    "<|endoftext|>",
]
GOOD: dict[str, list[Any]] = {
    "model": ["tiny"],
    "stream": [True, False],
    "n": [1, 2],
    "temperature": [0, 1, 0.5],
    "top_p": [0.1, 1],
    "top_k": [0, 5],
    "min_p": [0, 0.5],
    "seed": [0, -3, 2**62],
    "stop": ["a", ["a", "bc"], "\n"],
    "logit_bias": [{"5": 100}, {"40": -100, "41": 2.5}, {}],
    "presence_penalty": [0, 2, -2],
    "frequency_penalty": [0, 2, -2],
    "repetition_penalty": [1, 1.5],
    "no_repeat_ngram_size": [0, 1, 2],
    "stop_token_ids": [[], [5]],
    "ignore_eos": [True, False],
    "user": ["me"],
    "stream_options": [{"include_usage": True}, {}],
}
CHAT: dict[str, list[Any]] = {
    "logprobs": [True, False],
    "top_logprobs": [0, 3],
    "max_completion_tokens": [1, 3],
    "response_format": [{"type": "text"}],
    "tools": [[], None],
}
LEGACY: dict[str, list[Any]] = {
    "logprobs": [0, 2],
    "echo": [True, False],
    "best_of": [1, 2],
    "suffix": [None, ""],
    "max_tokens": [0, 2],
}
MESSAGES: list[Any] = [
    [{"role": "user", "content": "What is a dog?"}],
    [{"role": "developer", "content": "A dog."}, {"role": "user", "content": [{"type": "text", "text": "What?"}]}],
    [
        {"role": "user", "content": "a", "name": "me"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "<|im_end|>"},
    ],
]
PROMPTS: list[Any] = ["A dog", "", ["a", "b"], [5, 6], [[5], [6, 7]], "世界 🙂"]


def mutated(dice: random.Random, value: Any) -> Any:
    """The value with something odd somewhere in it."""
    if isinstance(value, dict) and value and dice.random() < 0.7:
        key = dice.choice(list(value))
        kind = dice.random()
        rest = {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return rest
        if kind < 0.35:
            return {**rest, key + dice.choice(["s", "_", "\ud800"]): value[key]}
        return {**value, key: mutated(dice, value[key])}
    if isinstance(value, list) and value and dice.random() < 0.7:
        at = dice.randrange(len(value))
        return [*value[:at], mutated(dice, value[at]), *value[at + 1 :]]
    return dice.choice(ODD)


def request(dice: random.Random) -> tuple[str, bytes]:
    """A path and a body: right, nearly right, or bytes that are no JSON."""
    path = dice.choice(["/v1/chat/completions", "/v1/completions"] * 4 + ["/tokenize", "/detokenize"])
    body: dict[str, Any]
    if path == "/tokenize":
        body = dice.choice([{"text": "A dog", "bos": False, "special": True}, {"messages": MESSAGES[0]}])
    elif path == "/detokenize":
        body = {"tokens": [5, 6, 7], "skip_special": True}
    else:
        chat = "chat" in path
        fields = GOOD | (CHAT if chat else LEGACY)
        body = {name: dice.choice(fields[name]) for name in dice.sample(list(fields), dice.randrange(6))}
        body |= {"messages": dice.choice(MESSAGES)} if chat else {"prompt": dice.choice(PROMPTS)}
        body.setdefault("max_completion_tokens" if chat else "max_tokens", 2)
    for _ in range(dice.choice([0, 0, 1, 1, 2])):
        body = changed if isinstance(changed := mutated(dice, body), dict) else {"prompt": changed}
    data = json.dumps(body).encode()
    if dice.random() < 0.08:
        at = dice.randrange(len(data))
        data = data[:at] + dice.choice([b"", b"\xff", b"NaN", b"[" * 50_000, b"9" * 5000, b'"a":1,']) + data[at + 1 :]
    return path, data


def fuzz(url: str, count: int, seed: int) -> dict[str, int]:
    """Send `count` requests, check every answer; how many there were of each status."""
    dice = random.Random(seed)
    counts: dict[str, int] = {}
    with httpx.Client(timeout=60) as client:
        for number in range(count):
            path, data = request(dice)
            response = client.post(url + path, content=data, headers={"content-type": "application/json"})
            place = f"request {number}: {path} {data[:400]!r}: {response.status_code} {response.text[:400]}"
            counts[str(response.status_code)] = counts.get(str(response.status_code), 0) + 1
            if response.status_code != 200:
                assert 400 <= response.status_code < 500, place
                error = response.json()["error"]
                assert error["param"], place
                assert error["param"].split(".")[0] in error["message"], place
                parsed = error["param"] != "body"
            else:
                parsed = True
                if "text/event-stream" in response.headers["content-type"]:
                    assert response.text.endswith("data: [DONE]\n\n"), place
                else:
                    assert isinstance(response.json(), dict), place
            counts["parsed"] = counts.get("parsed", 0) + parsed
        assert client.get(f"{url}/health").status_code == 200
    return counts


def check(url: str, count: int, seed: int) -> None:
    body = {"prompt": "A dog", "max_tokens": 12, "temperature": 0}
    before = httpx.post(f"{url}/v1/completions", json=body).json()["choices"]
    counts = fuzz(url, count, seed)
    print(counts)
    assert counts["parsed"] >= 0.3 * count
    assert 0.2 * count <= counts["200"] <= 0.8 * count
    assert httpx.post(f"{url}/v1/completions", json=body).json()["choices"] == before


def test_fuzzed_requests(url: str) -> None:
    check(url, 250, seed=0)


@pytest.mark.torture
def test_ten_thousand_fuzzed_requests(url: str) -> None:
    check(url, 10_000, seed=1)
