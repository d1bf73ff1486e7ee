"""Quantised folders: saved and loaded as they were, read by transformers with our logits, and refused where damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

import smidgen
from smidgen.config import Quantization
from smidgen.kernels.ternary_packing import pack_ternary
from smidgen.model import Decoder
from smidgen.model.quantized import QuantizedLinear
from smidgen.quantization import quantize
from smidgen.runtime.errors import ConfigError, ModelFolderError

IDS = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))
SMALL = {"model.num_layers": 2, "model.vocab_size": 64}

INT8, INT4 = {"scheme": "int8"}, {"scheme": "int4"}
ASYMMETRIC = {"scheme": "int4", "symmetric": False, "group_size": 64}
BLOCKS, TENSOR = {"scheme": "fp8_block"}, {"scheme": "fp8_tensor"}


def quantized(preset: str, scheme: dict[str, Any], **overrides: Any) -> Decoder:
    model = smidgen.build(preset, SMALL | {f"model.{name}": value for name, value in overrides.items()})
    bits = 8 if model.config.rounds_activations else scheme.get("activation_bits", 16)
    return quantize(model, Quantization(**(scheme | {"activation_bits": bits})))


@pytest.mark.parametrize(
    ("preset", "scheme"),
    [
        ("elite-tiny", INT8 | {"activation_bits": 8}),
        ("elite-tiny", INT4 | {"head": "int8", "embedding": "int8"}),
        ("elite-tiny", TENSOR | {"activation_bits": 8}),
        ("tilda-tiny", BLOCKS),
        ("tilda-tiny", INT8 | {"head": "int4", "embedding": "int8"}),
        ("gemma3-tiny", ASYMMETRIC | {"head": "int4", "embedding": "int4"}),
        ("tinylm-tiny", {"scheme": "ternary"}),
        ("tinylm-tiny", INT4),
        ("tinylm-gqa-tiny", {"scheme": "ternary", "head": "int8", "embedding": "int8"}),
        ("tinylm-gqa-tiny", INT8),
    ],
)
def test_a_saved_model_is_loaded_as_it_was(preset: str, scheme: dict[str, Any], tmp_path: Path) -> None:
    model = quantized(preset, scheme)
    smidgen.save(model, tmp_path / "model")
    loaded = smidgen.load(tmp_path / "model")
    assert loaded.config == model.config
    assert torch.equal(loaded(IDS), model(IDS))
    (tmp_path / "model" / "smidgen.yaml").unlink()  # config.json alone says the same
    again = smidgen.load(tmp_path / "model")
    assert again.config.quantization == model.config.quantization
    assert torch.equal(again(IDS), model(IDS))
    ours = json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]["smidgen"]
    assert ours == model.config.quantization.model_dump()


def theirs(folder: Path, **options: Any) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options).eval()
    return nn.Module.float(model)


@pytest.mark.parametrize(
    ("preset", "scheme", "tied"),
    [
        ("elite-tiny", INT8, True),
        ("elite-tiny", INT4 | {"group_size": 128}, True),
        ("elite-tiny", TENSOR | {"activation_bits": 8}, True),
        ("elite-tiny", INT4 | {"head": "int8", "embedding": "int8"}, False),
        ("tilda-tiny", INT8, False),
        ("gemma3-tiny", INT4, True),
    ],
)
def test_transformers_gives_the_same_logits(preset: str, scheme: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    model = quantized(preset, scheme, tie_word_embeddings=tied)
    smidgen.save(model, tmp_path / "model")
    with torch.no_grad():
        logits = theirs(tmp_path / "model", dtype=torch.float32)(IDS).logits
    torch.testing.assert_close(logits, model(IDS), rtol=1e-4, atol=1e-5)


def bf16_weights(model: Decoder) -> Decoder:
    """`model` with the weights of its projections in bfloat16, as transformers holds what it dequantises."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, QuantizedLinear):
                dense = nn.Linear(child.in_features, child.out_features, bias=False)
                dense.weight = nn.Parameter(child.effective_weight(torch.bfloat16).float())
                setattr(module, name, dense)
    return model


@pytest.mark.parametrize("scheme", [ASYMMETRIC, BLOCKS])
def test_transformers_dequantises_to_the_same_logits(scheme: dict[str, Any], tmp_path: Path) -> None:
    """Asymmetric int4 it loads only so, FP8 blocks where there is no GPU; the weights are then bfloat16."""
    model = quantized("elite-tiny", scheme)
    smidgen.save(model, tmp_path / "model")
    options = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if scheme is ASYMMETRIC else {}
    with torch.no_grad():
        logits = theirs(tmp_path / "model", **options)(IDS).logits
    torch.testing.assert_close(logits, bf16_weights(model)(IDS), rtol=1e-4, atol=1e-5)


def test_activations_in_8_bits_are_close_to_those_of_compressed_tensors(tmp_path: Path) -> None:
    """It divides by absmax / 127.5 where we divide by absmax / 127."""
    model = quantized("elite-tiny", INT8 | {"activation_bits": 8})
    smidgen.save(model, tmp_path / "model")
    with torch.no_grad():
        logits = theirs(tmp_path / "model", dtype=torch.float32)(IDS).logits
    expected = model(IDS)
    assert (logits - expected).norm() / expected.norm() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tinylm-gqa-tiny", "tinylm-tiny"])
def test_transformers_runs_packed_ternary_models(preset: str, tmp_path: Path) -> None:
    """Its class of the architecture, or our modelling file, with its own ternary layers."""
    model = quantized(preset, {"scheme": "ternary"})
    smidgen.save(model, tmp_path / "model")
    # Its layers ask for torch.compile, which would take a minute here.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        peer = theirs(tmp_path / "model", dtype=torch.float32)
        assert type(peer.model.layers[0].mlp.up_proj).__name__ == "AutoBitLinear"
        logits = peer(IDS).logits
    expected = model(IDS)
    # Rounded activations turn the last bit of a sum into a step of a code now and then.
    assert (logits - expected).norm() / expected.norm() < 0.05


def test_scales_that_divide_are_read(tmp_path: Path) -> None:
    """Folders of transformers' other ternary layer, with bfloat16 scales."""
    model = quantized("tinylm-gqa-tiny", {"scheme": "ternary"})
    smidgen.save(model, tmp_path / "model")
    (tmp_path / "model" / "smidgen.yaml").unlink()
    change_config(tmp_path / "model", {"quant_method": "bitnet", "modules_to_not_convert": None})
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    inverse = {n: (1 / t).bfloat16() if n.endswith("weight_scale") else t for n, t in tensors.items()}
    save_file(inverse, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    loaded = smidgen.load(tmp_path / "model")
    name = "model.layers.1.mlp.up_proj"
    expected = model.get_submodule(name).effective_weight(torch.float32)
    torch.testing.assert_close(loaded.get_submodule(name).effective_weight(torch.float32), expected, rtol=1e-2, atol=0)


def change_config(folder: Path, quantization: dict[str, Any]) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"quantization_config": quantization}))


def test_folders_of_others_are_read_by_their_own_description(tmp_path: Path) -> None:
    """Without our object: schemes, head and activations follow from what compressed-tensors and DeepSeek say."""
    for scheme in (INT8, INT4, ASYMMETRIC, TENSOR, BLOCKS, INT8 | {"activation_bits": 8}):
        model = quantized("elite-tiny", scheme)
        smidgen.save(model, tmp_path / "model")
        (tmp_path / "model" / "smidgen.yaml").unlink()
        fields = json.loads((tmp_path / "model" / "config.json").read_text())
        del fields["quantization_config"]["smidgen"]
        change_config(tmp_path / "model", fields["quantization_config"])
        loaded = smidgen.load(tmp_path / "model")
        assert loaded.config.quantization == model.config.quantization
        assert torch.equal(loaded(IDS), model(IDS))


SCALE, UP = "model.layers.0.mlp.up_proj.weight_scale", "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("scheme", "damage", "named"),
    [
        (INT8, {UP: torch.zeros(384, 128)}, ["up_proj.weight'", "F32", "I8"]),
        (INT8, {UP: torch.zeros(384, 64, dtype=torch.int8)}, ["[384, 64]", "[384, 128]"]),
        (INT8, {SCALE: torch.full((384, 1), torch.nan)}, ["weight_scale'", "not finite"]),
        (INT4, {f"{UP}_shape": torch.tensor([384, 64])}, ["weight_shape'", "[384, 64]", "[384, 128]"]),
        (INT4, {f"{UP}_packed": None}, ["weight_packed'", "missing"]),
        (INT4, {f"{UP}_g_idx": torch.zeros(128, dtype=torch.int32)}, ["weight_g_idx'", "no place"]),
    ],
)
def test_damaged_tensors_are_refused(
    scheme: dict[str, Any], damage: dict[str, Tensor | None], named: list[str], tmp_path: Path
) -> None:
    smidgen.save(quantized("elite-tiny", scheme), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path) | damage
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    with pytest.raises(ModelFolderError) as error:
        smidgen.load(tmp_path / "model")
    assert all(part in str(error.value) for part in named), error.value
    assert "\n" not in str(error.value)


def test_a_code_that_is_not_ternary_is_refused(tmp_path: Path) -> None:
    smidgen.save(quantized("tinylm-gqa-tiny", {"scheme": "ternary"}), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    save_file(load_file(path) | {UP: pack_ternary(torch.full((384, 128), 2))}, path)
    with pytest.raises(ModelFolderError, match="not ternary"):
        smidgen.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"quant_method": "gptq"}, ["quant_method", '"gptq"', "compressed-tensors"]),
        ({"ignore": ["re:.*"]}, ["config_groups", "no projection"]),
        ({"config_groups": {}}, ["config_groups"]),
        ({"kv_cache_scheme": {"num_bits": 8}}, ["kv_cache_scheme"]),
    ],
)
def test_layouts_that_we_do_not_read_are_refused(changes: dict[str, Any], named: list[str], tmp_path: Path) -> None:
    smidgen.save(quantized("elite-tiny", INT8), tmp_path / "model")
    (tmp_path / "model" / "smidgen.yaml").unlink()
    fields = json.loads((tmp_path / "model" / "config.json").read_text())
    del fields["quantization_config"]["smidgen"]
    change_config(tmp_path / "model", fields["quantization_config"] | changes)
    with pytest.raises(ModelFolderError) as error:
        smidgen.load(tmp_path / "model")
    assert all(part in str(error.value) for part in named), error.value


def test_a_quantised_model_has_no_random_weights() -> None:
    with pytest.raises(ConfigError, match=r"quantization.scheme = int8.*smidgen quantize"):
        smidgen.build("elite-tiny", SMALL | {"model.quantization.scheme": "int8"})
