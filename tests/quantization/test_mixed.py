"""Overrides: which projection gets which scheme, what is refused, and the methods on layers of unequal schemes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import smidgen
from smidgen.config import ModelConfig, Quantization, load_config, preset_names
from smidgen.evaluation.quantization import model_size
from smidgen.evaluation.sensitivity import sensitivities
from smidgen.evaluation.sliding import Perplexity
from smidgen.kernels.layouts import FP8Tensor, Int4Groups, Int8Rows
from smidgen.model import Decoder, load_architecture
from smidgen.model.linear import Linear
from smidgen.model.quantized import QuantizedLinear
from smidgen.quantization import awq, quantize, quantize_by
from smidgen.runtime.errors import ConfigError

SMALL = {"model.num_layers": 2, "model.vocab_size": 64}
BATCHES = [torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def mixed(overrides: dict[str, str], scheme: str = "int4", **fields: Any) -> Quantization:
    return Quantization.model_validate({"scheme": scheme, "overrides": overrides, **fields})


def model(preset: str = "elite-tiny", **overrides: Any) -> Decoder:
    """Random, with a few inputs much larger than the others, as trained models have them."""
    result = smidgen.build(preset, SMALL | overrides)
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            if parameter.dim() == 1:
                draw = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                parameter.add_(draw.abs() ** 4 * 0.3)
    return result


def layouts(decoder: Decoder) -> dict[str, Any]:
    return {
        name: module.layout if isinstance(module, QuantizedLinear) else None
        for name, module in decoder.named_modules()
        if isinstance(module, Linear)
    }


@pytest.mark.parametrize("preset", [name for name in preset_names() if name.endswith("-tiny")])
def test_the_projections_of_a_configuration_are_those_of_the_model(preset: str) -> None:
    config: ModelConfig = load_config(preset).model
    found = [name for name, module in load_architecture(config).named_modules() if isinstance(module, Linear)]
    named = {f"model.layers.{i}.{projection}" for i in range(config.num_layers) for projection in config.projections}
    assert set(found) == named


def test_the_first_override_that_matches_decides() -> None:
    overrides = {
        "layers.1.mlp.*": "bf16",
        "down_proj": "int8",
        "self_attn.[qk]_proj": "int4/64",
        "*.v_proj": "fp8_tensor",
    }
    found = layouts(quantize(model(), mixed(overrides)))
    assert found["model.layers.1.mlp.down_proj"] is None
    assert found["model.layers.0.mlp.down_proj"] == Int8Rows()
    assert found["model.layers.0.self_attn.q_proj"] == found["model.layers.1.self_attn.k_proj"] == Int4Groups(64)
    assert found["model.layers.0.self_attn.v_proj"] == FP8Tensor()
    assert found["model.layers.0.mlp.up_proj"] == Int4Groups(32)


@pytest.mark.parametrize(
    ("preset", "quantization", "named"),
    [
        ("elite-tiny", mixed({"down": "int8"}), ["overrides.down = int8", "mlp.down_proj", "layers.0 to layers.1"]),
        ("elite-tiny", mixed({"lm_head": "int8"}), ["lm_head", "schemes of their own"]),
        ("elite-tiny", mixed({"layers.2.*": "bf16"}), ["layers.2.*", "layers.0 to layers.1"]),
        ("elite-tiny", mixed({"*": "int8", "q_proj": "bf16"}), ["q_proj", "before it"]),
        ("elite-tiny", mixed({"q_proj": "int8"}, "fp8_block"), ["q_proj", "fp8_block", "bf16 only"]),
        (
            "tinylm-tiny",
            mixed({"o_proj": "int8"}, "ternary", activation_bits=8),
            ["o_proj", "ternary", "all or nothing"],
        ),
        ("tinylm-tiny", mixed({"o_proj": "bf16"}, activation_bits=8), ["o_proj", "trained rounded", "int8"]),
        ("elite-tiny", mixed({"q_proj": "fp8_tensor"}, activation_bits=8), ["activation_bits", "16"]),
    ],
)
def test_overrides_that_cannot_be_are_refused(preset: str, quantization: Quantization, named: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        quantize(smidgen.build(preset, SMALL), quantization)
    assert all(part in str(error.value) for part in named), error.value
    assert "\n" not in str(error.value)


def test_groups_that_do_not_divide_a_projection_are_named_with_their_size() -> None:
    with pytest.raises(ConfigError, match=r"kv_b_proj: 32 columns .* int4/64 needs"):
        quantize(smidgen.build("tilda-tiny", SMALL), mixed({"kv_b_proj": "int4/64"}))


def test_kept_projections_compute_as_before() -> None:
    """All in bf16 but for one: what the others compute is the model's, rounded to bfloat16 once."""
    dense = model()
    kept = quantize(dense, mixed({"layers.0.mlp.up_proj": "int8", "*": "bf16"}))
    for name, module in kept.named_modules():
        if isinstance(module, Linear) and not isinstance(module, QuantizedLinear):
            original = dense.get_submodule(name).weight
            assert torch.equal(module.weight, original.bfloat16().float())
    assert isinstance(kept.layers[0].mlp.up_proj, QuantizedLinear)


@pytest.mark.parametrize("preset", ["elite-tiny", "tilda-tiny"])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_methods_come_closer_than_rounding_to_nearest(method: Any, preset: str) -> None:
    """Schemes that share an input differ: of q, k and v, and of gate and up."""
    dense = model(preset)
    first = "self_attn.q_proj" if preset == "elite-tiny" else "kv_a_proj_with_mqa"
    quantization = mixed({first: "int8", "layers.1.mlp.gate_proj": "bf16", "down_proj": "int8"})
    ids = BATCHES[0]
    expected = dense(ids)
    nearest = (quantize(dense, quantization)(ids) - expected).norm()
    result = quantize_by(method, dense, quantization, BATCHES)
    assert layouts(result) == layouts(quantize(dense, quantization))
    assert (result(ids) - expected).norm() < 0.97 * nearest


def test_scaling_along_floats_changes_nothing_before_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """q in bf16 gets the factors that k and v in int4 ask for; o_proj, alone with its input, gets none."""
    dense, scaled = model(), []
    monkeypatch.setattr(awq, "quantize", lambda decoder, quantization: scaled.append(decoder) or decoder)
    awq.quantize_awq(dense, mixed({"q_proj": "bf16", "o_proj": "bf16"}), BATCHES)
    (result,) = scaled
    weights = {
        name: layer.get_submodule(name).weight for layer in result.layers[:1] for name in dense.config.projections
    }
    original = {name: dense.layers[0].get_submodule(name).weight for name in weights}
    assert not torch.equal(weights["self_attn.q_proj"], original["self_attn.q_proj"])
    assert torch.equal(weights["self_attn.o_proj"], original["self_attn.o_proj"])
    torch.testing.assert_close(result(BATCHES[0]), dense(BATCHES[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_methods_refuse_an_override_that_they_do_not_round_to(method: Any) -> None:
    with pytest.raises(ConfigError, match=f"method = {method}.*fp8_tensor.*o_proj"):
        quantize_by(method, model(), mixed({"o_proj": "fp8_tensor"}), BATCHES)


def test_activations_are_rounded_by_the_scheme_of_each_projection() -> None:
    decoder = quantize(model(), mixed({"o_proj": "bf16"}, activation_bits=8))
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))

    def rounded(name: str) -> Tensor:
        return decoder.layers[0].get_submodule(name).quantizer.input(x)

    assert torch.equal(rounded("self_attn.o_proj"), x)
    assert not torch.equal(rounded("self_attn.q_proj"), x)


def test_the_size_of_each_scheme_adds_up() -> None:
    decoder = quantize(
        model(), mixed({"down_proj": "int8", "layers.0.self_attn.*": "bf16"}, head="int8", embedding="int8")
    )
    size = model_size(decoder)
    assert sum(part.bytes for part in size.parts) == size.bytes
    found = {(part.part, part.scheme): part for part in size.parts}
    assert [key[0] for key in found] == ["embedding", "projections", "projections", "projections", "norms"]
    assert found["projections", "bf16"].matrices == 4
    assert found["projections", "bf16"].bits_per_weight == 16
    assert found["projections", "int8"].matrices == 2
    assert found["projections", "int4/32"].bits_per_weight == pytest.approx(4.5, abs=0.02)
    assert found["embedding", "int8"].weights == decoder.config.vocab_size * decoder.config.hidden_size


def test_sensitivities_are_those_of_overrides() -> None:
    """One kind quantised alone is a model whose other projections are left out; the model itself stays as it was."""
    dense = model()
    before = [parameter.clone() for parameter in dense.parameters()]
    whole = quantize(dense, Quantization(scheme="int4"))

    def measure(decoder: Decoder) -> Perplexity:
        with torch.no_grad():
            return Perplexity(loss=decoder(BATCHES[0]).float().norm().log().item(), tokens=1, bits_per_byte=None)

    found = {one.pattern: one for one in sensitivities(dense, whole, measure)}
    assert len(found) == len(dense.config.projections) + 2
    assert found["layers.1.*"].weights == sum(
        m.weight.numel() for m in dense.layers[1].modules() if isinstance(m, Linear)
    )
    alone = model()
    for layer, other in zip(alone.layers, whole.layers, strict=True):
        layer.mlp.down_proj = other.mlp.down_proj
    assert found["down_proj"].perplexity == measure(alone).perplexity
    assert all(torch.equal(old, new) for old, new in zip(before, dense.parameters(), strict=True))
    assert not any(isinstance(module, QuantizedLinear) for module in dense.modules())
