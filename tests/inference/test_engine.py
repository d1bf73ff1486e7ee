"""The engine against the plain decoder: batching, chunks and slots must not change what a request gets."""

from __future__ import annotations

import pytest
import torch
from oracle import DTYPES, greedy_without_engine, make_model, make_prompts, run, tokens

from smidgen.config import load_config
from smidgen.inference.engine import TorchEngine
from smidgen.inference.frozen import frozen, product
from smidgen.model import Decoder
from smidgen.model.cache import cache_bytes
from smidgen.runtime import ContextLengthError, SamplingParams, TokenizerError
from smidgen.runtime.sampling import SamplingError


@pytest.mark.parametrize("preset", DTYPES)
@pytest.mark.parametrize("prefill_chunk", [512, 16])
def test_batch_equals_each_request_alone(preset: str, prefill_chunk: int) -> None:
    """More prompts than slots, of unequal length, past the sliding window; the oracle has neither cache nor batch."""
    model, prompts = make_model(preset, DTYPES[preset]), make_prompts()
    engine = TorchEngine(model, max_batch_size=3, prefill_chunk=prefill_chunk)
    counts = [12, 3, 20, 7, 12]
    requests = [
        engine.submit(prompt, SamplingParams(max_new_tokens=count, temperature=0))
        for prompt, count in zip(prompts, counts, strict=True)
    ]
    events = run(engine, requests)
    for request, prompt, count in zip(requests, prompts, counts, strict=True):
        expected = greedy_without_engine(model, prompt, count)
        assert [event.token for event in events[request]] == expected
        assert len(set(expected)) > 1
        assert [event.finish_reason for event in events[request]] == [None] * (count - 1) + ["length"]


def test_requests_join_while_others_run() -> None:
    model, prompts = make_model("elite-tiny"), make_prompts()
    engine = TorchEngine(model, max_batch_size=2, prefill_chunk=8)
    params = SamplingParams(max_new_tokens=10, temperature=0)
    requests: list[int] = []
    events: dict[int, list[int | None]] = {}
    for step in range(200):
        if step % 5 == 0 and len(requests) < len(prompts):
            requests.append(engine.submit(prompts[len(requests)], params))
        for event in engine.step():
            events.setdefault(event.request, []).append(event.token)
    assert [events[request] for request in requests] == [greedy_without_engine(model, p, 10) for p in prompts]


def test_seeded_samples_do_not_depend_on_the_batch() -> None:
    model, prompts = make_model("elite-tiny", torch.float64), make_prompts()
    params = SamplingParams(max_new_tokens=10, temperature=0.9, top_p=0.9, repetition_penalty=1.1, seed=3)
    together = tokens(TorchEngine(model, max_batch_size=4), prompts, params)
    for prompt, expected in zip(prompts, together, strict=True):
        assert tokens(TorchEngine(model, max_batch_size=1), [prompt], params) == [expected]


def test_prompts_share_one_pass() -> None:
    """Prompts that arrive together are prefilled together, and active rows share every decoding pass."""
    engine = TorchEngine(make_model("elite-tiny"), max_batch_size=4)
    for prompt in make_prompts((3, 9, 5, 7)):
        engine.submit(prompt, SamplingParams(max_new_tokens=3, temperature=0))
    assert [len(engine.step()) for _ in range(4)] == [4, 4, 4, 0]


def test_end_tokens() -> None:
    model, [prompt, *_] = make_model("elite-tiny"), make_prompts()
    expected = greedy_without_engine(model, prompt, 8)
    end = next(token for i, token in enumerate(expected) if i >= 2 and token not in expected[:i])
    stop = expected.index(end)
    engine = TorchEngine(model, eos_ids=(end,))
    greedy = {"max_new_tokens": 8, "temperature": 0.0}
    requests = [
        engine.submit(prompt, SamplingParams(**greedy)),  # type: ignore[arg-type]
        engine.submit(prompt, SamplingParams(**greedy, ignore_eos=True)),  # type: ignore[arg-type]
        engine.submit(prompt, SamplingParams(**greedy, ignore_eos=True, stop_token_ids=(expected[0],))),  # type: ignore[arg-type]
        engine.submit(prompt, SamplingParams(max_new_tokens=stop + 1, temperature=0)),
    ]
    events = run(engine, requests)
    assert [[event.token for event in events[request]] for request in requests] == [
        expected[: stop + 1],
        expected,
        expected[:1],
        expected[: stop + 1],
    ]
    assert [events[request][-1].finish_reason for request in requests] == ["stop", "length", "stop", "stop"]


def test_cancel() -> None:
    engine = TorchEngine(make_model("elite-tiny"), max_batch_size=1)
    params = SamplingParams(max_new_tokens=50, temperature=0)
    active, waiting, last = (engine.submit([1, 2, 3], params) for _ in range(3))
    engine.step()
    engine.cancel(active)
    engine.cancel(waiting)
    engine.cancel(999)
    first, second, third = engine.step()
    assert (first.request, first.token, first.finish_reason) == (active, None, "cancelled")
    assert (second.request, second.token, second.finish_reason) == (waiting, None, "cancelled")
    assert third.request == last
    engine.cancel(active)
    assert [event.request for event in engine.step()] == [last]


def test_nothing_left_ends_the_request() -> None:
    """When the n-gram rule forbids the whole vocabulary there is no token to give."""
    model = Decoder(load_config("elite-tiny", {"model.vocab_size": 5, "model.num_layers": 1}).model).initialize(0)
    engine = TorchEngine(model)
    params = SamplingParams(max_new_tokens=20, temperature=0, no_repeat_ngram_size=1)
    [answer] = tokens(engine, [[0, 3]], params)
    assert sorted(token for token in answer if token is not None) == [1, 2, 4]
    assert answer[-1] is None


def test_context_can_be_filled_but_not_exceeded() -> None:
    model = make_model("elite-tiny")
    engine = TorchEngine(model, max_batch_size=1, max_seq_len=20)
    [prompt] = make_prompts((12,))
    [answer] = tokens(engine, [prompt], SamplingParams(max_new_tokens=8, temperature=0))
    assert answer == greedy_without_engine(model, prompt, 8)
    with pytest.raises(ContextLengthError, match=r"12 prompt tokens \+ max_new_tokens = 9 exceed the context of 20"):
        engine.submit(prompt, SamplingParams(max_new_tokens=9))
    with pytest.raises(ContextLengthError, match="max_seq_len = 257"):
        TorchEngine(model, max_seq_len=257)


def test_a_cache_that_does_not_fit_is_refused_with_the_sum() -> None:
    with pytest.raises(ContextLengthError, match=r"max_batch_size = 1000000000.* takes [\d.]+ GiB, and [\d.]+ GiB are"):
        TorchEngine(make_model("elite-tiny"), max_batch_size=10**9)


@pytest.mark.parametrize("preset", DTYPES)
def test_the_sum_is_what_a_cache_takes(preset: str) -> None:
    model = make_model(preset)
    shapes = [layer.self_attn.cache_shape() for layer in model.layers]
    assert cache_bytes(shapes, 3, 70, torch.float32, 5) == model.new_cache(3, 70, 5).nbytes


@pytest.mark.parametrize(("prompt", "message"), [([], "no tokens"), ([1, 300], "300 is outside"), ([-1], "-1 is")])
def test_prompts_that_are_refused(prompt: list[int], message: str) -> None:
    engine = TorchEngine(make_model("elite-tiny"), max_batch_size=1)
    with pytest.raises(TokenizerError, match=message):
        engine.submit(prompt, SamplingParams())
    assert engine.step() == []


def test_logprobs() -> None:
    model, [prompt, *_] = make_model("elite-tiny"), make_prompts()
    engine = TorchEngine(model)
    request = engine.submit(prompt, SamplingParams(max_new_tokens=1, temperature=0.5, top_k=5, seed=0, logprobs=2))
    [event] = run(engine, [request])[request]
    reference = model(torch.tensor([prompt]))[0, -1].detach().log_softmax(-1)
    assert event.token is not None
    assert event.logprob == pytest.approx(float(reference[event.token]), abs=1e-4)
    assert [token for token, _ in event.top_logprobs] == reference.topk(2).indices.tolist()


@pytest.mark.parametrize("preset", DTYPES)
@pytest.mark.parametrize("compute_dtype", [None, torch.bfloat16])
def test_frozen_model_computes_the_same(preset: str, compute_dtype: torch.dtype | None) -> None:
    model = make_model(preset)
    model.compute_dtype = compute_dtype
    model.train()
    ids = torch.tensor(make_prompts((40,)))
    with torch.inference_mode():
        logits = frozen(model)(ids)
        expected = model.eval()(ids)
    if compute_dtype is None:
        assert torch.equal(logits, expected)
    else:
        # Products may run by another kernel, and Gemma's scaled embedding is rounded once more.
        assert float((logits - expected).abs().max() / expected.abs().max()) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (5, 1), (8, 8), (5, 13)])
def test_product_by_every_route(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(*shape, 48).to(dtype), torch.randn(70, 48).to(dtype)
    result = product(x, weight)
    assert result.dtype == dtype
    assert result.is_contiguous()
    torch.testing.assert_close(result.double(), x.double() @ weight.double().T, rtol=1e-2, atol=5e-2)


def test_freezing_leaves_the_model_alone_and_shares_what_it_can() -> None:
    model = make_model("elite-tiny").train()
    copy = frozen(model)
    assert model.training
    assert not copy.training
    assert all(
        ours.data_ptr() == theirs.data_ptr() and ours.requires_grad
        for ours, theirs in zip(model.parameters(), copy.parameters(), strict=True)
    )
    model.compute_dtype = torch.bfloat16
    assert frozen(model).head_weight.dtype == torch.bfloat16
    assert model.head_weight.dtype == torch.float32


def test_a_limit_out_of_range_is_named() -> None:
    for name, value, least in (("max_batch_size", 0, 1), ("prefill_chunk", 0, 1), ("speculate", -1, 0)):
        with pytest.raises(SamplingError, match=f"^{name} = {value}: use {least} or more$"):
            TorchEngine(make_model("elite-tiny"), **{name: value})
