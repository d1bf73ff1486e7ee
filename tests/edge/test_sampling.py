"""The native sampler against the same table of cases as the PyTorch engine's."""

from __future__ import annotations

import ctypes as c
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.edge.engine import native_sampling
from smidgen.edge.library import last_error, library
from smidgen.runtime import SamplingParams

CASES = json.loads((Path(__file__).parents[1] / "inference" / "sampling_cases.json").read_text())["cases"]


def sample(
    params: SamplingParams, history: list[int], logits: np.ndarray, draws: int = 1, prompt: int | None = None
) -> tuple[np.ndarray, list[int]]:
    """The processed logits [V] and the tokens drawn; the first `prompt` of the history are the prompt."""
    values = np.array(logits, np.float32)
    tokens = (c.c_int32 * draws)()
    ids = (c.c_int32 * len(history))(*history)
    pointer = values.ctypes.data_as(c.POINTER(c.c_float))
    native = native_sampling(params, len(values))
    status = library().edge_sample_logits(
        native, len(values), len(history), len(history) if prompt is None else prompt, ids, pointer, draws, tokens
    )
    assert status == 0, last_error()
    return values, list(tokens)


def expected(case: dict[str, Any]) -> np.ndarray:
    return np.array([-math.inf if x is None else x for x in case["processed"]], np.float32)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_table(case: dict[str, Any]) -> None:
    options = dict(case["params"])
    if "logit_bias" in options:
        options["logit_bias"] = tuple((int(token), value) for token, value in options["logit_bias"])
    params = SamplingParams(**options, seed=0)
    prompt = len(case["history"]) - case.get("generated", 0)
    processed, [token] = sample(params, case["history"], case["logits"], prompt=prompt)
    np.testing.assert_allclose(processed, expected(case), rtol=1e-6)
    assert expected(case)[token] > -math.inf
    if params.temperature == 0:
        assert token == int(expected(case).argmax())


@pytest.mark.parametrize("filters", [{}, {"top_k": 8}, {"top_p": 0.9}, {"min_p": 0.02, "temperature": 1.4}])
def test_draws_follow_the_processed_distribution(filters: dict[str, Any]) -> None:
    logits = np.random.default_rng(2).standard_normal(12) * 2
    count = 4000
    processed, tokens = sample(SamplingParams(**filters, seed=5), [0], logits, count)
    probabilities = np.exp(processed - processed.max())
    probabilities /= probabilities.sum()
    counts = np.bincount(tokens, minlength=12)
    assert not counts[probabilities == 0].any()
    kept = probabilities > 0
    chi_square = ((counts - count * probabilities)[kept] ** 2 / (count * probabilities[kept])).sum()
    assert chi_square < 37.4  # the 99.99 % quantile for 11 degrees of freedom; the seed is fixed


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
def test_random_logits_equal_the_torch_sampler(spread: float) -> None:
    torch = pytest.importorskip("torch")
    from smidgen.inference.sampling import Sampler

    rng = np.random.default_rng(1)
    for filters in (
        {"top_k": 50},
        {"top_p": 0.3},
        {"top_p": 0.95},
        {"min_p": 0.05},
        {"top_k": 500, "top_p": 0.9, "min_p": 0.01},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "top_k": 700},
    ):
        params = SamplingParams(temperature=0.7, seed=1, **filters)  # type: ignore[arg-type]
        history = rng.integers(0, 20, 300).tolist()
        logits = (rng.standard_normal(6000) * spread).astype(np.float32)
        sampler = Sampler(1, 6000, torch.device("cpu"))
        sampler.assign(0, params, history)
        reference = sampler.processed(torch.from_numpy(logits.copy())[None], [0])[0].numpy()
        processed, _ = sample(params, history, logits)
        # Sums of float32 probabilities differ in the last bits: a token at the edge of top-p may.
        assert np.sum(np.isfinite(processed) != np.isfinite(reference)) <= 1
        both = np.isfinite(processed) & np.isfinite(reference)
        np.testing.assert_allclose(processed[both], reference[both], rtol=1e-5)


def test_seeds() -> None:
    logits = np.zeros(1000)
    first, second, again = (sample(SamplingParams(seed=seed), [0], logits, 8)[1] for seed in (1, 2, 1))
    assert first == again
    assert first != second


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits = np.zeros(600, np.float32)
    logits[300] = value
    tokens = (c.c_int32 * 1)()
    pointer = logits.ctypes.data_as(c.POINTER(c.c_float))
    native = native_sampling(SamplingParams(), 600)
    assert library().edge_sample_logits(native, 600, 1, 1, (c.c_int32 * 1)(0), pointer, 1, tokens)
