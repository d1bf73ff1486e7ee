"""The official `openai` client against the server; what it must get is what the engine gives without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest

from smidgen.runtime import SamplingParams, Tokenizer
from smidgen.runtime.generation import Completion, encode_chat, encode_prompt, end_of_turn_ids, generate_texts

MESSAGES: list[Any] = [
    {"role": "system", "content": "A dog is."},
    {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "a dog?"}]},
]
PLAIN = [{"role": "system", "content": "A dog is."}, {"role": "user", "content": "What is a dog?"}]


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def expected(engine_maker: Callable[..., Any], tokenizer: Tokenizer) -> Callable[..., Completion]:
    """The answer without a server."""

    def answer(prompt: str | None = None, **sampling: Any) -> Completion:
        ids = encode_chat(tokenizer, PLAIN) if prompt is None else encode_prompt(tokenizer, prompt)
        ends = () if prompt is not None else end_of_turn_ids(tokenizer)
        params = SamplingParams(stop_token_ids=ends, **sampling)
        return generate_texts(engine_maker(max_batch_size=1), tokenizer, [ids], params)[0]

    return answer


def test_chat(client: openai.OpenAI, expected: Callable[..., Completion]) -> None:
    answer = expected(max_new_tokens=12, temperature=0)
    got = client.chat.completions.create(model="tiny", messages=MESSAGES, max_completion_tokens=12, temperature=0)
    [choice] = got.choices
    assert (choice.message.role, choice.message.content) == ("assistant", answer.text)
    assert choice.finish_reason == answer.finish_reason
    assert got.usage is not None
    assert got.usage.prompt_tokens == answer.num_prompt_tokens
    assert got.usage.completion_tokens == len(answer.tokens)
    assert (got.object, got.model) == ("chat.completion", "tiny")


def test_streamed_chat(client: openai.OpenAI, expected: Callable[..., Completion]) -> None:
    """Role first; `finish_reason` null until one last chunk; then the usage, with no choice."""
    answer = expected(max_new_tokens=12, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *pieces, usage = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    assert pieces[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in pieces[1:])
    assert [chunk.choices[0].finish_reason for chunk in pieces] == [None] * (len(pieces) - 1) + [answer.finish_reason]
    assert not pieces[-1].choices[0].delta.content
    assert len(pieces) > 4
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == answer.text
    assert all(chunk.usage is None for chunk in pieces)
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == len(answer.tokens)


def test_choices_and_seeds(client: openai.OpenAI, expected: Callable[..., Completion]) -> None:
    got = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=12, n=3, seed=5)
    texts = [choice.message.content for choice in got.choices]
    assert texts == [expected(max_new_tokens=12, seed=5 + i).text for i in range(3)]
    assert [choice.index for choice in got.choices] == [0, 1, 2]
    streamed = ["", "", ""]
    roles, ends = [], []
    for chunk in client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=12, n=3, seed=5, stream=True
    ):
        [choice] = chunk.choices
        roles += [choice.index] * (choice.delta.role is not None)
        ends += [choice.index] * (choice.finish_reason is not None)
        streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert (sorted(roles), sorted(ends)) == ([0, 1, 2], [0, 1, 2])


@pytest.mark.parametrize("streaming", [False, True])
def test_stop_strings_across_tokens(
    client: openai.OpenAI, expected: Callable[..., Completion], tokenizer: Tokenizer, streaming: bool
) -> None:
    answer = expected(max_new_tokens=20, temperature=0)
    ends = [len(tokenizer.decode(answer.tokens[:n])) for n in range(1, 8)]
    stop = answer.text[ends[3] - 1 : ends[5]]  # begins within a token, takes in another
    shown = answer.text[: answer.text.index(stop)]
    options: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 20, "temperature": 0, "stop": ["never", stop]}
    if streaming:
        chunks = list(client.chat.completions.create(model="tiny", stream=True, **options))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == shown
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        [choice] = client.chat.completions.create(model="tiny", **options).choices
        assert (choice.message.content, choice.finish_reason) == (shown, "stop")


@pytest.mark.parametrize("streaming", [False, True])
def test_log_probabilities_of_chats(
    client: openai.OpenAI, expected: Callable[..., Completion], streaming: bool
) -> None:
    answer = expected(max_new_tokens=8, temperature=0, logprobs=2)
    options: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 8, "temperature": 0, "logprobs": True}
    if streaming:
        stream = client.chat.completions.create(model="tiny", top_logprobs=2, stream=True, **options)
        content, pieces = [], []
        for chunk in stream:
            logprobs = chunk.choices[0].logprobs
            own = [] if logprobs is None else logprobs.content or []
            content += own
            pieces.append((chunk.choices[0].delta.content or "", b"".join(bytes(t.bytes or []) for t in own)))
        assert b"".join(spelled for _, spelled in pieces).decode("utf-8", "replace") == answer.text
    else:
        got = client.chat.completions.create(model="tiny", top_logprobs=2, **options)
        assert got.choices[0].logprobs is not None
        content = got.choices[0].logprobs.content or []
    assert [entry.logprob for entry in content] == pytest.approx(answer.logprobs[: len(content)])
    assert [[top.logprob for top in entry.top_logprobs] for entry in content] == [
        pytest.approx([logprob for _, logprob in top]) for top in answer.top_logprobs[: len(content)]
    ]
    assert len(content) == len(answer.tokens) - (answer.finish_reason == "stop")
    spelled = b"".join(bytes(entry.bytes or []) for entry in content)
    assert spelled.decode("utf-8", "replace") == answer.text


def test_completions(client: openai.OpenAI, expected: Callable[..., Completion], tokenizer: Tokenizer) -> None:
    texts = ["What is a dog?", "A dog"]
    answers = [expected(text, max_new_tokens=16, temperature=0, logprobs=1) for text in texts]
    got = client.completions.create(model="tiny", prompt=texts, temperature=0, logprobs=1)
    assert [choice.text for choice in got.choices] == [answer.text for answer in answers]
    for choice, answer in zip(got.choices, answers, strict=True):
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs == pytest.approx(answer.logprobs)
        offsets = choice.logprobs.text_offset or []
        assert offsets == [len(tokenizer.decode(answer.tokens[:n])) for n in range(len(answer.tokens))]
    echoed = client.completions.create(model="tiny", prompt=texts[0], temperature=0, echo=True)
    assert echoed.choices[0].text == texts[0] + answers[0].text
    ids = client.completions.create(model="tiny", prompt=encode_prompt(tokenizer, texts[0]), temperature=0)
    assert ids.choices[0].text == answers[0].text
    stream = client.completions.create(model="tiny", prompt=texts, temperature=0, stream=True, echo=True)
    streamed = ["", ""]
    for chunk in stream:
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [text + answer.text for text, answer in zip(texts, answers, strict=True)]


def test_banned_and_favoured_tokens(client: openai.OpenAI, expected: Callable[..., Completion]) -> None:
    first = expected(max_new_tokens=1, temperature=0).tokens[0]
    banned = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=4, temperature=0, logit_bias={str(first): -100}, logprobs=True
    )
    unbanned = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=4, temperature=0)
    assert banned.choices[0].message.content != unbanned.choices[0].message.content
    favoured = client.completions.create(model="tiny", prompt="A", max_tokens=3, logit_bias={"40": 100}, seed=1)
    assert len(set(favoured.choices[0].text)) == 1


def test_penalties(client: openai.OpenAI) -> None:
    """With the largest frequency penalty on a favoured token, it gives way to the other sooner or later."""
    bias = {"40": 100, "41": 98}
    options: dict[str, Any] = {"model": "tiny", "prompt": "A", "max_tokens": 8, "temperature": 0, "logit_bias": bias}
    assert len(set(client.completions.create(**options).choices[0].text)) == 1
    assert len(set(client.completions.create(**options, frequency_penalty=2).choices[0].text)) == 2
    assert len(set(client.completions.create(**options, presence_penalty=2).choices[0].text)) <= 2


def test_models_and_errors(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=3)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "dog " * 500}])
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")


def test_asynchronous_clients_share_the_batch(url: str, expected: Callable[..., Completion]) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

            async def one(seed: int) -> str:
                text = ""
                stream = await client.chat.completions.create(
                    model="tiny", messages=MESSAGES, max_tokens=10, seed=seed, stream=True
                )
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
                return text

            return list(await asyncio.gather(*(one(seed) for seed in range(8))))

    assert asyncio.run(ask()) == [expected(max_new_tokens=10, seed=seed).text for seed in range(8)]
