"""Folders that `smidgen quantize` writes, on the native engine and on the PyTorch decoder read from the same folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import smidgen
import smidgen.edge
from smidgen.config import Quantization
from smidgen.edge.library import EdgeError, instruction_sets
from smidgen.kernels.ternary import fake_int8
from smidgen.quantization import quantize
from smidgen.runtime.errors import ModelFolderError

SIZES = {"model.vocab_size": 300, "model.num_layers": 1}
LATENT = {"model.attention.q_lora_rank": 64, "model.attention.kv_lora_rank": 64}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "elite": ("elite-tiny", {}),
    "rscalm": ("rscalm-tiny", {}),
    "gemma3": ("gemma3-tiny", {"model.num_layers": 2, "model.layer_pattern": ["sliding", "full"]}),
    "tilda": ("tilda-tiny", LATENT),
    "tinylm": ("tinylm-tiny", LATENT),
    "tinylm-gqa": ("tinylm-gqa-tiny", {}),
    "tinylm-float-inputs": ("tinylm-tiny", LATENT | {"model.linear.activation_bits": None}),
    "fp8": ("tilda-tiny", LATENT | {"model.linear.kind": "fp8_block"}),
    "untied": ("elite-tiny", {"model.tie_word_embeddings": False}),
}
SCHEMES: dict[str, dict[str, Any]] = {
    "int8": {"scheme": "int8"},
    "int8-all": {"scheme": "int8", "head": "int8", "embedding": "int8"},
    "int4-32": {"scheme": "int4"},
    "int4-64": {"scheme": "int4", "group_size": 64},
    "int4-128": {"scheme": "int4", "group_size": 128},
    "int4-32-zero": {"scheme": "int4", "symmetric": False, "head": "int4", "embedding": "int4"},
    "int4-64-zero": {"scheme": "int4", "group_size": 64, "symmetric": False},
    "int4-all": {"scheme": "int4", "head": "int4", "embedding": "int4"},
    "ternary": {"scheme": "ternary"},
    "ternary-int8": {"scheme": "ternary", "head": "int8", "embedding": "int8"},
    "fp8_block": {"scheme": "fp8_block"},
    "fp8_tensor": {"scheme": "fp8_tensor"},
    "mixed": {"scheme": "int4", "overrides": {"down_proj": "int8", "o_proj": "int4/64"}},
}
IDS = torch.randint(0, 300, (40,), generator=torch.Generator().manual_seed(3)).tolist()
TEXTS = [IDS[start : start + 6] for start in range(0, 36, 2)]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory, randomized_decoder: Callable[..., Any]) -> Callable[..., Path]:
    """`quantized(family, **quantization)`: the folder of a quantised random decoder, made once."""
    made: dict[str, Path] = {}

    def make(family: str, **fields: Any) -> Path:
        key = f"{family} {fields}"
        if key not in made:
            preset, overrides = FAMILIES[family]
            # 192: a part of a block of 128; where groups need it, sizes that 128 divides.
            wide = fields.get("group_size") == 128
            sizes = dict.fromkeys(LATENT, 128) if wide and overrides.keys() >= LATENT.keys() else {}
            inner = {"model.feed_forward.intermediate_size": 256 if wide else 192}
            model = randomized_decoder(preset, {**SIZES, **overrides, **sizes, **inner})
            if model.config.rounds_activations:
                fields = {**fields, "activation_bits": 8}
            folder = tmp_path_factory.mktemp("quantized") / "model"
            smidgen.save(quantize(model, Quantization(**fields)), folder)
            made[key] = folder
        return made[key]

    return make


def one_text(folder: Path) -> np.ndarray:
    """PyTorch's logits [T, V] of IDS."""
    with torch.no_grad():
        return smidgen.load(folder)(torch.tensor([IDS]))[0].numpy()


def short_texts(folder: Path, rounds_head: bool) -> np.ndarray:
    """PyTorch's logits [N, T, V] of TEXTS; the inputs of a quantised head may be rounded to 8 bits."""
    model = smidgen.load(folder)
    quantization = model.config.quantization
    assert quantization is not None
    if rounds_head and quantization.head != "bf16":
        model.model.norm.register_forward_hook(lambda module, inputs, output: fake_int8(output))
    with torch.no_grad():
        return model(torch.tensor(TEXTS)).numpy()


def engine(folder: Path, **options: Any) -> smidgen.edge.EdgeEngine:
    return smidgen.edge.load(folder, **{"weights": "float32", "cache": "float32", "threads": 1, **options})


def held_as(scheme: str) -> list[dict[str, Any]]:
    """Options for every instruction set, and both ways of holding ternary weights."""
    packings = ("2bit", "base3") if scheme.startswith("ternary") else ("auto",)
    return [{"instruction_set": isa, "ternary": packing} for isa in instruction_sets() for packing in packings]


DENSE = [name for name in SCHEMES if not name.startswith("ternary")]
FLOAT_INPUTS = [
    *((family, scheme) for family in ("elite", "rscalm", "gemma3", "tilda", "untied") for scheme in DENSE),
    *(("tinylm-float-inputs", scheme) for scheme in SCHEMES),
]
ROUNDED_INPUTS = [
    *((family, scheme) for family in ("elite", "gemma3", "tilda") for scheme in DENSE),
    *((family, scheme) for family in ("tinylm", "tinylm-gqa") for scheme in SCHEMES),
    *(("fp8", scheme) for scheme in DENSE),
]


@pytest.mark.parametrize(("family", "scheme"), FLOAT_INPUTS)
def test_float_inputs(quantized: Callable[..., Path], family: str, scheme: str) -> None:
    folder = quantized(family, **SCHEMES[scheme])
    expected = one_text(folder)
    for options in held_as(scheme):
        result = engine(folder, **options).forward(IDS)
        np.testing.assert_allclose(result, expected, atol=3e-5 * np.abs(expected).max(), err_msg=str(options))


@pytest.mark.parametrize(("family", "scheme"), ROUNDED_INPUTS)
def test_inputs_of_8_bits(quantized: Callable[..., Path], family: str, scheme: str) -> None:
    """Equal but for tokens where a difference of 1e-7 became another code, which changes all that follows it.

    Integer products round the input of the head too; the reference is told so.
    """
    folder = quantized(family, **SCHEMES[scheme], activation_bits=8)
    expected = short_texts(folder, rounds_head=family != "fp8" and not scheme.startswith("fp8"))
    scale = np.abs(expected).max()

    def equal(**options: Any) -> float:
        """The share of equal tokens."""
        native = engine(folder, **options)
        result = np.stack([native.forward(text) for text in TEXTS])
        return float((np.abs(result - expected).max(-1) < 3e-5 * scale).mean())

    assert equal(float_activations=True) < 0.1
    for options in held_as(scheme):
        assert equal(**options) > 0.7, options


def test_the_folder_decides_unless_told_otherwise(quantized: Callable[..., Path]) -> None:
    """`activation_bits` 16 multiplies floats; False rounds all the same, as True of a folder with 8 does not."""
    plain, rounded = quantized("elite", scheme="int8"), quantized("elite", scheme="int8", activation_bits=8)
    np.testing.assert_array_equal(engine(plain, float_activations=False).forward(IDS), engine(rounded).forward(IDS))
    np.testing.assert_array_equal(engine(plain).forward(IDS), engine(rounded, float_activations=True).forward(IDS))


def test_ternary_weights_in_base_3_are_smaller_and_the_same(quantized: Callable[..., Path]) -> None:
    folder = quantized("tinylm-gqa", scheme="ternary")
    bits, base3 = (engine(folder, ternary=packing) for packing in ("2bit", "base3"))
    np.testing.assert_array_equal(bits.forward(IDS), base3.forward(IDS))
    assert base3.weight_bytes < bits.weight_bytes
    with pytest.raises(EdgeError, match="ternary = '3bit': use one of auto, 2bit, base3"):
        engine(folder, ternary="3bit")


def change(folder: Path, tmp_path: Path, **fields: Any) -> Path:
    """A copy of a folder whose `quantization_config` has other fields; None removes one."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / "config.json"
    config = json.loads(path.read_text())
    merged = {**config["quantization_config"], **fields}
    config["quantization_config"] = {name: value for name, value in merged.items() if value is not None}
    path.write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("family", "scheme", "bits"),
    [("elite", "int8", 16), ("elite", "int8", 8), ("elite", "fp8_tensor", 8), ("elite", "fp8_block", 16)],
)
def test_folders_of_other_writers(
    quantized: Callable[..., Path], tmp_path: Path, family: str, scheme: str, bits: int
) -> None:
    """Without our section, what else stands there says whether inputs are rounded."""
    folder = quantized(family, scheme=scheme, activation_bits=bits)
    other = change(folder, tmp_path, smidgen=None)
    np.testing.assert_array_equal(engine(other).forward(IDS), engine(folder).forward(IDS))


@pytest.mark.parametrize("is_ours", [True, False])
def test_schemes_differ_by_layer(quantized: Callable[..., Path], tmp_path: Path, is_ours: bool) -> None:
    """Attention in int8, the feed-forward in int4: each matrix says for itself what it is."""
    folder, other = quantized("elite", scheme="int8"), quantized("elite", scheme="int4")
    groups = [json.loads((path / "config.json").read_text())["quantization_config"] for path in (folder, other)]
    both = {f"group_{i}": group["config_groups"]["group_0"] for i, group in enumerate(groups)}
    mixed = change(folder, tmp_path, **({} if is_ours else {"smidgen": None, "config_groups": both}))
    tensors = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if ".mlp." not in name}
    tensors |= {name: tensor for name, tensor in load_file(other / "model.safetensors").items() if ".mlp." in name}
    save_file(tensors, mixed / "model.safetensors")
    model = smidgen.load(folder)
    model.layers[0].mlp = smidgen.load(other).layers[0].mlp
    with torch.no_grad():
        expected = model(torch.tensor([IDS]))[0].numpy()
    np.testing.assert_allclose(engine(mixed).forward(IDS), expected, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize("scheme", ["int4", "fp8_block"])
@pytest.mark.parametrize("family", ["elite", "tilda"])
def test_projections_that_stay_floats(quantized: Callable[..., Path], family: str, scheme: str) -> None:
    folder = quantized(family, scheme=scheme, overrides={"o_proj": "bf16"})
    expected = one_text(folder)
    for options in held_as(scheme):
        result = engine(folder, **options).forward(IDS)
        np.testing.assert_allclose(result, expected, atol=3e-5 * np.abs(expected).max(), err_msg=str(options))


def test_bitnet_layers_that_divide(quantized: Callable[..., Path], tmp_path: Path) -> None:
    folder = quantized("tinylm-gqa", scheme="ternary")
    copy = change(folder, tmp_path, linear_class="bitlinear", smidgen=None)
    tensors = load_file(copy / "model.safetensors")
    tensors |= {name: 1 / tensor for name, tensor in tensors.items() if name.endswith("weight_scale")}
    save_file(tensors, copy / "model.safetensors")
    expected = engine(folder, float_activations=True).forward(IDS)
    result = engine(copy, float_activations=True).forward(IDS)
    np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "fields",
    [
        {"quant_method": "gptq"},
        {"smidgen": {"scheme": "int3"}},
        {"smidgen": {"scheme": "int8", "activation_bits": 7}},
        {"smidgen": "int8"},
        {"smidgen": None, "config_groups": {}},
        {"smidgen": None, "config_groups": {"group_0": {"input_activations": {"num_bits": 4}}}},
        {"smidgen": None, "config_groups": {"group_0": {"input_activations": {"num_bits": 8}}, "group_1": {}}},
    ],
    ids=str,
)
def test_what_cannot_be_read(quantized: Callable[..., Path], tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        engine(change(quantized("elite", scheme="int8"), tmp_path, **fields))


def test_a_packed_matrix_of_another_shape(quantized: Callable[..., Path], tmp_path: Path) -> None:
    copy = change(quantized("elite", scheme="int4"), tmp_path)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight_shape"][1] += 1
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"up_proj.weight_shape.*holds \[192, 129\]"):
        engine(copy)


@pytest.mark.parametrize("scheme", ["int8-all", "int4-all"])
def test_perplexity_of_a_trained_model(tmp_path: Path, scheme: str) -> None:
    """The native engine's, with inputs of 8 bits, is within 0.1 % of PyTorch's from the same folder."""
    model = smidgen.build("elite-tiny", {**SIZES, "model.vocab_size": 64, "model.initialization.std": 0.1})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    # Counting in steps of one to four: what comes next follows from the last two tokens.
    draw = torch.Generator().manual_seed(0)

    def batch(rows: int) -> torch.Tensor:
        starts, steps = (torch.randint(low, high, (rows, 1), generator=draw) for low, high in ((0, 64), (1, 5)))
        noise = torch.randint(0, 2, (rows, 33), generator=draw).cumsum(1)
        return (starts + steps * torch.arange(33) + noise) % 64

    def mean_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    for _ in range(60):
        ids = batch(16)
        mean_loss(model.train()(ids[:, :-1]), ids).backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path / "model"
    smidgen.save(quantize(model.eval(), Quantization(**SCHEMES[scheme], activation_bits=8)), folder)
    ids = batch(64)
    native = smidgen.edge.load(folder, threads=1)
    with torch.no_grad():
        expected = mean_loss(smidgen.load(folder)(ids[:, :-1]), ids).exp().item()
    result = torch.from_numpy(np.stack([native.forward(row[:-1].tolist()) for row in ids]))
    assert expected < 20
    assert mean_loss(result, ids).exp().item() == pytest.approx(expected, rel=1e-3)
