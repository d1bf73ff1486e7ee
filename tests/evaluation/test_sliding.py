"""The sliding window against the loop of transformers' documentation, and both ways of computing it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smidgen.data import IGNORE, storyworld
from smidgen.evaluation.bootstrap import estimate
from smidgen.evaluation.likelihood import ForwardLogits, TorchLogits, score_continuations
from smidgen.evaluation.perplexity import evaluate_text
from smidgen.evaluation.sliding import SlidingWindows, evaluate_logits, measure_logits, text_ids
from smidgen.folders import save
from smidgen.runtime.errors import ConfigError
from smidgen.tokenization import train_tokenizer

TEXT = "\n\n".join(document.text for document in islice(storyworld.generate(3, kinds=["stories"]), 3))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer("byte_bpe", [TEXT], 350)


@pytest.fixture(scope="module")
def model(randomized_decoder: Callable[..., Any], tokenizer: Any) -> Any:
    return randomized_decoder("elite-tiny", {"model.vocab_size": tokenizer.vocab_size, "model.max_seq_len": 64})


@pytest.mark.parametrize(("seq_len", "stride"), [(64, 16), (64, 63), (32, 5), (48, 20)])
def test_it_equals_the_documented_loop(model: Any, tokenizer: Any, tmp_path: Path, seq_len: int, stride: int) -> None:
    """https://huggingface.co/docs/transformers/perplexity, on the same folder in transformers.

    The loop counts one token too few in every window but the first (the labels' shift drops none of theirs): with the
    count corrected the sums are equal, with its own count they differ by that alone.
    """
    transformers = pytest.importorskip("transformers")
    save(model, tmp_path, tokenizer)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.tensor([text_ids(tokenizer, TEXT)[:300]])
    length = ids.size(1)
    exact, documented, counted, documented_count, previous = 0.0, 0.0, 0, 0, 0
    for begin in range(0, length, stride):
        end = min(begin + seq_len, length)
        targets = ids[:, begin:end].clone()
        targets[:, : -(end - previous)] = -100
        with torch.no_grad():
            loss = float(peer(ids[:, begin:end], labels=targets).loss)
        labels = int((targets[:, 1:] != -100).sum())
        exact, counted = exact + loss * labels, counted + labels
        own = int((targets != -100).sum()) - 1
        documented, documented_count = documented + loss * own, documented_count + own
        previous = end
        if end == length:
            break
    windows = SlidingWindows([ids[0].numpy()], seq_len, stride)
    found = evaluate_logits(TorchLogits(model), windows, None)
    assert counted == found.tokens == length - 1
    assert found.loss == pytest.approx(exact / counted, rel=1e-5)
    if documented_count > 100:
        assert found.perplexity == pytest.approx(math.exp(documented / documented_count), rel=0.1)


@pytest.mark.parametrize(
    ("lengths", "seq_len", "stride"), [([50], 16, 4), ([3, 1, 40, 2], 8, 7), ([9], 9, 8), ([9], 8, 1)]
)
def test_every_token_but_the_first_is_predicted_once(lengths: list[int], seq_len: int, stride: int) -> None:
    texts = [np.arange(1000 * number, 1000 * number + length) for number, length in enumerate(lengths)]
    windows = SlidingWindows(texts, seq_len, stride)
    batch = windows.batch(0, windows.per_epoch)
    kept = batch.labels != IGNORE
    assert sorted(batch.labels[kept].tolist()) == sorted(int(i) for text in texts for i in text[1:])
    assert (batch.input_ids[kept] + 1 == batch.labels[kept]).all()


def test_all_ways_to_compute_agree(model: Any, tokenizer: Any) -> None:
    """PyTorch in batches, logits in batches, and a plain function `ids -> [T, V]` as the edge engine has it."""
    by_torch = evaluate_text(model, tokenizer, TEXT, stride=20, batch_size=3)
    windows = SlidingWindows([np.asarray(text_ids(tokenizer, TEXT))], 64, 20)

    def forward(ids: Any) -> Any:
        with torch.no_grad():
            return model(torch.tensor([list(ids)]))[0].numpy()

    by_forward = evaluate_logits(ForwardLogits(forward, 64), windows, by_torch.bytes_per_token)
    assert by_forward.loss == pytest.approx(by_torch.loss, rel=1e-5)
    assert by_forward.bits_per_byte == pytest.approx(by_torch.bits_per_byte, rel=1e-5)
    assert by_torch.bits_per_byte == pytest.approx(by_torch.loss * by_torch.tokens / math.log(2) / len(TEXT.encode()))
    assert sum(block.tokens for block in measure_logits(TorchLogits(model), windows)) == by_torch.tokens


def test_a_stride_beyond_the_window_is_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="use 1 to 63"):
        evaluate_text(model, tokenizer, TEXT, stride=64)


def test_continuations_are_scored_after_their_context(model: Any) -> None:
    context, continuation = [5, 9, 20, 7], [11, 30, 2]
    with torch.no_grad():
        logprobs = model(torch.tensor([context + continuation]))[0].log_softmax(-1)
    expected = sum(float(logprobs[3 + step, token]) for step, token in enumerate(continuation))
    (found, other) = score_continuations(TorchLogits(model, 2), [(context, continuation), (context[:1], [3])])
    assert found.total == pytest.approx(expected, rel=1e-5)
    assert not found.greedy
    best = int(logprobs[0].argmax())
    (greedy,) = score_continuations(TorchLogits(model), [(context[:1], [best])])
    assert greedy.greedy
    assert other.logprobs.shape == (1,)


def test_the_bootstrap_agrees_with_the_normal_interval() -> None:
    """For the mean of many values both have the half-width 1.96 s/√n."""
    scores = np.random.default_rng(1).integers(0, 2, 400)
    found = estimate([scores])
    half = 1.96 * scores.std() / math.sqrt(len(scores))
    assert found.value == pytest.approx(scores.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert estimate([[1, 1], [0, 0, 0]]).value == 0.5
