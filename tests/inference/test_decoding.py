"""The step for single tokens that a CUDA graph holds, without one: a graph is replaced by the call that it captures.

Everything else is the same: fixed tensors, sizes in buckets, warming up, steps that start before the last one is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from oracle import DTYPES, greedy_without_engine, make_model, make_prompts, run, tokens
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smidgen.config import load_config
from smidgen.inference.decoding import DecodingStep, GraphedDecodingStep, rows_of_graph, span_of_graph
from smidgen.inference.engine import TorchEngine
from smidgen.inference.frozen import frozen
from smidgen.inference.fused import fuse
from smidgen.model import Cache, Decoder
from smidgen.runtime import SamplingParams


class Captures:
    """Stands for the capture of graphs; counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, function: Callable[[], object]) -> Callable[[], object]:
        self.count += 1
        for _ in range(3):
            function()
        return function


def graphed(
    capture: Captures | None = None, backend: str | None = None
) -> Callable[[Decoder, Cache], GraphedDecodingStep]:
    return lambda model, cache: GraphedDecodingStep(
        model, cache, compiled=backend is not None, capture=capture or Captures(), backend=backend or "eager"
    )


@pytest.mark.parametrize("preset", DTYPES)
def test_batch_equals_each_request_alone(preset: str) -> None:
    """More prompts than rows, which end at different times, so that rows move and sizes change."""
    model, prompts = make_model(preset, DTYPES[preset]), make_prompts()
    engine = TorchEngine(model, max_batch_size=3, decoding=graphed())
    counts = [12, 3, 20, 7, 12]
    requests = [
        engine.submit(prompt, SamplingParams(max_new_tokens=count, temperature=0))
        for prompt, count in zip(prompts, counts, strict=True)
    ]
    events = run(engine, requests)
    for request, prompt, count in zip(requests, prompts, counts, strict=True):
        assert [event.token for event in events[request]] == greedy_without_engine(model, prompt, count)
        assert [event.finish_reason for event in events[request]] == [None] * (count - 1) + ["length"]


def test_compiled_step() -> None:
    """Through the compiler's front end, whole: a break in the graph would be an error."""
    for preset in ("elite-tiny", "gemma3-tiny", "tilda-tiny"):
        model, prompts = make_model(preset), make_prompts((5, 40))
        engine = TorchEngine(model, max_batch_size=2, decoding=graphed(backend="eager"))
        params = SamplingParams(max_new_tokens=6, temperature=0)
        assert tokens(engine, prompts, params) == [greedy_without_engine(model, prompt, 6) for prompt in prompts]


def test_a_compiler_that_fails_is_done_without(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no toolchain")

    model, [prompt, *_] = make_model("elite-tiny"), make_prompts()
    engine = TorchEngine(model, max_batch_size=1, decoding=graphed(backend=broken))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        [answer] = tokens(engine, [prompt], SamplingParams(max_new_tokens=5, temperature=0))
    assert answer == greedy_without_engine(model, prompt, 5)
    assert "decoding runs uncompiled" in caplog.text


def test_sampling_and_greedy_rows_together() -> None:
    model, prompts = make_model("elite-tiny", torch.float64), make_prompts()
    params = [
        SamplingParams(max_new_tokens=9, temperature=0),
        SamplingParams(max_new_tokens=14, temperature=0.9, top_p=0.9, repetition_penalty=1.1, seed=3),
        SamplingParams(max_new_tokens=20, temperature=0),
        SamplingParams(max_new_tokens=6, temperature=0, logprobs=1),
    ]

    def answers(engine: TorchEngine) -> list[list[int | None]]:
        requests = [engine.submit(prompt, own) for prompt, own in zip(prompts, params, strict=False)]
        events = run(engine, requests)
        return [[event.token for event in events[request]] for request in requests]

    assert answers(TorchEngine(model, max_batch_size=4, decoding=graphed())) == answers(TorchEngine(model))


def test_requests_end_join_and_are_cancelled_while_a_step_is_under_way() -> None:
    model, prompts = make_model("elite-tiny"), make_prompts()
    expected = [greedy_without_engine(model, prompt, 30) for prompt in prompts]
    end = expected[0][7]
    engine = TorchEngine(model, eos_ids=(end,), max_batch_size=3, decoding=graphed())
    params = SamplingParams(max_new_tokens=30, temperature=0)
    requests = [engine.submit(prompt, params) for prompt in prompts[:2]]
    seen: dict[int, list[int | None]] = {}
    reasons: dict[int, str] = {}
    for step in range(100):
        if step == 4:
            requests.append(engine.submit(prompts[2], params))
        if step == 12:
            engine.cancel(requests[1])
        if step == 13:
            requests.append(engine.submit(prompts[3], params))
        for event in engine.step():
            seen.setdefault(event.request, []).append(event.token)
            if event.finish_reason:
                assert event.request not in reasons
                reasons[event.request] = event.finish_reason

    def until_end(answer: Sequence[int]) -> list[int]:
        return list(answer[: answer.index(end) + 1]) if end in answer else list(answer)

    assert seen[requests[0]] == until_end(expected[0])
    cancelled = seen[requests[1]]
    assert cancelled[-1] is None or end in cancelled
    assert [token for token in cancelled if token is not None] == until_end(expected[1])[: len(cancelled) - 1]
    assert seen[requests[2]] == until_end(expected[2])
    assert seen[requests[3]] == until_end(expected[3])
    assert engine.step() == []


def test_sizes_are_captured_once() -> None:
    capture = Captures()
    engine = TorchEngine(make_model("elite-tiny"), max_batch_size=4, decoding=graphed(capture))
    for _ in range(3):
        for prompt in make_prompts((3, 9, 5, 7)):
            engine.submit(prompt, SamplingParams(max_new_tokens=6, temperature=0))
        for _ in range(20):
            engine.step()
    assert capture.count == 1


class HostTensors(TorchDispatchMode):
    """Names the operations that touch a tensor of the host, or ask for a value of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if any(leaf.device.type == "cpu" for leaf in leaves) or "_local_scalar_dense" in str(func):
            self.found.add(str(func))
        return result


@pytest.mark.parametrize("preset", DTYPES)
def test_a_step_stays_on_its_device(preset: str) -> None:
    """A graph holds no copy from the host and no wait for it; the meta device stands for the GPU."""
    model = Decoder(load_config(preset).model).eval().to("meta")
    model.compute_dtype = torch.bfloat16
    ready = fuse(frozen(model))
    step = DecodingStep(ready, ready.new_cache(4, 200, 64))
    with torch.no_grad(), HostTensors() as touched:
        step.start(4, 128)
    # The host's own record of the rows' lengths.
    assert touched.found <= {"aten.slice.Tensor"}


def test_sizes() -> None:
    assert [rows_of_graph(count, 64) for count in (1, 2, 3, 5, 9, 16, 17, 33, 64)] == [1, 2, 4, 8, 16, 16, 32, 48, 64]
    assert rows_of_graph(5, 6) == 6
    assert [span_of_graph(longest, 2048) for longest in (1, 256, 257, 1025, 2048)] == [256, 256, 512, 2048, 2048]
    assert span_of_graph(1, 100) == 100


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU; the tests above are their twin")
@pytest.mark.parametrize("preset", ["elite-tiny", "gemma3-tiny", "tilda-tiny"])
def test_on_a_gpu(preset: str) -> None:
    model, prompts = make_model(preset), make_prompts()
    expected = [greedy_without_engine(model, prompt, 12) for prompt in prompts]
    engine = TorchEngine(model.cuda(), max_batch_size=3)
    assert tokens(engine, prompts, SamplingParams(max_new_tokens=12, temperature=0)) == expected


@pytest.mark.parametrize("preset", DTYPES)
def test_a_recorded_step_answers_as_direct_calls(preset: str) -> None:
    """Also beyond a ring's window, and where the span of the recording changes."""
    model, prompts = make_model(preset, DTYPES[preset]), make_prompts((3, 75))
    params = SamplingParams(max_new_tokens=90, temperature=0)
    recorded = tokens(TorchEngine(model, max_batch_size=1), prompts, params)
    assert recorded == tokens(TorchEngine(model, max_batch_size=1, decoding=DecodingStep), prompts, params)
