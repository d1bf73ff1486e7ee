"""A model with more ids than its tokenizer, as padded vocabularies have them: such an id spells nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from smidgen.runtime import SamplingParams, Tokenizer
from smidgen.runtime.detokenizer import Detokenizer
from smidgen.runtime.generation import generate_texts
from smidgen.serving import ServerSettings, running


@pytest.fixture(scope="module")
def unspelled(tokenizer: Tokenizer) -> int:
    """An id of the model that the tokenizer lacks."""
    return tokenizer.vocab_size


@pytest.fixture(scope="module")
def engine(randomized_decoder: Callable[..., Any], tokenizer: Tokenizer) -> Any:
    from smidgen.inference import TorchEngine

    overrides = {"model.vocab_size": tokenizer.vocab_size + 4, "model.num_layers": 2, "model.max_seq_len": 64}
    return TorchEngine(randomized_decoder("elite-tiny", overrides), (), max_batch_size=2)


@pytest.fixture
def url(engine: Any, tokenizer: Tokenizer) -> Iterator[str]:
    with running(engine, tokenizer, "tiny", ServerSettings(port=0, max_waiting=2)) as url:
        yield url


def test_the_detokenizer_passes_over_it(tokenizer: Tokenizer, unspelled: int) -> None:
    detokenizer = Detokenizer(tokenizer)
    first, *rest = tokenizer.encode("Grüße")
    text = "".join(detokenizer.push(token) for token in [unspelled, first, unspelled + 3, *rest])
    assert text + detokenizer.finish() == "Grüße"


def test_an_answer_of_it_is_empty(engine: Any, tokenizer: Tokenizer, unspelled: int) -> None:
    params = SamplingParams(max_new_tokens=2, temperature=0, logit_bias=((unspelled, 100.0),))
    (completion,) = generate_texts(engine, tokenizer, [[65, unspelled]], params)
    assert (completion.tokens, completion.text) == ([unspelled, unspelled], "")


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_served_answer_of_it_is_empty(url: str, unspelled: int, path: str, stream: bool) -> None:
    chat = path.startswith("chat")
    body: dict[str, Any] = {"max_tokens": 2, "temperature": 0, "logit_bias": {str(unspelled): 100}, "stream": stream}
    body |= {"messages": [{"role": "user", "content": "a dog"}], "logprobs": True, "top_logprobs": 2} if chat else {}
    body |= {} if chat else {"prompt": [65, unspelled], "logprobs": 2}
    response = httpx.post(f"{url}/v1/{path}", json=body)
    assert response.status_code == 200
    if stream:
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        (choice,) = response.json()["choices"]
        assert (choice["message"]["content"] if chat else choice["text"]) == ""
        assert choice["finish_reason"] == "length"


def test_it_cannot_be_echoed_and_takes_no_place(url: str, unspelled: int) -> None:
    """More refusals than there are places: each gives its own back."""
    for _ in range(6):
        response = httpx.post(f"{url}/v1/completions", json={"prompt": [unspelled], "echo": True, "max_tokens": 1})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
    assert httpx.post(f"{url}/v1/completions", json={"prompt": [65], "max_tokens": 1}).status_code == 200


def test_an_engine_that_cannot_cancel_does_not_end_the_server(tokenizer: Tokenizer, scripted_type: Any) -> None:
    class Stubborn(scripted_type):  # type: ignore[misc]
        def cancel(self, request: int) -> None:
            super().cancel(request)
            raise RuntimeError("it is scripted not to")

    body = {"prompt": [65], "max_tokens": 900, "stop": ["n"]}
    with running(Stubborn(tokenizer.vocab_size), tokenizer, "tiny", ServerSettings(port=0)) as url:
        assert httpx.post(f"{url}/v1/completions", json=body, timeout=10).status_code in (200, 500)
        with httpx.stream("POST", f"{url}/v1/completions", json={**body, "stop": [], "stream": True}) as response:
            first = next(line for line in response.iter_lines() if line)
            assert json.loads(first.removeprefix("data: "))["choices"][0]["text"]
        last = httpx.post(f"{url}/v1/completions", json={**body, "stop": [], "max_tokens": 3}, timeout=10)
        assert last.json()["choices"][0]["text"] == "lmn"
