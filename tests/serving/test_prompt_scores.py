"""`echo` with `logprobs`: how likely a model finds a text, as evaluation toolkits ask for it, through both engines."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from smidgen.runtime import SamplingParams, Tokenizer
from smidgen.runtime.errors import ContextLengthError, TokenizerError
from smidgen.runtime.generation import generate_texts
from smidgen.runtime.scoring import Scorer, score_rows
from smidgen.serving import ServerSettings, running

TEXT = "What is a dog? A dog is an animal. Grüße, 世界!"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, engine_maker: Callable[..., Any], tokenizer: Tokenizer) -> Path:
    from smidgen.folders import save

    path = tmp_path_factory.mktemp("model")
    save(engine_maker.decoder, path, tokenizer)  # type: ignore[attr-defined]
    return path


@pytest.fixture(scope="module", params=["torch", "edge"])
def engine(request: pytest.FixtureRequest, folder: Path, engine_maker: Callable[..., Any]) -> Any:
    """Two places; pieces of 16 tokens, so that TEXT takes several."""
    if request.param == "torch":
        return engine_maker(max_batch_size=2, prefill_chunk=16)
    edge = pytest.importorskip("smidgen.edge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smidgen.edge.loading.CHUNK", 16)
        return edge.load(str(folder), max_batch_size=2, threads=1, weights="float32", cache="float32")


@pytest.fixture(scope="module")
def client(engine: Any, tokenizer: Tokenizer) -> Iterator[openai.OpenAI]:
    with running(engine, tokenizer, "tiny", ServerSettings(port=0, max_waiting=16)) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Callable[[list[int]], Any]:
    """Log-probabilities [T, V] by transformers."""
    transformers = pytest.importorskip("transformers")
    import torch

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def logprobs(ids: list[int]) -> Any:
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()

    return logprobs


def test_prompts_and_answers_are_those_of_transformers(
    client: openai.OpenAI, reference: Callable[[list[int]], Any], tokenizer: Tokenizer
) -> None:
    """Every token of prompt and answer has its entry; the first of the prompt none to report."""
    ids = tokenizer.encode(TEXT)
    got = client.completions.create(
        model="tiny", prompt=TEXT, max_tokens=5, temperature=0, echo=True, logprobs=3, extra_body={"ignore_eos": True}
    )
    [choice] = got.choices
    found = choice.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.top_logprobs is not None
    assert found.text_offset is not None
    assert len(found.tokens) == len(ids) + 5
    assert found.token_logprobs is not None
    assert (found.token_logprobs[0], found.top_logprobs[0]) == (None, None)
    answer = generate_by(reference, ids, 5)
    whole = ids + answer
    expected = reference(whole)
    own = [expected[at, token] for at, token in enumerate(whole[1:])]
    assert found.token_logprobs[1:] == pytest.approx(own, abs=2e-4)
    likeliest = np.sort(expected, -1)[:, ::-1]
    for at, top in enumerate(found.top_logprobs[1:]):
        assert sorted(top.values(), reverse=True)[0] == pytest.approx(likeliest[at, 0], abs=2e-4)
        assert len(top) <= 4
    assert found.text_offset == [len(tokenizer.decode(whole[:n]).rstrip("�")) for n in range(len(whole))]
    assert choice.text == tokenizer.decode(whole)
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (len(ids), 5)


def generate_by(reference: Callable[[list[int]], Any], ids: list[int], count: int) -> list[int]:
    answer: list[int] = []
    for _ in range(count):
        answer.append(int(reference(ids + answer)[-1].argmax()))
    return answer


def test_nothing_generated_takes_the_whole_context(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    """`max_tokens = 0` only scores; equal prompts are scored alike, a single token has nothing to score."""
    full = [65 + number % 26 for number in range(128)]
    got = client.completions.create(model="tiny", prompt=[full, [65], full], max_tokens=0, echo=True, logprobs=0)
    first, single, again = got.choices
    assert [choice.finish_reason for choice in got.choices] == ["length"] * 3
    assert first.text == tokenizer.decode(full)
    assert first.logprobs is not None
    assert first.logprobs.token_logprobs is not None
    assert len(first.logprobs.token_logprobs) == 128
    assert first.logprobs == again.logprobs
    assert single.logprobs is not None
    assert single.logprobs.token_logprobs == [None]
    assert got.usage is not None
    assert got.usage.completion_tokens == 0
    assert client.completions.create(model="tiny", prompt="A dog", max_tokens=0, echo=True).choices[0].text == "A dog"
    for options in ({"max_tokens": 0}, {"max_tokens": 1, "echo": True, "prompt": full}):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**{"model": "tiny", "prompt": "A", "logprobs": 1, **options})
        assert caught.value.param in ("max_tokens", "prompt")


def test_streams_hold_the_same(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": ["What is a dog?", "A dog"], "max_tokens": 4, "seed": 3}
    options |= {"echo": True, "logprobs": 2, "n": 2}
    whole = client.completions.create(**options).choices
    texts, values, offsets = [""] * 4, [[] for _ in range(4)], [[] for _ in range(4)]
    for chunk in client.completions.create(stream=True, **options):
        [choice] = chunk.choices
        texts[choice.index] += choice.text
        if choice.logprobs is not None:
            values[choice.index] += choice.logprobs.token_logprobs or []
            offsets[choice.index] += choice.logprobs.text_offset or []
    assert texts == [choice.text for choice in whole]
    for choice, value, offset in zip(whole, values, offsets, strict=True):
        assert choice.logprobs is not None
        assert value[1:] == pytest.approx((choice.logprobs.token_logprobs or [])[1:], abs=2e-5)
        assert offset == choice.logprobs.text_offset


def test_an_end_token_has_its_entry(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    """Toolkits count entries from the end: prompt and one new token, even where that ends the text."""
    eos = tokenizer.eos_id
    got = client.completions.create(
        model="tiny", prompt="A dog", max_tokens=1, echo=True, logprobs=1, logit_bias={str(eos): 100}, temperature=0
    )
    [choice] = got.choices
    assert (choice.text, choice.finish_reason) == ("A dog", "stop")
    assert choice.logprobs is not None
    assert len(choice.logprobs.tokens or []) == len(tokenizer.encode("A dog")) + 1


def test_scoring_goes_on_beside_answers(engine: Any, client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    """More clients than places, some that score and some that write: each gets what it gets alone."""
    bodies = [
        {"prompt": TEXT, "max_tokens": 8, "temperature": 0, **({"echo": True, "logprobs": 1} if number % 2 else {})}
        for number in range(8)
    ]
    url = str(client.base_url)
    alone = [httpx.post(f"{url}completions", json=body).json()["choices"][0] for body in bodies[:2]]
    got: list[Any] = [None] * len(bodies)

    def ask(number: int) -> None:
        got[number] = httpx.post(f"{url}completions", json=bodies[number], timeout=60).json()["choices"][0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, choice in enumerate(got):
        assert choice["text"] == alone[number % 2]["text"]
        if number % 2:
            values, before = choice["logprobs"]["token_logprobs"], alone[1]["logprobs"]["token_logprobs"]
            assert values[1:] == pytest.approx(before[1:], abs=2e-4)


def test_the_place_is_given_back(engine: Any, tokenizer: Tokenizer) -> None:
    """A scoring that ends early leaves no trace; ids and lengths are checked."""
    ids = tokenizer.encode(TEXT)
    assert isinstance(engine, Scorer)
    scoring = engine.score(ids, 1)
    next(scoring)
    scoring.close()
    params = SamplingParams(max_new_tokens=5, temperature=0)
    before = generate_texts(engine, tokenizer, [ids, ids[:9]], params)
    assert sum(map(len, engine.score(ids, 0))) == len(ids) - 1
    assert [a.text for a in generate_texts(engine, tokenizer, [ids, ids[:9]], params)] == [a.text for a in before]
    with pytest.raises(ContextLengthError):
        list(engine.score([65] * 129, 0))
    with pytest.raises(TokenizerError):
        list(engine.score([65, tokenizer.vocab_size], 0))


def test_an_engine_that_cannot_says_so(scripted_type: Any, tokenizer: Tokenizer) -> None:
    body = {"prompt": "A", "echo": True, "logprobs": 1}
    with running(scripted_type(tokenizer.vocab_size), tokenizer, "tiny", ServerSettings(port=0)) as url:
        response = httpx.post(f"{url}/v1/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "logprobs")


def test_more_scores_than_an_answer_holds_are_refused(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.serving.requests.MAX_SCORES", 100)
    options: dict[str, Any] = {"model": "tiny", "prompt": [[65] * 17, [66] * 17], "max_tokens": 1, "echo": True}
    assert client.completions.create(**options, logprobs=1).choices
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**options, logprobs=1, n=2)
    assert caught.value.param == "logprobs"


def test_rows_by_hand() -> None:
    rows = np.log(np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]], np.float32))
    first, second = score_rows(rows + 7, [1, 3], 2)
    assert (first.logprob, second.logprob) == pytest.approx((np.log(0.2), np.log(0.25)), abs=1e-6)
    assert [token for token, _ in first.top_logprobs] == [3, 2]
    assert len(score_rows(rows, [0, 0], 9)[1].top_logprobs) == 4
    assert json.dumps(first.top_logprobs)
