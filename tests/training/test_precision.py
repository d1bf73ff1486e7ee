from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from smidgen.config import Config
from smidgen.model import Decoder
from smidgen.training.precision import apply_precision, compute_dtype, make_scaler

CPU = torch.device("cpu")
MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp8_block"])
def test_activations_have_the_precision_and_masters_and_gradients_are_float32(
    make_config: MakeConfig, precision: str
) -> None:
    config = make_config(precision=precision)
    model = Decoder(config.model).initialize(0)
    apply_precision(model, precision, CPU)
    hidden = model.hidden(torch.arange(24)[None])
    assert hidden.dtype == compute_dtype(precision)
    hidden.float().square().sum().backward()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_fp8_rounds_more_than_bf16(make_config: MakeConfig) -> None:
    config = make_config()
    outputs = {}
    for precision in ("fp32", "bf16", "fp8_block"):
        model = Decoder(config.model).initialize(0)
        apply_precision(model, precision, CPU)
        with torch.no_grad():
            outputs[precision] = model(torch.arange(24)[None])
    error = {name: (outputs[name] - outputs["fp32"]).norm() for name in ("bf16", "fp8_block")}
    assert 0 < error["bf16"] < error["fp8_block"]


def test_the_scaler_scales_for_fp16_only() -> None:
    assert not make_scaler("bf16", CPU, 1024).is_enabled()
    scaler = make_scaler("fp16", CPU, 1024)
    assert scaler.is_enabled()
    assert scaler.get_scale() == 2.0**16 / 1024
