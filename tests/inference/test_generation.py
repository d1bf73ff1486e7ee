"""`smidgen.generate` on a decoder in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import smidgen
from smidgen.model import Decoder
from smidgen.runtime import ContextLengthError, SamplingError, Tokenizer
from smidgen.tokenization import train_tokenizer

TEXTS = ["Once upon a time there was a dog.", "The cat sat on the mat!", "Ein Käfer läuft über Öl."]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer("characters", TEXTS)


@pytest.fixture(scope="module")
def model(randomized_decoder: Callable[..., Any], tokenizer: Tokenizer) -> Decoder:
    overrides = {
        "model.vocab_size": tokenizer.vocab_size,
        "model.num_layers": 2,
        "model.max_seq_len": 64,
        "model.tie_word_embeddings": False,  # a tied model with random weights repeats the last token
    }
    decoder: Decoder = randomized_decoder("elite-tiny", overrides)
    return decoder


def greedy(model: Decoder, tokenizer: Tokenizer, prompt: str, count: int) -> str:
    ids = tokenizer.encode(prompt)
    start = len(ids)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return tokenizer.decode(ids[start:])


def test_one_prompt_gives_its_continuation(model: Decoder, tokenizer: Tokenizer) -> None:
    text = smidgen.generate(model, tokenizer, "Once", max_new_tokens=12, temperature=0)
    assert text == greedy(model, tokenizer, "Once", 12)
    assert len(text) == 12


def test_several_prompts_give_a_list(model: Decoder, tokenizer: Tokenizer) -> None:
    """More than run at once, of unequal length."""
    prompts = [TEXTS[i % 3][: 1 + i] for i in range(20)]
    texts = smidgen.generate(model, tokenizer, prompts, max_new_tokens=5, temperature=0)
    assert texts == [greedy(model, tokenizer, prompt, 5) for prompt in prompts]
    assert smidgen.generate(model, tokenizer, []) == []


def test_a_seed_fixes_the_text_whatever_is_beside_it(model: Decoder, tokenizer: Tokenizer) -> None:
    options = {"max_new_tokens": 20, "temperature": 0.9, "top_p": 0.95, "seed": 1}
    alone = smidgen.generate(model, tokenizer, "The", **options)
    assert alone == smidgen.generate(model, tokenizer, "The", **options)
    assert smidgen.generate(model, tokenizer, ["Once upon", "The", "E"], **options)[1] == alone
    assert smidgen.generate(model, tokenizer, "The", **{**options, "seed": 2}) != alone
    longer = smidgen.generate(model, tokenizer, "The", **{**options, "max_new_tokens": 30})
    assert longer.startswith(alone)


def test_stop_may_be_one_string_or_several(model: Decoder, tokenizer: Tokenizer) -> None:
    text = smidgen.generate(model, tokenizer, "Once", max_new_tokens=30, temperature=0)
    stop = text[8:11]
    expected = text[: text.index(stop)]
    assert smidgen.generate(model, tokenizer, "Once", max_new_tokens=30, temperature=0, stop=stop) == expected
    assert smidgen.generate(model, tokenizer, "Once", max_new_tokens=30, temperature=0, stop=["~~", stop]) == expected


def test_the_model_is_left_as_it_was(model: Decoder, tokenizer: Tokenizer) -> None:
    model.train()
    model.set_dropout(0.5)
    try:
        first, second = (smidgen.generate(model, tokenizer, "The", max_new_tokens=8, temperature=0) for _ in range(2))
        assert first == second
        assert model.training
    finally:
        model.set_dropout(0.0)
        model.eval()


def test_mistakes(model: Decoder, tokenizer: Tokenizer) -> None:
    with pytest.raises(ContextLengthError, match="exceed the context of 64 tokens"):
        smidgen.generate(model, tokenizer, "Once", max_new_tokens=61)
    with pytest.raises(SamplingError, match="temperature = -1"):
        smidgen.generate(model, tokenizer, "Once", temperature=-1)
