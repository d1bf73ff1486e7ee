"""GPTQ and AWQ against exhaustive and plain rounding: what they promise to lower, and what they must not change."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import smidgen
from smidgen.config import Quantization
from smidgen.kernels.layouts import Int4Groups, Int8Rows
from smidgen.model import Decoder
from smidgen.quantization import awq as awq_module
from smidgen.quantization import quantize, quantize_by
from smidgen.quantization.calibration import input_statistics
from smidgen.quantization.gptq import round_by_inputs
from smidgen.runtime.errors import ConfigError

INT4 = Quantization(scheme="int4")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments(columns: int) -> Tensor:
    """Of inputs that depend on each other, as those of a model do."""
    x = random(4 * columns, columns // 4, seed=1) @ random(columns // 4, columns, seed=2)
    x = x + 0.3 * random(4 * columns, columns, seed=3)
    return x.T @ x / len(x)


def product_error(weight: Tensor, rounded: Tensor, gram: Tensor) -> float:
    difference = rounded - weight
    return float(((difference @ gram) * difference).sum())


@pytest.mark.parametrize("layout", [Int8Rows(), Int4Groups(32), Int4Groups(64, symmetric=False)])
def test_gptq_lowers_the_error_of_the_product(layout: Int8Rows | Int4Groups) -> None:
    weight, gram = random(48, 128), moments(128)
    nearest = product_error(weight, layout.dequantize(layout.quantize(weight)), gram)
    compensated = product_error(weight, layout.dequantize(round_by_inputs(weight, gram, layout)), gram)
    assert compensated < 0.6 * nearest


def test_gptq_of_independent_inputs_is_round_to_nearest() -> None:
    weight, layout = random(16, 64), Int4Groups(32)
    result = round_by_inputs(weight, torch.eye(64), layout)
    assert torch.equal(result["weight_packed"], layout.quantize(weight)["weight_packed"])


def test_gptq_comes_close_to_the_best_of_all_roundings() -> None:
    """Eight columns that matter: every choice of up and down is tried."""
    weight, layout = torch.zeros(1, 32), Int4Groups(32)
    weight[0, :8] = random(8)
    gram = torch.eye(32)
    gram[:8, :8] = moments(8)
    stored = layout.quantize(weight)
    step = stored["weight_scale"].float()
    floor = (weight[:, :8] / step).floor()
    best = min(
        product_error(weight[:, :8], (floor + torch.tensor([choice])).clamp(-8, 7) * step, gram[:8, :8])
        for choice in itertools.product((0, 1), repeat=8)
    )
    nearest = product_error(weight, layout.dequantize(stored), gram)
    result = product_error(weight, layout.dequantize(round_by_inputs(weight, gram, layout)), gram)
    assert result < nearest - 0.5 * (nearest - best)


def test_inputs_that_never_come_do_no_harm() -> None:
    gram = moments(64)
    gram[5], gram[:, 5] = 0, 0
    stored = round_by_inputs(random(8, 64), gram, Int4Groups(32))
    assert Int4Groups(32).dequantize(stored).isfinite().all()


def model_and_batches(preset: str, **overrides: Any) -> tuple[Decoder, list[Tensor]]:
    model = smidgen.build(preset, {"model.num_layers": 2, "model.vocab_size": 64} | overrides)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # a few inputs much larger than the others, as trained models have them
                parameter.add_(random(*parameter.shape, seed=len(name)).abs() ** 4 * 0.3)
    return model, [torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(s)) for s in range(2)]


@pytest.mark.parametrize("preset", ["elite-tiny", "tilda-tiny", "gemma3-tiny"])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_methods_come_closer_to_the_model_than_rounding_to_nearest(method: Any, preset: str) -> None:
    model, batches = model_and_batches(preset)
    ids = batches[0]
    expected = model(ids)
    nearest = (quantize(model, INT4)(ids) - expected).norm()
    assert (quantize_by(method, model, INT4, batches)(ids) - expected).norm() < 0.95 * nearest


@pytest.mark.parametrize("preset", ["elite-tiny", "tilda-tiny", "gemma3-tiny"])
def test_scaling_changes_nothing_before_rounding(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = model_and_batches(preset)
    scaled: list[Decoder] = []
    monkeypatch.setattr(awq_module, "quantize", lambda decoder, quantization: scaled.append(decoder) or decoder)
    awq_module.quantize_awq(model, INT4, batches)
    largest = max((a - b).abs().max().item() for a, b in zip(scaled[0].parameters(), model.parameters(), strict=True))
    assert largest > 0.1
    torch.testing.assert_close(scaled[0](batches[0]), model(batches[0]), rtol=1e-4, atol=1e-4)


def test_statistics_are_those_of_the_inputs() -> None:
    model, batches = model_and_batches("elite-tiny")
    seen = input_statistics(model, batches)["model.layers.0.self_attn.q_proj"]
    layer = model.layers[0]
    inputs = [layer.input_layernorm(model.model.embed_tokens.rows(ids)).flatten(0, 1) for ids in batches]
    x = torch.cat(inputs).double()
    torch.testing.assert_close(seen.gram.double(), x.T @ x / len(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.absolute.double(), x.abs().mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_methods_refuse_what_they_cannot_do(method: Any) -> None:
    model, batches = model_and_batches("elite-tiny")
    with pytest.raises(ConfigError, match=f"method = {method}.*fp8_tensor"):
        quantize_by(method, model, Quantization(scheme="fp8_tensor"), batches)
    with pytest.raises(ConfigError, match="--calibration"):
        quantize_by(method, model, INT4)


def test_a_layer_that_groups_do_not_divide_is_named() -> None:
    with pytest.raises(ConfigError, match=r"kv_b_proj: 32 columns .* groups of 64"):
        quantize(smidgen.build("tilda-tiny"), Quantization(scheme="int4", group_size=64))
