"""The engine's contract: batching, prefix reuse, cancelling, sliding, errors; and many engines at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import smidgen.edge
from smidgen.edge.library import EdgeError
from smidgen.runtime import ContextLengthError, SamplingParams, TokenizerError
from smidgen.runtime.errors import ModelFolderError

PROMPTS = [[5, 6, 7], [9] * 40, [1], list(range(100, 240)), [5, 6, 7, 8]]


def answers(engine: smidgen.edge.EdgeEngine, prompts: Sequence[list[int]], params: SamplingParams) -> list[list[int]]:
    numbers = [engine.submit(prompt, params) for prompt in prompts]
    tokens: dict[int, list[int]] = {number: [] for number in numbers}
    running = set(numbers)
    while running:
        for event in engine.step():
            assert event.token is not None
            tokens[event.request].append(event.token)
            if event.finish_reason is not None:
                running.remove(event.request)
    return [tokens[number] for number in numbers]


@pytest.fixture(params=["elite-tiny", "gemma3-tiny", "tilda-tiny"])
def folder(saved_model: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    return saved_model(request.param)[1]


def exact(folder: Any, **options: Any) -> smidgen.edge.EdgeEngine:
    return smidgen.edge.load(folder, **{"weights": "float32", "cache": "float32", "threads": 2, **options})


def test_a_batch_answers_as_each_alone(folder: Any) -> None:
    params = SamplingParams(temperature=0, max_new_tokens=60, ignore_eos=True)
    alone = [answers(exact(folder), [prompt], params)[0] for prompt in PROMPTS]
    assert answers(exact(folder, max_batch_size=3), PROMPTS, params) == alone


def test_prompts_that_begin_alike_go_on_from_the_cache(folder: Any) -> None:
    """Also where a sliding layer's ring has gone round and the beginning is lost."""
    engine = exact(folder, max_batch_size=2)
    params = SamplingParams(temperature=0, max_new_tokens=8, ignore_eos=True)
    long = [(7 * i) % 300 for i in range(230)]
    for prompt in (long[:50], long[:60], long[:20], long, long[:225], [*long[:100], 1, 2, 3], long[:50]):
        assert answers(engine, [prompt], params) == answers(exact(folder), [prompt], params)


def test_seeds_and_sampling(folder: Any) -> None:
    engine = exact(folder, max_batch_size=2)
    params = SamplingParams(
        temperature=1.0, top_p=0.9, seed=7, max_new_tokens=20, repetition_penalty=1.1, ignore_eos=True
    )
    first = answers(engine, [[3, 4]], params)
    assert answers(engine, [[3, 4]], params) == first
    assert answers(exact(folder), [[3, 4]], params) == first


def test_long_prompts_are_read_a_pass_a_step(folder: Any) -> None:
    """Alone or beside others: what is cancelled meanwhile ends with the next step, and nobody else is changed."""
    engine = exact(folder, max_batch_size=2)
    params = SamplingParams(temperature=0, max_new_tokens=3, ignore_eos=True)
    long = [(11 * i) % 300 for i in range(240)]
    expected = answers(exact(folder), [[1, 2]], params)
    cancelled = engine.submit(long, params)
    assert engine.step() == []
    engine.cancel(cancelled)
    [event] = engine.step()
    assert (event.request, event.finish_reason) == (cancelled, "cancelled")
    engine.submit(long[::-1], params)
    short = engine.submit([1, 2], params)
    engine.submit(long[5:], params)
    steps = [engine.step() for _ in range(12)]
    assert all(len({event.request for event in events}) == len(events) for events in steps)
    events = [event for events in steps for event in events]
    assert sum(event.finish_reason == "length" for event in events) == 3
    assert [[event.token for event in events if event.request == short]] == expected
    assert engine.step() == []


def test_cancel_and_limits(folder: Any) -> None:
    engine = exact(folder)
    first = engine.submit([1, 2], SamplingParams(temperature=0, max_new_tokens=50))
    waiting = engine.submit([1, 2], SamplingParams(temperature=0, max_new_tokens=3, ignore_eos=True))
    engine.step()
    engine.cancel(first)
    engine.cancel(12345)
    events = engine.step()
    assert (events[0].request, events[0].finish_reason) == (first, "cancelled")
    rest = [event for _ in range(5) for event in engine.step()]
    assert [e.finish_reason for e in [*events[1:], *rest] if e.request == waiting] == [None, None, "length"]
    with pytest.raises(ContextLengthError, match="exceed the context"):
        engine.submit([1] * 250, SamplingParams(max_new_tokens=20))
    with pytest.raises(TokenizerError, match="no tokens"):
        engine.submit([], SamplingParams())
    with pytest.raises(TokenizerError, match="outside the model's vocabulary"):
        engine.submit([300], SamplingParams())


def test_a_context_that_slides(folder: Any) -> None:
    """A full context's newest half is read anew as if it were the prompt; alone and beside another."""
    engine = exact(folder, max_seq_len=64, max_batch_size=2)
    params = SamplingParams(temperature=0, max_new_tokens=90, ignore_eos=True, overflow="slide")
    prompts = [[4] * 70, [9, 8, 7]]
    for prompt, tokens in zip(prompts, answers(engine, prompts, params), strict=True):
        context = prompt
        while tokens:
            context = context[-32:] if len(context) > 64 else context
            count = min(65 - len(context), len(tokens))
            logits = engine.forward([*context, *tokens[: count - 1]])[-count:]
            assert logits[range(count), tokens[:count]] == pytest.approx(logits.max(-1), rel=1e-4)
            context, tokens = [*context, *tokens[:count]], tokens[count:]


def test_logprobs(folder: Any) -> None:
    engine = exact(folder)
    logits = engine.forward([5, 6, 7])[-1].astype(np.float64)
    reference = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    engine.submit([5, 6, 7], SamplingParams(temperature=0.5, seed=1, max_new_tokens=1, logprobs=4))
    [event] = engine.step()
    assert event.logprob == pytest.approx(reference[event.token], abs=1e-4)
    order = np.argsort(-reference)[:4]
    assert [token for token, _ in event.top_logprobs] == order.tolist()
    assert [value for _, value in event.top_logprobs] == pytest.approx(reference[order].tolist(), abs=1e-4)


def test_engines_in_threads_do_not_disturb_each_other(saved_model: Callable[..., Any]) -> None:
    folders = [saved_model(name)[1] for name in ("elite-tiny", "gemma3-tiny", "tilda-tiny")]
    params = SamplingParams(temperature=0, max_new_tokens=40, ignore_eos=True)
    expected = [answers(exact(folder), [[1, 2, 3]], params) for folder in folders]
    results: list[Any] = [None] * len(folders)

    def run(index: int) -> None:
        results[index] = answers(exact(folders[index]), [[1, 2, 3]], params)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(folders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


def test_options_out_of_range(folder: Any) -> None:
    for options in ({"threads": 0}, {"weights": "int3"}, {"cache": "int2"}, {"instruction_set": "sse9"}):
        with pytest.raises(EdgeError, match=r"use|has"):
            smidgen.edge.load(folder, **options)
    with pytest.raises(ContextLengthError):
        smidgen.edge.load(folder, max_seq_len=10**6)
    with pytest.raises(ModelFolderError, match="no such folder"):
        smidgen.edge.load("nowhere")
    engine = smidgen.edge.load(folder)
    engine.close()
    with pytest.raises(EdgeError, match="closed"):
        engine.forward([1])
