"""What the cache does beyond one prompt at a time: contexts that slide, prompts that share a beginning, drafts.

The oracle is always the plain decoder on the tokens that the model is to see, without cache or engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from oracle import DTYPES, greedy_without_engine, make_model, make_prompts, run, tokens

from smidgen.inference.engine import TorchEngine
from smidgen.inference.lookup import PromptLookup
from smidgen.model import Decoder
from smidgen.runtime import ContextLengthError, SamplingParams

WINDOW = 32
"""Of gemma3-tiny's sliding layers."""


@contextmanager
def counted(engine: TorchEngine) -> Iterator[list[int]]:
    """Tokens of each pass through the model that the engine makes, padding included."""
    sizes: list[int] = []
    layer = engine._model.layers[0]
    handle = layer.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[0] * inputs[0].shape[1]))
    step = engine._decoding
    originals = {"start": step.start, "logits": step.logits}

    def counting(original: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
        def counted_step(count: int, longest: int) -> object:
            sizes.append(count)
            return original(count, longest)

        return counted_step

    for name, original in originals.items():
        setattr(step, name, counting(original))
    try:
        yield sizes
    finally:
        handle.remove()
        for name, original in originals.items():
            setattr(step, name, original)


# Contexts that slide.


def sliding_oracle(model: Decoder, prompt: list[int], count: int, context: int) -> list[int]:
    """The rule in its own words: what would exceed the context is cut to the newest half of it."""
    seen, answer = list(prompt), []
    for _ in range(count):
        if len(seen) > context:
            seen = seen[-(context // 2) :]
        answer += greedy_without_engine(model, seen, 1)
        seen.append(answer[-1])
    return answer


@pytest.mark.parametrize("preset", DTYPES)
def test_sliding_keeps_the_newest_half(preset: str) -> None:
    model = make_model(preset, DTYPES[preset])
    prompts = make_prompts((10, 40, 75, 3))
    engine = TorchEngine(model, max_batch_size=3, max_seq_len=40, prefill_chunk=16)
    params = SamplingParams(max_new_tokens=45, temperature=0, overflow="slide")
    expected = [sliding_oracle(model, prompt, 45, 40) for prompt in prompts]
    assert tokens(engine, prompts, params) == expected


def test_overflow_is_an_error_unless_sliding_is_asked_for() -> None:
    engine = TorchEngine(make_model("elite-tiny"), max_batch_size=1, max_seq_len=20)
    with pytest.raises(ContextLengthError, match="overflow = slide"):
        engine.submit([1] * 15, SamplingParams(max_new_tokens=6))
    [answer] = tokens(engine, [[1] * 15], SamplingParams(max_new_tokens=6, overflow="slide", temperature=0))
    assert len(answer) == 6


def test_a_context_of_one_token_slides() -> None:
    model = make_model("elite-tiny")
    engine = TorchEngine(model, max_batch_size=1, max_seq_len=1)
    [answer] = tokens(engine, [[5, 6]], SamplingParams(max_new_tokens=4, temperature=0, overflow="slide"))
    expected, last = [], 6
    for _ in range(4):
        [last] = greedy_without_engine(model, [last], 1)
        expected.append(last)
    assert answer == expected


# Prompts that share a beginning.


@pytest.mark.parametrize("preset", DTYPES)
def test_prompts_go_on_from_what_rows_hold(preset: str) -> None:
    """A conversation, prompts with a beginning in common, and one that leaves an earlier one before its end."""
    model = make_model(preset, DTYPES[preset])
    [system] = make_prompts((50,))
    first, second, third = [*system, 7, 8, 9], [*system, 11], [*system[:47], 2, 3]
    engine = TorchEngine(model, max_batch_size=2)
    params = SamplingParams(max_new_tokens=8, temperature=0)
    answer = greedy_without_engine(model, first, 8)
    assert tokens(engine, [first, second], params) == [answer, greedy_without_engine(model, second, 8)]
    turn = first + answer + [1, 2, 3]
    for prompt in (turn, third, turn, second, system, first + answer):
        assert tokens(engine, [prompt], params) == [greedy_without_engine(model, prompt, 8)]


@pytest.mark.parametrize(("preset", "length"), [("elite-tiny", 60), ("tilda-tiny", 60), ("gemma3-tiny", 90)])
def test_shared_beginnings_are_not_read_again(preset: str, length: int) -> None:
    engine = TorchEngine(make_model(preset), max_batch_size=2)
    [prompt] = make_prompts((length,))
    params = SamplingParams(max_new_tokens=2, temperature=0)
    tokens(engine, [prompt], params)
    with counted(engine) as sizes:
        tokens(engine, [[*prompt, 1, 2, 3, 4]], params)
    assert sum(sizes) == 4 + 1
    with counted(engine) as sizes:
        tokens(engine, [prompt], params)
    assert sum(sizes) == 2
    engine = TorchEngine(make_model(preset), max_batch_size=2, reuse_prefixes=False)
    tokens(engine, [prompt], params)
    with counted(engine) as sizes:
        tokens(engine, [prompt], params)
    assert sum(sizes) == length + 1


def test_a_running_prompt_is_copied_not_taken() -> None:
    model = make_model("elite-tiny")
    [prompt] = make_prompts((40,))
    engine = TorchEngine(model, max_batch_size=2)
    params = SamplingParams(max_new_tokens=12, temperature=0)
    first = engine.submit(prompt, params)
    events = {first: [event.token for event in engine.step()]}
    second = engine.submit([*prompt[:30], 9], params)
    with counted(engine) as sizes:
        for event in engine.step():
            events.setdefault(event.request, []).append(event.token)
    assert sum(sizes) <= 2 + 1
    for request, history in run(engine, [first, second]).items():
        events[request] += [event.token for event in history]
    assert events[first] == greedy_without_engine(model, prompt, 12)
    assert events[second] == greedy_without_engine(model, [*prompt[:30], 9], 12)


def test_a_ring_that_has_turned_too_far_is_not_reused() -> None:
    """Sliding layers have forgotten what a prompt sees that leaves a much longer one early."""
    model = make_model("gemma3-tiny")
    [long] = make_prompts((4 * WINDOW + 64,))
    engine = TorchEngine(model, max_batch_size=1)
    params = SamplingParams(max_new_tokens=4, temperature=0)
    tokens(engine, [long], params)
    for kept in (40, len(long) - 70, len(long) - 60, len(long) - 5):
        prompt = [*long[:kept], 3]
        assert tokens(engine, [prompt], params) == [greedy_without_engine(model, prompt, 4)]
        tokens(engine, [long], params)


# Rows.


def test_only_running_requests_are_computed() -> None:
    engine = TorchEngine(make_model("elite-tiny"), max_batch_size=8)
    prompts = make_prompts((6, 6, 6))
    for prompt, count in zip(prompts, (2, 5, 3), strict=True):
        engine.submit(prompt, SamplingParams(max_new_tokens=count, temperature=0))
    with counted(engine) as sizes:
        while engine.step():
            pass
    assert sizes == [18, 3, 2, 1, 1]


# Drafts.


def test_lookup() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 1, 2])
    assert lookup.draft(3) == [3, 4, 1]
    assert lookup.draft(7) == [3, 4, 1, 2, 3, 4, 1]
    lookup.append(3)
    assert lookup.draft(1) == [4]
    lookup.append(9)
    assert lookup.draft(4) == []
    assert PromptLookup([5]).draft(4) == []
    assert PromptLookup([7, 7, 7, 7]).draft(4) == [7, 7, 7, 7]


@pytest.mark.parametrize("preset", DTYPES)
def test_drafts_never_change_a_greedy_answer(preset: str) -> None:
    """Prompts full of repetitions, so that drafts are made, kept and refused; past windows and in a batch."""
    model = make_model(preset, DTYPES[preset])
    [base] = make_prompts((12,))
    prompts = [base * 4, base[:5] * 9 + base[:3], base[:1] * 30, [*base, *base[::-1], *base]]
    counts = [24, 17, 30, 9]
    engine = TorchEngine(model, max_batch_size=3, max_seq_len=90, speculate=5)
    requests = [
        engine.submit(prompt, SamplingParams(max_new_tokens=count, temperature=0))
        for prompt, count in zip(prompts, counts, strict=True)
    ]
    events = run(engine, requests)
    for request, prompt, count in zip(requests, prompts, counts, strict=True):
        assert [event.token for event in events[request]] == greedy_without_engine(model, prompt, count)
        assert [event.finish_reason for event in events[request]] == [None] * (count - 1) + ["length"]


def test_drafts_save_passes_and_give_one_token_a_step() -> None:
    """A model that always says the same token: after a few, whole drafts are right."""
    model = make_model("elite-tiny")
    params = SamplingParams(max_new_tokens=40, temperature=0)
    with torch.no_grad():
        model.model.norm.weight.zero_()
    engine = TorchEngine(model, max_batch_size=1, speculate=4)
    with counted(engine) as sizes:
        request = engine.submit([4, 5], params)
        for _ in range(40):
            [event] = engine.step()
            assert (event.request, event.token) == (request, 0)
    assert event.finish_reason == "length"
    assert len(sizes) < 15


def test_drafts_stop_at_end_tokens_and_leave_sampling_alone() -> None:
    model = make_model("elite-tiny", torch.float64)
    [base] = make_prompts((10,))
    prompt = base * 3
    expected = greedy_without_engine(model, prompt, 20)
    end = next(token for i, token in enumerate(expected) if i >= 3 and token not in expected[:i])
    engine = TorchEngine(model, eos_ids=(end,), max_batch_size=2, speculate=6)
    sampled = SamplingParams(max_new_tokens=20, temperature=0.8, seed=1, ignore_eos=True)
    assert tokens(engine, [prompt], SamplingParams(max_new_tokens=20, temperature=0)) == [
        expected[: expected.index(end) + 1]
    ]
    assert tokens(engine, [prompt], sampled) == tokens(TorchEngine(model), [prompt], sampled)
    [answer] = tokens(engine, [prompt], SamplingParams(max_new_tokens=1, temperature=0))
    assert answer == expected[:1]


def test_drafts_and_a_sliding_context() -> None:
    model = make_model("gemma3-tiny")
    [base] = make_prompts((9,))
    engine = TorchEngine(model, max_batch_size=1, max_seq_len=40, speculate=5)
    params = SamplingParams(max_new_tokens=60, temperature=0, overflow="slide")
    [answer] = tokens(engine, [base * 3], params)
    assert answer == sliding_oracle(model, base * 3, 60, 40)
