"""Quantised models in the engine: integers multiplied as integers answer as the definition in plain PyTorch does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle import make_model, make_prompts, run

from smidgen.config import Quantization
from smidgen.inference import TorchEngine, frozen, integer
from smidgen.inference.frozen import IntegerVocabulary, head_product
from smidgen.inference.fused import FusedIntegers, fuse
from smidgen.inference.integer import Int4Linear, IntegerLinear
from smidgen.kernels.integer_products import multiplies_int8
from smidgen.model import Decoder
from smidgen.model.quantized import QuantizedLinear
from smidgen.quantization import quantize
from smidgen.runtime import SamplingParams

CASES = [
    ("elite-tiny", {"scheme": "int8"}),
    ("elite-tiny", {"scheme": "int8", "activation_bits": 8, "head": "int8", "embedding": "int8"}),
    ("tilda-tiny", {"scheme": "int8", "head": "int8"}),
    ("gemma3-tiny", {"scheme": "int8", "head": "int8", "embedding": "int8"}),
    ("tinylm-tiny", {"scheme": "ternary", "activation_bits": 8}),
    ("tinylm-gqa-tiny", {"scheme": "ternary", "activation_bits": 8, "head": "int8", "embedding": "int8"}),
]


@pytest.fixture(autouse=True)
def _small_matrices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer, "SMALLEST_MATRIX", 0)


def quantized(preset: str, scheme: dict[str, Any]) -> Decoder:
    return quantize(make_model(preset), Quantization(**scheme)).eval()


@pytest.mark.skipif(not multiplies_int8(torch.device("cpu")), reason="no exact int8 products (VNNI, AMX)")
@pytest.mark.parametrize(("preset", "scheme"), CASES)
def test_logits_are_those_of_the_definition(preset: str, scheme: dict[str, Any]) -> None:
    model = quantized(preset, scheme)
    ready = fuse(frozen.frozen(model))
    assert any(isinstance(module, IntegerLinear) for module in ready.modules())
    assert any(isinstance(module, FusedIntegers) for module in ready.modules())
    is_integer = any(isinstance(module, IntegerVocabulary) for module in ready.modules())
    assert is_integer == ("head" in scheme)
    ids = torch.tensor(make_prompts((20,)))
    with torch.inference_mode():
        expected = model(ids)
        logits = head_product(ready, ready.hidden(ids))
    # Rounded activations flip a code where float32 rounds elsewhere.
    tolerance = 2e-2 if scheme.get("activation_bits") == 8 else 2e-4
    assert float((logits - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize(("preset", "scheme"), CASES)
def test_a_processor_without_integer_products_answers_alike(
    preset: str, scheme: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer() -> list[int | None]:
        engine = TorchEngine(quantized(preset, scheme), max_batch_size=1)
        request = engine.submit(make_prompts((9,))[0], SamplingParams(max_new_tokens=4, temperature=0))
        return [event.token for event in run(engine, [request])[request]]

    with_integers = answer()
    monkeypatch.setattr(integer, "multiplies_int8", lambda _: False)
    assert with_integers == answer()


@pytest.mark.skipif(not torch.cpu._is_avx512_supported(), reason="no fast int4 products (AVX-512)")
@pytest.mark.parametrize("preset", ["elite-tiny", "tilda-tiny"])
@pytest.mark.parametrize("activation_bits", [8, 16])
def test_int4_logits_are_those_of_the_definition(preset: str, activation_bits: int) -> None:
    """As near as dense bfloat16 weights of the same values come, which round inputs and outputs alike."""
    model = quantized(preset, {"scheme": "int4", "group_size": 32, "activation_bits": activation_bits})
    ids = torch.tensor(make_prompts((20,)))
    with torch.inference_mode():
        expected = model(ids)
        model.compute_dtype = torch.bfloat16
        ready = fuse(frozen.frozen(model))
        assert any(isinstance(module, Int4Linear) for module in ready.modules())
        assert any(isinstance(module, FusedIntegers) for module in ready.modules())
        logits, dense = head_product(ready, ready.hidden(ids)), model(ids)
    distance = float((logits - expected).norm() / expected.norm())
    assert distance < 1.5 * float((dense - expected).norm() / expected.norm()) + 1e-3


UNEQUAL = [
    {"k_proj": "int8", "down_proj": "int8"},
    {"k_proj": "int4/64", "gate_proj": "int4/64"},
    {"v_proj": "bf16", "up_proj": "int8"},
]


@pytest.mark.skipif(not torch.cpu._is_avx512_supported(), reason="no fast int4 products (AVX-512)")
@pytest.mark.parametrize("activation_bits", [8, 16])
@pytest.mark.parametrize("overrides", UNEQUAL, ids=str)
def test_projections_of_unequal_schemes_stay_apart(overrides: dict[str, Any], activation_bits: int) -> None:
    """Of the first layer, whose q, k and v differ; those of the second are alike and become one product."""
    named = {f"layers.0.*.{name}": scheme for name, scheme in overrides.items()}
    scheme = {"scheme": "int4", "activation_bits": activation_bits, "overrides": named}
    model = quantized("elite-tiny", scheme)
    ids = torch.tensor(make_prompts((20,)))
    with torch.inference_mode():
        expected = model(ids)
        model.compute_dtype = torch.bfloat16
        ready = fuse(frozen.frozen(model))
        assert ready.layers[0].self_attn.fused is None
        assert isinstance(ready.layers[1].self_attn.fused, FusedIntegers)
        logits, dense = head_product(ready, ready.hidden(ids)), model(ids)
    distance = float((logits - expected).norm() / expected.norm())
    assert distance < 1.5 * float((dense - expected).norm() / expected.norm()) + 1e-3


def test_int4_weights_are_what_they_stand_for() -> None:
    model = quantized("elite-tiny", {"scheme": "int4", "group_size": 32})
    linear = model.layers[0].mlp.down_proj
    assert isinstance(linear, QuantizedLinear)
    int4 = integer.int4_linear(linear, torch.bfloat16)
    if int4 is None:
        pytest.skip("no fast int4 products (AVX-512)")
    assert torch.equal(int4.effective_weight(torch.float32), linear.effective_weight(torch.float32))
    one_hot = torch.eye(linear.in_features, dtype=torch.bfloat16)
    assert torch.equal(int4(one_hot), linear.effective_weight(torch.bfloat16).t())


EVERY_SCHEME = [
    *(("elite-tiny", {"scheme": scheme}) for scheme in ("int8", "int4", "fp8_block", "fp8_tensor")),
    ("elite-tiny", {"scheme": "int4", "symmetric": False, "head": "int4", "embedding": "int4"}),
    ("elite-tiny", {"scheme": "int4", "overrides": {"layers.0.*": "bf16", "k_proj": "int8", "up_proj": "fp8_tensor"}}),
    ("tinylm-tiny", {"scheme": "ternary", "activation_bits": 8}),
]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(("preset", "scheme"), EVERY_SCHEME)
def test_every_scheme_generates(preset: str, scheme: dict[str, Any], dtype: torch.dtype | None) -> None:
    """Two prompts beside each other, one of them long; the first token is the definition's, or nearly as likely."""
    model, prompts = quantized(preset, scheme), make_prompts((5, 40))
    engine_model = quantized(preset, scheme)
    engine_model.compute_dtype = dtype
    engine = TorchEngine(engine_model, max_batch_size=2)
    requests = [engine.submit(prompt, SamplingParams(max_new_tokens=3, temperature=0)) for prompt in prompts]
    events = run(engine, requests)
    with torch.inference_mode():
        for prompt, request in zip(prompts, requests, strict=True):
            assert len(events[request]) == 3
            logits = model(torch.tensor([prompt]))[0, -1]
            token = events[request][0].token
            assert token is not None
            assert float(logits.max() - logits[token]) < 0.2 * float(logits.std())


@pytest.mark.skipif(not multiplies_int8(torch.device("cpu")), reason="no exact int8 products (VNNI, AMX)")
def test_a_projection_in_integers_still_has_its_weight() -> None:
    linear = quantized("tilda-tiny", {"scheme": "int8"}).layers[0].self_attn.o_proj
    assert isinstance(linear, QuantizedLinear)
    ours = integer.integer_linear(linear, torch.float32)
    assert ours is not None
    assert torch.equal(ours.effective_weight(torch.float32), linear.effective_weight(torch.float32))
