"""Quantisation-aware tuning: what a dense model becomes, and that it is saved as what it was trained for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.folders import model_config
from smidgen.kernels.layouts import Int4Groups
from smidgen.model.requantized import to_ternary, use_fake_int4
from smidgen.runtime.errors import ConfigError
from smidgen.training.base import load_training_config
from smidgen.training.pretraining import pretrain

from .test_distillation import StopAt

IDS = torch.arange(20)[None]


@pytest.mark.parametrize("scheme", ["ternary", "int4"])
def test_a_run_resumes_to_the_bit_and_ends_as_its_kind(
    scheme: str, base: Path, fields: dict[str, Any], tmp_path: Path
) -> None:
    fields |= {"tuning.base": str(base), "tuning.quantize.scheme": scheme}
    config = load_training_config("elite-tiny", fields)
    pretrain(config, tmp_path / "whole")
    pretrain(config, tmp_path / "parts", StopAt(3))
    pretrain(load_training_config(tmp_path / "parts"), tmp_path / "parts")
    whole, parts = smidgen.load(tmp_path / "whole" / "last"), smidgen.load(tmp_path / "parts" / "last")
    for ours, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    if scheme == "ternary":
        assert whole.config.linear.kind == "ternary"
        assert whole.config.norm.placement == "sub"
        return
    stored = smidgen.load(tmp_path / "whole" / "quantized")
    quantization = model_config(tmp_path / "whole" / "quantized").quantization
    assert quantization is not None
    assert quantization.scheme == "int4"
    trained = use_fake_int4(smidgen.load(tmp_path / "whole"), 32, True)
    for name, module in stored.named_modules():
        if name.endswith("proj"):
            theirs = trained.get_submodule(name).effective_weight(torch.float32)
            assert torch.equal(module.effective_weight(torch.float32), theirs), name


def test_fake_int4_is_what_the_layout_stores(base: Path) -> None:
    model = use_fake_int4(smidgen.load(base), 32, False)
    module, layout = model.layers[0].mlp.up_proj, Int4Groups(32, False)
    expected = layout.dequantize(layout.quantize(module.weight.detach()))
    assert torch.equal(module.effective_weight(torch.float32), expected)
    model(IDS).sum().backward()
    assert module.weight.grad is not None
    with pytest.raises(ConfigError, match=r"group_size = 128: does not divide the 64 of model.layers.0"):
        use_fake_int4(smidgen.load(base), 128, True)


def test_sub_norms_begin_at_the_size_of_what_they_norm(base: Path) -> None:
    dense = smidgen.load(base)
    ternary = to_ternary(dense, sub_norm=True)
    seen = {}

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            seen[name] = inputs[0].square().mean().sqrt()

        return hook

    for index, layer in enumerate(dense.layers):
        layer.mlp.down_proj.register_forward_pre_hook(watch(str(index)))
    dense(torch.randint(0, 256, (4, 64), generator=torch.Generator().manual_seed(0)))
    for index, layer in enumerate(ternary.layers):
        gain = layer.mlp.ffn_sub_norm.weight
        assert gain.std() == 0
        assert float(gain[0]) == pytest.approx(float(seen[str(index)]), rel=0.5)
    assert to_ternary(smidgen.load(base), sub_norm=False).config.norm.placement == "pre"
    with pytest.raises(ConfigError, match="the base is ternary already"):
        to_ternary(ternary, sub_norm=True)
