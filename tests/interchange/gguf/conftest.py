"""Small models of every architecture that GGUF has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from smidgen.model import Decoder

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("elite-tiny", {}),
    "llama-untied": ("rscalm-tiny", {"model.tie_word_embeddings": False}),
    "gemma3": ("gemma3-tiny", {}),
    "deepseek2": ("tilda-tiny", {}),
    "deepseek2-direct": ("tilda-tiny", {"model.attention.q_lora_rank": 0}),
    "bitnet": ("tinylm-gqa-tiny", {"model.hidden_size": 256, "model.attention.head_dim": 64}),
}
SMALL = {"model.vocab_size": 300, "model.num_layers": 2}


@pytest.fixture(params=CASES)
def decoder(request: pytest.FixtureRequest, randomized_decoder: Callable[..., Decoder]) -> Decoder:
    """A decoder of each case, random throughout."""
    preset, overrides = CASES[request.param]
    return randomized_decoder(preset, {**SMALL, **overrides})
