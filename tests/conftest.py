"""What tests of every folder share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# The same examples in every run, so that a change is judged by what it changed; `make torture` draws new ones.
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.register_profile("explore", print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora; the test is skipped without it."""
    folder = os.environ.get("SMIDGEN_CORPORA")
    if not folder:
        pytest.skip("SMIDGEN_CORPORA names no folder of real corpora")
    return Path(folder)


@pytest.fixture(scope="session")
def randomized_decoder() -> Callable[..., Any]:
    """`randomized_decoder(preset, overrides, seed)`: a small decoder whose every parameter is random, norms too."""
    import torch

    from smidgen.config import load_config
    from smidgen.model import Decoder

    def make(preset: str, overrides: dict[str, Any] | None = None, seed: int = 0) -> Decoder:
        decoder = Decoder(load_config(preset, overrides or {}).model).initialize(seed).eval()
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in decoder.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.dim() == 1:
                    parameter.add_(0.2 * noise)
                else:
                    parameter.mul_(3.0)
        return decoder

    return make


@pytest.fixture(scope="session")
def save_one_layer() -> Callable[..., Path]:
    """`save_one_layer(folder, tokenizer, overrides, seed)`: a model of one narrow layer, to be tuned; its folder."""
    import smidgen

    def make(folder: Path, tokenizer: Any, overrides: dict[str, Any] | None = None, seed: int = 0) -> Path:
        sizes = {
            "model.vocab_size": tokenizer.vocab_size,
            "model.hidden_size": 32,
            "model.num_layers": 1,
            "model.max_seq_len": 64,
            "model.attention.head_dim": 8,
            "model.feed_forward.intermediate_size": 64,
        }
        smidgen.save(smidgen.build("elite-tiny", sizes | (overrides or {}), seed=seed), folder, tokenizer)
        return folder

    return make
