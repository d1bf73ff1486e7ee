"""A small real model behind a real server, and an engine whose every step the test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from smidgen.runtime import ContextLengthError, EngineInfo, Event, SamplingParams, Tokenizer
from smidgen.serving import ServerSettings, running
from smidgen.tokenization import train_tokenizer

TEXTS = ["What is a dog? A dog is an animal. user assistant system", "Grüße, 世界! 🙂"]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer("byte_bpe", TEXTS * 20, 300)


@pytest.fixture(scope="session")
def engine_maker(randomized_decoder: Callable[..., Any], tokenizer: Tokenizer) -> Callable[..., Any]:
    """Engines over one small model with random weights."""
    from smidgen.inference import TorchEngine

    overrides = {
        "model.vocab_size": tokenizer.vocab_size,
        "model.num_layers": 2,
        "model.max_seq_len": 128,
        "model.tie_word_embeddings": False,  # a tied model with random weights repeats the last token
    }
    decoder = randomized_decoder("elite-tiny", overrides)
    assert tokenizer.eos_id is not None

    def make(**options: Any) -> TorchEngine:
        return TorchEngine(decoder, (tokenizer.eos_id,), **options)

    make.decoder = decoder  # type: ignore[attr-defined]
    return make


@pytest.fixture(scope="session")
def url(engine_maker: Callable[..., Any], tokenizer: Tokenizer) -> Iterator[str]:
    """A server of the small model."""
    with running(engine_maker(max_batch_size=4), tokenizer, "tiny", ServerSettings(port=0, max_waiting=16)) as url:
        yield url


@dataclass
class Script:
    """A request as the scripted engine sees it."""

    ids: list[int]
    params: SamplingParams
    count: int = 0


class ScriptedEngine:
    """Counts up from the prompt's last token, one token a step; `pace` of None runs freely, else a step a release."""

    def __init__(self, vocab_size: int, batch: int = 2, context: int = 1000, paced: bool = False) -> None:
        self._info = EngineInfo("scripted", vocab_size, context, (), 1, batch)
        self.requests: dict[int, Script] = {}
        self._number = 0
        self.pace = threading.Semaphore(0) if paced else None
        self.steps = 0
        self.cancelled: list[int] = []
        self.failures = 0
        """Steps that are to fail."""

    @property
    def info(self) -> EngineInfo:
        return self._info

    def submit(self, ids: Sequence[int], params: SamplingParams) -> int:
        if len(ids) + params.max_new_tokens > self._info.max_seq_len:
            raise ContextLengthError("too long")
        self._number += 1
        self.requests[self._number] = Script(list(ids), params)
        return self._number

    def step(self) -> list[Event]:
        if self.pace is not None and self.requests:
            self.pace.acquire(timeout=10)
        if self.requests and self.failures:
            self.failures -= 1
            raise RuntimeError("the engine is scripted to fail")
        self.steps += 1
        events = []
        for number, request in list(self.requests.items())[: self._info.max_batch_size]:
            request.count += 1
            token = 65 + (request.ids[-1] + request.count) % 26
            finish: Any = "length" if request.count == request.params.max_new_tokens else None
            if finish:
                del self.requests[number]
            events.append(Event(number, token, finish, -1.0 if request.params.logprobs is not None else None))
        return events

    def cancel(self, request: int) -> None:
        if self.requests.pop(request, None) is not None:
            self.cancelled.append(request)


@pytest.fixture(scope="session")
def scripted_type() -> type[ScriptedEngine]:
    return ScriptedEngine
