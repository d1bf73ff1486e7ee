"""What quantisation may cost, on models trained here in seconds: characters of a text, dense and ternary."""

from __future__ import annotations

import math
from functools import cache
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import smidgen
from smidgen.config import Quantization
from smidgen.data.storyworld import generate
from smidgen.model import Decoder
from smidgen.quantization import quantize

LENGTH = 32


@cache
def characters() -> Tensor:
    """About 60,000 characters of the built-in corpus as ids."""
    text = "\n".join(document.text for document in islice(generate(seed=0, kinds=["stories"]), 200))[:60_000]
    alphabet = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([alphabet[character] for character in text])


@cache
def trained(preset: str) -> Decoder:
    shape = {"hidden_size": 64, "num_layers": 2, "vocab_size": 128, "max_seq_len": LENGTH}
    overrides = {f"model.{name}": value for name, value in shape.items()}
    model = smidgen.build(
        preset, overrides | {"model.feed_forward.intermediate_size": 128, "model.initialization.std": 0.1}
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    ids = characters()[:-4000]
    for _ in range(160):
        starts = torch.randint(0, len(ids) - LENGTH - 1, (16,), generator=draw)
        batch = torch.stack([ids[start : start + LENGTH + 1] for start in starts])
        F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def perplexity(model: Decoder) -> float:
    rows = characters()[-4000:][: 120 * (LENGTH + 1)].view(120, LENGTH + 1)
    return math.exp(F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).item())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "quantization", "bar"),
    [
        ("elite-tiny", Quantization(scheme="int8"), 0.005),
        ("elite-tiny", Quantization(scheme="int8", activation_bits=8, head="int8", embedding="int8"), 0.005),
        ("elite-tiny", Quantization(scheme="fp8_block"), 0.005),
        ("elite-tiny", Quantization(scheme="fp8_tensor"), 0.005),
        ("elite-tiny", Quantization(scheme="int4"), 0.03),
        ("elite-tiny", Quantization(scheme="int4", symmetric=False), 0.03),
        ("tinylm-gqa-tiny", Quantization(scheme="ternary", activation_bits=8), 0.001),
    ],
)
def test_perplexity_stays_within_the_bar(preset: str, quantization: Quantization, bar: float) -> None:
    model = trained(preset)
    before = perplexity(model)
    assert before < 8, "the model did not learn"
    assert perplexity(quantize(model, quantization)) < before * (1 + bar)
