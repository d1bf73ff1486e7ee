"""Sampling against transformers' own processors, and the independence of a request from its batch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.inference.sampling import Sampler
from smidgen.runtime import SamplingParams, SmidgenError

CASES = json.loads(Path(__file__).with_name("sampling_cases.json").read_text())["cases"]
CPU = torch.device("cpu")


def openai_penalties(params: SamplingParams, answer: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """The formula of OpenAI's API reference, token by token."""

    def process(ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for token, count in Counter(answer).items():
            scores[0, token] -= count * params.frequency_penalty + float(count > 0) * params.presence_penalty
        return scores

    return process


def transformers_processed(
    params: SamplingParams, history: Sequence[int], logits: Tensor, generated: int = 0
) -> Tensor:
    """One row [V] through the processors that transformers' generate would build, in its order.

    `generated`: how many tokens of the history are the answer.
    """
    process = pytest.importorskip("transformers.generation.logits_process")
    processors: list[Callable[[Tensor, Tensor], Tensor]] = []
    if params.logit_bias:
        processors.append(process.SequenceBiasLogitsProcessor({(i,): bias for i, bias in params.logit_bias}))
    if params.repetition_penalty != 1:
        processors.append(process.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    processors.append(openai_penalties(params, history[len(history) - generated :]))
    if params.no_repeat_ngram_size:
        processors.append(process.NoRepeatNGramLogitsProcessor(params.no_repeat_ngram_size))
    if params.temperature > 0:
        processors.append(process.TemperatureLogitsWarper(params.temperature))
        if params.top_k:
            processors.append(process.TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            processors.append(process.TopPLogitsWarper(params.top_p))
        if params.min_p:
            processors.append(process.MinPLogitsWarper(params.min_p))
    scores, ids = logits.clone()[None], torch.tensor([list(history)])
    for processor in processors:
        scores = processor(ids, scores)
    return scores[0]


def processed(
    batch: Sequence[tuple[SamplingParams, Sequence[int]]], logits: Tensor, generated: Sequence[int] | None = None
) -> Tensor:
    """Rows [R, V] through our sampler, all in one batch; `generated` of each history are the answer."""
    sampler = Sampler(len(batch), logits.shape[-1], CPU)
    for slot, (params, history) in enumerate(batch):
        prompt = len(history) - (0 if generated is None else generated[slot])
        sampler.assign(slot, params, history[:prompt], history[prompt:])
    return sampler.processed(logits.clone(), range(len(batch)))


def texts(batch: Sequence[SamplingParams], logits: Tensor, steps: int) -> list[list[int | None]]:
    """What each request samples from its own row of `logits` [R, V] in `steps` steps."""
    sampler = Sampler(len(batch), logits.shape[-1], CPU)
    for slot, params in enumerate(batch):
        sampler.assign(slot, params, [0])
    rows = [sampler.sample(logits.clone(), list(range(len(batch)))) for _ in range(steps)]
    return [[row[i].token for row in rows] for i in range(len(batch))]


def params_of(case: dict[str, Any], **more: Any) -> SamplingParams:
    bias = tuple((token, value) for token, value in case["params"].get("logit_bias", ()))
    return SamplingParams(**{**case["params"], "logit_bias": bias, **more})


def expected(case: dict[str, Any]) -> Tensor:
    return torch.tensor([-torch.inf if x is None else x for x in case["processed"]])


def test_table_is_what_transformers_computes() -> None:
    for case in CASES:
        reference = transformers_processed(
            params_of(case), case["history"], torch.tensor(case["logits"]), case.get("generated", 0)
        )
        torch.testing.assert_close(expected(case), reference, rtol=1e-6, atol=0, msg=f"{case['name']}: {reference}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_table(case: dict[str, Any]) -> None:
    params, logits = params_of(case, seed=0), torch.tensor([case["logits"]])
    history, generated = case["history"], case.get("generated", 0)
    result = processed([(params, history)], logits, [generated])
    torch.testing.assert_close(result[0], expected(case), rtol=1e-6, atol=0)
    sampler = Sampler(1, logits.shape[-1], CPU)
    sampler.assign(0, params, history[: len(history) - generated], history[len(history) - generated :])
    [choice] = sampler.sample(logits.clone(), [0])
    assert choice.token is not None
    assert expected(case)[choice.token] > -torch.inf
    if params.temperature == 0:
        assert choice.token == int(expected(case).argmax())


def test_table_in_one_batch() -> None:
    batch = [(params_of(case), case["history"]) for case in CASES]
    generated = [case.get("generated", 0) for case in CASES]
    result = processed(batch, torch.tensor([case["logits"] for case in CASES]), generated)
    torch.testing.assert_close(result, torch.stack([expected(case) for case in CASES]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
def test_random_logits_equal_transformers(spread: float) -> None:
    """Also where the kept set is far larger than the first candidates (a flat distribution)."""
    torch.manual_seed(1)
    vocab_size = 6000
    batch = []
    for temperature in (0.0, 0.7, 1.3):
        for filters in (
            {},
            {"top_k": 1},
            {"top_k": 50},
            {"top_k": 700},
            {"top_p": 0.3},
            {"top_p": 0.95},
            {"min_p": 0.05},
            {"top_k": 500, "top_p": 0.9, "min_p": 0.01},
        ):
            for penalties in ({}, {"repetition_penalty": 1.3}, {"repetition_penalty": 1.1, "no_repeat_ngram_size": 2}):
                history = torch.randint(0, 20, (300,)).tolist()
                batch.append((SamplingParams(temperature=temperature, **filters, **penalties), history))
    logits = torch.randn(len(batch), vocab_size) * spread
    result = processed(batch, logits)
    for row, (params, history) in enumerate(batch):
        reference = transformers_processed(params, history, logits[row])
        assert torch.equal(result[row], reference), params


def test_order_is_that_of_transformers_generate() -> None:
    """transformers builds its own list from a GenerationConfig: the same classes in the same order."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        min_p=0.05,
        repetition_penalty=1.2,
        no_repeat_ngram_size=2,
    )
    tiny = transformers.LlamaConfig(
        vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = transformers.LlamaForCausalLM(tiny)
    processors = model._get_logits_processor(config, input_ids_seq_length=9)
    torch.manual_seed(0)
    history, logits = torch.randint(0, 6, (1, 9)), torch.randn(1, 50) * 3
    params = SamplingParams(
        temperature=0.7, top_k=5, top_p=0.9, min_p=0.05, repetition_penalty=1.2, no_repeat_ngram_size=2
    )
    assert torch.equal(processed([(params, history[0].tolist())], logits), processors(history, logits.clone()))


def test_penalties_follow_the_answer() -> None:
    """Tokens that were sampled count as history in the next step."""
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    assert texts([SamplingParams(temperature=0, no_repeat_ngram_size=1)], logits, 4) == [[1, 2, 3, None]]
    assert texts([SamplingParams(temperature=0, repetition_penalty=4.0)], logits, 4) == [[1, 2, 1, 1]]


@pytest.mark.parametrize("filters", [{}, {"top_k": 8}, {"top_p": 0.9}, {"min_p": 0.02, "temperature": 1.4}])
def test_draws_follow_the_processed_distribution(filters: dict[str, float]) -> None:
    torch.manual_seed(2)
    logits = torch.randn(1, 12) * 2
    count = 4000
    params = SamplingParams(**filters, seed=5)  # type: ignore[arg-type]
    probabilities = processed([(params, [0])], logits)[0].softmax(-1)
    [tokens] = texts([params], logits, count)
    counts = torch.bincount(torch.tensor(tokens), minlength=12)
    assert not counts[probabilities == 0].any()
    kept = probabilities > 0
    chi_square = ((counts - count * probabilities)[kept] ** 2 / (count * probabilities[kept])).sum()
    # The 99.99 % quantile for 11 degrees of freedom; the seed is fixed.
    assert chi_square < 37.4


def test_a_request_draws_the_same_in_every_batch() -> None:
    torch.manual_seed(3)
    vocab_size = 3000
    batch = [
        SamplingParams(seed=1),
        SamplingParams(seed=2, top_p=0.9, temperature=0.8),
        SamplingParams(temperature=0),
        SamplingParams(seed=3, top_k=40, repetition_penalty=1.2),
        SamplingParams(seed=4, top_p=0.99999, temperature=1.5),
        SamplingParams(seed=2, top_k=900, top_p=0.5, no_repeat_ngram_size=2),
        SamplingParams(seed=6, min_p=0.1),
    ]
    # Coarse logits, as bfloat16 gives them: full of ties.
    logits = (torch.randn(len(batch), vocab_size) * 2).bfloat16().float()
    together = texts(batch, logits, 20)
    for row, params in enumerate(batch):
        assert texts([params], logits[row : row + 1], 20) == [together[row]]


def test_slots_come_and_go() -> None:
    """A slot given to another request forgets the last one; other slots go on undisturbed."""
    torch.manual_seed(4)
    logits = torch.randn(2, 100)
    params = SamplingParams(seed=9, repetition_penalty=1.5, no_repeat_ngram_size=1)
    [alone] = texts([params], logits[:1], 10)
    sampler = Sampler(2, 100, CPU)
    sampler.assign(0, SamplingParams(seed=8, repetition_penalty=2.0), [5, 6])
    sampler.assign(1, SamplingParams(seed=7), [5])
    for _ in range(3):
        sampler.sample(logits.clone(), [0, 1])
    sampler.assign(0, params, [0])
    tokens = []
    for step in range(10):
        slots = [0, 1] if step % 2 else [0]
        tokens.append(sampler.sample(logits[slots].clone(), slots)[0].token)
    assert tokens == alone


def test_seeds_differ_and_none_is_random() -> None:
    logits = torch.zeros(4, 1000)
    first, second, third, fourth = texts(
        [SamplingParams(seed=1), SamplingParams(seed=2), SamplingParams(), SamplingParams()], logits, 8
    )
    assert first != second
    assert third != fourth


def test_logprobs_are_the_models_own() -> None:
    """Before penalties, temperature and filters."""
    torch.manual_seed(5)
    logits = torch.randn(3, 50)
    sampler = Sampler(3, 50, CPU)
    sampler.assign(0, SamplingParams(seed=1, temperature=0.3, top_k=3, repetition_penalty=2.0, logprobs=4), [1, 2])
    sampler.assign(1, SamplingParams(seed=2), [1])
    sampler.assign(2, SamplingParams(temperature=0, logprobs=0), [1])
    choices = sampler.sample(logits.clone(), [0, 1, 2])
    reference = logits.log_softmax(-1)
    assert choices[0].token is not None
    assert choices[0].logprob == pytest.approx(float(reference[0, choices[0].token]))
    values, ids = reference[0].topk(4)
    assert [i for i, _ in choices[0].top_logprobs] == ids.tolist()
    assert [x for _, x in choices[0].top_logprobs] == pytest.approx(values.tolist())
    assert choices[1].logprob is None
    assert choices[2].logprob == pytest.approx(float(reference[2].max()))
    assert choices[2].top_logprobs == ()


def test_tiny_temperature_is_greedy() -> None:
    logits = torch.tensor([[1.0, 1.001, 0.5]])
    assert texts([SamplingParams(temperature=1e-45, seed=1)], logits, 3) == [[1, 1, 1]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("params", [{"temperature": 0}, {}, {"top_p": 0.9}])
def test_logits_that_are_not_finite_are_an_error(params: dict[str, float], value: float) -> None:
    logits = torch.zeros(1, 600)
    logits[0, 300] = value
    with pytest.raises(SmidgenError, match="not finite"):
        texts([SamplingParams(**params)], logits, 1)  # type: ignore[arg-type]
